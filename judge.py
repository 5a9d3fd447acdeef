"""The judge of free-form questions (ZPPO Fig. 9): what it is asked, and what its reply says.

It is the teacher at temperature 0 (teacher.judge), asked only where exact matching says 0; the
benchmarks ask a judge of their own the same way. Nothing of the project is imported.

    >>> asked = judge_prompt("What is it?", "Hm.</think>A dog.", ("dog", "hound"))
    >>> "Gold answer: dog or hound" in asked, "Hm." in asked
    (True, False)
    >>> verdict_of('{"verdict": "correct"}'), verdict_of("It is correct.")
    (True, None)
"""

import json
import re

# A comparator and never a solver. {options} is for benchmarks: ours stand in the question.
JUDGE = """You compare a response with the gold answer of a question. Do not solve the question \
and do not judge the reasoning.
The response is correct if its final answer means the same as the gold answer: another notation, \
a unit, an equivalent expression or the text of the right option is fine. It is wrong if the \
answers differ, if it gives several answers, or if it gives none.

Question:
{question}
{options}

Response:
{response}

Gold answer: {answer}

Reply with JSON only, either {"verdict": "correct"} or {"verdict": "wrong"}."""
JUDGE_TOKENS, JUDGE_CHARS = 512, 8000  # of its reply; of the end of a response, that it is shown


def judge_prompt(question, response, golds, truncated=False):
    """What the judge is asked about a response; "" when nothing follows its thinking."""
    text = final(response, truncated)[-JUDGE_CHARS:]
    answer = golds if isinstance(golds, str) else " or ".join(golds)
    values = {"question": question, "options": "", "response": text, "answer": answer}
    slots = rf"\{{({'|'.join(values)})\}}"  # in one pass: braces in a response are no slots
    return re.sub(slots, lambda m: values[m[1]], JUDGE) if text else ""


def verdict_of(reply):
    """True, False, or None when the judge's reply is not exactly the JSON that was asked for; a
    fence around it is no mistake.
    """
    text = final(reply)
    fenced = re.fullmatch(r"```\s*(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        said = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    if said == {"verdict": "correct"}:
        return True
    return False if said == {"verdict": "wrong"} else None


def final(response, truncated=False):
    """The part after the last </think>; without the tag the whole response, or "" when it was cut
    while still thinking.
    """
    _, tag, tail = response.rpartition("</think>")
    return "" if truncated and not tag else tail.strip()
