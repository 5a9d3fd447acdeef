r"""The baselines of ZPPO section 4 and Appendix D.2: what the method itself does without.

A method is a pair of plain functions, chosen once (`method_of`): how the questions that were hard
come back, and how the policy is updated. train.py holds ZPPO's own pair; here are
* grpo: nothing comes back;
* hint (Fig. 19): with an answer-free hint from a correct teacher response;
* prefix: with the first 40 % of a correct teacher response's tokens forced;
* off-distill and on-distill: one update a step on the Jensen-Shannon divergence between student and
  teacher, on the teacher's correct responses or on the student's own.

A hint that gives the answer away is not used:

    hint_of("<hint>Add the two sides.</hint>", ("5",))       # "Add the two sides."
    hint_of("<hint>So it is 5.0 cm.</hint>", ("5",))         # None
"""

import re
from dataclasses import replace
from fractions import Fraction

import torch
from torch import nn

from loss import jsd_sum
from math_equal import NUMBER_WORDS, answers_equal, options, plain_number
from math_equal import clean as spell
from model import collate, response_hidden
from policy import optimizer_step, shard_micro_batches, update
from records import Method, Reformulation, RolloutRequest
from reformulate import clean, pre_cap
from reward import SIGNS, last_boxed
from rollout import fitting
from teacher import correct_answers

HINT = (
    "{question}\n\nA hint follows in <hint> </hint> tags. You may use it.\n<hint>\n{hint}\n</hint>"
)
PREFIX = 0.4  # share of a correct teacher response's tokens that is forced


def method_of(name, same_tokens=True):
    """The Method of a baseline. same_tokens: student and teacher have the same token ids."""
    if name == "off-distill":
        distillation = OffPolicyDistillation()
        return Method(distillation.reformulate, distillation.update)
    reformulate = {"hint": hints, "prefix": prefixes if same_tokens else retokenized_prefixes}
    if name == "on-distill":
        return Method(nothing, distill)
    return Method(reformulate.get(name, nothing), update)


def nothing(plain, step, cfg, engine, teacher, world, rng, clock):
    """GRPO: hard questions are only counted."""
    return Reformulation([], {g.id: None for g in plain if g.mean_reward < cfg.tau}, 0)


# ---- hint and prefix -----------------------------------------------------------------------------


def solved_and_hardest(plain, make, step, cfg, engine, teacher, world, rng, clock):
    """The Reformulation of a method with one prompt a question: of the hard questions that the
    teacher solves, hardest first, until the pool is full. --teacher-scope: as train.reformulate.

    make: (groups, one correct Sample each) -> their RolloutRequests; where it makes none, or none
    that fits, the next hardest question takes the slot.
    """
    hard = [g for g in plain if g.mean_reward < cfg.tau]
    answers, requests, too_long = dict.fromkeys(g.id for g in hard), [], 0
    order = pre_cap([g.mean_reward for g in plain], cfg.tau, len(plain), rng)
    while order and (room := cfg.max_reformulated - len(requests)) > 0:
        some, order = [plain[i] for i in order[:room]], order[room:]
        with clock("teacher"):
            their = {g.question.id for g in (hard if cfg.teacher_scope == "hard" else some)}
            asked = [g for g in hard if g.question.id in their and answers[g.id] is None]
            if asked:
                answers |= correct_answers(asked, step, teacher, world)
        with clock("reformulate"):
            solved = [g for g in some if answers[g.id]]
            found = make(solved, [rng.choice(answers[g.id]) for g in solved])
            found, left_out = fitting(found, engine, cfg)
            requests += found
            too_long += left_out
    return Reformulation(requests, answers, too_long)


def hints(plain, step, cfg, engine, teacher, world, rng, clock):
    """GRPO + Hint (Fig. 19): one answer-free hint from a correct teacher response. Where a hint
    gave the answer away, the next hardest question takes its slot.
    """

    def make(groups, right):
        texts = [a.text for a in right]
        return hint_requests(groups, texts, engine, teacher, world) if groups else []

    return solved_and_hardest(plain, make, step, cfg, engine, teacher, world, rng, clock)


def hint_requests(groups, texts, engine, teacher, world):
    """The RolloutRequests of groups whose hint, from these correct responses, is answer-free."""
    questions = [g.question for g in groups]
    replies = world.broadcast_from_rank0(lambda: teacher.hints(questions, texts))
    requests = []
    for g, reply in zip(groups, replies):
        hint = hint_of(reply, g.question.golds, g.question.question, engine.control)
        if hint:
            text = HINT.format(question=g.question.question, hint=clean(hint, engine.control))
            request = RolloutRequest("hint", g.origin, g.question, text)
            requests.append(replace(request, correct_candidates=(hint,)))
    return requests


