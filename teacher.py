"""The frozen teacher: answers to hard questions, summaries of candidates, and a cache on disk that keeps both.

ZPPO section 3.2 and Appendix A: the teacher is only ever read in a prompt; nothing it writes is trained on. It does two things:
* `answers`: G_T samples to a hard question, graded like the student's; the correct ones are the BCQ pool.
* `summaries`: "candidate compression" (Fig. 16), one response -> at most five lines, the same prompt and cap for correct and
  wrong responses, so that neither length nor style gives the label away.

A summary is graded again (`faithful`), because a teacher may repair a wrong trace or break a right one (paper F.7).

Ours: the paper redraws answers on every visit of a question (`fresh=True`). By default they are kept in a cache that grows: a
question without a correct answer gets G_T more on each visit, up to `max_answers`; one with a correct answer gets no more.

    teacher = Teacher(engine, Cache("runs/x/teacher.jsonl", fingerprint("assets/teacher")), n=4, max_response=40, seed=0)
    groups = teacher.answers(["504"], [encode(engine.lm, question + CLOSER)], step=1)
"""
import fcntl
import hashlib
import json
import os
import re
from pathlib import Path

from chat import control_strings, encode
from reformulate import clean
from reward import answers_equal, grade, last_boxed
from rollout import seed_of
from sample import Sample

# Fig. 16 in our words: a summary, nothing new.
COMPRESS = ("Summarize the response below between <summary> and </summary>, in at most five lines. Keep only the essential "
            "steps and the final answer. Leave out exploration and self-correction, derive nothing new, and end with the "
            "final answer in \\boxed{{}}.\n<response>\n{response}\n</response>")

# Fig. 19 in our words: help without the answer.
HINT = ("Below are a question and a correct response to it between <response> and </response>. Write a hint between <hint> and "
        "</hint>: name the idea or the step that matters. Give neither the final answer, nor a box, nor the full solution."
        "\n\n{question}\n<response>\n{response}\n</response>")


class Teacher:
    """A frozen model behind an engine, and its cache. n: G_T; lengths in tokens; seed: the run's.

    Raises ValueError from `answers` when every answer of a call is empty: a model that does not follow its chat template.
    """

    def __init__(self, engine, cache, n, max_response, seed, max_summary=512, temperature=1.0, top_p=1.0, fresh=False,
                 max_answers=32):
        self.engine, self.cache, self.n, self.seed = engine, cache, n, seed
        self.fresh, self.max_answers = fresh, max_answers
        self.max_summary, self.answered = max_summary, False
        self.sampling = {"max_new_tokens": max_response, "temperature": temperature, "top_p": top_p}
        self.control = control_strings(engine.lm.tokenizer)

    def answers(self, golds, prompts, step):
        """The teacher's known answers to each question, graded: a list of lists of Sample (kind "teacher", no log-probs).

        golds: gold answers; prompts: sample.Prompt of the TEACHER's tokenizer; step: the rollout step, for the seed.
        """
        keys = [_digest("answer", self.sampling, p.ids, *map(_bytes, (*p.images, *p.video))) for p in prompts]
        known = [[] if self.fresh else self.cache.get(k) for k in keys]
        solved = [any(grade(a["text"], gold) for a in have) for have, gold in zip(known, golds)]
        ask = {keys[i]: i for i in range(len(keys))                   # a question that stands twice is asked once
               if not solved[i] and len(known[i]) < self.max_answers}
        drawn = self.engine.sample([prompts[i] for i in ask.values()], self.n, seed=seed_of(self.seed, "teacher", step),
                                   **self.sampling) if ask else []
        self.answered = self.answered or any(a["text"].strip() for have in known for a in have) or \
            any(s.text.strip() for group in drawn for s in group)
        if drawn and not self.answered:                               # empty now and then is legal, empty always is not
            raise ValueError(f"the teacher {self.engine.lm.path} answered nothing: {len(drawn) * self.n} empty responses; "
                             f"is its chat template the right one?")
        new = {key: [{"text": s.text, "ids": list(s.response_ids), "truncated": s.truncated} for s in group]
               for key, group in zip(ask, drawn)}
        if not self.fresh:                                            # a fresh draw is never read again
            self.cache.put((key, a) for key, group in new.items() for a in group)
        return [[Sample(p, tuple(a["ids"]), (), a["text"], a["truncated"], kind="teacher", reward=grade(a["text"], gold))
                 for a in [*have, *new.get(key, [])]]
                for p, gold, key, have in zip(prompts, golds, keys, known)]

    def summaries(self, texts, step, call=0):
        """The teacher's summary of each response text, or None where it wrote no closed <summary>. Asked once a text."""
        lm, sampling = self.engine.lm, self.sampling | {"max_new_tokens": self.max_summary}
        prompts = {t: encode(lm, COMPRESS.format(response=clean(t, self.control)), thinking=False) for t in texts}
        keys = {t: _digest("summary", sampling, p.ids) for t, p in prompts.items()}
        todo = [t for t in prompts if not self.cache.get(keys[t])]
        if todo:
            fits = [t for t in todo if len(prompts[t].ids) + self.max_summary <= lm.window]          # no summary of the others
            drawn = self.engine.sample([prompts[t] for t in fits], 1, seed=seed_of(self.seed, "summary", step, call),
                                       **sampling)
            written = {t: group[0].text for t, group in zip(fits, drawn)}
            self.cache.put((keys[t], {"text": written.get(t, "")}) for t in todo)
        return [_inside(self.cache.get(keys[t])[-1]["text"]) for t in texts]

    def candidates(self, samples, golds, step, compress=True, call=0):
        """What may stand in a prompt for each graded response: its summary when that is faithful, else None.

        samples: Samples with their reward; golds: one a sample. compress=False: the response itself.
        """
        texts = [clean(s.text, self.control) for s in samples]
        if not compress:
            return texts
        return [s if s is not None and faithful(s, sample.text, gold, sample.reward) else None
                for s, sample, gold in zip(self.summaries(texts, step, call), samples, golds)]


