"""A small copy of each of the 31 data sets: its exact schema, its oddities, replies to its
questions, and the scores worked by hand.

    # writes root/owner/repo/CONFIG/SPLIT.parquet (and videos) for one benchmark
    write(name, root)
    # rows, replies in the order of the questions, what each must score, and the headline
    CASES[name]

In `want`, 1 and 0 are resolved, a fraction is a metric, "judge" needs a judge, "none" has no answer
(wrong), "bad" does not open, "missing" is not there. `score` is the headline with every judged row
right (the scripted judge says so); `low` without a judge and all of those wrong.
"""

import benchmark_fixtures_vision  # noqa: F401  its cases
import datasets
from benchmark_tools import CASES, CUT, PIC, THINK, b64, box, case, clip, lettered, png, save, write  # noqa: F401  for the tests
from PIL import Image

# fmt: off
# ---- language ------------------------------------------------------------------------------------

case("AIME25", "opencompass/AIME2025", {
    ("AIME2025-I", "test"): [{"question": f"Problem {k}", "answer": "70"} for k in range(5)],
    ("AIME2025-II", "test"): [{"question": f"Problem {k}",
        "answer": "336^\\circ" if k == 4 else "49"} for k in range(5)]},
    [box("70"), box("070"), box("71"), CUT,
        THINK + "I found no number."] + [box("49")] * 4 + [box("336")], [1, 1, 0, "none",
        "judge"] + [1] * 5,
    score=80, low=70)
case("AIME26", "MathArena/aime_2026", {("default", "train"): [{"problem_idx": k,
    "problem": f"Problem {k}", "answer": 277 + k} for k in (1, 2, 3)]},
     [box("278"), box("\\text{279}"), box("281")], [1, 1, 0], score=200 / 3, low=200 / 3)


# Of the sets with 52 and 57 configs, the tests open a few: each costs datasets a tenth of a second.
FEW = {"CEval": ("law", "logic", "physician", "marxism"), "MMLU-Rd": ("abstract_algebra", "anatomy",
    "astronomy", "virology")}


def _ceval():
    rows = {}
    for subject in FEW["CEval"]:
        n = 3 if subject == "law" else 1
        rows[subject, "val"] = [{"id": i, "question": f"哪个正确？{i}",
            "A": "甲", "B": "乙", "C": "丙",
            "D": "丁", "answer": "B", "explanation": ""} for i in range(n)]
    replies = [r for s in FEW["CEval"] for r in ([box("Ｂ"), THINK + "答案：C",
        THINK + "答案是 (B)"] if s == "law" else [box("B")])]
    want = [w for s in FEW["CEval"] for w in ([1, 0, 1] if s == "law" else [1])]
    return rows, replies, want


case("CEval", "ceval/ceval-exam", *_ceval(), score=100 * (3 + 2 / 3) / 4, low=100 * (3 + 2 / 3) / 4,
    also={"mean over questions": 100 * 5 / 6})

GPQA = {"Subdomain": "x", "High-level domain": "Physics", "Explanation": "", "Canary String": "c",
    "Record ID": None}
case("GPQA-D", "Idavidrein/gpqa", {("gpqa_diamond", "train"): [
    {"Question": f"Q{k} with [Fe(CN)6] brackets", "Correct Answer": "right\n",
     "Incorrect Answer 1": "wrong one", "Incorrect Answer 2": " wrong two",
     "Incorrect Answer 3": "right" if k == 3 else "wrong three", **GPQA} for k in range(4)]},
    [box("right"), box("wrong one"), THINK + "Answer: right", THINK + "\\boxed{right}"], [1, 0, 1,
        "judge"], score=75, low=50)

case("HLE", "cais/hle", {("default", "test"): [
    {"id": "h1", "question": "What? A. x B. y", "image": "", "image_preview": None,
     "rationale_image": None, "answer": "B", "answer_type": "multipleChoice",
     "author_name": "a", "rationale": "r", "raw_subject": "s", "category": "Math", "canary": "c"},
    {"id": "h2", "question": "What is drawn?", "image": "data:image/gif;base64," + b64(size=(329,
     12), form="GIF"), "image_preview": PIC, "rationale_image": None,
     "answer": "a tree", "answer_type": "exactMatch", "author_name": "a", "rationale": "r",
         "raw_subject": "s", "category": "Other", "canary": "c"}]},
    [box("B"), CUT], ["judge", "none"], score=50, low=0, also={"text only": 100})


def imo_row(name, answer, category="Algebra"):
    return {"Problem ID": f"imo-bench-{name}", "Problem": f"Problem {name}", "Short Answer": answer,
        "Category": category, "Subcategory": "s", "Source": "o"}


case("IMO-AB", "OpenEvals/IMO-AnswerBench", {("default", "train"): [
    imo_row("combinatorics-005", "1431655764", "Combinatorics"), imo_row("algebra-036", "Algebra",
        "Functional Equation"),
    imo_row("geometry-004", "45752", "Geometry"), imo_row("geometry-096", "$7/18\n", "Geometry"),
        imo_row("algebra-001", " $2^{u}-2$ ")]},
    [box("1431655764"), box("Y(x) = A + B/x - x"), box("4 and 5"), box("\\frac{7}{18}"),
        box("all of them")], [1, 1, 1, 1, "judge"], score=100, low=80,
    also={"Algebra": 100}, remarks=("version 2 of the data",))

