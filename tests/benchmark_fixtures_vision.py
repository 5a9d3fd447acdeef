"""The image benchmarks of benchmark_fixtures.py."""

from benchmark_tools import CUT, PIC, THINK, b64, box, case
from PIL import Image

# fmt: off
# ---- vision-language -----------------------------------------------------------------------------

case("AI2D", "lmms-lab/ai2d", {("default", "test"): [
    # option C reads "D"
    {"question": "Which label is the root?", "options": ["a", "b", "D", "x"], "answer": "2",
     "image": PIC},
    {"question": "What is green?", "options": ["leaf", "stem"], "answer": "0", "image": PIC},
    {"question": "What is brown?", "options": ["leaf", "stem"], "answer": "1", "image": PIC},
    {"question": "What is red?", "options": ["leaf", "stem"], "answer": "1", "image": PIC}]},
    [box("D"), box("leaf"), THINK + "It is hard to say for certain what this is.", CUT], [0, 1,
        "judge", "none"], score=50, low=25,
    remarks=("4 rows, 3088 expected",))

BABY = {"status": "ok", "subtype": "s", "coT": "", "image": PIC}
case("BabyV", "UnipatAI/BabyVision", {("default", "train"): [
    {"taskId": 1, "type": "Spatial Perception", "question": "Which?", "ansType": "choice",
     "options": ["cat", "dog"], "choiceAns": "1", "blankAns": "null", **BABY},
    {"taskId": 2, "type": "Visual Tracking", "question": "Where? Answer as (x,y).",
     "ansType": "blank", "options": [], "choiceAns": "null", "blankAns": "(4,7)", **BABY},
    {"taskId": 3, "type": "Visual Tracking", "question": "Which cell?", "ansType": "blank",
     "options": [], "choiceAns": "null", "blankAns": "Row 4 Column 17", **BABY},
    {"taskId": 4, "type": "Visual Tracking", "question": "Count.", "ansType": "blank",
     "options": [], "choiceAns": "null", "blankAns": "5", **BABY},
    {"taskId": 5, "type": "Visual Tracking", "question": "Name it.", "ansType": "blank",
     "options": [], "choiceAns": "null", "blankAns": "a fox", **BABY}]},
    [box("B"), box("4, 7"), box("Row 4 Column 16"), box("6"), box("the red fox")], [1, 1, 0, 0,
        "judge"], score=60, low=40,
    also={"Spatial Perception": 100, "Visual Tracking": 50})

FIGURE = {"image": PIC, "category": "cs", "year": "20", "original_figure_path": "o",
    "original_id": "1", "num_subplots": 4}
case("CharXiv", "princeton-nlp/CharXiv", {("default", "validation"): [
    {"figure_path": "images/0.jpg", "subplot_row": 0, "subplot_col": 0, "subplot_loc": None,
     "descriptive_q1": 1, "descriptive_q2": 18,
     "descriptive_q3": 10, "descriptive_q4": 13, "descriptive_a1": "Not Applicable",
         "descriptive_a2": "1 by 1", "descriptive_a3": "3",
     "descriptive_a4": "a, b", "reasoning_q": "How large is the gap?", "reasoning_a": "2.50",
         "reasoning_a_type": 4, "reasoning_q_source": 1, **FIGURE},
    {"figure_path": "images/1.jpg", "subplot_row": 2, "subplot_col": 1, "subplot_loc": None,
     "descriptive_q1": 1, "descriptive_q2": 3,
     "descriptive_q3": 11, "descriptive_q4": 19, "descriptive_a1": "T", "descriptive_a2": "y",
         "descriptive_a3": "Yes", "descriptive_a4": "4",
     "reasoning_q": "Which one wins?", "reasoning_a": "blue", "reasoning_a_type": 1,
         "reasoning_q_source": 4, **FIGURE}]},
    [box(f"answer {k}") for k in range(9)] + [CUT], ["judge"] * 9 + ["none"], score=90, low=0,
    also={"reasoning": 100, "descriptive": 87.5, "mean of the two": 93.75},
        remarks=("2 rows, 1000 expected",))

