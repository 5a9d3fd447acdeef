"""The frozen teacher: answers, summaries, hints and verdicts, each asked once, and kept on disk.

ZPPO section 3.2 and Appendix A: the teacher is only ever read in a prompt; nothing it writes is
trained on. What it does:
* `answers`: G_T samples to a hard question, graded like the student's; the correct ones are the BCQ
  pool. `fresh_answers`: new samples of every question, for off-policy distillation (Appendix D.2).
* `candidates`: "candidate compression" (Fig. 16), one response -> at most five lines, the same
  prompt and cap for correct and wrong responses, so that neither length nor style gives the label
  away. A summary is graded again (`faithful`), because a teacher may repair a wrong trace or break
  a right one (paper F.7).
* `judge`: the judge of free-form questions (Fig. 9), asked only where exact matching says 0.
* `hints`: help without the answer (Fig. 19), for the hint baseline.

Ours: the paper redraws answers on every visit of a question (--fresh-teacher). By default one
without a correct answer gets G_T more on each visit, up to cfg.teacher_max, and others no more.

What the run sees depends neither on timing nor on a kill, as drawing and taking are two things:
* A draw is a function of (run seed, key, answers drawn of this key before), whoever asks, whenever.
  The key is a digest of prompt and sampling settings. The memo keeps draws by (key, visit).
* How many visits the run has TAKEN of a key is state of the run, part of its checkpoint. What was
  drawn ahead for a question that turned out easy waits in the memo for the visit that takes it, as
  does what a killed run had drawn after its last checkpoint; what is lost is drawn again.
* Fresh draws are functions of (run seed, key, step), in memory for their step: a resumed run draws
  those of the step that it repeats again, from the same seeds.

With an engine on servers, `begin` lets the teacher work while the students sample (the paper's
overlap), `keep_only` takes back what is not needed, and summaries, hints and verdicts go before
answers. A local engine samples what is needed when it is needed.

    teacher = Teacher(engine, Memo("runs/x/teacher.jsonl", fingerprint("assets/teacher")), cfg)
    [answers] = teacher.answers([question], step=1)
"""

import hashlib
import re
import threading
import time

from engines.base import seed_of
from engines.pending import Pending
from judge import JUDGE_TOKENS, judge_prompt, verdict_of
from math_equal import answers_equal
from pictures import decode
from processor import CLOSER
from records import Prompt, Sample
from reformulate import clean
from reward import grade, last_boxed

# Figures 16 and 19 in our words.
COMPRESS = """Summarize the response below between <summary> and </summary>, in at most five \
lines. Keep only the essential steps and the final answer. Leave out exploration and \
self-correction, derive nothing new, and end with the final answer in \\boxed{{}}.
<response>
{response}
</response>"""
HINT = """Below are a question and a correct response to it between <response> and </response>. \
Write a hint between <hint> and </hint>: name the idea or the step that matters. Give neither the \
final answer, nor a box, nor the full solution.

{question}
<response>
{response}
</response>"""


