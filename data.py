"""Questions: the record, the format on disk, which ones a model can use, and a seeded order.

A data set is a folder with questions.jsonl (or Parquet files) and its pictures beside it, or one
such file, or a set on the hub:

    {"id": "q1", "question": "How many bars?", "answer": "4", "images": ["images/q1.png"]}

    id         unique in the set (Parquet and hub sets without one are numbered)
    question   the text; `<image>` markers are not needed, the pictures stand before it
    answer     the gold answer, a text or a number; or a list of accepted ones, the first being
               the one that is shown. What other sets wrap it in is taken off (unwrapped)
    images     optional: paths relative to the file, or "data:image/png;base64,..."; in Parquet
               also bytes or {bytes, path}. One needs no list, and the key may be `image`
    source     optional: name of a sub-set, for reports
    free_form  optional, true: the answer needs a judge; otherwise it is compared exactly
    choices    optional list of texts: appended to the question as lines "A. ...", "B. ..."; the
               answer is then a letter, the text of a choice, or its position as a number from 0

    python train.py --data my-questions               # a folder; or my.jsonl, or my.parquet
    python train.py --data owner/name:config:split@revision --map question=problem,answer=solution
    python data.py build --out zppo-77k               # the paper's corpus from its public sources
    python data.py check my-questions [--fix OUT]     # every row and picture
    python data.py show my-questions -n 5 [--html page.html]
    python data.py overlap zppo-77k my-benchmark      # questions that stand in both

Decisions. Rows stay on disk: a JSONL is read once at the start and then by byte offset; Parquet and
hub sets are memory-mapped by the `datasets` library. Whether a model can use a question is decided
in one place, QuestionCheck: of all rows at the start, pictures by their headers, and again with all
pixels when a batch is fetched, before anything is sampled. Rows that can't be used keep their place
in the order, so that a run resumed with another --max-prompt goes on where it was. Errors name file
and row; rows and lines count from 1.
"""

import argparse
import hashlib
import os
import random
import re
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pictures import BadImage, decode, decode_image, shown_size
from reward import grade
from runtime.rows import BadRow, as_text, golds_of, images_of, open_rows, with_choices, wrong_type
from runtime.rows import parse_map as parse_map  # for those who call open_questions

MAX_TEXT = 200_000  # characters of a question: beyond any context window
DECODED = 32  # questions whose pictures are decoded at the start, not only their headers read
NAMED = 10  # bad rows that one error names
# control characters, and what reverses the text around it
HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Question:
    """One question with its gold answer. images, video: what pictures.decode takes."""

    id: str
    question: str
    answer: str
    images: tuple = ()
    video: tuple = ()
    source: str = ""
    free_form: bool = False
    also: tuple = ()  # further answers that are accepted too

    @property
    def golds(self):
        """All accepted answers, the one to show first."""
        return (self.answer, *self.also)


class Questions(Sequence):
    """Rows of a data set in order, each loaded when it is asked for.

    bad: {index: BadRow} of rows known not to be usable; asking for one raises it. digest: a short
    name of all content, for a resumed run must go on with the same. n_pictures: rows that have any;
    free_form: indices of usable rows whose answers need a judge.
    """

    def __init__(self, name, ids, load, where, bad=(), digest="", n_pictures=0, free_form=()):
        """ids: one a row, None for a bad one; load, where: index -> Question, its place."""
        self.name, self.digest, self.bad = name, digest, dict(bad)
        self.n_pictures, self.where, self.free_form = n_pictures, where, free_form
        self._load, self._length = load, len(ids)
        self._index = {q: i for i, q in enumerate(ids) if i not in self.bad}

    def __len__(self):
        return self._length

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.name}: there is no question {i} among {len(self)}")
        i %= len(self)
        if i in self.bad:
            raise self.bad[i]
        return self._load(i)

    @property
    def good(self):
        """Indices of all rows that are not known to be bad."""
        return [i for i in range(len(self)) if i not in self.bad]

    def place(self, id):
        """Index of the Question with this id. Raises ValueError: a buffer of another set's run."""
        if id not in self._index:
            raise ValueError(
                f"{self.name}: there is no question with the id {id!r}; "
                f"is it the data set that this run began with?"
            )
        return self._index[id]

    def find(self, id):
        """The Question with this id. Raises ValueError."""
        return self[self.place(id)]


