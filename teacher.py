"""The frozen teacher: answers, summaries, hints and verdicts, each asked once, and a cache on disk
that keeps them.

ZPPO section 3.2 and Appendix A: the teacher is only ever read in a prompt; nothing it writes is
trained on. What it does:
* `answers`: G_T samples to a hard question, graded like the student's; the correct ones are the BCQ
  pool.
* `summaries`: "candidate compression" (Fig. 16), one response -> at most five lines, the same
  prompt and cap for correct and wrong responses, so that neither length nor style gives the label
  away. A summary is graded again (`faithful`), because a teacher may repair a wrong trace or break
  a right one (paper F.7).
* `verdicts`: the judge of free-form questions (Fig. 9), asked only where the deterministic reward
  is 0.
* `hints` (Fig. 19) and `draws` (fresh samples of every question), for the baselines of Appendix
  D.2.

Ours: the paper redraws answers on every visit of a question (`fresh=True`). By default they are
kept in a cache that grows: a question without a correct answer gets G_T more on each visit, up to
`max_answers`; one with a correct answer gets no more.

The engine is a local one (then what is needed is sampled when it is needed, in one batch), or a
remote one (remote.Pool, url_engine.URLEngine): then the prefetch_* calls return at once, a thread
files what comes back, and answers(), summaries(), verdicts() wait only for what is late (`waited`,
seconds). The paper overlaps its teacher so with the student's rollouts.

What the run sees does not depend on timing, because drawing and taking are two things:
* A draw is a function of (run seed, key, how many were drawn of this key before), whoever asks, and
  whenever.
* A question's known answers are those that answers() has TAKEN, G_T a visit; "taken" is a record of
  its own, written by answers() alone. What a prefetch drew for a question that turned out easy is
  spare: it waits in the cache for the first visit that needs it, which without the prefetch would
  draw the same. Summaries, hints and verdicts are functions of their text.
So a checkpoint need not wait for what is in flight: a resumed run asks for it again and gets the
same.

    teacher = Teacher(engine, Cache("runs/x/teacher.jsonl", fingerprint("assets/teacher")), n=4,
    max_response=40, seed=0) groups = teacher.answers([("504",)], [teacher.encode(question +
    CLOSER)], step=1)
"""

import fcntl
import hashlib
import json
import os
import re
import threading
import time
from functools import cached_property
from pathlib import Path

from baselines import hint_of
from engines.base import Stopped, seed_of
from evaluation import judge
from math_equal import answers_equal
from records import Sample
from reformulate import clean
from reward import grade, last_boxed

# Fig. 16 in our words: a summary, nothing new.
COMPRESS = (
    "Summarize the response below between <summary> and </summary>, in at most five lines. Keep only the essential "
    "steps and the final answer. Leave out exploration and self-correction, derive nothing new, and end with the "
    "final answer in \\boxed{{}}.\n<response>\n{response}\n</response>"
)

# Fig. 19 in our words: help without the answer.
HINT = (
    "Below are a question and a correct response to it between <response> and </response>. Write a hint between <hint> and "
    "</hint>: name the idea or the step that matters. Give neither the final answer, nor a box, nor the full solution."
    "\n\n{question}\n<response>\n{response}\n</response>"
)