def prefixes(plain, step, cfg, engine, teacher, world, rng, clock, ids_of=lambda a: a.response_ids):
    """GRPO + Prefix ("teacher response"): the first 40 % of a correct teacher response's tokens
    stand in the prompt; the student continues.
    """

    def make(groups, right):
        requests = []
        for g, answer in zip(groups, right):
            opening = engine.encode("x", thinking=cfg.thinking).ids
            ids = without_opening(ids_of(answer), opening, engine.lm)
            prefix = tuple(ids[: max(1, int(PREFIX * len(ids)))])
            shown, q = (engine.lm.tokenizer.decode(prefix),), g.question
            requests.append(RolloutRequest("prefix", g.origin, q, q.question, prefix, shown))
        return requests

    return solved_and_hardest(plain, make, step, cfg, engine, teacher, world, rng, clock)


def without_opening(ids, prompt_ids, lm):
    """A response's ids without a <think> of its own at the begin, where the template (prompt_ids:
    a prompt's) has written one already.
    """
    decode = lm.tokenizer.decode
    if "<think>" not in decode(prompt_ids) or not decode(ids).lstrip().startswith("<think>"):
        return ids
    end = next(k for k in range(1, len(ids) + 1) if "<think>" in decode(ids[:k]))
    return ids[end:]


def retokenized_prefixes(plain, step, cfg, engine, teacher, world, rng, clock):
    """prefixes, of a teacher that writes the same text with other token ids."""

    def ids_of(answer):
        tokenizer = engine.lm.tokenizer
        return tokenizer(answer.text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]

    return prefixes(plain, step, cfg, engine, teacher, world, rng, clock, ids_of)


# ---- distillation --------------------------------------------------------------------------------


class FrozenTeacher(nn.Module):
    """The teacher's distribution at the student's tokens, inside of the policy's forward. Never
    trained.
    """

    def __init__(self, lm):
        super().__init__()
        self.net = lm.net.requires_grad_(False)
        object.__setattr__(self, "lm", lm)  # not a submodule: its net is one already

    def forward(self, samples, student_hidden, student_head, banned, temperature):
        """The sum of the per-token divergences, and (N,) each."""
        with torch.no_grad():
            hidden, _ = response_hidden(self.lm, collate(self.lm, samples))
        return jsd_sum(student_hidden, student_head, hidden, self.lm.head, banned, temperature)


class OffPolicyDistillation:
    """The student learns on the teacher's fresh, correct responses to the plain questions; where
    there is none, there is no loss for that question. Keeps them from one function to the other.
    """

    def __init__(self):
        self.samples = []

    def reformulate(self, plain, step, cfg, engine, teacher, world, rng, clock):
        """Nothing comes back; the teacher answers."""
        with clock("teacher"):
            answers = correct_answers(plain, step, teacher, world, fresh=cfg.teacher_n)
        self.samples = [
            replace(a, prompt=g.samples[0].prompt, question_id=g.question.id)
            for g in plain
            for a in answers[g.id]
            if a.response_ids
        ]
        hard = {g.id: answers[g.id] for g in plain if g.mean_reward < cfg.tau}
        return Reformulation([], hard, 0)

    def update(self, policy, optimizer, groups, advantages, cfg, world, rng, clock):
        """distill_on, of the teacher's responses."""
        return distill_on(self.samples, policy, optimizer, cfg, world, clock)


def distill(policy, optimizer, groups, advantages, cfg, world, rng, clock):
    """On-policy distillation: distill_on, of the student's own responses."""
    samples = [s for g in groups for s in g.samples]
    return distill_on(samples, policy, optimizer, cfg, world, clock)


def distill_on(samples, policy, optimizer, cfg, world, clock):
    """One update on the mean Jensen-Shannon divergence over all response tokens of the samples.

    The paper's average over a question's sequences is taken over their tokens, as the policy loss
    is. Returns the metrics; "read": tokens that the teacher read.
    """
    norms, sums = [], {"loss": 0.0, "trained": 0}
    n_tokens = max(1, sum(len(s.response_ids) for s in samples))
    rows = [(s, 1.0) for s in samples]
    with clock("update"), optimizer_step(policy, optimizer, cfg, norms):
        for batch, weight in shard_micro_batches(rows, cfg.micro_tokens, world):
            with policy.lm.autocast():
                loss, each = policy([s for s, _ in batch], cfg.temperature, distill=True)
            # FSDP averages gradients over the ranks; this is a sum
            (loss * weight * world.size / n_tokens).backward()
            if weight:
                sums["loss"] += float(loss.detach())
                sums["trained"] += len(each)
            world.heartbeat()
    total = world.all_reduce(sums)
    trained = total["trained"]
    loss = total["loss"] / n_tokens
    return {"loss": loss, "grad_norm": norms[0], "trained": trained, "read": trained}


# ---- does a hint give the answer away? -----------------------------------------------------------