DYNA = {"image": "path/0.png", "decoded_image": PIC, "knowledge_level": "high school"}
case("DynaM", "DynaMath/DynaMath_Sample", {("default", f"sample_variant{k}"): [
    {"id": "1", "question": "Area?", "ground_truth": "3.14159", "answer_type": "float",
     "subject": "analytic  geometry", **DYNA},
    {"id": "2", "question": "Choices: (A) 1 (B) 2", "ground_truth": "B",
     "answer_type": "multiple choice", "subject": "algebra", **DYNA},
    {"id": "3", "question": "Is it even?", "ground_truth": "even", "answer_type": "text",
     "subject": "algebra", **DYNA}] for k in range(1, 11)},
    [r for k in range(10) for r in (box("pi" if k < 9 else "3.15"), box("B"),
        box("Even." if k else "it is even"))],
    [w for k in range(10) for w in (1 if k < 9 else 0, 1, 1 if k else "judge")],
        score=100 * 29 / 30, low=100 * 28 / 30,
    also={"worst case (all 10 variants)": 100 * 2 / 3})

case("EmbSp", "FlagEval/EmbSpatial-Bench", {("default", "test"): [
    {"question_id": "q0", "question": "Where is it?", "relation": "left",
     "answer_options": ["A. left", "B. right", "C. above", "D. under"], "answer": 0,
     "data_source": "mp3d", "image": b64(), "scene_id": "s", "objects": []},
    {"question_id": "q1", "question": "Which is close?", "relation": "close",
     "answer_options": ["A. cup", "B. bed", "C. mat", "D. box"], "answer": 3,
     "data_source": "scannet", "image": b64(), "scene_id": "s", "objects": []}]},
    [box("A. left"), box("bed")], [1, 0], score=50, low=50, also={"left": 100, "close": 0})

case("InfoVQA", "lmms-lab/DocVQA", {("InfographicVQA", "validation"): [
    {"questionId": str(k), "question": "How many?", "answers": golds, "answer_type": ["span"],
     "image": PIC, "image_url": "u",
     "operation/reasoning": ["counting"], "ocr": "{}", "data_split": "val"} for k,
         golds in enumerate((["40%"], ["four", "Four Million"], ["x"]))]},
    # 40 against 40%: distance 1 of 3; "four millions": 1 of 13; a long sentence: 0
    [box("40"), box("FOUR  millions"),
        THINK + "After a long look, this must be about nothing at all"], [2 / 3, 12 / 13, 0],
    score=100 * (2 / 3 + 12 / 13) / 3, low=100 * (2 / 3 + 12 / 13) / 3)

VERSE = {"metadata": {"split": "testmini", "source": "s", "subject": "Plane", "subfield": "Angle"},
    "query_wo": "Please directly answer\nQuestion: x", "query_cot": "r"}
case("MVerse", "CaraJ/MathVerse-lmmseval", {("testmini", "testmini"): [
    {"sample_index": "1", "problem_index": "1", "problem_version": "Text Dominant",
     "question": "Find x.\nChoices:\nA:10\nB:20\nC:30\nD:40", "image": PIC,
     "answer": "B", "question_type": "multi-choice",
         "question_for_eval": "Find x.\nChoices:\nA:10\nB:20\nC:30\nD:40", **VERSE},
    {"sample_index": "2", "problem_index": "1", "problem_version": "Vision Only", "question": "",
     "image": PIC, "answer": "C",
     "question_type": "multi-choice",
         "question_for_eval": "Find y.\nChoices:\nA:10\nB:20\nC:30\nD:40", **VERSE},
    {"sample_index": "3", "problem_index": "2", "problem_version": "Vision Only", "question": "",
     "image": PIC, "answer": "5.0 cm^2",
     "question_type": "free-form", "question_for_eval": "Find the area.", **VERSE},
    {"sample_index": "4", "problem_index": "2", "problem_version": "Text Only",
     "question": "Find it.", "image": None, "answer": "5",
     "question_type": "free-form", "question_for_eval": "Find it.", **VERSE}]},
    [box("B"), box("D"), box("five square centimetres")], [1, 0, "judge"], score=200 / 3,
        low=100 / 3,
    also={"Text Dominant": 100, "Vision Only": 50}, remarks=("3 rows, 3940 expected",))

