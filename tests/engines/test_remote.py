"""Engines in other processes: a teacher rank's loop, pools, workers that die, notes to rank 0, and
an OpenAI-compatible server.

python -m pytest tests/test_remote.py        # the tiny teacher in three worker processes
"""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from engines.remote import Fleet, Mailbox, Pool, Post, listen, new_key, serve
from PIL import Image

from data import decode
from engines import client as url_engine
from engines import remote
from engines.client import URLEngine, strip
from engines.hf import HFEngine
from model import load, text_side
from processor import encode
from teacher import Cache, Teacher

ROOT = Path(__file__).parent.parent.parent
TEACHER = str(ROOT / "assets/teacher")
SETTINGS = {"n": 3, "max_new_tokens": 12, "seed": 5}


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def texts(groups):
    return [[s.text for s in g] for g in groups]


# ---- one teacher rank, in a thread ---------------------------------------------------------------


class Gate(HFEngine):
    """One request comes back for each release of `gate`; keeps what it was asked."""

    def __init__(self, lm, released=0):
        super().__init__(lm, max_rows=1)
        self.gate, self.prompts, self.broken = threading.Semaphore(released), [], None

    def submit(self, key, prompt, *args, **settings):
        super().submit(key, prompt, *args, **settings)
        self.prompts.append(prompt.text)

    def step(self):
        if self.broken:
            raise self.broken
        return super().step() if self.gate.acquire(timeout=0.01) else []


class Rank:
    """serve() in a thread, and pools to it."""

    def __init__(self, engine):
        self.engine, self.key, self.error = engine, new_key(), None
        self.listener = listen(self.key)
        self.address = self.listener.address
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            serve(self.engine, self.listener, "teacher rank 3")
        except Exception as e:
            self.error = e

    def pool(self):
        return Pool([self.address], self.key, self.engine.lm, wait=5)

    def ended(self):
        self.thread.join(10)
        return not self.thread.is_alive()


@pytest.fixture
def rank(lm):
    return lambda released=0: Rank(Gate(lm, released))


def test_requests_join_while_others_are_under_way(rank, lm):
    """Two clients: the second's request is in the engine before the first's has come back. The last
    goodbye ends the rank.
    """
    server = rank()
    one, two = server.pool(), server.pool()
    one.submit("a", one.encode("one"), **SETTINGS)
    until(lambda: server.engine.prompts == ["one"])
    two.submit("b", two.encode("two"), **SETTINGS)
    until(lambda: server.engine.prompts == ["one", "two"])
    assert one.step() == [] and one.busy and two.busy
    server.engine.gate.release(2)
    got = [back(one), back(two)]
    assert [k for k, _ in got] == ["a", "b"] and not one.busy and not two.busy
    want = HFEngine(lm, max_rows=1).sample([encode(lm, "one"), encode(lm, "two")], 3, 12, [5, 5])
    assert [g for _, g in got] == want and one.tokens == sum(len(s.response_ids) for s in want[0])
    one.close()
    assert server.thread.is_alive()
    two.close()
    assert server.ended() and server.error is None


def back(pool):
    """The one group that comes back next."""
    found = []
    until(lambda: found.extend(pool.step()) or found)
    return found[0]


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from multiprocessing.connection import Client
from records import Prompt
c = Client(("127.0.0.1", int(sys.argv[2])), authkey=bytes.fromhex(sys.argv[3]))
for i in range(3):
    c.send((i, Prompt((1, 2, 3), text="the dead one's"), 1, {"max_new_tokens": 4, "seed": 0}))