case("MMLU", "cais/mmlu", {("all", "test"): [
    {"question": "2+2?", "subject": "abstract_algebra", "choices": ["3", "4", "5", "6"],
     "answer": 1},
    {"question": "3+3?", "subject": "abstract_algebra", "choices": ["3", "4", "5", "6"],
     "answer": 3},
    {"question": "Who?", "subject": "virology", "choices": ["a cell", "a virus", "a cat", "a dog"],
     "answer": 0}]},
    [box("4"), box("A"), THINK + "The correct answer is (A)."], [1, 0, 1], score=200 / 3,
        low=200 / 3, also={"mean of 57 subjects": 75},
    cast={"answer": datasets.ClassLabel(names=list("ABCD"))})

case("MMLU-Pro", "TIGER-Lab/MMLU-Pro", {("default", "test"): [
    {"question_id": 70, "question": "Which?", "options": [" right", "wrong", "other", "N/A", "N/A"],
     "answer": "A", "answer_index": 0, "cot_content": "", "category": "computer science",
     "src": "s"},
    {"question_id": 71, "question": "Which?", "options": lettered(10), "answer": "J",
     "answer_index": 9, "cot_content": "", "category": "math", "src": "s"},
    {"question_id": 72, "question": "Which?", "options": lettered(10), "answer": "B",
     "answer_index": 1, "cot_content": "", "category": "math", "src": "s"}]},
    [box("right"), box("J"), THINK + "No idea whatsoever, sorry about that."], [1, 1, "judge"],
        score=100, low=200 / 3, also={"mean of 14 categories": 100})


def _redux():
    row = {"question": "2+2?", "choices": ["3", "4", "5", "6"], "answer": 1, "source": "s",
        "potential_reason": None, "correct_answer": "1"}
    rows = {(c, "test"): [{**row, "error_type": "ok"}] for c in FEW["MMLU-Rd"]}
    rows["anatomy", "test"] = [{**row, "error_type": kind, "correct_answer": fix} for kind, fix in (
        ("ok", "1"), ("wrong_groundtruth", "C"), ("wrong_groundtruth", " 3 "), ("wrong_groundtruth",
            "2 and 3"), ("wrong_groundtruth", None),
        ("bad_question_clarity", None), ("multiple_correct_answers", "B,C"), ("no_correct_answer",
            "8"), ("expert", "2"), ("bad_options_clarity", ""))]
    return rows, [box("4")] + [box("B"), box("C"), box("B")] + [box("B"), box("B")], [1, 1, 1, 0, 1,
        1]


case("MMLU-Rd", "edinburgh-dawg/mmlu-redux-2.0", *_redux(), score=500 / 6, low=500 / 6,
    also={"ok rows only": 100}, remarks=("6 rows, 5700 expected",))