class Teacher:
    """A frozen model behind an engine, and its cache. n: G_T; lengths in tokens; seed: the run's.

    Every method may be called from any thread. Raises ValueError, from the call that waits, when
    the engine does (a teacher rank died, a prompt is too long), and when all answers are empty: a
    model that does not follow its chat template.
    """

    def __init__(
        self,
        engine,
        cache,
        n,
        max_response,
        seed,
        max_summary=512,
        temperature=1.0,
        top_p=1.0,
        fresh=False,
        max_answers=32,
    ):
        self.engine, self.cache, self.n, self.seed = engine, cache, n, seed
        self.fresh, self.max_answers = fresh, max_answers
        self.control = engine.control
        self.sampling = {"max_new_tokens": max_response, "temperature": temperature, "top_p": top_p}
        self.writing = self.sampling | {"max_new_tokens": max_summary}  # of summaries and hints
        self.judging = {"max_new_tokens": judge.MAX_TOKENS, "temperature": 0.0, "top_p": 1.0}
        self.pen = (
            threading.Lock()
        )  # a fast tokenizer keeps "special tokens on or off" as state: one thread at a time
        self.lock = threading.Condition()  # over all that follows
        self.todo, self.flying = (
            [],
            set(),
        )  # (id, prompt, n, seed, sampling) not submitted yet; ids that have not come back
        self.drawn, self.held = (
            {},
            {},
        )  # id -> records: fresh draws; empty answers, held back until one is not empty
        self.answered = False
        self.thread = self.error = None
        self.closed = False
        self.pulse = lambda: False  # asked while waiting: True breaks off with rollout.Stopped
        self.reset()

    def reset(self):
        """Counters at zero, for the log of a step: `waited` seconds, `asked` by kind, `judged`:
        responses shown to the judge, asked about anew, ...
        """
        self.waited = 0.0
        self.asked = {
            kind: {"requests": 0, "tokens": 0} for kind in ("answer", "summary", "hint", "judge")
        }
        self.judged = {"shown": 0, "asked": 0, "correct": 0, "malformed": 0}

    def encode(self, text, images=(), video=(), thinking=True):
        """engine.encode, from any thread."""
        with self.pen:
            return self.engine.encode(text, images, video, thinking)

    # ---- answers

    def answers(self, golds, prompts, step, free=None):
        """The teacher's known answers to each question, graded: a list of lists of Sample (kind
        "teacher", no log-probs).

        golds: gold answers, a text or a tuple of accepted ones; prompts: sample.Prompt of the
        TEACHER's tokenizer; step: the rollout step, which only fresh draws depend on; free: a
        question text where the judge has the last word, else "".
        """
        if self.fresh:
            return self.draws(golds, prompts, step, self.n, free)
        keys = [self._key("answer", self.sampling, p) for p in prompts]
        known = [self._taken(key) for key in keys]
        old = self.rewards(known, golds, free)
        visit = {
            key: p
            for key, p, have, rewards in zip(
                keys, prompts, known, old
            )  # a question that stands twice is asked once
            if not any(rewards) and len(have) < self.max_answers
        }
        for key, p in visit.items():
            self._ask_answers(key, p)
        self._wait(("answer", key) for key in visit)
        self._check_answered(any(a["text"].strip() for have in known for a in have))
        self.cache.put(
            (f"{key}/taken", {"n": len(self._taken(key)) + len(self._spare(key)[: self.n])})
            for key in visit
        )
        new = [self._taken(key)[len(have) :] for key, have in zip(keys, known)]
        rewards = [o + n for o, n in zip(old, self.rewards(new, golds, free))]
        return _samples([have + some for have, some in zip(known, new)], prompts, rewards)

    def prefetch_answers(self, golds, prompts, step, free=None):
        """Begin to draw what answers() will draw for those of these questions that turn out hard. A
        local engine does nothing.
        """
        if not self.engine.remote:
            return
        if self.fresh:
            return self.prefetch_draws(prompts, step, self.n)
        keys = [self._key("answer", self.sampling, p) for p in prompts]
        known = [self._taken(key) for key in keys]
        solved = [any(r) for r in self.rewards(known, golds, free, wait=False)]
        for key, p, have, done in zip(keys, prompts, known, solved):
            if not done and len(have) < self.max_answers:
                self._ask_answers(key, p)

    def _ask_answers(self, key, prompt):
        with self.lock:  # nothing may come back between the look and the question
            if not self._spare(key):
                seed = seed_of(self.seed, "answer", key, len(self._taken(key)))
                self._ask(("answer", key), prompt, self.n, seed, self.sampling)

    def _taken(self, key):
        count = self.cache.get(f"{key}/taken")
        return self.cache.get(key)[: count[-1]["n"] if count else 0]

    def _spare(self, key):
        return self.cache.get(key)[len(self._taken(key)) :]

    def draws(self, golds, prompts, step, n, free=None):
        """n fresh answers to each question, graded, whatever the cache holds: off-policy
        distillation, and `fresh`.
        """
        ids = self.prefetch_draws(prompts, step, n)
        self._wait(ids)
        self._check_answered(False)
        with self.lock:
            records = [self.drawn[i] for i in ids]
        return _samples(records, prompts, self.rewards(records, golds, free))

    def prefetch_draws(self, prompts, step, n):
        """Begin to draw what draws() will return. Returns the ids of the requests."""
        ids = [("draw", self._key("answer", self.sampling, p), step, n) for p in prompts]
        with self.lock:
            self.drawn = {i: r for i, r in self.drawn.items() if i[2] >= step}
            for i, p in zip(ids, prompts):
                if i not in self.drawn:
                    self._ask(i, p, n, seed_of(self.seed, *i), self.sampling)
        return ids

    def _check_answered(self, known):
        if self.held and not known:
            self._wait()  # perhaps one that is under way is not empty
        with self.lock:
            self.answered = self.answered or known
            if self.held and not self.answered:  # empty now and then is legal, empty always is not
                raise ValueError(
                    f"the teacher {self.engine.name} answered nothing: {sum(map(len, self.held.values()))} empty "
                    f"responses; is its chat template the right one?"
                )
            self._keep([])

    # ---- grading

    def rewards(self, records, golds, free=None, wait=True):
        """The rewards of each question's answer records: lists of 0.0 or 1.0. wait=False: what is
        not judged yet is 0.0.
        """
        out = [[grade(a["text"], gold) for a in some] for some, gold in zip(records, golds)]
        asked = [
            (i, k)
            for i, some in enumerate(records)
            if free and free[i]
            for k in range(len(some))
            if not out[i][k]
        ]
        items = [
            (free[i], (), records[i][k]["text"], golds[i], records[i][k]["truncated"])
            for i, k in asked
        ]
        for (i, k), right in zip(
            asked, self.verdicts(items) if wait else self._known_verdicts(items)
        ):
            out[i][k] = float(right)
        return out

    def verdicts(self, items):
        """Whether the judge (Fig. 9) calls each response correct, a list of bool.

        items: (question, options, response, gold[, truncated]); options: texts, or () where they
        stand in the question; gold: a text or a tuple of accepted ones. Only what follows the
        thinking is shown; a response without that is wrong, and not asked about. A reply that is
        not exactly the JSON that was asked for counts as wrong.
        """
        texts = [judge.compare(*item) for item in items]
        replies = self._written("judge", texts, self.judging)
        scores = [
            judge.parse("shared", raw) if text else [0.0] for text, raw in zip(texts, replies)
        ]
        with self.lock:
            self.judged["shown"] += sum(map(bool, texts))
            self.judged["malformed"] += scores.count(None)
            self.judged["correct"] += scores.count([1.0])
        return [s == [1.0] for s in scores]

    def prefetch_verdicts(self, items):
        """Begin to ask what verdicts() will ask. A local engine does nothing."""
        if self.engine.remote:
            self._ask_texts("judge", [judge.compare(*item) for item in items], self.judging)

    def _known_verdicts(self, items):
        ids = [self._text_id("judge", judge.compare(*item), self.judging) for item in items]
        return [
            any(judge.parse("shared", r["text"]) == [1.0] for r in self.cache.get(key))
            for _, key in ids
        ]

    # ---- summaries and hints

    def summaries(self, texts):
        """The teacher's summary of each response text, or None where it wrote no closed <summary>.
        Asked once a text.
        """
        return [
            _inside(raw)
            for raw in self._written("summary", map(self._compress, texts), self.writing)
        ]

    def prefetch_summaries(self, texts):
        """Begin to write what summaries() and candidates() will ask for. A local engine does
        nothing.
        """
        if self.engine.remote:
            self._ask_texts("summary", map(self._compress, texts), self.writing)

    def _compress(self, text):
        return COMPRESS.format(response=clean(text, self.control))

    def candidates(self, samples, golds, compress=True, free=None):
        """What may stand in a prompt for each graded response: its summary when that is faithful,
        else None.

        samples: Samples with their reward; golds, free: as in answers(), one a sample.
        compress=False: the response itself.
        """
        texts = [clean(s.text, self.control) for s in samples]
        if not compress:
            return texts
        written = self.summaries(texts)
        again = self.rewards(
            [[{"text": s, "truncated": False}] * bool(s) for s in written], golds, free
        )
        return [
            s if s and faithful(s, sample.text, gold, sample.reward, reward[0]) else None
            for s, sample, gold, reward in zip(written, samples, golds, again)
        ]

    def hints(self, items):
        """An answer-free hint from each correct response (Fig. 19), or None where it gives an
        answer away (hint_of).

        items: (question text with its options, response text, gold answers).
        """
        texts = [HINT.format(question=q, response=clean(r, self.control)) for q, r, _ in items]
        written = self._written("hint", texts, self.writing)
        return [hint_of(raw, golds, q, self.control) for raw, (q, _, golds) in zip(written, items)]

    # ---- asking

    def _written(self, kind, texts, sampling):
        """The teacher's reply to each text, from the cache or the engine; "" for an empty text, and
        for one too long for it.
        """
        ids = self._ask_texts(kind, texts, sampling)
        self._wait(i for i in ids if i)
        return [self.cache.get(i[1])[-1]["text"] if i else "" for i in ids]

    def _ask_texts(self, kind, texts, sampling):
        ids = []
        for text in texts:
            ids.append(i := self._text_id(kind, text, sampling) if text else None)
            if not i or i in self.flying or self.cache.get(i[1]):
                continue
            prompt, window = self.encode(text, thinking=False), self.engine.window
            with self.lock:
                if self.cache.get(i[1]):  # it has come back since the first look
                    continue
                if window and len(prompt.ids) + sampling["max_new_tokens"] > window:
                    self.cache.put([(i[1], {"text": ""})])
                elif self._ask(i, prompt, 1, seed_of(self.seed, *i), sampling) and kind == "judge":
                    self.judged["asked"] += 1
        return ids

    def _text_id(self, kind, text, sampling):
        return kind, _digest(kind, sampling, self.template, text)

    @cached_property
    def template(self):
        """The chat template as part of a key: cheaper than all the ids of a long text."""
        prompt = self.encode("x", thinking=False)
        return prompt.ids or prompt.text

    def _key(self, kind, sampling, prompt):
        pictures = (
            *map(_bytes, (*prompt.images, *prompt.video)),
            prompt.video_fps if prompt.video else 0,
        )
        return _digest(kind, sampling, prompt.ids or (prompt.text, prompt.thinking), *pictures)

    def _ask(self, i, prompt, n, seed, sampling):
        """Queue a request, unless it is in flight. i: (kind, key, ...). The lock is held. Returns
        whether it was queued.
        """
        if i in self.flying or i in self.held:
            return False
        self.flying.add(i)
        self.todo.append((i, prompt, n, seed, sampling))
        if self.engine.remote and self.thread is None:
            self.thread = threading.Thread(target=self._pump, daemon=True, name="teacher")
            self.thread.start()
        self.lock.notify_all()
        return True

    def _pump(self):
        """The thread that steps a remote engine and files what comes back; nobody else touches the
        engine then.
        """
        try:
            while True:
                with self.lock:
                    self.lock.wait_for(lambda: self.todo or self.engine.busy or self.closed)
                    if self.closed:
                        return
                    room = max(0, self.engine.room - (len(self.flying) - len(self.todo)))
                    todo, self.todo = self.todo[:room], self.todo[room:]
                for i, prompt, n, seed, sampling in todo:
                    self.engine.submit(i, prompt, n, seed=seed, **sampling)
                if finished := self.engine.step():
                    self._file(finished)
        except Exception as e:  # raised again where somebody waits
            with self.lock:
                self.error = e
                self.lock.notify_all()

    def _wait(self, ids=None):
        """Until these requests have come back; None: all. A local engine samples them here."""
        ids, begin = None if ids is None else set(ids), time.perf_counter()
        if self.engine.remote:
            with self.lock:
                # what is needed now goes before what was asked ahead
                self.todo.sort(key=lambda request: ids is not None and request[0] not in ids)
                while not self.lock.wait_for(
                    lambda: self.error or not (self.flying if ids is None else self.flying & ids),
                    1.0,
                ):
                    if self.pulse():
                        raise Stopped
                if self.error:
                    raise self.error
        else:
            self._sample()
        self.waited += time.perf_counter() - begin

    def _sample(self):
        todo, self.todo, alike = self.todo, [], {}
        for i, prompt, n, seed, sampling in todo:
            alike.setdefault((n, *sampling.items()), []).append((i, prompt, seed))
        try:
            for (n, *sampling), some in alike.items():
                ids, prompts, seeds = zip(*some)
                self._file(
                    zip(
                        ids,
                        self.engine.sample(
                            list(prompts), n, seed=list(seeds), stop=self.pulse, **dict(sampling)
                        ),
                    )
                )
        finally:
            self.flying.clear()  # after an error or Ctrl-C they may be asked again

    def _file(self, finished):
        with self.lock:
            records, back = [], set()
            for i, group in finished:
                kind, key = i[:2]
                count = self.asked["answer" if kind == "draw" else kind]
                count["requests"] += 1
                count["tokens"] += sum(len(s.response_ids) for s in group)
                some = [
                    {"text": s.text, "ids": list(s.response_ids), "truncated": s.truncated}
                    for s in group
                ]
                if kind == "draw":
                    self.drawn[i] = some
                if kind not in ("answer", "draw"):
                    records.append((key, {"text": some[0]["text"]}))
                elif any(a["text"].strip() for a in some) or self.answered:
                    self.answered = True
                    records += [(key, a) for a in some] if kind == "answer" else []
                else:
                    self.held[i] = some
                back.add(i)
            self._keep(records)  # on disk before anyone may read it
            self.flying -= back
            self.lock.notify_all()

    def _keep(self, records):
        if self.answered and self.held:
            records = [
                (i[1], a) for i, some in self.held.items() if i[0] == "answer" for a in some
            ] + records
            self.held = {}
        if records:
            self.cache.put(records)

    def close(self):
        """Ask no more, forget what is in flight, let teacher ranks go, and let another run write
        the cache.
        """
        with self.lock:
            self.closed = True
            self.lock.notify_all()
        if self.thread is not None:
            self.thread.join()
        if self.engine.remote:
            self.engine.close()
        self.cache.close()