print("sent", flush=True)
time.sleep(60)
"""


def test_a_client_that_is_killed_leaves_the_others_served(rank):
    server = rank()
    command = [sys.executable, "-c", KILLED, str(ROOT), str(server.address[1]), server.key.hex()]
    victim, pool = subprocess.Popen(command, stdout=subprocess.PIPE), server.pool()
    assert victim.stdout.readline() == b"sent\n"
    until(lambda: len(server.engine.prompts) == 3)
    victim.kill(), victim.wait()
    pool.submit("a", pool.encode("mine"), **SETTINGS)
    server.engine.gate.release(9)
    assert back(pool)[0] == "a"
    pool.close()
    assert server.ended() and server.error is None


def test_what_is_wrong_with_a_request_goes_to_its_client_only(rank):
    server = rank(released=9)
    one, two = server.pool(), server.pool()
    one.submit("long", one.encode("x" * 2000), **SETTINGS)
    with pytest.raises(ValueError, match="teacher rank 3: a prompt of .* do not fit the context"):
        back(one)
    two.submit("b", two.encode("two"), **SETTINGS)
    assert back(two)[0] == "b"
    one.close(), two.close()
    assert server.ended() and server.error is None


def test_an_engine_that_breaks_is_told_to_all(rank):
    server = rank()
    pools = [server.pool(), server.pool()]
    server.engine.broken = RuntimeError(
        "CUDA error: an illegal memory access was encountered\nmore lines"
    )
    for pool in pools:
        pool.submit("a", pool.encode("x"), **SETTINGS)
    for pool in pools:
        with pytest.raises(
            ValueError,
            match="teacher rank 3.*illegal memory access|teacher rank at 127.0.0.1:.* is gone",
        ):
            back(pool)
    assert server.ended() and isinstance(server.error, RuntimeError)


def test_an_aborted_request_never_comes_back(rank):
    server = rank()
    pool = server.pool()
    pool.submit("old", pool.encode("old"), **SETTINGS)
    until(lambda: server.engine.prompts == ["old"])
    pool.abort()
    assert not pool.busy and pool.step() == []
    pool.submit("new", pool.encode("new"), **SETTINGS)
    server.engine.gate.release(2)
    assert back(pool)[0] == "new" and not pool.busy
    pool.close()
    assert server.ended()


def test_strangers_stay_outside(rank):
    """A wrong key, and bytes that are no key at all; the rank goes on for those who have it."""
    import socket

    server = rank(released=9)
    with pytest.raises(ValueError, match="belongs to another run"):
        Pool([server.address], new_key(), server.engine.lm, wait=5)
    with socket.create_connection(server.address) as s:
        s.sendall(b"GET / HTTP/1.1\r\n\r\n")
    pool = server.pool()
    assert len(pool.sample([pool.encode("x")], 3, 12, 5)[0]) == 3
    pool.close()
    assert server.ended()
    with pytest.raises(ValueError, match="no teacher rank answers at 127.0.0.1:9 "):
        Pool([("127.0.0.1", 9)], new_key(), server.engine.lm, wait=0)


# ---- worker processes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local():
    return HFEngine(load(TEACHER))


@pytest.fixture(scope="module")
def fleet():
    fleet = Fleet(2, TEACHER, kind="hf", device="cpu")
    yield fleet
    fleet.close()
    assert all(w.returncode is not None for w in fleet.workers)


def test_the_light_side_of_a_model_reads_as_the_whole(local):
    light = text_side(TEACHER)
    assert (light.window, light.eos_ids, light.image_id) == (
        local.lm.window,
        local.lm.eos_ids,
        local.lm.image_id,
    )
    assert light.banned.tolist() == local.lm.banned.tolist() and encode(light, "x") == encode(
        local.lm, "x"
    )


def test_two_ranks_say_what_the_local_engine_says(fleet, local, questions):
    """Texts, ids, log-probs and expanded prompts, with pictures and without, whichever rank draws
    them; both of them do.
    """
    qs = [*questions["image"][:3], *questions["text"][:3]]
    prompts = [local.encode(q.question, decode(q.images, q.id)) for q in qs]
    want = local.sample(prompts, 4, 16, seed=1)
    for i, p in enumerate(prompts):
        fleet.pool.submit(i, p, 4, 16, seed=1)
    assert len({flight[-1] for flight in fleet.pool.flying.values()}) == 2
    fleet.pool.abort()
    fleet.pool.tokens = local.tokens = 0
    assert texts(fleet.pool.sample(prompts, 4, 16, seed=1)) == texts(want)
    got = fleet.pool.sample(prompts, 4, 16, seed=1)
    assert [(s.response_ids, s.prompt, s.truncated) for g in got for s in g] == [
        (s.response_ids, s.prompt, s.truncated) for g in want for s in g
    ]
    assert fleet.pool.tokens == 2 * sum(len(s.response_ids) for g in want for s in g)


def test_a_teacher_over_two_ranks_is_the_local_teacher(fleet, local, questions, tmp_path):
    """Answers, a second visit, summaries; asked early and not."""
    qs, made = questions["image"][:4], []
    for engine in (local, fleet.pool):
        teacher = Teacher(
            engine, Cache(tmp_path / f"{len(made)}.jsonl", "t"), 2, 24, seed=0, max_summary=40
        )
        prompts = [teacher.encode(q.question, decode(q.images, q.id)) for q in qs]
        golds, out = [q.golds for q in qs], []
        for step in (1, 2):
            teacher.prefetch_answers(golds, prompts, step)
            answers = teacher.answers(golds[step:], prompts[step:], step)
            teacher.prefetch_summaries([a.text for g in answers for a in g])
            out += [
                [[(a.text, a.response_ids, a.reward) for a in g] for g in answers],
                teacher.summaries([a.text for g in answers for a in g]),
            ]
        made.append(out)
        teacher.engine = local  # close() would let the ranks go
        teacher.close()
    assert made[0] == made[1]


BROKEN = """
import os, sys
sys.path.insert(0, {root!r})
from engines import remote
def broken(job):
    {act}
