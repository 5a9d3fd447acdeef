"""What the judges are asked: one template a kind, all in our own words, each with the inputs, the
rule and the output form of the official one.

`--judge-prompts DIR` replaces a template by DIR/KIND.txt (the kinds are the keys of PROMPTS), so
that a user may put the official texts in their place. Placeholders: {question} {options} {response}
{answer}, and for CharXiv's descriptive questions {n} {pairs} {keys}. Other braces stay as they are.

shared: ZPPO Fig. 9, a comparator and never a solver. charxiv_*: src/constants.py of
princeton-nlp/CharXiv (4 + 7 rubrics). mmvet: the few-shot table of mm-vet_evaluator.py with 7
worked rows (5 with equations, 2 with memes). hle: run_judge_results.py. multichallenge:
src/evaluator.py (the judge does not see the conversation). mmvu_*: utils/eval_utils.py. Facts: see
benchmarks.py.
"""

from judge import JUDGE as SHARED

_REASONING = """You grade an answer to a question about a chart. You see the question, the ground truth and a response.
First extract the final answer of the response, then score it with 1 or 0 by this rule:
%s
Examples of the reply: {"extracted_answer": "blue", "score": 1} and {"extracted_answer": "3.5", "score": 0}.

Question: {question}
Ground truth: {answer}
Response: {response}

Reply with a JSON object that has the keys extracted_answer and score, and nothing else."""

_TEXT_IN_CHART = (
    "1 if the extracted answer and the ground truth are the same text of the chart; spelling variants of one term, "
    "notation (alpha, the Greek letter) and added or missing prefixes such as (a) are fine. Otherwise 0."
)
_TEXT_GENERAL = "1 if the extracted answer means the same as the ground truth, whatever the wording. Otherwise 0."
_EXACT_NUMBER = (
    "1 if the extracted number equals the ground truth exactly; another notation of the same number is fine (1e3 and 1000), "
    "a rounded or approximate number is not. Otherwise 0."
)

_DESCRIPTIVE = """You grade {n} responses to one question about different charts. For each, extract the final answer of the response and score
it with 1 or 0 against its ground truth by this rule:
%s
If the ground truth is "Not Applicable", the response must say so to score 1.

Question: {question}

{pairs}

Reply with one JSON object that has exactly the keys {keys}: the extracted answer and the score of each response, T1 first."""

_DESCRIPTIVE_RULES = {
    "title": "1 if both name the same title; other notation, grammar or a missing letter prefix is fine. 0 if any term differs.",
    "ocr": "1 if both are the same text or number; other notation is fine. 0 if a character that carries meaning differs.",
    "quant": "1 if both are exactly the same number; other notation of it is fine. 0 otherwise, also if it is close.",
    "bool": "1 if both agree (yes and yes, no and no). 0 otherwise.",
    "enum": "1 if both list the same terms in the same order; other notation of a term is fine. 0 if a term or the order differs.",
    "trend": "1 if both describe the same trend. 0 otherwise.",
    "layout": "1 if both give the same rows and columns, rows first. 0 otherwise.",
}
RUBRIC_OF = {
    1: "title",
    **dict.fromkeys(range(2, 8), "ocr"),
    **dict.fromkeys((8, 9, 10, 12, 14, 15, 17, 19), "quant"),
    11: "bool",
    13: "enum",
    16: "trend",
    18: "layout",
}

MMVET = """Rate how correct each prediction is against the ground truth, from 0.0 (entirely wrong) to 1.0 (entirely right) in steps of 0.1.
In a ground truth, <AND> means that all its parts must be there, <OR> that any one of them is enough. Complete the last row.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
Solve the equation in the image for x. | x = 4 <AND> x = 9 | x = 7 | 0.0
Solve the equation in the image for x. | x = 4 <AND> x = 9 | x = 4 | 0.5
Solve the equation in the image for x. | x = 4 <AND> x = 9 | The solutions are x = 4 or x = 7. | 0.5
Solve the equation in the image for x. | x = 4 <AND> x = 9 | x = 4 or x = 9 | 1.0
Solve the equation in the image for x. | x = 4 <AND> x = 9 | Both 9 and 4 satisfy it. | 1.0
What is the joke of this meme? | It says that the cat runs the meeting <AND> the owner only takes notes. | A cat sits at a table. The meme is about pets. | 0.3
What is the joke of this meme? | It says that the cat runs the meeting <AND> the owner only takes notes. | The cat is shown as the boss of the meeting while its owner writes down what it wants. | 1.0
{question} | {answer} | {response} |"""

HLE = """Compare the final answer of a response with the known correct answer of a question.

[question]: {question}

[response]: {response}

[correct_answer]: {answer}

Reply with a JSON object with these keys:
extracted_final_answer: the final answer as the response states it, or "None" where it states none.
reasoning: one or two sentences on whether the two answers agree. Only compare: the question is not to be solved, and the correct answer
is not to be doubted.
correct: "yes" if they agree (numbers may differ by a small tolerance), "no" in every other case, an ambiguous or missing answer included.
confidence: how sure the response says it is, an integer from 0 to 100; 100 if it does not say.
strict: true"""

MULTICHALLENGE = """Below are the final reply of a model in a conversation and a question about this reply. The conversation itself is not shown.
Answer the question from the reply alone.

<MODEL_RESPONSE>
{response}
</MODEL_RESPONSE>

<CRITERIA>
{question}
</CRITERIA>

Reply with a JSON object: "reasoning", a short explanation, and "verdict", "YES" or "NO"."""

_MMVU = """{system}

Question: {question}
{options}
Ground truth answer: {answer}
Response: {response}

Reply with a JSON object: "extracted_answer", a short string, and "correct", true or false."""
_MMVU_CHOICE = (
    "Extract the letter (A to E) that the response finally chooses for the multiple-choice question, and say whether it is the "
    "letter of the ground truth."
)
_MMVU_OPEN = (
    "Extract the final answer of the response to the open-ended question, and say whether it means the same as the ground truth: "
    "the same concept is required, the wording may differ."
)

PROMPTS = {
    "shared": SHARED,
    "charxiv_reasoning_1": _REASONING % _TEXT_IN_CHART,
    "charxiv_reasoning_2": _REASONING % _TEXT_GENERAL,
    "charxiv_reasoning_3": _REASONING % _EXACT_NUMBER,
    "charxiv_reasoning_4": _REASONING % _EXACT_NUMBER,
    **{
        f"charxiv_descriptive_{name}": _DESCRIPTIVE % rule
        for name, rule in _DESCRIPTIVE_RULES.items()
    },
    "mmvet": MMVET,
    "hle": HLE,
    "multichallenge": MULTICHALLENGE,
    "mmvu_choice": _MMVU.replace("{system}", _MMVU_CHOICE),
    "mmvu_open": _MMVU.replace("{system}", _MMVU_OPEN),
}