def hint_of(reply, golds, question="", control=()):
    """The hint inside the last closed <hint></hint>; None if there is none, it holds a box, or
    gives any of the golds away.

    golds: a text or a tuple of accepted ones; question: with its lettered options, whose right text
    must not be said either.
    """
    found = re.findall(r"<hint>((?:(?!</?hint>).)*)</hint>", reply, re.DOTALL)
    hint = clean(found[-1], control) if found else ""
    golds = (golds,) if isinstance(golds, str) else golds
    if not hint or re.search(r"\\f?box(?:ed)?(?![A-Za-z])", hint):
        return None
    return None if any(gives_away(hint, g, question) for g in golds) else hint


_NUM = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?"
_NUMBERS = re.compile(rf"(?<![\w.])({_NUM})(\s*\\?%)?")
_UNIT = r"(?:\\?%|°|[A-Za-z][A-Za-z.~\s]+[23]?|[mgsLl])?"
_QUANTITY = re.compile(rf"[\s~$£€¥]*(?:[A-Za-z]\s*=\s*)?({_NUM})[\s~]*{_UNIT}[\s~]*")
_SAID_TO_BE = r"(?:\b(?:is|are|be|equals?|to|gives?|gets?|makes?|answer)|[=:])\s+"
_WORD_NUMBERS = re.compile(rf"{_SAID_TO_BE}({'|'.join(NUMBER_WORDS)})\b", re.I)
_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")


def gives_away(hint, gold, question=""):
    """Whether a hint says the gold answer: as a number of the same value, as words, as an equal
    formula, as an option.

    A number counts when it stands alone (5 in "5 cm" or "-5", not in "15", "5.2" or "x5"), a number
    word only where it is said to be something ("is five"), a single letter only as an option
    ("(B)", "B.", "option B", "answer is B"). It rather drops a good hint than lets an answer
    through.
    """
    gold = spell((last_boxed(gold) or gold).strip())
    if label := re.fullmatch(r"[(\[]?([A-Z])[.):\]]+[\s~]*(\S.*)", gold):
        return gives_away(hint, label[1], question) or gives_away(hint, label[2])
    if _says_option(hint, gold, question):
        return True
    if len(gold) < 2 and not gold.isdigit():
        return False
    plain_gold = re.sub(r"^([-+]?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", SIGNS.sub("", gold))
    if quantity := _QUANTITY.fullmatch(plain_gold):
        value = plain_number(quantity[1].replace(" ", ""))
        return _says_value(hint, {value, value / 100} if "%" in gold else {value})
    return _says_formula(hint, gold) or _says_words(hint, gold)


def _says_option(hint, gold, question):
    """As the letter, or as the text that stands behind the letter in the question."""
    letters = options(gold) or ({gold.upper()} if re.fullmatch("[A-Za-z]", gold) else set())
    if letters and all(_as_option(letter, hint) for letter in letters):
        return True
    lines = [rf"^[ \t]*\(?{letter}[.):][ \t]+(\S.*)$" for letter in letters]
    said = [re.search(line, question, re.M) for line in lines]
    return any(m and gives_away(hint, m[1]) for m in said)


def _says_value(hint, values):
    for m in _NUMBERS.finditer(_FRACTION.sub(r" \1/\2 ", spell(hint))):
        value = plain_number(re.sub(r"\s", "", m[1])) or Fraction(0)
        if {value, abs(value)} & values or (m[2] and value / 100 in values):
            return True
    words = _WORD_NUMBERS.finditer(_FRACTION.sub(r" \1/\2 ", spell(hint)))
    return any(NUMBER_WORDS.index(m[1].lower()) in values for m in words)


def _says_formula(hint, gold):
    formulas = [m[1] or m[2] for m in re.finditer(r"\$([^$]+)\$|\\\((.+?)\\\)", hint)]
    sides = {side for formula in formulas for side in (formula, *formula.split("="))}
    return any(answers_equal(side, gold) for side in sides)


def _says_words(hint, gold):
    tokens = re.findall(r"\\?[A-Za-z]+|\d+(?:\.\d+)?|\S", gold)
    said = r"[\s~$]*".join(map(re.escape, tokens))
    before = r"(?<![\w.])" if re.match(r"\w", said) else ""
    return re.search(rf"{before}{said}(?!\w)", spell(hint), re.I) is not None


def _as_option(letter, hint):
    low = letter.lower()
    forms = (
        rf"[(\[]\s*[{letter}{low}]\s*[)\]]|(?<![\w.]){letter}\s*[.):](?!\w)|\*\*{letter}\*\*"
        rf"|\b(?i:option|choice|letter)s?\b[\s:(\"'*]*[{letter}{low}](?!\w)"
        rf"|\b(?i:answer|is|be|choose|pick|select)\b[\s:=(\"'*]*{letter}(?!\w|\s+[a-z])"
    )
    return bool(re.search(forms, hint)) or hint.strip() in (letter, low)