class QuestionCheck:
    """Whether a model can use a question: check(question, where) raises BadRow where it can't.

    Nothing is decoded: what a picture costs is computed from the size in its header. lm: a model,
    or the text side of one; without it golds and headers are looked at alone.
    own_grader: golds need not be what reward.grade would take.
    """

    def __init__(self, lm=None, max_prompt=0, thinking=True, max_pixels=0, own_grader=False):
        self.lm, self.max_prompt, self.own_grader = lm, max_prompt, own_grader
        self.thinking, self.max_pixels = thinking, max_pixels
        self._frames = {}  # number of pictures -> tokens of the prompt around a question

    def __call__(self, question, where):
        if not self.own_grader:
            check_golds(question, where)
        if self.lm is None:
            check_pictures(question, where, shown_size)
            return
        visual, text = self._visual_tokens(question, where), question.question
        frame = self._frame(len(question.images))
        # A token stands for at least one byte of the text, however that is normalised, so that most
        # questions need no tokenizer. 8: how texts are joined may cost a token or two.
        most = max(len(t.encode()) for t in (text, unicodedata.normalize("NFKD", text)))
        if not question.video and frame + visual + most + 8 <= self.max_prompt:
            return
        tokens = self.tokens(question, where)
        if tokens > self.max_prompt:
            detail = f"its prompt has {tokens} tokens, more than --max-prompt {self.max_prompt}"
            raise BadRow(where, "prompt too long", detail)

    def tokens(self, question, where):
        """Tokens of the plain prompt, closer and visual tokens included, exactly."""
        from processor import CLOSER, encode, length

        text = question.question + CLOSER
        if question.video:
            images = decode(question.images, where, self.max_pixels)
            video = decode(question.video, where)
            return length(self.lm, encode(self.lm, text, images, video, self.thinking))
        prompt = encode(self.lm, text, question.images, thinking=self.thinking)
        return len(prompt.ids) + self._visual_tokens(question, where)

    def _frame(self, n_images):
        from processor import CLOSER, encode

        if n_images not in self._frames:
            prompt = encode(self.lm, CLOSER, (None,) * n_images, thinking=self.thinking)
            self._frames[n_images] = len(prompt.ids)
        return self._frames[n_images]

    def _visual_tokens(self, question, where):
        # Beyond the one placeholder that stands for each picture in the prompt.
        if not question.images:
            return 0
        processor, out = self.lm.image_processor, 0
        if processor is None:
            detail = f"it has a picture, and {self.lm.path} reads text only"
            raise BadRow(where, "picture for a text model", detail)
        for image in question.images:
            try:
                width, height = shown_size(image, question.id, self.max_pixels)
                patches = processor.get_number_of_image_patches(height, width, {})
            except BadImage as e:
                raise BadRow(where, "image does not open", e.detail) from e
            except ValueError as e:
                detail = f"the image processor refuses {width} x {height} pixels ({e})"
                raise BadRow(where, "image does not fit the model", detail) from e
            out += patches // processor.merge_size**2 - 1
        return out


def check_golds(question, where):
    """Raise BadRow when not even a gold answer itself, in a box, would be graded 1."""
    if question.free_form:  # the judge has the last word
        return
    if not any(grade(f"\\boxed{{{gold}}}", question.golds) for gold in question.golds):
        golds = ", ".join(repr(gold[:60]) for gold in question.golds)
        detail = f"the answer {golds} would earn nothing itself, in a box; mend it, or"
        detail += ' give the row "free_form": true for a judge'
        raise BadRow(where, "answer can't be matched", detail)


def check_pictures(question, where, look=decode_image):
    """Decode all pictures of a question, or only look at their headers. Raises BadRow."""
    try:
        for image in (*question.images, *question.video):
            look(image, question.id)
    except BadImage as e:
        raise BadRow(where, "image does not open", e.detail) from e


def refuse(bad):
    """Raise one BadRow for all of them: the first by name and reason, and what to do."""
    first, *rest = bad
    text = "; ".join([first.detail, *map(str, rest[: NAMED - 1])])
    if len(bad) > NAMED:
        text += f"; and {len(bad) - NAMED} more rows"
    advice = "python data.py check --tokenizer STUDENT names all; --skip-bad leaves them out"
    raise BadRow(first.where, first.reason, f"{text} ({advice})")