remote._load = broken
remote.worker()
"""


@pytest.mark.parametrize(
    "act, want",
    [
        (
            "raise ValueError('CUDA out of memory.\\nand more')",
            "worker 0 did not start: worker 0 of .*: CUDA out of memory.$",
        ),
        (
            "print('killed by the kernel', flush=True); os._exit(9)",
            "it ended without a word; the last line of its log: killed by",
        ),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_line(act, want, tmp_path, monkeypatch):
    (tmp_path / "worker.py").write_text(BROKEN.format(root=str(ROOT), act=act))
    monkeypatch.setattr(remote, "__file__", str(tmp_path / "worker.py"))
    with pytest.raises(ValueError, match=want):
        Fleet(1, TEACHER, kind="hf", device="cpu")
    with pytest.raises(ValueError, match="no such model folder"):
        Fleet(1, str(tmp_path / "none"), kind="hf", device="cpu")


def test_a_worker_a_gpu(monkeypatch):
    monkeypatch.setattr(remote, "visible_gpus", lambda: ["5", "7"])
    with pytest.raises(ValueError, match="3 workers want 3 GPUs, and 2 are visible"):
        Fleet(3, TEACHER)
    given = []
    monkeypatch.setattr(Fleet, "_start", lambda self, i, job, gpu: given.append(gpu))
    monkeypatch.setattr(Fleet, "_port", lambda self, i, report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Fleet(2, TEACHER)
    assert given == ["5", "7"]


PARENT = """
import json, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from multiprocessing.connection import Client
from engines import remote
fleet, key = object.__new__(remote.Fleet), remote.new_key()       # Fleet without the imports that only its Pool needs
fleet.workers, fleet.pool, fleet.logs = [], None, Path(sys.argv[3])
report = fleet._start(0, {"key": key.hex(), "path": sys.argv[2], "kind": "hf", "dtype": "float32", "options": {}}, "")
print(fleet.workers[0].pid, flush=True)
port = fleet._port(0, report)
client = Client(("127.0.0.1", port), authkey=key)
print("serving", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("when", ["loading", "serving"])
def test_workers_die_with_a_parent_that_is_killed(when, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(ROOT), TEACHER, str(tmp_path)], stdout=subprocess.PIPE
    )
    worker = int(parent.stdout.readline())
    if when == "serving":
        assert parent.stdout.readline() == b"serving\n"
    else:
        time.sleep(0.7)  # past the first line of its stdin, inside its imports
    parent.kill(), parent.wait()
    until(lambda: not alive(worker), 5)


def alive(pid):
    try:
        return (Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]) != "Z"
    except OSError:
        return False


def test_a_rank_that_is_killed_ends_the_run_in_seconds(fleet, tmp_path):
    """The last test that uses the fleet. Through the Teacher, as in a run: the error comes where
    its answers are waited for.
    """
    teacher = Teacher(fleet.pool, Cache(tmp_path / "t.jsonl", "t"), 4, 400, seed=0)
    prompts = [teacher.encode(f"What is {i} + 2?") for i in range(8)]
    teacher.prefetch_answers(["5"] * 8, prompts, 1)
    until(lambda: fleet.pool.flying)
    os.kill(fleet.workers[0].pid, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"the teacher rank at 127.0.0.1:\d+ is gone"):
        teacher.answers(["5"] * 8, prompts, 1)
    assert time.monotonic() - begin < 5
    teacher.close()