def faithful(summary, response, gold, reward):
    """Whether a summary still carries its response's label and its answer (the paper's audit, F.7)."""
    if grade(summary, gold) != reward:
        return False
    answer, summarized = last_boxed(response), last_boxed(summary)
    return answer is None or (summarized is not None and answers_equal(answer, summarized))


def _inside(text):
    found = re.findall(r"<summary>(.*?)</summary>", text, re.DOTALL)
    return found[-1].strip() or None if found else None


# ---- the cache -----------------------------------------------------------------------------------------------------

class Cache:
    """Append-only JSONL of teacher outputs: {"key", ...answer}. One writer at a time; a torn last line costs that line.

    For a resumed run to go on bit for bit it must see what it saw when its checkpoint was written, and not what it wrote
    between then and its death. So a checkpoint keeps the byte ranges that the run has seen (`state()`); bytes outside are
    neither read nor deleted. A run without a state sees everything.
    """

    def __init__(self, path, teacher, state=None):
        self.path, self.teacher, self.memory = Path(path), teacher, {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.path}: another run is writing this teacher cache; "
                             f"give --teacher-cache another path") from None
        size = self._end_with_newline()
        ranges = [[0, size]] if state is None else [list(r) for r in state]
        if any(b > size for _, b in ranges):
            raise ValueError(f"{self.path}: the teacher cache is shorter ({size} bytes) than when the checkpoint was written "
                             f"({max(b for _, b in ranges)} bytes); put the file back, or start a new run")
        for a, b in ranges:
            self.file.seek(a)
            for line in self.file.read(b - a).splitlines():
                try:
                    record = json.loads(line)
                    self.memory.setdefault(record.pop("key"), []).append(record)
                except (ValueError, KeyError, AttributeError):
                    continue                                          # the torn end of a killed run
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
        return list(self.memory.get(f"{self.teacher}/{key}", ()))

    def put(self, records):
        """Append (key, dict) pairs, on disk when this returns."""
        lines = b""
        for key, record in records:
            key = f"{self.teacher}/{key}"
            self.memory.setdefault(key, []).append(record)
            lines += json.dumps({"key": key, **record}).encode() + b"\n"
        self.file.write(lines)
        self.file.flush()
        os.fsync(self.file.fileno())

    def state(self):
        """The byte ranges of the file that this run has seen."""
        end = self.file.seek(0, os.SEEK_END)
        ranges = self.seen + ([[self.start, end]] if end > self.start else [])
        return [[0, ranges[-1][1]]] if _contiguous(ranges) else ranges

    def close(self):
        """Close the file and let another run write."""
        self.file.close()


def _contiguous(ranges):
    return bool(ranges) and ranges[0][0] == 0 and all(a[1] == b[0] for a, b in zip(ranges, ranges[1:]))


def fingerprint(path):
    """A short name of the teacher for cache keys: of a folder's config and the ends of its weight files, or the hub id."""
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
