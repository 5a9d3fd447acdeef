r"""The judges: asked only about responses that the deterministic scorers left open, or by
benchmarks that have a judge of their own.

The shared judge (ZPPO Fig. 9) is the teacher model at temperature 0 and at most 512 tokens; it must
reply with the JSON object {"verdict": "correct"} or {"verdict": "wrong"} and nothing else but a
fence around it. What is malformed counts as wrong. The benchmarks' own judges have a structured
output or several tries upstream, so their object is found inside fences and prose, and a malformed
reply is asked for again (TRIES) before it counts as wrong. A prompt that does not fit the judge's
context leaves its row unscored.

A judge is a model folder or hub id, or the URL of an OpenAI-compatible server
("http://host:8000/v1", engines/client.py), which is asked for JSON where it can. Verdicts are kept
by a digest of judge, prompt and response, so nothing is asked twice and a changed prompt is asked
anew.

    judge = open_judge("assets/teacher");  judge.ask(["..."])
"""

import hashlib
import json
import re
from pathlib import Path

from evaluation.judge_prompts import PROMPTS, RUBRIC_OF
from evaluation.responses import by_key
from evaluation.rows import LETTERS
from evaluation.scorers import Score
from evaluation.trees import literal
from judge import JUDGE_CHARS, JUDGE_TOKENS, final, verdict_of
from runtime.files import append_jsonl
from runtime.memo import fingerprint

BATCH = 64
# CharXiv's and MM-Vet's own numbers; structured output upstream does not fail, so many for those
TRIES = {"shared": 1, "mmvet": 5}
DEFAULT_TRIES = 10
HEAT = {"mmvet": 0.5}  # added to the temperature with each try


# ---- who judges ----------------------------------------------------------------------------------


def open_judge(where, model="", make_engine=None):
    """A judge with .name and .ask(...) from a URL, or from a model folder or hub id. Raises
    ValueError.
    """
    if re.match(r"https?://", where):
        from engines.client import ClientEngine

        engine = ClientEngine(where, model, who="the judge", flag="--judge")
        return Judge(engine, f"{engine.url} {engine.name}")
    return Judge(make_engine(where), fingerprint(where))


class Judge:
    """A model behind an engine. name: what its verdicts are kept by."""

    def __init__(self, engine, name):
        self.engine, self.name = engine, name

    def ask(self, prompts, temperature=0.0, seed=0, as_json=False):
        """The reply to each prompt, without thinking; None where a prompt does not fit the context.
        The prompts' text can't open a turn. as_json: servers that can are held to a JSON object.
        """
        from engines.base import seed_of  # which loads torch

        asked = [self.engine.encode(p, thinking=False) for p in prompts]
        seeds = [seed_of(seed, i) for i in range(len(asked))]
        if self.engine.remote:
            return self._ask_server(asked, seeds, temperature, as_json)
        window = self.engine.window
        fit = [i for i, p in enumerate(asked) if len(p.ids) + JUDGE_TOKENS <= window]
        prompts, seeds = [asked[i] for i in fit], [seeds[i] for i in fit]
        drawn = self.engine.sample(prompts, 1, JUDGE_TOKENS, seeds, temperature)
        replies = dict(zip(fit, (group[0].text for group in drawn)))
        return [replies.get(i) for i in range(len(asked))]

    def _ask_server(self, asked, seeds, temperature, as_json):
        how = {"max_new_tokens": JUDGE_TOKENS, "temperature": temperature}
        if as_json:
            how["response_format"] = {"type": "json_object"}
        futures = [self.engine.request(p, 1, s, **how) for p, s in zip(asked, seeds)]
        replies = [future.result()[0] for future in futures]
        # what is too long comes back without text, tokens or a cut
        return [r.text if r.text or r.response_ids or r.truncated else None for r in replies]


# ---- what is asked -------------------------------------------------------------------------------


def templates(folder=""):
    """PROMPTS, with those replaced that `folder` has a KIND.txt for. Raises ValueError for a file
    that no kind is called after.
    """
    out = dict(PROMPTS)
    if folder and not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; --judge-prompts takes one with KIND.txt files")
    for file in sorted(Path(folder).glob("*.txt")) if folder else []:
        if file.stem not in out:
            names = ", ".join(out)
            raise ValueError(f"{file}: there is no judge prompt of this name; there are {names}")
        out[file.stem] = file.read_text(encoding="utf-8")
    return out