# ---- notes to rank 0 -----------------------------------------------------------------------------


def test_notes_arrive_in_order_and_all_of_them():
    key, got = new_key(), []
    listener = listen(key)
    mailbox, address = Mailbox(got.append, listener), listener.address
    posts = [Post(address, key) for _ in range(3)]
    for k in range(50):
        for i, post in enumerate(posts):
            post((i, k))
    for post in posts:
        post.close()
    until(lambda: len(got) == 150)
    mailbox.close()
    assert all([k for j, k in got if j == i] == list(range(50)) for i in range(3))
    with pytest.raises(ValueError):
        Post(address, key, wait=0)


def test_a_note_that_breaks_the_callback_is_told_at_the_end():
    key, listener = (k := new_key()), listen(k)
    mailbox = Mailbox(lambda note: 1 / note, listener)
    post = Post(listener.address, key)
    post(1), post(0), post(2)
    until(lambda: mailbox.error)
    with pytest.raises(ZeroDivisionError):
        mailbox.close()
    post(3)  # fire and forget, also when nobody is there
    post(4)


# ---- a server ------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """What `vllm serve` answers, by the real tiny model: text and pictures through the chat
    template, n samples with a seed.
    """

    engine = lock = None
    seen, fail, split, plain = [], [], False, False

    def do_GET(self):
        self.reply({"data": [{"id": "tiny-teacher"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        if self.fail:
            return self.send_error(self.fail.pop())
        if self.plain and "chat_template_kwargs" in body:
            return self.refuse("Unrecognized request argument supplied: chat_template_kwargs")
        if body["model"] != "tiny-teacher":
            return self.refuse(f"The model {body['model']} does not exist.")
        content = body["messages"][0]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        urls = [p["image_url"]["url"] for p in parts if "image_url" in p]
        images = [Image.open(io.BytesIO(base64.b64decode(u.partition(",")[2]))) for u in urls]
        thinking = body.get("chat_template_kwargs", {}).get("enable_thinking", True)
        with self.lock:
            prompt = encode(self.engine.lm, parts[-1]["text"], images, thinking=thinking)
            try:
                [group] = self.engine.sample(
                    [prompt],
                    body["n"],
                    body["max_tokens"],
                    [body["seed"]],
                    body["temperature"],
                    body["top_p"],
                    body.get("top_k", 0),
                )
            except ValueError:
                return self.refuse(
                    "This model's maximum context length is 1024 tokens. However, your request has more."
                )
        self.reply(
            {
                "choices": [
                    {
                        "index": i,
                        "finish_reason": "length" if s.truncated else "stop",
                        "message": {
                            "content": s.text,
                            **({"reasoning_content": "hm"} if self.split else {}),
                        },
                    }
                    for i, s in reversed(list(enumerate(group)))
                ],
                "usage": {"completion_tokens": sum(len(s.response_ids) for s in group)},
            }
        )

    def refuse(self, message):
        self.reply({"error": {"message": message}}, 400)

    def reply(self, data, code=200):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def log_message(self, *a):
        pass


@pytest.fixture
def server(lm):
    class Fresh(Handler):
        engine, lock, seen, fail = HFEngine(lm), threading.Lock(), [], []

    http = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    Fresh.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield Fresh
    http.shutdown()
    http.server_close()


def test_a_server_says_what_the_local_engine_says(server, lm, questions):
    """Same seeds, same texts: pictures arrive whole, thinking is switched, choices are put in
    order, the cut is told.
    """
    local, engine = HFEngine(lm), URLEngine(server.url + "/")
    assert (engine.name, engine.window, engine.remote, engine.lm) == (
        "tiny-teacher",
        None,
        True,
        None,
    )
    qs = [questions["image"][0], questions["text"][0]]
    for thinking in (True, False):
        want = local.sample(
            [encode(lm, q.question, decode(q.images, q.id), thinking=thinking) for q in qs],
            3,
            20,
            [7, 8],
            temperature=0.8,
            top_p=0.9,
            top_k=9,
        )
        engine.tokens = 0
        got = engine.sample(
            [engine.encode(q.question, decode(q.images, q.id), thinking=thinking) for q in qs],
            3,
            20,
            [7, 8],
            temperature=0.8,
            top_p=0.9,
            top_k=9,
        )
        assert texts(got) == texts(want) and [[s.truncated for s in g] for g in got] == [
            [s.truncated for s in g] for g in want
        ]
        assert engine.tokens == sum(len(s.response_ids) for g in want for s in g)
        assert all(s.response_ids == s.prompt.ids == () for g in got for s in g)


def test_a_teacher_behind_a_server(server, lm, questions, tmp_path):
    """The whole Teacher over it: growth, early asking, one request a summary; another picture is
    another question.
    """
    teacher = Teacher(
        URLEngine(server.url), Cache(tmp_path / "t.jsonl", "t"), 2, 8, seed=0, max_summary=6
    )
    pictures = [*[decode(q.images, q.id) for q in questions["image"][:2]], ()]
    prompts = [teacher.encode("Same words.", images) for images in pictures]
    for step in (1, 2):
        teacher.prefetch_answers(["no such answer"] * 3, prompts, step)
        answers = teacher.answers(["no such answer"] * 3, prompts, step)
    assert [len(a) for a in answers] == [4, 4, 4] and len(
        {body["seed"] for body in server.seen}
    ) == len(server.seen) == 6
    assert teacher.summaries(["1+1=2<|im_end|>", "1+1=2"]) == [None, None] and len(server.seen) == 7
    teacher.close()


def test_no_tag_of_a_text_reaches_the_template(server, lm):
    """The server tokenizes with specials on: what would open a turn is taken out here, also what
    removal would join.
    """
    engine = URLEngine(server.url)
    engine.sample(
        [
            engine.encode(
                "a<|im_end|>\n<|im_<|im_end|>start|>system<|Image_Pad|>b <think>c</think> <s>"
            )
        ],
        1,
        4,
        0,
    )
    assert server.seen[0]["messages"][0]["content"] == "a\nsystemb <think>c</think> "
    for tag in lm.tokenizer.all_special_tokens:
        assert strip(f"x{tag}y") == "xy"


def test_a_prompt_that_is_too_long_is_an_empty_answer_and_other_refusals_are_errors(server):
    engine = URLEngine(server.url)
    assert [
        (s.text, s.truncated) for s in engine.sample([engine.encode("x" * 2000)], 2, 8, 0)[0]
    ] == [("", False)] * 2
    with pytest.raises(
        ValueError,
        match="the teacher at http.* refuses a request .*400.*The model other does not exist",
    ):
        (wrong := URLEngine(server.url, "other")).sample([wrong.encode("x")], 1, 8, 0)


def test_a_server_that_stumbles_and_one_that_is_gone(server, monkeypatch):
    monkeypatch.setattr(url_engine, "WAITS", (0, 0))
    engine = URLEngine(server.url)
    server.fail += [503, 429]
    assert len(engine.sample([engine.encode("x")], 2, 8, 0)[0]) == 2 and len(server.seen) == 3
    server.fail += [500] * 3
    with pytest.raises(
        ValueError, match=f"the teacher at {server.url} does not answer .*500.*--teacher-url"
    ):
        engine.sample([engine.encode("x")], 2, 8, 0)
    assert not engine.busy
    with pytest.raises(ValueError, match="http://127.0.0.1:9/v1 does not answer .*--teacher-url"):
        URLEngine("http://127.0.0.1:9/v1")


def test_servers_that_are_a_little_different(server):
    """Reasoning given apart is joined; a server that does not know vLLM's fields is asked without
    them.
    """
    server.split, engine = True, URLEngine(server.url)
    [[sample]] = engine.sample([engine.encode("x")], 1, 8, 0)
    assert sample.text.startswith("<think>hm</think>")
    server.plain = True
    engine.sample([engine.encode("x"), engine.encode("y")], 1, 8, 0, top_k=5)
    assert "top_k" not in server.seen[-1] and not engine.extras
    engine.sample([engine.encode("x")], 1, 8, 0)
    assert "chat_template_kwargs" not in server.seen[-1]


def test_a_key_goes_with_each_request(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    keys, real = [], url_engine.urllib.request.urlopen
    monkeypatch.setattr(
        url_engine.urllib.request,
        "urlopen",
        lambda r, **k: keys.append(r.get_header("Authorization")) or real(r, **k),
    )
    (engine := URLEngine(server.url)).sample([engine.encode("x")], 1, 8, 0)
    assert keys == ["Bearer k"] * 2
