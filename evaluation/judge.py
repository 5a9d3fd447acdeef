r"""The judges: asked only about responses that the deterministic scorers left open, or by
benchmarks that have a judge of their own.

The shared judge (ZPPO Fig. 9) is the teacher model at temperature 0 and at most 512 tokens; it must
reply with the JSON object {"verdict": "correct"} or {"verdict": "wrong"} and nothing else. What is
malformed counts as wrong, here and for CharXiv, HLE, MultiChallenge and MMVU. MM-Vet's judge writes
a number; it is asked up to five times at rising temperature before the score is 0, as its script
does.

A judge is a model folder, which runs in this process, or the URL of an OpenAI-compatible server
("http://host:8000/v1", engines/client.py). In training the teacher judges (teacher.judge), with the
same prompt and the same parsing. Verdicts are kept by a digest of judge, prompt and response, so
nothing is asked twice and a changed prompt is asked anew.

    judge = open_judge("assets/teacher");  judge.ask(["..."])
"""

import hashlib
import json
import re
from pathlib import Path

from evaluation.judge_prompts import PROMPTS, RUBRIC_OF
from evaluation.scorers import LETTERS, Score
from judge import JUDGE_CHARS as MAX_CHARS
from judge import JUDGE_TOKENS as MAX_TOKENS
from judge import final, verdict_of
from runtime.memo import fingerprint

BATCH = 64


# ---- who judges ----------------------------------------------------------------------------------


def open_judge(where, model="", make_engine=None):
    """A judge with .name and .ask(prompts, temperature) from a URL, or from a model folder or hub
    id. Raises ValueError.
    """
    if re.match(r"https?://", where):
        from engines.client import ClientEngine

        engine = ClientEngine(where, model, who="the judge", flag="--judge")
        return Judge(engine, f"{engine.url} {engine.name}")
    engine = make_engine(where)
    return Judge(engine, fingerprint(engine.name))


class Judge:
    """A model behind an engine. name: what its verdicts are kept by."""

    def __init__(self, engine, name):
        self.engine, self.name = engine, name

    def ask(self, prompts, temperature=0.0, seed=0):
        """The reply to each prompt, without thinking. The prompts' text can't open a turn
        (chat.encode).
        """
        drawn = self.engine.sample(
            [self.engine.encode(p, thinking=False) for p in prompts],
            1,
            MAX_TOKENS,
            seed,
            temperature,
        )
        return [group[0].text for group in drawn]


# ---- what is asked -------------------------------------------------------------------------------


def templates(folder=""):
    """PROMPTS, with those replaced that `folder` has a KIND.txt for. Raises ValueError for a file
    that no kind is called after.
    """
    out = dict(PROMPTS)
    for file in sorted(Path(folder).glob("*.txt")) if folder else []:
        if file.stem not in out:
            raise ValueError(
                f"{file}: there is no judge prompt of this name; there are {', '.join(out)}"
            )
        out[file.stem] = file.read_text(encoding="utf-8")
    if folder and not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; --judge-prompts takes one with KIND.txt files")
    return out


def kind_of(item):
    kind = item.meta.get("judge", "shared")
    if kind == "charxiv_reasoning":
        return f"{kind}_{item.meta['rubric']}"
    return f"{kind}_{RUBRIC_OF[item.meta['rubric']]}" if kind == "charxiv_descriptive" else kind


def fields(item, response, truncated=False):
    """What fills the placeholders: the question without our closer, the lettered options, the final
    part of the response, the gold.
    """
    text = final(response, truncated)[-MAX_CHARS:]
    if item.meta.get("judge") == "mmvet":  # one row of a table
        text = " ".join(text.split()).replace("|", "/")
    gold = item.gold if isinstance(item.gold, str) else " or ".join(map(str, item.gold))
    if (
        re.fullmatch("[A-Z]", gold)
        and gold in LETTERS[: len(item.options)]
        and item.meta.get("judge") != "mmvu_choice"
    ):
        gold = f"{gold}. {item.options[LETTERS.index(gold)]}"
    return {
        "question": item.meta.get("ask", item.question),
        "response": text,
        "answer": gold,
        "options": "\n".join(f"{LETTERS[i]}. {o}" for i, o in enumerate(item.options)),
    }


def fill(template, values):
    """Placeholders replaced in one pass, so that braces in a response are never read as one."""
    return re.sub(
        r"\{(question|options|response|answer|n|pairs|keys)\}",
        lambda m: str(values.get(m[1], m[0])),
        template,
    )


def prompt_of(template, batch):
    """The prompt for one (item, fields), or for up to five of CharXiv's descriptive questions with
    the same template.
    """
    if "{pairs}" not in template:
        return fill(template, batch[0])
    pairs = "\n\n".join(
        f"T{i}:\nResponse {i}: {f['response']}\nGround truth {i}: {f['answer']}"
        for i, f in enumerate(batch, 1)
    )
    keys = ", ".join(f"extract_answer_T{i}, score_T{i}" for i in range(1, len(batch) + 1))
    return fill(template, batch[0] | {"n": len(batch), "pairs": pairs, "keys": keys})