VISION = {"image": "images/1.jpg", "decoded_image": PIC, "solution": None, "level": 3,
    "subject": "counting"}
case("MVision", "MathLLMs/MathVision", {("default", "test"): [
    {"id": "1", "question": "Which piece <image1> fits?", "options": ["A", "B", "C", "D", "E"],
     "answer": "E", **VISION},
    {"id": "2", "question": "How many? <image1> <image2>", "options": ["1", "2", "3", "4", "5"],
     "answer": "C", **VISION},
    {"id": "3", "question": "Angle?", "options": [], "answer": "60^\\circ", **VISION},
    {"id": "4", "question": "Ratio?", "options": [], "answer": "\x0crac{1}{2}", **VISION},
    {"id": "59", "question": "Which one?", "options": [], "answer": "B", **VISION}]},
    [box("(E)"), box("3"), box("60"), box("\\frac{2}{4}"), box("A or B")], [1, 1, 1, 1, "judge"],
        score=100, low=80)

VISTA = {"image": "images/1.jpg", "decoded_image": PIC,
    "query": "Hint: Please answer.\nQuestion: x",
         "metadata": {"category": "c", "context": "c", "grade": "g", "img_height": 1,
             "img_width": 1, "language": "english", "skills": ["s"],
                      "source": "s", "split": "testmini", "task": "t"}}
case("MVista", "AI4Math/MathVista", {("default", "testmini"): [
    {"pid": "1", "question": "Which?\r\nNow.", "choices": ["Yes", "No"], "unit": "",
     "precision": None, "answer": "No", "question_type": "multi_choice", "answer_type": "text",
     **VISTA},
    {"pid": "2", "question": "How many?", "choices": [], "unit": "years", "precision": None,
     "answer": "7", "question_type": "free_form", "answer_type": "integer", **VISTA},
    {"pid": "3", "question": "How long?", "choices": [], "unit": "", "precision": 1.0,
     "answer": "2.5", "question_type": "free_form", "answer_type": "float", **VISTA},
    {"pid": "4", "question": "List.", "choices": [], "unit": "", "precision": None,
     "answer": "[1, 2]", "question_type": "free_form", "answer_type": "list", **VISTA},
    {"pid": "5", "question": "Which?", "choices": ["red", "blue"], "unit": "", "precision": None,
     "answer": "red", "question_type": "multi_choice", "answer_type": "text", **VISTA},
    {"pid": "6", "question": "How many?", "choices": [], "unit": "", "precision": None,
     "answer": "7", "question_type": "free_form", "answer_type": "integer", **VISTA}]},
    [box("(B)"), box("7 years"), box("2.46"), box("[2, 1]"), THINK + "\\boxed{}", box("8")], [1, 1,
        1, 0, "judge", 0], score=400 / 6, low=50)

PRO = {"id": "t1", "explanation": "", "img_type": "['Diagrams']", "topic_difficulty": "Hard",
    "subject": "Art", **{f"image_{k}": None for k in range(1, 8)}}
case("MMMUPro", "MMMU/MMMU_Pro", {
    ("standard (10 options)", "test"): [{**PRO, "question": "See <image 2>.",
        "options": str(["<image 3>", "<image 1>", "none", *(f"o{k}" for k in range(7))]),
                                        "answer": "J", "image_1": Image.new("RGB", (9, 9)),
                                            "image_2": Image.new("RGB", (8, 8)),
                                            "image_3": Image.new("RGB", (7, 7))}],
    ("standard (4 options)", "test"): [{**PRO, "question": "Which?", "options": "['only one']",
        "answer": "A", "image_1": PIC}],
    ("vision", "test"): [{"id": "t1", "image": PIC,
        "options": "['a1', 'a2', 'a3', 'a4', 'a5', 'a6', 'a7', 'a8', 'a9', 'a10', 'a11', 'a12']",
        "answer": "L", "subject": "Art"}]},
    [box("J"), THINK + "I would have to guess here.", box("\\text{L}")], [1, "judge", 1], score=100,
        low=200 / 3,
    also={"standard (10 options)": 100, "standard (4 options)": 100, "vision": 100})

