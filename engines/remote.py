"""Engines in other processes: teacher ranks that serve, and how student ranks reach them. Appendix
A's 2 of 8 GPUs.

    serve(engine, listener)      the loop of a teacher rank: requests of any number of clients, in
    one engine, as they come Pool(addresses, key, lm)     several teacher ranks as one Engine, on
    student rank 0 Fleet(8, "Qwen/...")         N worker processes on this machine, one GPU each,
    and a Pool over them (eval.py) Mailbox(callback), Post      small notes of the other student
    ranks to rank 0, while they sample

    with Fleet(2, "assets/teacher", kind="hf") as pool:
        groups = pool.sample([pool.encode("What is 2+2?")], n=4, max_new_tokens=40, seed=0)

What travels is pickled, and a pickle runs code when it is read. So every connection is
authenticated first, both ways, with a random key that only this run's own processes hold
(new_key(); it travels by pipe or by the launcher's store, never on a command line), and strangers
are dropped before a byte of theirs is unpickled. The traffic is not encrypted: a cluster's inside
network.

Left out: requests are not sent again when a rank dies (the run stops with one line, and its
checkpoint goes on), and the requests of a client that died are sampled to their end, for nobody.
"""

import json
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from itertools import count
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path

from engines.base import Engine
from records import Sample


def new_key():
    """A random key for the connections of one run."""
    return secrets.token_bytes(32)


def listen(key, host="127.0.0.1", port=0):
    """A Listener for serve(). host: "0.0.0.0" to be reached from other nodes; port 0: any free one
    (listener.address).
    """
    return Listener((host, port), "AF_INET", backlog=256, authkey=key)


