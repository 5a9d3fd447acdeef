"""What the judges are asked: one template a kind, all in our own words, each with the inputs, the
rule and the output form of the official one. The texts are prompts/KIND.txt.

`--judge-prompts DIR` replaces a template by DIR/KIND.txt (the kinds are the keys of PROMPTS), so
that a user may put the official texts in their place. Placeholders: {question} {options} {response}
{answer}, and for CharXiv's descriptive questions {n} {pairs} {keys}. Other braces stay as they are.

shared: ZPPO Fig. 9, training's (judge.py). charxiv_*: src/constants.py of
princeton-nlp/CharXiv (4 + 7 rubrics). mmvet: the few-shot table of mm-vet_evaluator.py with 7
worked rows (5 with equations, 2 with memes). hle: run_judge_results.py. multichallenge:
src/evaluator.py (the judge does not see the conversation). mmvu_*: utils/eval_utils.py.
"""

from pathlib import Path

from judge import JUDGE

FILES = sorted((Path(__file__).parent / "prompts").glob("*.txt"))
PROMPTS = {"shared": JUDGE} | {f.stem: f.read_text("utf-8").removesuffix("\n") for f in FILES}
RUBRIC_OF = {  # of CharXiv's descriptive templates
    1: "title",
    **dict.fromkeys(range(2, 8), "ocr"),
    **dict.fromkeys((8, 9, 10, 12, 14, 15, 17, 19), "quant"),
    11: "bool",
    13: "enum",
    16: "trend",
    18: "layout",
}
