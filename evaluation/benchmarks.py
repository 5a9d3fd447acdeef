r"""The 31 benchmarks of ZPPO (Appendix B.2) in one table, and the tiny world's three: where each
is, what a row asks, how it is scored.

    python eval.py --list                    # prints the table
    python eval.py MODEL --only AIME25 GPQA-D --limit 20

A row: name (the column of assets/paper_results.csv), title, family, scoring as the paper calls it,
expected rows, repositories (the first that loads), parts as CONFIG/SPLIT, the function that
makes questions of a data row (vision_rows.py, text_rows.py, video.py), the scorer (scorers.py,
ocrbench.py). What only some have stands below the table: a mean over groups, other numbers worth
printing, gates, and what the paper leaves open. Adding a benchmark is adding a row here and, if
need be, one function there. Loading is in loading.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

from evaluation import scorers as s
from evaluation import text_rows as t
from evaluation import video as v
from evaluation import vision_rows as r
from evaluation.ocrbench import meteor_note, ocr
from evaluation.rows import Item


@dataclass(frozen=True)
class Benchmark:
    name: str
    title: str
    family: str
    scoring: str
    rows: int  # that are expected, 0: not known
    repos: tuple
    parts: tuple  # (config, split); split "" is the only one there is
    items: Callable  # (row, Where) -> list of Item
    scorer: Callable
    mean: str = "micro"  # over questions, or "macro": over groups
    also: Callable = lambda pairs: {}  # [(Item, value)] -> {label: percent or None}
    note: str = ""
    closer: bool = True
    gated: bool = False


# ---- other numbers: what a benchmark may also be reported as -------------------------------------


def percent(values):
    """Mean in percent, None of nothing."""
    values = list(values)
    return 100 * sum(values) / len(values) if values else None


def groups(pairs, key=lambda item: item.group):
    """{group: values} of [(Item, value)]."""
    out = {}
    for item, value in pairs:
        out.setdefault(key(item), []).append(value)
    return out


def macro(label):
    return lambda pairs: {label: percent(percent(g) / 100 for g in groups(pairs).values())}


def each(pairs):
    return {name: percent(g) for name, g in sorted(groups(pairs).items())}


def charxiv(pairs):
    parts = each(pairs)
    both = [x for x in parts.values() if x is not None]
    return parts | {"mean of the two": sum(both) / 2 if len(both) == 2 else None}


def dynamath(pairs):
    seeds = groups(pairs, lambda item: item.meta["seed"])
    whole = [all(x == 1 for x in g) for g in seeds.values() if len(g) == 10]
    return {"worst case (all 10 variants)": percent(whole)}


WEMATH_STEPS = {
    "S1": ("2steps_1", "2steps_2", "3steps_1", "3steps_2", "3steps_3"),
    "S2": ("2steps_multi",),
    "S3": ("3steps_multi",),
}


def wemath(pairs):
    """Step accuracies and the four-dimensional score (CM + IG / 2) / problems, strict and loose;
    whole problems only.
    """
    out, problems = {}, {}
    for label, roles in WEMATH_STEPS.items():
        out[label] = percent(x for item, x in pairs if item.meta["role"] in roles)
    for item, x in pairs:
        # an ID may look like a role ("2steps_1"); a role tells two- from three-step
        role = item.meta["role"]
        problems.setdefault((role[0], item.meta["problem"]), {})[role] = x
    strict = loose = total = 0
    for (steps, _), got in problems.items():
        if len(got) != int(steps) + 1:
            continue
        right = got[f"{steps}steps_multi"]
        single = [x for role, x in got.items() if not role.endswith("multi")]
        gap = 0.5 if not right and all(single) else 0  # inadequate generalization counts half
        total += 1
        strict += (right and all(single)) or gap
        loose += (right and any(single)) or gap
    return out | {
        "four-dimensional, strict": 100 * strict / total if total else None,
        "four-dimensional, loose": 100 * loose / total if total else None,
    }


def mmvet(pairs):
    skills = sorted({c for item, _ in pairs for c in item.meta["capability"]})
    return {c: percent(x for item, x in pairs if c in item.meta["capability"]) for c in skills}


def redux(pairs):
    return {"ok rows only": percent(x for item, x in pairs if item.meta["error"] == "ok")}


def hle(pairs):
    return {"text only": percent(x for item, x in pairs if item.meta["text only"])}


def question_mean(pairs):
    return {"mean over questions": percent(x for _, x in pairs)}


def ocr_groups(pairs):
    return each(pairs) | {"weighted by rows (lmms-eval)": percent(x for _, x in pairs)}


# ---- the table -----------------------------------------------------------------------------------

MMLU_SUBJECTS = """abstract_algebra anatomy astronomy business_ethics clinical_knowledge
college_biology college_chemistry college_computer_science college_mathematics college_medicine
college_physics computer_security conceptual_physics econometrics electrical_engineering
elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics
high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
high_school_us_history high_school_world_history human_aging human_sexuality international_law
jurisprudence logical_fallacies machine_learning management marketing medical_genetics
miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory
professional_accounting professional_law professional_medicine professional_psychology
public_relations security_studies sociology us_foreign_policy virology world_religions""".split()
CEVAL_SUBJECTS = """computer_network operating_system computer_architecture college_programming
college_physics college_chemistry advanced_mathematics probability_and_statistics
discrete_mathematics electrical_engineer metrology_engineer high_school_mathematics
high_school_physics high_school_chemistry high_school_biology middle_school_mathematics
middle_school_biology middle_school_physics middle_school_chemistry veterinary_medicine
college_economics business_administration marxism mao_zedong_thought education_science
teacher_qualification high_school_politics high_school_geography middle_school_politics
middle_school_geography modern_chinese_history ideological_and_moral_cultivation logic law
chinese_language_and_literature art_studies professional_tour_guide legal_professional
high_school_chinese high_school_history middle_school_history civil_servant sports_science
plant_protection basic_medicine clinical_medicine urban_and_rural_planner accountant fire_engineer
environmental_impact_assessment_engineer tax_accountant physician""".split()
EJ, RJ, DET, OWN = "exact + judge", "rule + judge", "deterministic", "own judge"
TEST = (("default", "test"),)
TRAIN = (("default", "train"),)


def parts(names, split):
    """Config names -> ((config, split), ...)"""
    return tuple((name, split) for name in names)


def B(name, title, family, scoring, rows, repos, parts, items, scorer, **more):
    """A Benchmark; repos: names with blanks between."""
    return Benchmark(
        name, title, family, scoring, rows, tuple(repos.split()), parts, items, scorer, **more
    )


# fmt: off
TABLE = [
    B("AI2D", "AI2D", "vlm", EJ, 3088, "lmms-lab/ai2d lmms-lab-encoder/ai2d", TEST,
      r.ai2d, s.choice, note="the masked variant"),
    B("BabyV", "BabyVision", "vlm", EJ, 388, "UnipatAI/BabyVision", TRAIN,
      r.babyvision, s.coordinates, also=each),
    B("CharXiv", "CharXiv", "vlm", OWN, 1000, "princeton-nlp/CharXiv", (("default", "validation"),),
      r.charxiv, s.needs_judge, also=charxiv,
      note="over all 1,000 reasoning and 4,000 descriptive questions: the paper prints one number "
           "and not how it is merged"),
    B("DynaM", "DynaMath", "vlm", EJ, 5010, "DynaMath/DynaMath_Sample",
      tuple(("default", f"sample_variant{k}") for k in range(1, 11)),
      r.dynamath, s.dynamath, also=dynamath,
      note="average over 501 seeds x 10 variants; the paper does not say average or worst case"),
    B("EmbSp", "EmbSpatial", "vlm", EJ, 3640, "FlagEval/EmbSpatial-Bench", TEST,
      r.embspatial, s.choice, also=each),
    B("InfoVQA", "InfographicVQA", "vlm", DET, 2801, "lmms-lab/DocVQA lmms-lab-encoder/DocVQA",
      (("InfographicVQA", "validation"),), r.infographic, s.infographic,
      note="ANLS on validation; test has no public answers"),
    B("MVerse", "MathVerse", "vlm", EJ, 3940, "CaraJ/MathVerse-lmmseval",
      (("testmini", "testmini"),), r.mathverse, s.exact, also=each,
      note="the five versions, without Text Only"),
    B("MVision", "MathVision", "vlm", EJ, 3040, "MathLLMs/MathVision", TEST,
      r.mathvision, s.exact, note="test, not testmini"),
    B("MVista", "MathVista", "vlm", RJ, 1000, "AI4Math/MathVista", (("default", "testmini"),),
      r.mathvista, s.mathvista, note="testmini; test has no public answers"),
    B("MMMUPro", "MMMU-Pro", "vlm", EJ, 5190, "MMMU/MMMU_Pro",
      parts(("standard (10 options)", "standard (4 options)", "vision"), "test"),
      r.mmmu_pro, s.choice, mean="macro", also=each,
      note="mean of the three configs, which have equal size"),
    B("MM-Vet", "MM-Vet", "vlm", OWN, 218, "lmms-lab/MMVet lmms-lab-encoder/MMVet", TEST,
      r.mmvet, s.needs_judge, also=mmvet,
      note="the judge gives 0.0 to 1.0 in tenths; one judge run"),
    B("OCREN", "OCRBench v2 English", "vlm", DET, 7400, "ling99/OCRBench_v2", TEST,
      r.ocrbench("en"), ocr, mean="macro", also=ocr_groups,
      note="mean of the 8 group means, as the official script"),
    B("OCRZH", "OCRBench v2 Chinese", "vlm", DET, 2600, "ling99/OCRBench_v2", TEST,
      r.ocrbench("cn"), ocr, mean="macro", also=ocr_groups,
      note="mean of the 5 group means, as the official script"),
    B("VisP", "VisualPuzzles", "vlm", EJ, 1168, "neulab/VisualPuzzles", (("default", ""),),
      r.visualpuzzles, s.choice, also=each),
    B("VBlind", "VLMs-are-Blind", "vlm", EJ, 8016, "XAI/vlmsareblind", (("default", "valid"),),
      r.vlmsareblind, s.blind, also=macro("mean of 8 tasks"),
      note="over all rows (micro); the paper does not say micro or macro; "
           "revisions differ in size"),
    B("WeMath", "WeMath", "vlm", EJ, 1740, "We-Math/We-Math", (("default", "testmini"),),
      r.wemath, s.choice, also=wemath,
      note="plain accuracy; the paper does not say which of three We-Math scores"),
    B("AIME25", "AIME25", "llm", EJ, 30, "opencompass/AIME2025",
      parts(("AIME2025-I", "AIME2025-II"), "test"), t.aime25, s.aime,
      note="one sample a problem: 1 problem is 3.3 points"),
    B("AIME26", "AIME26", "llm", EJ, 30, "MathArena/aime_2026", TRAIN, t.aime26, s.aime,
      note="one sample a problem: 1 problem is 3.3 points"),
    B("CEval", "C-Eval", "llm", EJ, 1346, "ceval/ceval-exam", parts(CEVAL_SUBJECTS, "val"),
      t.ceval, s.choice, mean="macro", also=question_mean,
      note="val; mean over 52 subjects, as the official script"),
    B("GPQA-D", "GPQA-Diamond", "llm", EJ, 198, "Idavidrein/gpqa", (("gpqa_diamond", "train"),),
      t.gpqa, s.choice, gated=True, note="options shuffled by a hash of the question"),
    B("HLE", "HLE", "llm", OWN, 2500, "cais/hle", TEST, t.hle, s.needs_judge, also=hle, gated=True,
      note="all 2,500; the paper does not say whether text only"),
    B("IMO-AB", "IMO-AnswerBench", "llm", EJ, 400, "OpenEvals/IMO-AnswerBench", TRAIN,
      t.imo, s.exact, also=each, note="defects of version 2 repaired"),
    B("MMLU", "MMLU", "llm", EJ, 14042, "cais/mmlu", (("all", "test"),), t.mmlu, s.choice,
      also=macro("mean of 57 subjects")),
    B("MMLU-Pro", "MMLU-Pro", "llm", EJ, 12032, "TIGER-Lab/MMLU-Pro", TEST, t.mmlu_pro, s.choice,
      also=macro("mean of 14 categories"),
      note="zero-shot; no letter found goes to the judge, never to a guess"),
    B("MMLU-Rd", "MMLU-Redux", "llm", EJ, 5700, "edinburgh-dawg/mmlu-redux-2.0",
      parts(MMLU_SUBJECTS, "test"), t.mmlu_redux, s.choice, also=redux,
      note="ok rows and repaired keys; other faulty rows are dropped, n says how many are left"),
    B("MultiCh", "MultiChallenge", "llm", OWN, 266, "ScaleAI/MultiChallenge", TEST,
      t.multichallenge, s.needs_judge, mean="macro", closer=False,
      also=lambda pairs: each(pairs) | question_mean(pairs),
      note="mean of the four axes, one attempt; the conversation goes in unchanged, "
           "without the closer"),
    B("MMVU", "MMVU", "video", OWN, 1000, "yale-nlp/MMVU lmms-eval/MMVU",
      (("default", "validation"),), v.mmvu, s.needs_judge, also=each),
    B("MVBench", "MVBench", "video", RJ, 4000, "OpenGVLab/MVBench", parts(v.MVBENCH, "train"),
      v.mvbench, s.choice, gated=True,
      also=lambda pairs: macro(f"mean of {len(groups(pairs))} tasks")(pairs),
      note="fine_grained_pose is left out where its videos are missing "
           "(they may not be distributed)"),
    B("VMME", "Video-MME", "video", RJ, 2700, "lmms-lab/Video-MME lmms-eval/Video-MME",
      (("videomme", "test"),), v.videomme(False), s.choice, also=each),
    B("VMMES", "Video-MME with subtitles", "video", RJ, 2700,
      "lmms-lab/Video-MME lmms-eval/Video-MME", (("videomme", "test"),),
      v.videomme(True), s.choice, also=each,
      note="lines at sampled frames, each once; all 2,700 rows, also those without subtitles"),
    B("VMMMU", "Video-MMMU", "video", RJ, 900, "lmms-lab/VideoMMMU lmms-eval/VideoMMMU",
      parts(("Perception", "Comprehension", "Adaptation"), "test"),
      v.videommmu, s.videommmu, mean="macro", also=each, gated=True,
      note="mean of the three tracks"),
]
# fmt: on


def tiny_items(row, where):
    media = {"images": row.images, "video": row.video}
    return [Item(row.id, row.question, row.answer, group=row.source, **media)]


def tiny(name, title, split):
    where = (("tiny", split),)
    return B(
        name, title, "tiny", "training reward", 0, "", where, tiny_items, s.training, also=each
    )


TINY = [
    tiny("image", "tiny world, new images", "heldout"),
    tiny("text", "tiny world, as text", "heldout_text"),
    tiny("video", "tiny world, as video", "heldout_video"),
]


# ---- names, remarks, the list --------------------------------------------------------------------


def find(names, table=TABLE):
    """Benchmarks by name or title, case aside; all of the table for no names. Raises ValueError
    that lists the names.
    """
    if not names:
        return list(table)
    by = {key.lower(): b for b in table for key in (b.name, b.title)}
    unknown = [n for n in names if n.lower() not in by]
    if unknown:
        there = ", ".join(b.name for b in table)
        raise ValueError(f"no benchmark is called {', '.join(unknown)}; there are {there}")
    return [b for b in table if b in [by[n.lower()] for n in names]]


def remarks(bench, items, limited=False):
    """What a reader of the number should know about the data that were found."""
    out = []
    n = len(items)
    if bench.name == "CharXiv":  # five questions a figure
        n = len({i.id.removesuffix("-r").rsplit("-d", 1)[0] for i in items})
    if bench.rows and n != bench.rows and not limited:
        out.append(f"{n} rows, {bench.rows} expected")
    if bench.scorer is ocr:
        out.append(meteor_note())
    if bench.name == "MVBench" and not limited:
        out.append(f"{len({i.group for i in items})} of 20 tasks")
    if bench.name == "IMO-AB":
        probe = [i.gold for i in items if i.id.endswith("combinatorics-005")]
        if probe:
            out.append(f"version {'2' if probe[0] == '1431655764' else '1'} of the data")
    return out


def listing(table=TABLE):
    """The table as text. Its first column is what --only takes."""
    line = "{:10s} {:24s} {:6s} {:>6} {:15s} {:58s} {}"
    lines = [line.format("--only", "title", "family", "rows", "scoring", "data", "note")]
    for b in table:
        configs, splits = {c for c, _ in b.parts}, {p for _, p in b.parts}
        config = b.parts[0][0] if len(configs) == 1 else f"{len(b.parts)} configs"
        split = b.parts[0][1] or "the only split"
        split = split if len(splits) == 1 else f"{len(b.parts)} splits"
        parts = ", ".join(x for x in (config, split) if x != "default")
        data = f"{b.repos[0]} ({parts})" if b.repos else parts
        note = "; ".join(x for x in ("gated" if b.gated else "", b.note) if x)
        cells = b.name, b.title, b.family, b.rows or "", b.scoring, data, note
        lines.append(line.format(*cells).rstrip())
    return "\n".join(lines)