def _check_counts(bad, n, name, skip_bad):
    if not n:
        raise ValueError(f"{name}: no questions in it")
    if bad and (not skip_bad or len(bad) == n):
        refuse(list(bad.values()))


def skipped(questions):
    """One line about the rows that are left out: counts by reason, and the first ones by name."""
    bad = list(questions.bad.values())
    reasons = Counter(e.reason for e in bad).most_common()
    counts = ", ".join(f"{reason}: {n}" for reason, n in reasons)
    names = "; ".join(map(str, bad[:3]))
    if len(bad) > 3:
        names += "; ..."
    n = f"{len(bad)} of {len(questions)}"
    return f"{n} questions can't be used and are skipped: {counts} ({names})"


def prompt_lengths(questions, check, probes=256):
    """Tokens of the plain prompts of some usable questions, spread over the set; sorted."""
    some = questions.good[:: max(1, len(questions.good) // probes)]
    return sorted(check.tokens(questions[i], questions.where(i)) for i in some)


def in_memory(questions, name="questions", check=None, skip_bad=False):
    """A list of Question as Questions (the tiny world's, tests), checked where there is a check.
    Raises as open_questions().
    """
    questions, bad = list(questions), {}
    if check:
        tried = [_tried(q, name, check, False) for q in questions]
        bad = {i: e for i, e in enumerate(tried) if isinstance(e, BadRow)}
        _check_counts(bad, len(questions), name, skip_bad)
    content = repr([(q.id, q.question, q.golds, q.source, q.free_form) for q in questions])
    digest = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]
    n_pictures = sum(bool(q.images) for q in questions)
    free_form = [i for i, q in enumerate(questions) if q.free_form and i not in bad]
    where = lambda i: f"{name}, question {questions[i].id}"
    ids = [q.id for q in questions]
    load = questions.__getitem__
    return Questions(name, ids, load, where, bad, digest, n_pictures, free_form)


def open_questions(spec, columns=None, check=None, skip_bad=False):
    """The Questions of a folder, a JSONL or Parquet file, or a hub set owner/name:config:split@rev.

    columns: {our key: the set's column}, from parse_map(). check: what all rows go through, a
    QuestionCheck; the default one knows no model. The pictures of the first rows are decoded, too.
    Raises BadRow naming all bad rows; with skip_bad they stand in .bad, and only a set without any
    good row is an error.
    """
    check = check or QuestionCheck()
    rows = open_rows(spec, columns)
    handles, numbers, ids, bad, n_pictures = array("Q"), array("Q"), [], {}, 0
    free_form = array("Q")
    for i, (handle, number, q) in enumerate(scan(rows, pictures=True)):
        handles.append(handle)
        numbers.append(number)
        if isinstance(q, Question):
            q = _tried(q, rows.where(number), check, i < DECODED)
        if isinstance(q, BadRow):
            bad[i] = q
        else:
            n_pictures += bool(q.images)
            if q.free_form:
                free_form.append(i)
        ids.append(None if isinstance(q, BadRow) else q.id)
    _check_counts(bad, len(ids), rows.name, skip_bad)

    def where(i):
        return f"{rows.where(numbers[i])}, question {ids[i]}"

    def load(i):
        q = to_question(rows.at(handles[i]), where(i), rows.folder)
        if q.id != ids[i]:
            raise ValueError(
                f"{rows.name}: question {ids[i]!r} is no longer where it was; "
                f"the file changed while it was in use"
            )
        return q

    digest = rows.content.hexdigest()[:16]
    return Questions(rows.name, ids, load, where, bad, digest, n_pictures, free_form)


def _tried(question, place, check, whole):
    # The question, or the BadRow that says why it can't be used.
    where = f"{place}, question {question.id}"
    try:
        check(question, where)
        if whole:
            check_pictures(question, where)
    except BadRow as e:
        return e
    return question


def scan(rows, pictures=False):
    """(handle, number, Question or BadRow) of every row; a repeated id is a BadRow too. pictures:
    with those that stand in Parquet files, too; none is opened.
    """
    seen = set()
    for handle, number, row in rows.scan(pictures):
        if not isinstance(row, BadRow):
            where = rows.where(number)
            try:
                row = to_question(row, where, rows.folder)
                if row.id in seen:
                    detail = f"the id {row.id!r} stands on an earlier row too; ids must be unique"
                    raise BadRow(where, "repeated id", detail)
                seen.add(row.id)
            except BadRow as e:
                row = e
        yield handle, number, row


def read(path, columns=None):
    """All questions of a data set as a list, for small ones. Same errors as open_questions()."""
    return list(open_questions(path, columns))


def fetch(questions, indices, check=None):
    """(the usable Questions at these indices, the BadRow of each other one), of every kind: all
    pixels are decoded once, so that nothing is sampled before a bad row is known. The caller skips
    them, with a word, or gives them to refuse().
    """
    good, bad = [], []
    for i in indices:
        try:
            q = questions[i]
            if check:
                check(q, questions.where(i))
            check_pictures(q, questions.where(i))
            good.append(q)
        except BadRow as e:
            bad.append(e)
    return good, bad


def digest(questions):
    """A short name of a data set's content: a resumed run must go on with the same questions."""
    return questions.digest


# ---- the order -----------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _permutation(n, seed, epoch):
    order = list(range(n))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)
    return order