def _samples(records, prompts, rewards):
    return [
        [
            Sample(p, tuple(a["ids"]), (), a["text"], a["truncated"], kind="teacher", reward=r)
            for a, r in zip(some, rs)
        ]
        for p, some, rs in zip(prompts, records, rewards)
    ]


def faithful(summary, response, gold, reward, again=None):
    """Whether a summary still carries its response's label and its answer (the paper's audit, F.7).

    again: the summary's own reward, where a judge had a say in it.
    """
    if (grade(summary, gold) if again is None else again) != reward:
        return False
    answer, summarized = last_boxed(response), last_boxed(summary)
    return answer is None or (summarized is not None and answers_equal(answer, summarized))


def _inside(text):
    found = re.findall(r"<summary>(.*?)</summary>", text, re.DOTALL)
    return found[-1].strip() or None if found else None


# ---- the cache -----------------------------------------------------------------------------------


class Cache:
    """Append-only JSONL of teacher outputs: {"key", ...answer}. One writing process; a torn last
    line costs that line.

    For a resumed run to go on bit for bit it must see what it saw when its checkpoint was written,
    and not what it wrote between then and its death. So a checkpoint keeps the byte ranges that the
    run has seen (`state()`); bytes outside are neither read nor deleted. A run without a state sees
    everything.
    """

    def __init__(self, path, teacher, state=None):
        self.path, self.teacher, self.memory = Path(path), teacher, {}
        self.lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.path}: another run is writing this teacher cache; "
                f"give --teacher-cache another path"
            ) from None
        size = self._end_with_newline()
        ranges = [[0, size]] if state is None else [list(r) for r in state]
        if any(b > size for _, b in ranges):
            raise ValueError(
                f"{self.path}: the teacher cache is shorter ({size} bytes) than when the checkpoint was written "
                f"({max(b for _, b in ranges)} bytes); put the file back, or start a new run"
            )
        for a, b in ranges:
            self.file.seek(a)
            for line in self.file.read(b - a).splitlines():
                try:
                    record = json.loads(line)
                    self.memory.setdefault(record.pop("key"), []).append(record)
                except (ValueError, KeyError, AttributeError):
                    continue  # the torn end of a killed run
        self.seen, self.start = [r for r in ranges if r[0] < r[1]], size

    def _end_with_newline(self):
        size = self.file.seek(0, os.SEEK_END)
        if size:
            self.file.seek(size - 1)
            if self.file.read(1) != b"\n":
                self.file.write(b"\n")
                self.file.flush()
                size += 1
        return size

    def get(self, key):
        """All records of a key, oldest first."""
        with self.lock:
            return list(self.memory.get(f"{self.teacher}/{key}", ()))

    def put(self, records):
        """Append (key, dict) pairs, on disk when this returns."""
        records = [(f"{self.teacher}/{key}", record) for key, record in records]
        if not records:
            return
        lines = b"".join(
            json.dumps({"key": key, **record}).encode() + b"\n" for key, record in records
        )
        with self.lock:
            for key, record in records:
                self.memory.setdefault(key, []).append(record)
            self.file.write(lines)
            self.file.flush()
            os.fsync(self.file.fileno())

    def state(self):
        """The byte ranges of the file that this run has seen."""
        with self.lock:
            end = self.file.seek(0, os.SEEK_END)
        ranges = self.seen + ([[self.start, end]] if end > self.start else [])
        return [[0, ranges[-1][1]]] if _contiguous(ranges) else ranges

    def close(self):
        """Close the file and let another run write."""
        self.file.close()


def _contiguous(ranges):
    return (
        bool(ranges) and ranges[0][0] == 0 and all(a[1] == b[0] for a, b in zip(ranges, ranges[1:]))
    )


def fingerprint(path):
    """A short name of the teacher for cache keys: of a folder's config and the ends of its weight
    files, or the hub id.
    """
    folder = Path(path)
    if not folder.is_dir():
        return hashlib.sha256(str(path).encode()).hexdigest()[:16]
    h = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        if file.is_file():
            with open(file, "rb") as f:
                h.update(f"{file.name} {file.stat().st_size}".encode() + f.read(1 << 20))
                f.seek(max(0, file.stat().st_size - (1 << 20)))
                h.update(f.read())
    return h.hexdigest()[:16]


def _digest(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _bytes(image):
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