def own_host(towards):
    """This node's address as seen from the host `towards` (MASTER_ADDR), to be told to other nodes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((towards, 9))  # sends nothing: only asks which way it would go
        return s.getsockname()[0]


# ---- the listening side: who comes in, and what they say -----------------------------------------


class Inbox:
    """Everything that arrives at a listener, in one queue: (connection, message), first NEW, last
    GONE of each connection.
    """

    NEW, GONE = "new", "gone"

    def __init__(self, listener):
        self.listener, self.messages, self.closed = listener, queue.SimpleQueue(), False
        self.thread = threading.Thread(target=self._accept, daemon=True, name="accept")
        self.thread.start()

    def _accept(self):
        while not self.closed:
            try:
                connection = self.listener.accept()
            except (
                AuthenticationError,
                EOFError,
                OSError,
            ):  # a stranger, or one that left at the door
                time.sleep(0.01)
                continue
            self.messages.put((connection, self.NEW))
            threading.Thread(
                target=receive, args=(connection, self.messages, self.GONE), daemon=True
            ).start()

    def close(self):
        """Let nobody in any more."""
        self.closed = True
        try:
            socket.create_connection(
                self.listener.address, timeout=5
            ).close()  # accept() wakes up for a caller only
            self.thread.join(5)
        except OSError:
            pass
        self.listener.close()


def receive(connection, messages, gone):
    """Put (connection, message) for each message, and (connection, gone) at its end, however that
    comes.
    """
    try:
        while True:
            messages.put((connection, connection.recv()))
    except Exception:  # closed, reset, or a torn message of one that was killed
        messages.put((connection, gone))


def send(connection, message):
    """Send; whether the other side was there."""
    try:
        connection.send(message)
        return True
    except OSError:
        return False


# ---- a teacher rank ------------------------------------------------------------------------------


def serve(engine, listener, name="the teacher rank"):
    """Sample what the clients of listener ask, until the last of them has said goodbye or is gone.
    name: in error messages.

    Requests join the engine as they arrive, while others are under way; each group goes back when
    it is finished. What the engine raises on a request goes to its client; what it raises while
    sampling goes to all, and is raised here too.
    """
    inbox, clients, owner, tickets, had = Inbox(listener), set(), {}, count(), False
    try:
        while clients or not had:
            for connection, message in _arrived(inbox.messages, wait=not engine.busy):
                if message == Inbox.NEW:
                    clients.add(connection)
                    had = True
                elif message == Inbox.GONE:
                    clients.discard(connection)
                else:
                    key, prompt, n, settings = message
                    ticket = next(tickets)
                    try:
                        engine.submit(ticket, prompt, n, **settings)
                        owner[ticket] = connection, key
                    except Exception as e:
                        send(connection, ("error", _one_line(name, e)))
            if clients and engine.busy:
                for ticket, samples in engine.step():
                    connection, key = owner.pop(ticket)
                    rows = [(s.response_ids, s.sampler_logp, s.text, s.truncated) for s in samples]
                    send(
                        connection, ("done", key, samples[0].prompt.ids, rows)
                    )  # the pictures stay: the client has them
    except Exception as e:
        for connection in clients:
            send(connection, ("error", _one_line(name, e)))
        raise
    finally:
        engine.abort()
        inbox.close()


def _arrived(messages, wait):
    out = [messages.get()] if wait else []
    while not messages.empty():
        out.append(messages.get())
    return out


def _one_line(name, e):
    return f"{name}: {str(e).strip().splitlines()[0] if isinstance(e, (ValueError, OSError)) and str(e).strip() else repr(e)}"


class Pool(Engine):
    """Several teacher ranks as one Engine, used by one thread. addresses: (host, port) of each; lm:
    model.text_side(path).

    wait: seconds for the ranks to load their model. Raises ValueError when one does not answer;
    step() raises it when one says that something went wrong, or is gone.
    """

    remote = True

    def __init__(self, addresses, key, lm, wait=1800):
        super().__init__(lm)
        self.room = 128 * len(addresses)
        self.tickets, self.flying, self.messages = (
            count(),
            {},
            queue.SimpleQueue(),
        )  # ticket -> (key, Prompt, n, connection)
        self.load, self.where, self.readers = (
            {},
            {},
            [],
        )  # of each connection: responses under way; its address
        for address in addresses:
            connection = _connect(tuple(address), key, wait)
            self.load[connection], self.where[connection] = 0, "%s:%s" % tuple(address)
            self.readers.append(
                threading.Thread(
                    target=receive, args=(connection, self.messages, Inbox.GONE), daemon=True
                )
            )
            self.readers[-1].start()

    def submit(
        self,
        key,
        prompt,
        n,
        max_new_tokens,
        seed,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        presence_penalty=0.0,
    ):
        """Engine.submit, to the least loaded rank; what is wrong with a prompt is raised by step()."""
        settings = {
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "presence_penalty": presence_penalty,
        }
        connection = min(self.load, key=self.load.get)
        ticket = next(self.tickets)
        self.flying[ticket] = key, prompt, n, connection
        self.load[connection] += n
        if not send(connection, (ticket, prompt, n, settings)):
            raise ValueError(self._gone(connection))

    def step(self):
        """Engine.step: what came back, or nothing after a short wait."""
        out = []
        while self.flying:
            try:
                connection, message = (
                    self.messages.get(timeout=0.05) if not out else self.messages.get_nowait()
                )
            except queue.Empty:
                break
            if message == Inbox.GONE:
                raise ValueError(self._gone(connection))
            if message[0] == "error":
                raise ValueError(message[1])
            _, ticket, ids, rows = message
            if ticket in self.flying:  # not aborted since
                key, prompt, n, _ = self.flying.pop(ticket)
                self.load[connection] -= n
                prompt = replace(prompt, ids=ids)
                self.tokens += sum(len(r[0]) for r in rows)
                out.append((key, [Sample(prompt, *row) for row in rows]))
        return out

    def _gone(self, connection):
        return f"the teacher rank at {self.where[connection]} is gone: its process ended or its node is down; see its own log"

    @property
    def busy(self):
        """Engine.busy"""
        return bool(self.flying)

    def abort(self):
        """Engine.abort; the ranks finish what they have, and it is thrown away here."""
        self.flying = {}
        self.load = dict.fromkeys(self.load, 0)

    def sync_weights(self, named):
        """Teachers are frozen, and workers hold the checkpoint they were started with."""
        raise ValueError("the weights of other processes can't be changed from here")

    def close(self):
        """Say goodbye: a rank ends when its last client has."""
        for connection in self.load:
            _hang_up(connection)
        for reader in self.readers:
            reader.join(5)


def _connect(address, key, wait):
    end = time.monotonic() + wait
    while True:
        try:
            return Client(address, "AF_INET", authkey=key)
        except AuthenticationError:
            raise ValueError(
                f"the teacher rank at {address[0]}:{address[1]} belongs to another run"
            ) from None
        except (OSError, EOFError) as e:
            if time.monotonic() > end:
                raise ValueError(
                    f"no teacher rank answers at {address[0]}:{address[1]} ({e})"
                ) from None
            time.sleep(0.2)


def _hang_up(connection):
    # a closed descriptor does not wake the thread that reads it, a shut-down socket does
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as s:
            s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was quicker


# ---- notes to rank 0 -----------------------------------------------------------------------------


class Mailbox:
    """Rank 0's end: a thread hands every note that arrives at listener to callback(note), one at a
    time.
    """

    def __init__(self, callback, listener):
        self.callback, self.inbox, self.error = callback, Inbox(listener), None
        self.thread = threading.Thread(target=self._read, daemon=True, name="mailbox")
        self.thread.start()

    def __call__(self, note):
        """Rank 0's own note: no way to go."""
        self.callback(note)

    def _read(self):
        while (arrived := self.inbox.messages.get()) is not None:
            if arrived[1] not in (Inbox.NEW, Inbox.GONE) and self.error is None:
                try:
                    self.callback(arrived[1])
                except Exception as e:  # raised again by close()
                    self.error = e

    def close(self):
        """Read what has arrived, then no more. Raises what the callback raised, if it did."""
        self.inbox.close()
        self.inbox.messages.put(None)
        self.thread.join()
        if self.error is not None:
            raise self.error