def kind_of(item):
    """The key of an Item's template."""
    kind = item.meta.get("judge", "shared")
    if kind == "charxiv_reasoning":
        return f"{kind}_{item.meta['rubric']}"
    return f"{kind}_{RUBRIC_OF[item.meta['rubric']]}" if kind == "charxiv_descriptive" else kind


def fields(item, response, truncated=False):
    """What fills the placeholders: the question without our closer, the lettered options, the final
    part of the response (its last 8,000 characters, but all of it for MultiChallenge, whose rules
    are about the whole reply), the gold.
    """
    text, kind = final(response, truncated), item.meta.get("judge")
    if kind != "multichallenge":
        text = text[-JUDGE_CHARS:]
    if kind == "mmvet":  # one row of a table
        text = " ".join(text.split()).replace("|", "/")
    gold = item.gold if isinstance(item.gold, str) else " or ".join(map(str, item.gold))
    if kind != "mmvu_choice" and len(gold) == 1 and gold in LETTERS[: len(item.choices)]:
        gold = f"{gold}. {item.choices[LETTERS.index(gold)]}"
    return {
        "question": item.meta.get("ask", item.question),
        "response": text,
        "answer": gold,
        "options": "\n".join(f"{LETTERS[i]}. {o}" for i, o in enumerate(item.options)),
    }