class Teacher:
    """A frozen model behind an engine, and its memo (runtime.memo.Memo). cfg: teacher_n (G_T),
    teacher_max, max_response, max_summary, seed, temperature, top_p, fresh_teacher, thinking.

    For one thread; `begin` starts its own. Raises ValueError, from the call that waits, when the
    engine does (a server is gone, a prompt is too long), and when all answers are empty: a model
    that does not follow its chat template.
    """

    def __init__(self, engine, memo, cfg):
        self.engine, self.memo, self.cfg = engine, memo, cfg
        spread = {"temperature": cfg.temperature, "top_p": cfg.top_p}
        self.sampling = {"max_new_tokens": cfg.max_response} | spread
        self.writing = {"max_new_tokens": cfg.max_summary} | spread  # of summaries and hints
        self.judging = {"max_new_tokens": JUDGE_TOKENS, "temperature": 0.0, "top_p": 1.0}
        self.taken = {}  # key -> visits whose answers the run has seen
        self.solved = set()  # keys with a correct answer among those
        self.keys = {}  # question id -> key: for it, pictures are opened once
        # ids of requests: ("answer", key, visit, n), ("draw", key, step, n), (kind, key, 0, 1)
        self.pending = Pending(engine)
        self.unsaved = {}  # id -> records that are not for the disk
        self.ahead = {}  # question id -> request of `begin`, None as long as it is not made
        self.answered = bool(memo.records)  # whether it ever said a word
        self.should_stop = lambda: (
            False
        )  # asked while waiting: True breaks off with engines.base.Stopped
        self.reset()

    def reset(self):
        """Counters at zero, for the log of a step: seconds waited; responses shown to the judge,
        asked about anew, called correct, with malformed replies.
        """
        self.waited = 0.0
        self.judged = {"shown": 0, "asked": 0, "correct": 0, "malformed": 0}

    def state(self):
        """{key: visits taken}, JSON values: with the memo all that a resumed run needs."""
        return dict(self.taken)

    def load(self, state):
        """Go on where state() was taken."""
        self.taken = dict(state)

    def close(self):
        """Ask no more, drop what is in flight, and let another run write the memo."""
        self.keep_only([])
        if self.engine.remote:
            self.engine.close()
        self.memo.close()

    # ---- answers ---------------------------------------------------------------------------------

    def answers(self, questions, step):
        """The known answers to each data.Question, graded, oldest first: a list of lists of Sample
        (kind "teacher", no log-probs, a Prompt without pictures). Only fresh ones depend on step.
        """
        if self.cfg.fresh_teacher:
            return self.fresh_answers(questions, step, self.cfg.teacher_n)
        asked = {self._key(q): q for q in questions}  # one that stands twice is asked once
        known = [self._visit(key, v) for key in asked for v in range(self.taken.get(key, 0))]
        drawn = self._draw({i: asked[i[1]] for i in known})
        new = [self._visit(key) for key in asked if self._wants_more(key)]
        drawn |= self._draw({i: asked[i[1]] for i in new})
        found = {key: [] for key in asked}
        for (_, key, visit, _), samples in drawn.items():
            found[key] += samples
            self.taken[key] = visit + 1
        return [found[self._key(q)] for q in questions]

    def fresh_answers(self, questions, step, n):
        """n newly drawn answers to each question, as answers(); within a step the same."""
        draws = {i: r for i, r in self.unsaved.items() if i[0] != "draw" or i[2] >= step}
        self.unsaved = draws  # without those of earlier steps
        ids = [("draw", self._key(q), step, n) for q in questions]
        drawn = self._draw(dict(zip(ids, questions)))
        return [drawn[i] for i in ids]

    def begin(self, questions, step, fresh=False):
        """Start to draw what answers(), or fresh_answers() of G_T, will need of these questions,
        and return at once. With a local engine this does nothing.
        """
        if self.engine.remote:
            self.keep_only([])  # what the last step began and did not need
            self.ahead |= dict.fromkeys(q.id for q in questions)
            args = questions, step, fresh or self.cfg.fresh_teacher
            threading.Thread(target=self._begin, args=args, daemon=True, name="ahead").start()

    def _begin(self, questions, step, fresh):
        for q in questions:
            try:
                key = self._key(q)  # opens its pictures
                with self.pending.lock:
                    if q.id in self.ahead and (fresh or self._wants_more(key)):
                        i = ("draw", key, step, self.cfg.teacher_n) if fresh else self._visit(key)
                        self.ahead[q.id] = i
                        self._start_draw(i, q)
            except (ValueError, OSError):
                pass  # the call that needs the answer meets the same error, and tells it

    def keep_only(self, questions):
        """Take back what `begin` asked about all other questions; what is there already is kept."""
        if self.engine.remote:
            self._file(self.pending.back())
            with self.pending.lock:
                gone = self.ahead.keys() - {q.id for q in questions}
                self.pending.drop([self.ahead.pop(q) for q in gone])

    def _draw(self, wanted):
        """{id: graded Samples} of {id: question}, drawn where nobody has drawn them."""
        for i, question in wanted.items():
            self._start_draw(i, question)
        self._wait(wanted)
        drawn = [self._records(i) for i in wanted]
        texts = [record["text"] for records in drawn for record in records]
        if texts and not self.answered and not any(map(str.strip, texts)):
            raise ValueError(  # empty now and then is legal, empty always is not
                f"the teacher {self.engine.name} answered nothing: {len(texts)} empty responses; "
                f"is its chat template the right one?"
            )
        out, rewards = {}, self.graded(wanted.values(), drawn)
        for (i, q), records, graded in zip(wanted.items(), drawn, rewards):
            bare = Prompt((), text=q.question)
            made = [(bare, tuple(a["ids"]), (), a["text"], a["truncated"]) for a in records]
            out[i] = [Sample(*m, kind="teacher", reward=r) for m, r in zip(made, graded)]
        self.solved |= {i[1] for i, samples in out.items() if any(s.reward for s in samples)}
        return out

    def _start_draw(self, i, question):
        if not self._records(i):
            kind, key, visit, n = i
            parts = i if kind == "draw" else (kind, key, visit * n)
            prompt, seed = self._prompt(question), seed_of(self.cfg.seed, *parts)
            self.pending.start(i, prompt, n, seed, priority=1, **self.sampling)

    def _visit(self, key, visit=None):
        visit = self.taken.get(key, 0) if visit is None else visit
        return "answer", key, visit, self.cfg.teacher_n

    def _wants_more(self, key):
        drawn = self.taken.get(key, 0) * self.cfg.teacher_n
        return key not in self.solved and drawn < self.cfg.teacher_max

    def _prompt(self, question):
        text, thinking = question.question + CLOSER, self.cfg.thinking
        return self.engine.encode(text, question.images, question.video, thinking)

    def _key(self, question):
        if question.id not in self.keys:
            p = self._prompt(question)
            sources, most = (*p.images, *p.video), self.cfg.max_pixels
            pictures = map(_bytes, decode(sources, question.id, most))
            parts = p.ids or (p.text, p.thinking), *pictures, p.video_fps if p.video else 0
            self.keys[question.id] = _digest("answer", self.sampling, *parts)
        return self.keys[question.id]

    # ---- grading ---------------------------------------------------------------------------------

    def graded(self, questions, drawn):
        """The rewards, 0.0 or 1.0, of each question's records (dicts of text and truncated): exact
        matching, then the judge where a question is free-form.
        """
        rewards, unsure = [], []
        for q, records in zip(questions, drawn):
            graded = [grade(a["text"], q.golds) for a in records]
            rewards.append(graded)
            if q.free_form:
                unsure += [(graded, k, q, a) for k, a in enumerate(records) if not graded[k]]
        items = [(q.question, a["text"], q.golds, a["truncated"]) for *_, q, a in unsure]
        for (graded, k, *_), correct in zip(unsure, self.judge(items)):
            graded[k] = float(correct)
        return rewards

    def judge(self, items):
        """Whether the judge (Fig. 9) calls each response correct, a list of bool. items: those of
        judge_item(). A response with nothing after its thinking is wrong, unasked; so is one where
        the reply is not exactly the JSON that was asked for.
        """
        texts = [judge_prompt(*item) for item in items]
        replies = self._written("judge", texts, self.judging)
        verdicts = [verdict_of(raw) if text else False for text, raw in zip(texts, replies)]
        self.judged["shown"] += sum(map(bool, texts))
        self.judged["malformed"] += verdicts.count(None)
        self.judged["correct"] += verdicts.count(True)
        return [bool(verdict) for verdict in verdicts]

    # ---- summaries and hints ---------------------------------------------------------------------

    def candidates(self, samples, questions, compress=True):
        """What may stand in a prompt for each graded Sample: its summary where that is faithful,
        else None. questions: one a sample. compress=False: the response itself, cleaned.
        """
        texts = [clean(s.text, self.engine.control) for s in samples]
        if not compress:
            return texts
        asked = [COMPRESS.format(response=text) for text in texts]
        written = [_inside(raw) for raw in self._written("summary", asked, self.writing)]
        records = [[{"text": w, "truncated": False}] if w else [] for w in written]
        again = self.graded(questions, records)
        return [
            w if w and faithful(w, s.text, s.reward, rewards[0]) else None
            for w, s, rewards in zip(written, samples, again)
        ]

    def hints(self, questions, texts):
        """The reply to a request for a hint (Fig. 19) from each question and correct response;
        baselines.hint_of finds the hint in one, if it does not give the answer away.
        """
        texts = [clean(text, self.engine.control) for text in texts]
        asked = [HINT.format(question=q.question, response=t) for q, t in zip(questions, texts)]
        return self._written("hint", asked, self.writing)

    def _written(self, kind, texts, sampling):
        """The reply to each text, asked once; "" for an empty text, and for one too long."""
        bare = self.engine.encode("x", thinking=False)
        template = bare.ids or bare.text  # the chat template in a key: cheaper than all the ids
        ids = [(kind, _digest(kind, sampling, template, t), 0, 1) if t else None for t in texts]
        for i, text in dict(zip(ids, texts)).items():
            if not i or self._records(i) or i in self.pending:
                continue
            prompt, window = self.engine.encode(text, thinking=False), self.engine.window
            if window and len(prompt.ids) + sampling["max_new_tokens"] > window:
                self.memo.put([(i[1], 0, [{"text": ""}])])
                continue
            seed = seed_of(self.cfg.seed, *i[:2])
            self.pending.start(i, prompt, 1, seed, **sampling)
            if kind == "judge":
                self.judged["asked"] += 1
        self._wait([i for i in ids if i])
        return [self._records(i)[0]["text"] if i else "" for i in ids]

    # ---- what comes back -------------------------------------------------------------------------

    def _records(self, i):
        """The records of an id, a list of dict, or None."""
        return self.unsaved.get(i) if i in self.unsaved or i[0] == "draw" else self.memo.get(*i[1:])

    def _wait(self, ids):
        start = time.perf_counter()
        self._file(self.pending.wait(ids, self.should_stop))
        self.waited += time.perf_counter() - start

    def _file(self, drawn):
        """Keep the records of (id, Samples) pairs: on disk before anyone may see them."""
        saved = []
        for i, samples in drawn:
            if i[0] in ("answer", "draw"):
                self.answered = self.answered or any(s.text.strip() for s in samples)
            records = [
                {"text": s.text, "ids": list(s.response_ids), "truncated": s.truncated}
                for s in samples
            ]
            # the empty answers of a teacher that never said a word must not meet the next run
            if i[0] == "draw" or (i[0] == "answer" and not self.answered):
                self.unsaved[i] = records
            else:
                saved.append((*i[1:3], records))
        self.memo.put(saved)