def take(n, seed, position, k, rank=0, world=1):
    """Indices of the k questions after `position` in the endless, seeded order of n questions; a
    rank's part of them.

    Each epoch is another permutation; a question stands once in it, whatever k and world are. The
    position, which counts the questions of all ranks together, is all there is to save.
    """
    return [
        _permutation(n, seed, p // n)[p % n] for p in range(position + rank, position + k, world)
    ]


def take_good(questions, seed, position, k):
    """(indices of the next k questions not known to be bad, the position after them)."""
    indices = []
    while len(indices) < k:
        indices += [i for i in take(len(questions), seed, position, 1) if i not in questions.bad]
        position += 1
    return indices, position


# ---- a row -> Question ---------------------------------------------------------------------------


def to_question(row, where, folder):
    """A Question from a dict with our keys. Raises BadRow; picture files must exist."""
    text, free_form = row.get("question"), row.get("free_form") or False
    if not isinstance(free_form, bool):
        detail = f"'free_form' is {free_form!r}; expected true or false"
        raise BadRow(where, "free_form is not true or false", detail)
    if text is not None and not isinstance(text, str):
        raise wrong_type(text, "question", where)
    id, source = (as_text(row.get(key), key, where) for key in ("id", "source"))
    golds = golds_of(row.get("answer"), free_form, where)
    for key, value in (("id", id), ("question", text or ""), ("answer", "".join(golds))):
        if not value.strip():
            has = ", ".join(map(str, row))[:100]
            detail = f"the row has no {key!r} (it has {has}); give it one, or say which: --map"
            raise BadRow(where, f"no {key}", detail)
    if row.get("choices"):
        text, golds = with_choices(text, golds, row, where)
    for value in (id, text, *golds):
        check_text(value, where)
    images, also = images_of(row.get("images"), where, folder), tuple(golds[1:])
    return Question(id, text, golds[0], images, (), source, free_form, also)


def check_text(text, where):
    """Raise BadRow for a text that no model can read."""
    if len(text) > MAX_TEXT:
        detail = f"a text of {len(text)} characters; at most {MAX_TEXT} make sense"
        raise BadRow(where, "text too long", detail)
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        detail = "half of a surrogate pair, which no tokenizer can encode"
        raise BadRow(where, "broken text", detail)


# ---- command line --------------------------------------------------------------------------------


def main(argv=None):
    """python data.py build | check | show | overlap. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    commands = {
        "build": "make ZPPO-77K from its two public sources",
        "check": "read everything, report rows that can't be used",
        "show": "look at rows, in the terminal or as a page",
        "overlap": "questions that stand in two data sets",
    }
    parser = argparse.ArgumentParser(
        prog="data.py",
        description=__doc__.split("\n")[0],
        epilog="\n".join(f"{name:9s}{text}" for name, text in commands.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=commands, help="one of these; COMMAND --help says more")
    command = parser.parse_args(argv[:1]).command
    if command == "build":
        from corpus.build import main as run
    elif command == "overlap":
        from corpus.overlap import main as run
    elif command == "check":
        from corpus.inspection import check as run
    else:
        from corpus.inspection import show as run
    return run(argv[1:])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