# ---- what it said --------------------------------------------------------------------------------


def parse(kind, raw, n=1, criterion="YES"):
    """The scores in a judge's reply, a list of n floats; None when the reply is not exactly what
    was asked for.
    """
    if kind == "shared":
        verdict = verdict_of(raw)
        return None if verdict is None else [float(verdict)]
    text = raw.rpartition("</think>")[2].strip()
    if kind == "mmvet":
        word = text.split()[0].rstrip(".|,") if text.split() else ""
        return [float(word)] if re.fullmatch(r"0(\.\d+)?|1(\.0+)?", word) else None
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict):
        return None
    if kind.startswith("charxiv_reasoning"):
        found = (
            "extracted_answer" in reply or "extract_answer" in reply
        )  # the official prompt uses both names
        return [float(reply["score"])] if found and _bit(reply.get("score")) else None
    if kind.startswith("charxiv_descriptive"):
        scores = [reply.get(f"score_T{i}") for i in range(1, n + 1)]
        return list(map(float, scores)) if all(map(_bit, scores)) else None
    if kind == "hle":
        return {"yes": [1.0], "no": [0.0]}.get(
            reply.get("correct") if isinstance(reply.get("correct"), str) else None
        )
    if kind == "multichallenge":
        return (
            [float(reply["verdict"] == criterion)]
            if reply.get("verdict") in ("YES", "NO")
            else None
        )
    return [float(reply["correct"])] if isinstance(reply.get("correct"), bool) else None  # mmvu


def _bit(x):
    return type(x) is int and x in (0, 1)


def key_of(judge, template, values):
    return hashlib.sha256(
        repr((judge.name, template, sorted(values.items()))).encode()
    ).hexdigest()[:24]


def settle(graded, responses, judge, texts, kept, bar=None):
    """Replace the Scores that need a judge. graded: [(Item, Score)]; responses: {id: record};
    texts: templates(); kept: eval.Kept.

    Returns (graded, malformed replies). Scores that the judge decided have how "judged", or
    "malformed" (wrong).
    """
    todo, keys = {}, {}
    for item, score in graded:
        if score.how == "judge":
            kind, record = kind_of(item), responses[item.id]
            values = fields(item, record["response"], record["truncated"])
            keys[item.id] = key_of(judge, texts[kind], values)
            if keys[item.id] not in kept:
                todo.setdefault(kind, []).append((item, values))
    for kind, some in todo.items():
        many = 5 if "{pairs}" in texts[kind] else 1
        if many > 1:  # five of one question, CharXiv's way
            by_question = {}
            for pair in some:
                by_question.setdefault(pair[1]["question"], []).append(pair)
            batches = [
                g[i : i + many] for g in by_question.values() for i in range(0, len(g), many)
            ]
        else:
            batches = [[pair] for pair in some]
        for i in range(0, len(batches), BATCH):
            records = _ask(kind, batches[i : i + BATCH], judge, texts[kind])
            kept.append([r | {"key": keys[r["id"]]} for r in records])
            if bar is not None:
                bar.update(len(records))
    out, malformed = [], 0
    for item, score in graded:
        if score.how == "judge":
            verdict = kept[keys[item.id]]
            malformed += verdict["malformed"]
            score = Score(
                verdict["value"], "malformed" if verdict["malformed"] else "judged", score.answer
            )
        out.append((item, score))
    return out, malformed


def _ask(kind, batches, judge, template, tries=5):
    """Verdict records of some batches of (item, fields). A malformed reply to several at once is
    asked again one by one.
    """
    replies = judge.ask([prompt_of(template, [v for _, v in b]) for b in batches])
    records = []
    for batch, raw in zip(batches, replies):
        scores = parse(kind, raw, len(batch), batch[0][0].gold)
        if scores is None and len(batch) > 1:
            records += _ask(kind, [[pair] for pair in batch], judge, template)
            continue
        for retry in range(1, tries) if kind == "mmvet" else ():
            if scores is not None:
                break
            short = (
                prompt_of(template, [batch[0][1]])
                + "\nPredict the correctness as one number from 0.0 to 1.0 and write nothing else:"
            )
            raw = judge.ask([short], temperature=0.5 * retry, seed=retry)[0]
            scores = parse(kind, raw)
        for i, (item, _) in enumerate(batch):
            records.append(
                {
                    "id": item.id,
                    "kind": kind,
                    "judge": judge.name,
                    "raw": raw,
                    "value": scores[i] if scores else 0.0,
                    "malformed": scores is None,
                }
            )
    return records