class Post:
    """The other ranks' end: post(note) sends a small picklable note and does not wait. A rank 0
    that is gone is not this call's business: the next collective says so.
    """

    def __init__(self, address, key, wait=600):
        self.connection = _connect(tuple(address), key, wait)

    def __call__(self, note):
        send(self.connection, note)

    def close(self):
        """What was sent is still delivered."""
        self.connection.close()


# ---- worker processes on this machine ------------------------------------------------------------


class Fleet:
    """n worker processes on this machine, each with the model at `path` in an engine of its own,
    and a Pool over them.

    kind: "hf", "vllm", or "" for vllm on a GPU and hf elsewhere; dtype: "" for the engine's own
    choice; options: of VLLMEngine. Worker i gets the i-th visible GPU; device="cpu": none. Workers
    die with this process, also when it is killed: they watch a pipe that it holds. Raises
    ValueError with one line when a worker can't start.
    """

    def __init__(self, n, path, kind="", dtype="", device="", **options):
        from model import text_side

        gpus = [] if device == "cpu" else visible_gpus()
        if gpus and len(gpus) < n:
            raise ValueError(
                f"{n} workers want {n} GPUs, and {len(gpus)} {'is' if len(gpus) == 1 else 'are'} visible"
            )
        key, lm = new_key(), text_side(path)  # a wrong path fails here, at once
        self.workers, self.pool = [], None
        self.logs = Path(tempfile.mkdtemp(prefix="zppo-workers-"))
        job = {
            "key": key.hex(),
            "path": str(path),
            "kind": kind,
            "dtype": dtype,
            "options": options,
        }
        try:
            reports = [self._start(i, job, gpus[i] if gpus else "") for i in range(n)]
            self.pool = Pool(
                [("127.0.0.1", self._port(i, r)) for i, r in enumerate(reports)], key, lm
            )
        except BaseException:
            self.close()
            raise

    def _start(self, i, job, gpu):
        mine, theirs = os.pipe()
        with open(self.logs / f"worker{i}.log", "w") as log:
            worker = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                start_new_session=True,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
            )
        os.close(theirs)
        worker.stdin.write(
            json.dumps({**job, "report": theirs, "name": f"worker {i} of {job['path']}"}).encode()
            + b"\n"
        )
        worker.stdin.flush()
        self.workers.append(worker)
        return mine

    def _port(self, i, report):
        with os.fdopen(report) as f:
            said = json.loads(f.read() or "{}")
        if "port" not in said:
            log = (self.logs / f"worker{i}.log").read_text(errors="replace").strip().splitlines()
            why = (
                said.get("error")
                or f"it ended without a word; the last line of its log: {log[-1] if log else 'none'}"
            )
            raise ValueError(f"worker {i} did not start: {why}")
        return said["port"]

    def close(self):
        """End the workers, and wait for them."""
        if self.pool is not None:
            self.pool.close()
        for worker in self.workers:
            try:
                worker.wait(10 if self.pool is not None else 0)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)  # and what it has started itself
                worker.wait()
            worker.stdin.close()
        shutil.rmtree(self.logs, ignore_errors=True)

    def __enter__(self):
        return self.pool

    def __exit__(self, *error):
        self.close()


def visible_gpus():
    """The names by which CUDA_VISIBLE_DEVICES may give out this process's GPUs; none on a machine
    without.
    """
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = (
        [g.strip() for g in named.split(",")]
        if named
        else map(str, range(torch.cuda.device_count()))
    )
    return list(names) if torch.cuda.is_available() else []


def worker():
    """A worker process of a Fleet: its job is the first line of stdin; at the end of stdin its
    parent is dead.
    """
    job = json.loads(sys.stdin.buffer.readline())
    os.set_inheritable(job["report"], False)
    report = os.fdopen(job["report"], "w")
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        engine = _load(job)
        listener = listen(bytes.fromhex(job["key"]))
    except Exception as e:
        json.dump({"error": _one_line(job["name"], e)}, report)
        report.close()
        raise
    json.dump({"port": listener.address[1]}, report)
    report.close()
    serve(engine, listener, job["name"])


def _die_with_parent():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)  # with the processes that vLLM has started


def _load(job):
    import torch

    from engines.base import default_kind, open_engine
    from model import load, text_side

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, path, dtype = job["kind"] or default_kind(device), job["path"], job["dtype"]
    if kind == "hf":
        return open_engine(kind, load(path, dtype or "float32", device, masters=False))
    return open_engine(
        kind, text_side(path), **({"dtype": dtype} if dtype else {}), **job["options"]
    )


if __name__ == "__main__":
    worker()