TALK = [{"role": "user", "content": "Never use commas."}, {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": "Hello?"}]
case("MultiCh", "ScaleAI/MultiChallenge", {("default", "test"): [
    {"question_id": f"m{k}", "axis": axis, "conversation": TALK,
     "target_question": "Does it avoid commas?", "pass_criteria": "YES", "num_turns": 2}
    for k, axis in enumerate(("INFERENCE_MEMORY", "INFERENCE_MEMORY", "SELF_COHERENCE"))]},
    [THINK + "Hello there.", CUT, "Good day."], ["judge", "none", "judge"], score=75, low=0,
        also={"mean over questions": 200 / 3, "SELF_COHERENCE": 100})

# ---- video ---------------------------------------------------------------------------------------

EMPTY = dict.fromkeys("ABCDE", "")
case("MMVU", "yale-nlp/MMVU", {("default", "validation"): [
    {"id": "validation_0", "video": "https://host/resolve/main/videos/Art/0.mp4",
     "youtube_url": "y", "question_type": "multiple-choice", "question": "What?",
     "choices": {k: f"choice {k}" for k in "ABCDE"}, "answer": "C", "metadata": {"subject": "Art",
         "textbook": "t", "rationale": "r", "knowledge": ["k"]}},
    {"id": "validation_1", "video": "https://host/resolve/main/videos/Art/0.mp4",
     "youtube_url": "y", "question_type": "open-ended", "question": "Why?",
     "choices": EMPTY, "answer": "gravity", "metadata": {"subject": "Art", "textbook": "t",
         "rationale": "r", "knowledge": ["k"]}},
    {"id": "validation_2", "video": "https://host/resolve/main/videos/Art/404.mp4",
     "youtube_url": "y", "question_type": "open-ended", "question": "Why?",
     "choices": EMPTY, "answer": "gravity", "metadata": {"subject": "Art", "textbook": "t",
         "rationale": "r", "knowledge": ["k"]}}]},
    [box("C"), box("it falls")], ["judge", "judge", "missing"], score=100, low=0,
        also={"choice": 100, "open": 50},
    files=lambda root: clip(root / "videos/Art/0.mp4"))


def _mvbench():
    from evaluation import video

    rows, replies, want = {}, [], []
    for task, (_, _, bounded) in video.MVBENCH.items():
        row = {"video": "clip.mp4", "question": "What happens?", "candidates": ["it falls",
            "it rises", "nothing"], "answer": "it rises"}
        if bounded:
            row |= {"start": 0.5, "end": 60.0}
        if task == "episodic_reasoning":
            row |= {"video": "folder"}
        rows[task, "train"] = [row]
        if task != "fine_grained_pose":
            k = len(replies)
            replies.append([box("B"), box("it falls"), THINK + "(",
                box("it rises")][k] if k < 4 else box("(B) it rises"))
            want.append([1, 0, "judge", 1][k] if k < 4 else 1)
    return rows, replies, want


def _mvbench_files(root):
    from evaluation import video

    for task, (main, _, _) in video.MVBENCH.items():
        if task == "episodic_reasoning":
            folder = root / "video" / main / "folder"
            folder.mkdir(parents=True)
            for k in range(1, 13):
                Image.new("RGB", (16, 16), (20 * k, 0, 0)).save(folder / f"{k:05d}.jpg")
        elif task == "object_existence":
            clip(root / "video/data0613" / main / "clip.mp4")              # the folder to be merged
        elif task != "fine_grained_pose" and not (root / "video" / main / "clip.mp4").exists():
            clip(root / "video" / main / "clip.mp4")


case("MVBench", "OpenGVLab/MVBench", *_mvbench(), score=100 * 18 / 19, low=100 * 17 / 19,
    also={"mean of 19 tasks": 100 * 18 / 19},
     remarks=("19 of 20 tasks",), files=_mvbench_files)

MME = {"video_id": "001", "domain": "Knowledge", "sub_category": "s", "url": "u",
    "videoID": "-Ab_c", "task_type": "OCR Problems",
       "options": ["A. one", "B. two", "C. three", "D. four"]}
MME_ROWS = {("videomme", "test"): [{**MME, "question_id": "001-1", "duration": "short",
    "question": "How many?", "answer": "C"},
                                   {**MME, "question_id": "001-2", "duration": "long",
                                    "question": "Which?", "answer": "A"}]}
SRT = ("1\n00:00:00,100 --> 00:00:00,900\n<font color=\"#fff\">first line</font>\n\n"
       "2\n00:00:00,000 --> 00:00:05,000\nlong\\Nline\n\n"
       "3\n00:00:50,000 --> 00:00:51,000\nafter the end\n")


def _mme_files(root):
    clip(root / "data/-Ab_c.mp4")
    (root / "subtitle").mkdir()
    (root / "subtitle/-Ab_c.srt").write_text(SRT)


case("VMME", "lmms-lab/Video-MME", MME_ROWS, [box("C. three"), box("B")], [1, 0], score=50, low=50,
    also={"short": 100, "long": 0}, files=_mme_files)
case("VMMES", "lmms-lab/Video-MME", MME_ROWS, [box("three"), THINK + "Best answer: A"], [1, 1],
    score=100, low=100, also={"short": 100, "long": 100}, files=_mme_files)

case("VMMMU", "lmms-lab/VideoMMMU", {
    ("Perception", "test"): [{"id": "validation_Economics_2", "question": "What?",
        "options": [f"{c}. {k}" for k, c in enumerate("ABCDEFGHIJKLMN")], "answer": "N",
                             "question_type": "perception", "link_selected": "l"}],
    ("Comprehension", "test"): [{"id": "dev_Biology_3", "question": "What?", "options": lettered(4),
        "answer": "B", "question_type": "multiple-choice", "link_selected": "l"}],
    ("Adaptation", "test"): [
        {"id": "validation_Accounting_13", "question": "See <image 1>.", "options": lettered(10),
         "answer": "C", "question_type": None, "image": PIC, "link_selected": "l"},
        {"id": "validation_Math_15", "question": "Solve <image 1>.", "options": [],
         "answer": "['24/7', 3.43", "question_type": "open", "image": PIC, "link_selected": "l"},
        {"id": "validation_Physics_21", "question": "Which?", "options": [], "answer": "A",
         "question_type": "open", "image": PIC, "link_selected": "l"},
        {"id": "validation_Basic_Medical_Science_10", "question": "Which?", "options": [],
         "answer": "C", "question_type": "open", "image": PIC, "link_selected": "l"}]},
    [box("N"), box("A"), box("C"), box("3.4286"), box("A"), box("the second one")], [1, 0, 1, 1, 1,
        "judge"], score=100 * (1 + 0 + 1) / 3, low=100 * (1 + 0 + .75) / 3,
    also={"Perception": 100, "Comprehension": 0, "Adaptation": 100},
    files=lambda root: [clip(root / f, last=(250, 0,
        0)) for f in ("Business/validation_Economics_2.mp4", "Science/dev_Biology_3.mp4",
                        "Business/validation_Accounting_13.mp4", "Science/validation_Math_15.mp4",
                            "Science/validation_Physics_21.mp4",
                        "Medicine/validation_Basic_Medical_Science_10.mp4")])