case("MM-Vet", "lmms-lab/MMVet", {("default", "test"): [
    {"question_id": "v1_0", "question": "Solve.", "answer": "x = 1<AND>x = 2", "image": PIC,
     "capability": "rec,math", "image_source": "s"},
    {"question_id": "v1_1", "question": "What is it?", "answer": "cat<OR>kitten", "image": PIC,
     "capability": "rec", "image_source": "s"}]},
    [box("x = 1"), THINK + "a | cat\nor so"], ["judge", "judge"], score=50, low=0, also={"rec": 50,
        "math": 50})

OCR = {"image": PIC, "dataset_name": "d", "bbox": [], "bbox_list": [], "content": []}


def ocr_row(k, kind, answers, question="Read it.", eval="", **more):
    return {"id": k, "type": kind, "answers": answers, "question": question, "eval": eval, **OCR,
        **more}


OCR_ROWS = [
    ocr_row(0, "text recognition en", ["Cafe"], eval="case sensitive"),
    ocr_row(1, "text grounding en", ["0", "0", "100", "100"]),
    ocr_row(2, "VQA with position en", ["blue"], bbox=[0, 0, 10, 10]),
    ocr_row(3, "text spotting en", [], bbox_list=[[0, 0, 10, 0, 10, 10, 0, 10], [50, 50, 60, 50, 60,
        60, 50, 60]], content=["STOP!", "GO"]),
    ocr_row(4, "key information extraction en", ['{"total": ["12", "12.0"], "date": "today"}']),
    ocr_row(5, "table parsing en", ["<table><tr><td>a</td></tr></table>"], question="Return HTML."),
    ocr_row(6, "formula recognition en", ["a + b"]),
    ocr_row(7, "text counting en", ["10"], eval="regression"),
    ocr_row(8, "math QA en", ["B"], eval="multiple choice"),
    ocr_row(9, "diagram QA en", ["seven"], eval="nan"),
    ocr_row(10, "science QA en", ["C"], eval="multiple choice"),
    ocr_row(11, "full-page OCR cn", ["今天天气很好"]),
    ocr_row(12, "handwritten answer extraction cn", ["AB"], question="选择"),
    ocr_row(13, "formula recognition cn", ["\\text{面积}=a"]),
    ocr_row(14, "cognition VQA cn", ["红 色"]),
    ocr_row(15, "text translation cn", [""]),
    ocr_row(16, "reasoning VQA cn", ["北京"], eval="None"),
]
case("OCREN", "ling99/OCRBench_v2", {("default", "test"): OCR_ROWS},
     [box("cafe"), box("[0, 0, 100, 50]"), box('{"answer": "light blue", "bbox": "[0, 0, 10, 5]"}'),
      box("[[0, 0, 10, 10, 'stop'], [50, 50, 60, 60, 'GO'], [90, 90, 99, 99, 'x']]"),
          box('{"total": "12.0", "date": "yesterday"}'),
      THINK + "<table><tr><td>a</td></tr></table>", box("a+b+c"), box("about 8"), box("B"),
          box("Seven dwarfs"), THINK + "The answer is D."],
     [0, .5, .75, .8, .5, 1, 1, .8, 1, 1, 0],
     # groups: 0, (.5+.75)/2, .8, .5, (1+1)/2, (.8+1)/2, 1, 0
     score=100 * (0 + .625 + .8 + .5 + 1 + .9 + 1 + 0) / 8,
         low=100 * (0 + .625 + .8 + .5 + 1 + .9 + 1 + 0) / 8,
     also={"EN text detection": 62.5, "weighted by rows (lmms-eval)": 100 * 7.35 / 11})