def correct_answers(groups, step, teacher, world, fresh=0):
    """{group id: the teacher's correct answers to its question}, on every rank; all ranks call it.

    teacher: on rank 0, else None. fresh: so many new ones each, rather than the known ones. What
    was begun for other questions is taken back.
    """

    def ask():
        questions = [g.question for g in groups]
        teacher.keep_only(questions)
        if fresh:
            known = teacher.fresh_answers(questions, step, fresh)
        else:
            known = teacher.answers(questions, step)
        return [[a for a in answers if a.reward] for answers in known]

    answers = world.broadcast_from_rank0(ask)
    return {g.id: known for g, known in zip(groups, answers)}


def faithful(summary, response, reward, again):
    """Whether a summary still carries its response's label and its answer (the paper's audit, F.7).

    reward, again: of the response, and of the summary.
    """
    if again != reward:
        return False
    answer, summarized = last_boxed(response), last_boxed(summary)
    return answer is None or (summarized is not None and answers_equal(answer, summarized))


def _inside(text):
    found = re.findall(r"<summary>(.*?)</summary>", text, re.DOTALL)
    return found[-1].strip() or None if found else None


def _digest(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _bytes(image):
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def judge_item(question, sample):
    """What Teacher.judge wants to know about a Sample; options stand in the question."""
    return question.question, sample.text, question.golds, sample.truncated
