r"""Which failed questions come back as BCQ and NCQ prompts, and what those prompts say (ZPPO
section 3.2, Algorithm 1).

* BCQ, binary candidate-included question (Fig. 17): one correct teacher response beside one wrong
  student response.
* NCQ, negative candidate-included question (Fig. 18): all wrong student responses, and the list of
  their answers.

Candidates carry no letter, no name and no fixed place: their order comes from the run's rng, so
that neither position nor format tells which is right. `clean` keeps a candidate inside its tags.
The wording is ours; a fork replaces the constants. Nothing of the project is imported. Alone:

    >>> import random
    >>> rng = random.Random(0)
    >>> print(bcq("What is 2+3?", right="It is 5.", wrong="It is 6.", rng=rng).split("\n")[0])
    What is 2+3?
    >>> sorted(pre_cap([0.25, 0.0, 0.5, 0.0], tau=0.5, cap=2, rng=rng))
    [1, 3]
    >>> post_cap([["bcq 1", "ncq 1"], ["bcq 3", "ncq 3"]], cap=3)
    ['bcq 1', 'ncq 1', 'bcq 3']
"""

import re

BCQ = (
    "{question}\n\nTwo candidate responses follow in <candidate> </candidate> tags. One of them is "
    "correct and the other is wrong. You may use them as references.\n{candidates}"
)
NCQ = (
    "{question}\n\nThese answers are all WRONG: {answers}.\nThe incorrect reasoning behind them "
    "follows in <candidate> </candidate> tags.\n{candidates}"
)
NCQ_NO_ANSWERS = (
    "{question}\n\nThe incorrect reasoning of failed attempts follows in <candidate> </candidate> "
    "tags. All of it is WRONG.\n{candidates}"
)
CANDIDATE = "<candidate>\n{text}\n</candidate>"

LISTED = 100  # characters of an answer in the NCQ's list; a longer one is cut

TAGS = tuple(
    f"<{slash}{name}>"
    for name in ("candidate", "response", "summary", "think", "hint")
    for slash in ("", "/")
)


def clean(text, control=()):
    """`text` without any control tag: our own TAGS and the strings in `control` (the tokenizer's
    special tokens).

    Removal repeats until nothing is left to remove, because taking `<think>` out of
    `</cand<think>idate>` writes a new tag.
    """
    longest_first = sorted({*TAGS, *control}, key=len, reverse=True)
    parts = [re.escape(t).replace("</", r"<\s*/\s*").replace(">", r"\s*>") for t in longest_first]
    # `</Candidate >` reads as a tag to a model, too
    tags = re.compile("|".join(parts), re.IGNORECASE)
    while (shorter := tags.sub("", text)) != text:
        text = shorter
    return text.strip()


def bcq(question, right, wrong, rng, control=()):
    """The BCQ prompt text (Fig. 17) from one correct and one wrong candidate; rng: random.Random,
    decides the order.
    """
    pair = [right, wrong]
    rng.shuffle(pair)
    return BCQ.format(question=question, candidates=_blocks(pair, control))


def ncq(question, wrong, answers, rng, control=()):
    """The NCQ prompt text (Fig. 18). wrong: all wrong candidates; answers: their parsed answers
    without repeats.

    A wrong response without a box has no answer to list, so `answers` may be shorter than `wrong`,
    or empty. Each stands on one line, cut at LISTED characters.
    """
    wrong = list(wrong)
    rng.shuffle(wrong)
    listed = ", ".join(f"\\boxed{{{shown_answer(a, control)}}}" for a in answers)
    template = NCQ if listed else NCQ_NO_ANSWERS
    return template.format(question=question, answers=listed, candidates=_blocks(wrong, control))


def shown_answer(answer, control=()):
    """An answer as the NCQ's list shows it: cleaned, on one line, at most LISTED characters."""
    text = clean(" ".join(answer.split()), control)
    return text if len(text) <= LISTED else text[: LISTED - 3] + "..."


def distinct(answers):
    """`answers` without empty ones and without repeats, spaces and case aside, in their order (Fig.
    18 lists each once).
    """
    first = {}
    for a in answers:
        if a.strip():
            first.setdefault(re.sub(r"\s+", "", a).lower(), a)
    return list(first.values())


def _blocks(candidates, control):
    return "\n".join(CANDIDATE.format(text=clean(c, control)) for c in candidates)


def pre_cap(mean_reward, tau, cap, rng):
    """Pre-cap (Algorithm 1, step 3): indices of the at most `cap` hardest hard questions, ascending
    mean reward.

    mean_reward: one number a plain group. Hard means < tau. Ties fall by lot (rng: random.Random):
    in the order of the batch, new questions at 0 would take every slot and the replayed ones behind
    them would never be reformulated.
    """
    lots = list(range(len(mean_reward)))
    rng.shuffle(lots)  # of all, so that runtime/ahead.py can guess whom they take
    return sorted((i for i in lots if mean_reward[i] < tau), key=lambda i: mean_reward[i])[:cap]


def post_cap(prompts, cap):
    """Post-cap (Algorithm 1, step 5): one pool of at most `cap` prompts.

    prompts: one list a question, hardest question first, its BCQ before its NCQ; so that the BCQ
    takes the last slot. Returns one list, in this order.
    """
    return [prompt for of_question in prompts for prompt in of_question][:cap]