case("OCRZH", "ling99/OCRBench_v2", {("default", "test"): OCR_ROWS},
     [box("今天天气很好"), box("A、B"), box("面积 = a"), box("红色的"), box("x"), CUT],
     [(3 - 0.5 / 27) / 4, 1,
         1, 1, "ignored", "none"],
     # 4-way mean of an exact 3-word answer: BLEU 0 (no 4-gram), F1 1, edit 1, METEOR
     # 1 - 0.5 (1/3)^3; the empty gold is ignored
     score=20 * ((3 - 0.5 / 27) / 4 + 3), low=20 * ((3 - 0.5 / 27) / 4 + 3),
         also={"CN knowledge reasoning": 0})

PUZZLE = {"image": PIC, "category": "Spatial", "difficulty": "Hard"}
case("VisP", "neulab/VisualPuzzles", {("default", "test"): [
    {"id": 1, "question": "Which?", "options": ["p", "q", "r", "s"], "answer": "c", **PUZZLE},
    {"id": 2, "question": "Which figure?", "options": None, "answer": "D", **PUZZLE},
    {"id": 3, "question": "Which?", "options": ["p", "q", "r", "s"], "answer": "A", **PUZZLE}]},
    [box("C"), box("D)"), THINK + "I can't decide between p and q at all."], [1, 1, "judge"],
        score=100, low=200 / 3, also={"Spatial": 100})

BLIND = {"image": PIC, "metadata": "{}"}
case("VBlind", "XAI/vlmsareblind", {("default", "valid"): [
    {"task": "Line Plot Intersections",
     "prompt": "How often do they cross? Answer with a number in curly brackets, e.g., {5}.",
     "groundtruth": "1", **BLIND},
    {"task": "Touching Circles", "prompt": "Do the circles touch? Answer with Yes/No.",
     "groundtruth": "Yes", **BLIND},
    {"task": "Circled Letter", "prompt": "Which letter is circled?", "groundtruth": "r", **BLIND},
    {"task": "Counting Grid - Blank Grids",
     "prompt": "Count the rows and columns and answer with numbers in curly brackets. "
               "For example, rows={5} columns={6}",
     "groundtruth": "5,6", **BLIND},
    {"task": "Counting Grid - Word Grids",
     "prompt": "Count the rows and columns. Put your answer in (r, c).", "groundtruth": "4,4",
     **BLIND},
    {"task": "Olympic Counting - Circles", "prompt": "How many circles?", "groundtruth": "6",
     **BLIND}]},
    [box("12"), box("yes"), box("R"), THINK + "rows={5} columns={6}", box("(4, 5)"),
        THINK + "There are too many."],
    [0, 1, 1, 1, 0, "judge"], score=400 / 6, low=50,
        also={"mean of 8 tasks": 100 * (0 + 1 + 1 + .5 + 1) / 5})


def wm(problem, key, answer, k):
    return {"ID": problem, "split": "testmini", "knowledge concept": "k",
        "question": f"Question {k}?", "option": "A. 1;B. 2 ; C. 3; D. 4; E. No correct answer",
            "answer": answer, "image_path": PIC, "key": key, "question number": k,
                "knowledge concept description": "THE HINT"}


case("WeMath", "We-Math/We-Math", {("default", "testmini"): [
    # right, right, wrong: IG
    wm("2steps_1", "2steps_1", "A", 0), wm("2steps_1", "2steps_2", "B", 1), wm("2steps_1",
        "2steps_multi", "C", 2),
    # RM strict, CM loose
    wm("p2", "3steps_1", "A", 3), wm("p2", "3steps_2", "A", 4), wm("p2", "3steps_3", "A", 5),
        wm("p2", "3steps_multi", "E", 6)]},
    [box("A"), box("2"), box("D"), box("A"), box("B"), box("A"), box("No correct answer")], [1, 1,
        0, 1, 0, 1, 1], score=500 / 7, low=500 / 7,
    also={"S1": 80, "S2": 0, "S3": 100, "four-dimensional, strict": 25,
        "four-dimensional, loose": 75})