def fill(template, values):
    """Placeholders replaced in one pass, so that braces in a response are never read as one."""
    slots = r"\{(question|options|response|answer|n|pairs|keys)\}"
    return re.sub(slots, lambda m: str(values.get(m[1], m[0])), template)


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
    """The scores in a judge's reply, a list of n floats; None when the reply does not hold what was
    asked for, or holds it twice and differently.
    """
    text = raw.rpartition("</think>")[2].strip()
    if kind == "shared":
        m = re.fullmatch(r"```\s*(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
        verdict = verdict_of(m[1] if m else text)
        return None if verdict is None else [float(verdict)]
    if kind == "mmvet":
        word = (text.strip("| ").split() or [""])[0].strip("`*.|,")
        return [float(word)] if re.fullmatch(r"0(\.\d+)?|1(\.0+)?", word) else None
    found = [scores_in(kind, reply, n, criterion) for reply in objects(text)]
    found = [scores for scores in found if scores is not None]
    return found[0] if found and all(scores == found[0] for scores in found) else None


_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')
_DECODER = json.JSONDecoder(strict=False)  # line breaks inside of strings


def objects(text):
    r"""The dictionaries in a reply: alone, in fences, or in prose. LaTeX's raw backslashes, which
    JSON does not know, are read as backslashes.
    """
    text = text[-20_000:]
    doubled = _ESCAPE.sub(lambda m: m[0] if m[1] else r"\\", text)
    for version in dict.fromkeys((text, doubled)):
        if found := _decoded(version):
            return found
    between = literal(text[text.find("{") : text.rfind("}") + 1])
    return [between] if isinstance(between, dict) else []


def _decoded(text):
    found, at = [], text.find("{")
    while at >= 0 and len(found) < 50:
        try:
            reply, end = _DECODER.raw_decode(text, at)
            found.append(reply)
        except (ValueError, RecursionError):
            end = at + 1
        at = text.find("{", end)
    return found


def scores_in(kind, reply, n, criterion):
    """The scores of one dictionary, by kind; None where it is not what was asked for."""
    reply = {str(key).strip().lower(): value for key, value in reply.items()}
    if kind.startswith("charxiv_descriptive"):
        scores = [_bit(reply.get(f"score_t{i}")) for i in range(1, n + 1)]
        return None if None in scores else scores
    if kind.startswith("charxiv_reasoning"):
        # the official prompt uses both names
        extracted = "extracted_answer" in reply or "extract_answer" in reply
        score = _bit(reply.get("score")) if extracted else None
        return None if score is None else [score]
    if kind == "multichallenge":
        said = {"yes": "YES", "no": "NO"}.get(_word(reply.get("verdict")))
        return None if said is None else [float(said == criterion)]
    words = {"yes": [1.0], "no": [0.0]}
    if kind != "hle":
        words |= {"true": [1.0], "false": [0.0]}
    return words.get(_word(reply.get("correct"), booleans=kind != "hle"))


def _bit(x):
    """0.0 or 1.0 of a number or its text, None of all else."""
    if isinstance(x, bool):
        return None
    return {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}.get(str(x).strip())


def _word(x, booleans=False):
    return str(x).strip(" .!\n").lower() if isinstance(x, str) or booleans else ""


# ---- settling ------------------------------------------------------------------------------------


def key_of(judge, template, values):
    """What a verdict is kept by."""
    told = repr((judge.name, template, sorted(values.items())))
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def settle(graded, responses, judge, texts, path, bar=None):
    """Replace the Scores that need a judge. graded: [(Item, Score)]; responses: {id: record};
    texts: templates(); path: of the verdicts' JSONL file.

    Returns (graded, malformed replies). Scores that the judge decided have how "judged", or
    "malformed" (wrong); a prompt that did not fit leaves "judge".
    """
    kept, todo, keys = by_key(path, "key"), {}, {}
    for item, score in graded:
        if score.how == "judge":
            kind, record = kind_of(item), responses[item.id]
            values = fields(item, record["response"], record["truncated"])
            keys[item.id] = key_of(judge, texts[kind], values)
            if keys[item.id] not in kept:
                todo.setdefault(kind, []).append((item, values))
    for kind, some in todo.items():
        batches = batched(some, 5 if "{pairs}" in texts[kind] else 1)
        for i in range(0, len(batches), BATCH):
            records = ask(kind, batches[i : i + BATCH], judge, texts[kind])
            records = [r | {"key": keys[r["id"]]} for r in records]
            append_jsonl(path, records)
            kept.update((r["key"], r) for r in records)
            if bar is not None:
                bar.update(sum(map(len, batches[i : i + BATCH])))
    out = [(item, _settled(score, kept.get(keys.get(item.id)))) for item, score in graded]
    return out, sum(score.how == "malformed" for _, score in out)


def _settled(score, verdict):
    if verdict is None:
        return score
    return Score(verdict["value"], "malformed" if verdict["malformed"] else "judged", score.answer)


def batched(pairs, many):
    """Lists of at most `many` (item, fields) of one question each, CharXiv's way."""
    by_question = {}
    for k, pair in enumerate(pairs):
        by_question.setdefault(pair[1]["question"] if many > 1 else k, []).append(pair)
    return [g[i : i + many] for g in by_question.values() for i in range(0, len(g), many)]


SHORT = "\nPredict the correctness as one number from 0.0 to 1.0 and write nothing else:"


def ask(kind, batches, judge, template):
    """Verdict records of some batches of (item, fields), none for a prompt that does not fit.

    A malformed reply is asked for again, to several at once one by one; MM-Vet's at rising
    temperature, as its script does.
    """
    prompts = [prompt_of(template, [values for _, values in batch]) for batch in batches]
    raw, scores, waiting = {}, {}, list(range(len(batches)))
    for attempt in range(TRIES.get(kind, DEFAULT_TRIES)):
        asked = [prompts[i] for i in waiting]
        if kind == "mmvet" and attempt:
            asked = [prompt + SHORT for prompt in asked]
        heat = HEAT.get(kind, 0.2) * attempt
        replies = judge.ask(asked, heat, attempt, as_json=kind != "mmvet")
        for i, reply in zip(waiting, replies):
            size, gold = len(batches[i]), batches[i][0][0].gold
            raw[i] = reply
            scores[i] = None if reply is None else parse(kind, reply, size, gold)
        waiting = [
            i for i in waiting if raw[i] is not None and not scores[i] and len(batches[i]) == 1
        ]
        if not waiting:
            break
    records = []
    for i, batch in enumerate(batches):
        if len(batch) > 1 and not scores[i]:
            records += ask(kind, [[pair] for pair in batch], judge, template)
        elif raw[i] is not None:
            made = {"kind": kind, "judge": judge.name, "raw": raw[i], "malformed": not scores[i]}
            values = zip(batch, scores[i] or [0.0])
            records += [{"id": item.id, "value": value, **made} for (item, _), value in values]
    return records
