"""Requests that an engine is to answer, by id: the same calls for an engine in this process and for
one on servers.

    pending = Pending(engine)
    pending.start("q1", engine.encode("What is 2+2?"), 4, seed=0, max_new_tokens=40)
    [("q1", samples)] = pending.wait(["q1"])

An engine on servers (client.ClientEngine) works from start() on; a local one samples all that was
started when somebody waits, in one batch.
"""

import concurrent.futures
import threading

from engines.base import Stopped


class Pending:
    """The requests of one engine that have not come back; from any thread, but wait() from one."""

    def __init__(self, engine):
        self.engine, self.open = engine, {}  # id -> Future; locally (prompt, n, seed, sampling)
        self.lock = threading.RLock()

    def __contains__(self, i):
        return i in self.open

    def start(self, i, prompt, n, seed, priority=0, **sampling):
        """Ask for n responses, unless this id is under way. seed, sampling: as in Engine.submit;
        priority: lower comes first.
        """
        with self.lock:
            if i in self.open and not self._failed(self.open[i]):
                return
            if self.engine.remote:
                self.open[i] = self.engine.request(prompt, n, seed, priority, **sampling)
            else:
                self.open[i] = prompt, n, seed, sampling

    def wait(self, ids, stop=lambda: False):
        """[(id, Samples)] of all that has come back when these have. stop(): asked meanwhile; True
        raises Stopped. Raises what the engine raises about one of these; it may be asked again.
        """
        if not self.engine.remote:
            return self._sample(stop)
        with self.lock:
            waiting = {self.open[i] for i in ids if i in self.open}
        while waiting:
            first = concurrent.futures.FIRST_EXCEPTION
            done, waiting = concurrent.futures.wait(waiting, 1.0, first)
            if any(f.exception() for f in done):
                break
            if waiting and stop():
                raise Stopped
        return self.back(ids)

    def back(self, ids=()):
        """wait(), of what is there already. Errors about other requests are forgotten with them."""
        with self.lock:
            done = {i: f for i, f in self.open.items() if f.done()}
            for i in done:
                del self.open[i]
        for i in ids:
            if i in done and (error := done[i].exception()):
                raise error
        return [(i, f.result()) for i, f in done.items() if not f.exception()]

    def drop(self, ids):
        """Take requests back; their connections are dropped."""
        with self.lock:
            for i in ids:
                if i in self.open:
                    self.open.pop(i).cancel()

    def _failed(self, request):
        return self.engine.remote and request.done() and request.exception() is not None

    def _sample(self, stop):
        asked, self.open, alike, out = self.open, {}, {}, []
        for i, (prompt, n, seed, sampling) in asked.items():
            alike.setdefault((n, *sampling.items()), []).append((i, prompt, seed))
        for (n, *sampling), some in alike.items():
            ids, prompts, seeds = zip(*some)
            settings = {"seed": list(seeds), "stop": stop, **dict(sampling)}
            out += zip(ids, self.engine.sample(list(prompts), n, **settings))
        return out
