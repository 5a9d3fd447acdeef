r"""The 31 benchmarks of ZPPO (Appendix B.2) in one table, and the tiny world's three: where each
is, what a row asks, how it is scored.

    python eval.py --list                    # prints the table
    python eval.py MODEL --only AIME25 GPQA-D --limit 20

A row's fields, in order: name (the column of assets/paper_results.csv), title, family, repositories
(the first that loads), parts (config, split), row -> questions (rows.py, video.py), scoring as the
paper calls it, scorer (scorers.py, ocrbench.py), mean ("micro" over questions, "macro" over
groups), other numbers worth printing, expected rows, and a note on what the paper leaves open.
Adding a benchmark is adding a row here and, if need be, one function there.

Data come from the hub through `datasets`, or from `--data DIR`: DIR/owner/repo is either a clone of
the hub's repository or a folder with CONFIG/SPLIT.parquet (.jsonl, .json, .csv; no CONFIG folder
for the default one). Gated sets (GPQA, HLE, MVBench, Video-MMMU) need an accepted licence and a
login; what is missing costs one line and the others go on.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation import rows as r
from evaluation import scorers as s
from evaluation import video as v
from evaluation.ocrbench import meteor_note, ocr
from evaluation.rows import Item, Where

HUB = "https://huggingface.co/datasets/"


@dataclass(frozen=True)
class Benchmark:
    name: str
    title: str
    family: str
    repos: tuple
    parts: tuple  # (config, split); split "" is the only one there is
    items: Callable  # (row, Where) -> list of Item
    scoring: str
    scorer: Callable
    mean: str = "micro"
    also: Callable = lambda pairs: {}  # [(Item, value)] -> {label: percent or None}
    rows: int = 0
    note: str = ""
    closer: bool = True
    gated: bool = False


class Unavailable(ValueError):
    """A benchmark that cannot run here; the message is the one line that says what to do."""


# ---- other numbers: what a benchmark may also be reported as -------------------------------------


def percent(values):
    values = list(values)
    return 100 * sum(values) / len(values) if values else None


def groups(pairs, key=lambda item: item.group):
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


def wemath(pairs):
    """Step accuracies and the four-dimensional score (CM + IG / 2) / problems, strict and loose;
    whole problems only.
    """
    out = {
        label: percent(x for item, x in pairs if item.meta["role"] in roles)
        for label, roles in {
            "S1": ("2steps_1", "2steps_2", "3steps_1", "3steps_2", "3steps_3"),
            "S2": ("2steps_multi",),
            "S3": ("3steps_multi",),
        }.items()
    }
    problems = {}
    for (
        item,
        x,
    ) in pairs:  # an ID may look like a role ("2steps_1"); a role tells two- from three-step
        problems.setdefault((item.meta["role"][0], item.meta["problem"]), {})[item.meta["role"]] = x
    strict = loose = total = 0
    for (steps, _), got in problems.items():
        if len(got) != int(steps) + 1:
            continue
        right, single = (
            got[f"{steps}steps_multi"],
            [x for role, x in got.items() if not role.endswith("multi")],
        )
        total += 1
        gap = 0.5 * (not right and all(single))  # inadequate generalization counts half
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


def question_mean(label="mean over questions"):
    return lambda pairs: {label: percent(x for _, x in pairs)}


def ocr_groups(pairs):
    return each(pairs) | question_mean("weighted by rows (lmms-eval)")(pairs)


# ---- the table -----------------------------------------------------------------------------------

EJ, RJ, DET, OWN = "exact + judge", "rule + judge", "deterministic", "own judge"
DEFAULT = (("default", "test"),)
MMLU_SUBJECTS = """abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics econometrics
electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography high_school_government_and_politics
high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology
high_school_statistics high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition
philosophy prehistory professional_accounting professional_law professional_medicine professional_psychology public_relations
security_studies sociology us_foreign_policy virology world_religions""".split()
CEVAL_SUBJECTS = """computer_network operating_system computer_architecture college_programming college_physics college_chemistry
advanced_mathematics probability_and_statistics discrete_mathematics electrical_engineer metrology_engineer high_school_mathematics
high_school_physics high_school_chemistry high_school_biology middle_school_mathematics middle_school_biology middle_school_physics
middle_school_chemistry veterinary_medicine college_economics business_administration marxism mao_zedong_thought education_science
teacher_qualification high_school_politics high_school_geography middle_school_politics middle_school_geography modern_chinese_history
ideological_and_moral_cultivation logic law chinese_language_and_literature art_studies professional_tour_guide legal_professional
high_school_chinese high_school_history middle_school_history civil_servant sports_science plant_protection basic_medicine
clinical_medicine urban_and_rural_planner accountant fire_engineer environmental_impact_assessment_engineer tax_accountant
physician""".split()

B = Benchmark
TABLE = [
    B(
        "AI2D",
        "AI2D",
        "vlm",
        ("lmms-lab/ai2d", "lmms-lab-encoder/ai2d"),
        DEFAULT,
        r.ai2d,
        EJ,
        s.choice,
        rows=3088,
        note="the masked variant",
    ),
    B(
        "BabyV",
        "BabyVision",
        "vlm",
        ("UnipatAI/BabyVision",),
        (("default", "train"),),
        r.babyvision,
        EJ,
        s.coordinates,
        rows=388,
        also=each,
    ),
    B(
        "CharXiv",
        "CharXiv",
        "vlm",
        ("princeton-nlp/CharXiv",),
        (("default", "validation"),),
        r.charxiv,
        OWN,
        s.needs_judge,
        rows=1000,
        also=charxiv,
        note="over all 1,000 reasoning and 4,000 descriptive questions: the paper prints one number and not how it is merged",
    ),
    B(
        "DynaM",
        "DynaMath",
        "vlm",
        ("DynaMath/DynaMath_Sample",),
        tuple(("default", f"sample_variant{k}") for k in range(1, 11)),
        r.dynamath,
        EJ,
        s.dynamath,
        rows=5010,
        also=dynamath,
        note="average over 501 seeds x 10 variants; the paper does not say average or worst case",
    ),
    B(
        "EmbSp",
        "EmbSpatial",
        "vlm",
        ("FlagEval/EmbSpatial-Bench",),
        DEFAULT,
        r.embspatial,
        EJ,
        s.choice,
        rows=3640,
        also=each,
    ),
    B(
        "InfoVQA",
        "InfographicVQA",
        "vlm",
        ("lmms-lab/DocVQA", "lmms-lab-encoder/DocVQA"),
        (("InfographicVQA", "validation"),),
        r.infographic,
        DET,
        s.infographic,
        rows=2801,
        note="ANLS on validation; test has no public answers",
    ),
    B(
        "MVerse",
        "MathVerse",
        "vlm",
        ("CaraJ/MathVerse-lmmseval",),
        (("testmini", "testmini"),),
        r.mathverse,
        EJ,
        s.exact,
        rows=3940,
        also=each,
        note="the five versions, without Text Only",
    ),
    B(
        "MVision",
        "MathVision",
        "vlm",
        ("MathLLMs/MathVision",),
        DEFAULT,
        r.mathvision,
        EJ,
        s.exact,
        rows=3040,
        note="test, not testmini",
    ),
    B(
        "MVista",
        "MathVista",
        "vlm",
        ("AI4Math/MathVista",),
        (("default", "testmini"),),
        r.mathvista,
        RJ,
        s.mathvista,
        rows=1000,
        note="testmini; test has no public answers",
    ),
    B(
        "MMMUPro",
        "MMMU-Pro",
        "vlm",
        ("MMMU/MMMU_Pro",),
        tuple((c, "test") for c in ("standard (10 options)", "standard (4 options)", "vision")),
        r.mmmu_pro,
        EJ,
        s.choice,
        mean="macro",
        rows=5190,
        also=each,
        note="mean of the three configs, which have equal size",
    ),
    B(
        "MM-Vet",
        "MM-Vet",
        "vlm",
        ("lmms-lab/MMVet", "lmms-lab-encoder/MMVet"),
        DEFAULT,
        r.mmvet,
        OWN,
        s.needs_judge,
        rows=218,
        also=mmvet,
        note="the judge gives 0.0 to 1.0 in tenths; one judge run",
    ),
    B(
        "OCREN",
        "OCRBench v2 English",
        "vlm",
        ("ling99/OCRBench_v2",),
        DEFAULT,
        r.ocrbench("en"),
        DET,
        ocr,
        mean="macro",
        also=ocr_groups,
        note="mean of the 8 group means, as the official script",
    ),
    B(
        "OCRZH",
        "OCRBench v2 Chinese",
        "vlm",
        ("ling99/OCRBench_v2",),
        DEFAULT,
        r.ocrbench("cn"),
        DET,
        ocr,
        mean="macro",
        also=ocr_groups,
        note="mean of the 5 group means, as the official script",
    ),
    B(
        "VisP",
        "VisualPuzzles",
        "vlm",
        ("neulab/VisualPuzzles",),
        (("default", ""),),
        r.visualpuzzles,
        EJ,
        s.choice,
        rows=1168,
        also=each,
    ),
    B(
        "VBlind",
        "VLMs-are-Blind",
        "vlm",
        ("XAI/vlmsareblind",),
        (("default", "valid"),),
        r.vlmsareblind,
        EJ,
        s.blind,
        rows=8016,
        also=macro("mean of 8 tasks"),
        note="over all rows (micro); the paper does not say micro or macro; revisions differ in size",
    ),
    B(
        "WeMath",
        "WeMath",
        "vlm",
        ("We-Math/We-Math",),
        (("default", "testmini"),),
        r.wemath,
        EJ,
        s.choice,
        rows=1740,
        also=wemath,
        note="plain accuracy; the paper does not say which of three We-Math scores",
    ),
    B(
        "AIME25",
        "AIME25",
        "llm",
        ("opencompass/AIME2025",),
        (("AIME2025-I", "test"), ("AIME2025-II", "test")),
        r.aime25,
        EJ,
        s.aime,
        rows=30,
        note="one sample a problem: 1 problem is 3.3 points",
    ),
    B(
        "AIME26",
        "AIME26",
        "llm",
        ("MathArena/aime_2026",),
        (("default", "train"),),
        r.aime26,
        EJ,
        s.aime,
        rows=30,
        note="one sample a problem: 1 problem is 3.3 points",
    ),
    B(
        "CEval",
        "C-Eval",
        "llm",
        ("ceval/ceval-exam",),
        tuple((c, "val") for c in CEVAL_SUBJECTS),
        r.ceval,
        EJ,
        s.choice,
        mean="macro",
        rows=1346,
        also=question_mean(),
        note="val; mean over 52 subjects, as the official script",
    ),
    B(
        "GPQA-D",
        "GPQA-Diamond",
        "llm",
        ("Idavidrein/gpqa",),
        (("gpqa_diamond", "train"),),
        r.gpqa,
        EJ,
        s.choice,
        rows=198,
        gated=True,
        note="options shuffled by a hash of the question",
    ),
    B(
        "HLE",
        "HLE",
        "llm",
        ("cais/hle",),
        DEFAULT,
        r.hle,
        OWN,
        s.needs_judge,
        rows=2500,
        also=hle,
        gated=True,
        note="all 2,500; the paper does not say whether text only",
    ),
    B(
        "IMO-AB",
        "IMO-AnswerBench",
        "llm",
        ("OpenEvals/IMO-AnswerBench",),
        (("default", "train"),),
        r.imo,
        EJ,
        s.exact,
        rows=400,
        also=each,
        note="defects of version 2 repaired",
    ),
    B(
        "MMLU",
        "MMLU",
        "llm",
        ("cais/mmlu",),
        (("all", "test"),),
        r.mmlu,
        EJ,
        s.choice,
        rows=14042,
        also=macro("mean of 57 subjects"),
    ),
    B(
        "MMLU-Pro",
        "MMLU-Pro",
        "llm",
        ("TIGER-Lab/MMLU-Pro",),
        DEFAULT,
        r.mmlu_pro,
        EJ,
        s.choice,
        rows=12032,
        also=macro("mean of 14 categories"),
        note="zero-shot; no letter found goes to the judge, never to a guess",
    ),
    B(
        "MMLU-Rd",
        "MMLU-Redux",
        "llm",
        ("edinburgh-dawg/mmlu-redux-2.0",),
        tuple((c, "test") for c in MMLU_SUBJECTS),
        r.mmlu_redux,
        EJ,
        s.choice,
        rows=5700,
        also=redux,
        note="ok rows and repaired keys; other faulty rows are dropped, n says how many are left",
    ),
    B(
        "MultiCh",
        "MultiChallenge",
        "llm",
        ("ScaleAI/MultiChallenge",),
        DEFAULT,
        r.multichallenge,
        OWN,
        s.needs_judge,
        mean="macro",
        rows=266,
        also=lambda pairs: each(pairs) | question_mean()(pairs),
        closer=False,
        note="mean of the four axes, one attempt; the conversation goes in unchanged, without the closer",
    ),
    B(
        "MMVU",
        "MMVU",
        "video",
        ("yale-nlp/MMVU", "lmms-eval/MMVU"),
        (("default", "validation"),),
        v.mmvu,
        OWN,
        s.needs_judge,
        rows=1000,
        also=each,
    ),
    B(
        "MVBench",
        "MVBench",
        "video",
        ("OpenGVLab/MVBench",),
        tuple((t, "train") for t in v.MVBENCH),
        v.mvbench,
        RJ,
        s.choice,
        rows=4000,
        also=lambda pairs: macro(f"mean of {len(groups(pairs))} tasks")(pairs),
        gated=True,
        note="fine_grained_pose is left out where its videos are missing (they may not be distributed)",
    ),
    B(
        "VMME",
        "Video-MME",
        "video",
        ("lmms-lab/Video-MME", "lmms-eval/Video-MME"),
        (("videomme", "test"),),
        v.videomme(False),
        RJ,
        s.choice,
        rows=2700,
        also=each,
    ),
    B(
        "VMMES",
        "Video-MME with subtitles",
        "video",
        ("lmms-lab/Video-MME", "lmms-eval/Video-MME"),
        (("videomme", "test"),),
        v.videomme(True),
        RJ,
        s.choice,
        rows=2700,
        also=each,
        note="lines at sampled frames, each once; all 2,700 rows, also those without subtitles",
    ),
    B(
        "VMMMU",
        "Video-MMMU",
        "video",
        ("lmms-lab/VideoMMMU", "lmms-eval/VideoMMMU"),
        tuple((t, "test") for t in ("Perception", "Comprehension", "Adaptation")),
        v.videommmu,
        RJ,
        s.videommmu,
        mean="macro",
        rows=900,
        also=each,
        gated=True,
        note="mean of the three tracks",
    ),
]


def tiny_items(row, where):
    return [
        Item(row.id, row.question, row.answer, images=row.images, video=row.video, group=row.source)
    ]


TINY = [
    B(
        name,
        title,
        "tiny",
        (),
        (("tiny", split),),
        tiny_items,
        "training reward",
        s.training,
        also=each,
    )
    for name, title, split in (
        ("image", "tiny world, new images", "heldout"),
        ("text", "tiny world, as text", "heldout_text"),
        ("video", "tiny world, as video", "heldout_video"),
    )
]


def find(names, table=TABLE):
    """Benchmarks by name or title, case aside; all of the table for no names. Raises ValueError
    that lists the names.
    """
    if not names:
        return list(table)
    by = {key.lower(): b for b in table for key in (b.name, b.title)}
    unknown = [n for n in names if n.lower() not in by]
    if unknown:
        raise ValueError(
            f"no benchmark is called {', '.join(unknown)}; there are {', '.join(b.name for b in table)}"
        )
    return [b for b in table if b in [by[n.lower()] for n in names]]


# ---- loading -------------------------------------------------------------------------------------


class Questions:
    """The Items of a benchmark, made while iterating and with images undecoded; its length is the
    number of data rows.

    data: folder of local copies; limit: evenly spaced data rows (several sets are sorted by
    difficulty or subject), 0 for all; source: another repository, "owner/repo" or
    "owner/repo@revision". Raises Unavailable.
    """

    def __init__(self, bench, data, limit=0, source=None):
        self.bench = bench
        if bench.family == "tiny":
            import tiny

            self.parts = [
                ("tiny", split, tiny.questions(split), Path()) for _, split in bench.parts
            ]
        else:
            self.parts = open_parts(bench, data, source)
        self.at = [(p, i) for p, part in enumerate(self.parts) for i in range(len(part[2]))]
        if limit and limit < len(self.at):
            self.at = [self.at[k * len(self.at) // limit] for k in range(limit)]

    def __len__(self):
        return len(self.at)

    def __iter__(self):
        for items in self.by_row():
            yield from items

    def by_row(self):
        """The list of Items of each data row."""
        seen = set()
        for p, i in self.at:
            config, split, table, root = self.parts[p]
            try:
                items = self.bench.items(table[i], Where(config, split, i, root))
            except (KeyError, ValueError, TypeError, IndexError, SyntaxError) as e:
                raise Unavailable(
                    f"{self.bench.name}: row {i} of {config}/{split} is not as expected ({type(e).__name__}: {e}); "
                    f"did the data set change?"
                ) from e
            for item in items:
                if item.id in seen:
                    raise Unavailable(
                        f"{self.bench.name}: the id {item.id!r} stands twice in its data; is this the right data set?"
                    )
                seen.add(item.id)
            yield items


# a hub that does not answer is tried once, not for 31 data sets with five retries each
UNREACHED = []


def open_parts(bench, data, source=None):
    """[(config, split, datasets.Dataset, folder of the local copy)] from the first repository that
    loads.
    """
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # its retries would bury our one line
    why = ""
    for repo in (source,) if source else bench.repos:
        repo, _, revision = repo.partition("@")
        root = Path(data) / repo
        if bench.family == "video" and not root.is_dir():
            why = why or f"its videos are not on this disk: unpack {HUB}{repo} into {root}"
            continue
        try:
            parts = [
                (config, *one_part(datasets, root, repo, config, split, revision), root)
                for config, split in bench.parts
            ]
        except (
            OSError,
            ValueError,
            KeyError,
        ) as e:  # datasets raises all of these, by cause and version
            why = why or reason(bench, repo, root, e)
            continue
        return [
            (config, split, undecoded(datasets, table), root)
            for config, split, table, root in parts
        ]
    raise Unavailable(f"{bench.name}: {why}")


def one_part(datasets, root, repo, config, split, revision):
    """(split name, Dataset). A local copy wins over the hub; a folder with videos alone is no copy
    of the questions.
    """
    name, files = None if config == "default" else config, []
    if (root / "README.md").is_file():
        loaded = datasets.load_dataset(str(root), name, split=split or None)
    elif files := local_files(root, None if config == "default" else config, split):
        kind = {"jsonl": "json"}.get(files[0].suffix[1:], files[0].suffix[1:])
        loaded = datasets.load_dataset(
            kind, data_files={split or files[0].stem: list(map(str, files))}, split=split or None
        )
    elif UNREACHED:
        raise ValueError(f"Couldn't reach the hub for {UNREACHED[0]} either")
    else:
        try:
            loaded = datasets.load_dataset(
                repo, name, revision=revision or None, split=split or None
            )
        except ConnectionError:
            UNREACHED.append(repo)
            raise
    if not split:
        if len(loaded) != 1:
            raise ValueError(f"expected one split, found {', '.join(loaded)}")
        split, loaded = next(iter(loaded.items()))
    return split, loaded


def local_files(root, config, split):
    """Files of one config and split in a folder: CONFIG/SPLIT*, CONFIG* (one file a config), or
    SPLIT* for the default config.
    """
    folders = (
        [(f"{config}", split), ("json", config), ("", config)]
        if config
        else [("", split), ("data", split)]
    )
    for folder, name in folders:
        # the whole name, or NAME-00000-of-00002: sample_variant1 is not sample_variant10
        pattern = re.compile(rf"{re.escape(name) if name else 'train|test'}(?!\w)", re.I)
        for ext in ("parquet", "jsonl", "json", "csv"):
            found = sorted(f for f in (root / folder).glob(f"*.{ext}") if pattern.match(f.name))
            if found:
                return found
    return []


def undecoded(datasets, table):
    """Images stay bytes until a prompt is made: a table of 10,000 pictures must not be decoded to
    read its ids.
    """
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


def reason(bench, repo, root, error):
    text = " ".join(str(error).split())[:160]
    accept = (
        f"accept its terms at {HUB}{repo} and log in"
        if bench.gated or "gated" in text.lower()
        else f"see {HUB}{repo}"
    )
    return f"its data do not load ({text}); {accept}, or put a copy into {root}"


def remarks(bench, items):
    """What a reader of the number should know about the data that were found."""
    out = []
    n = (
        len({i.id.removesuffix("-r").rsplit("-d", 1)[0] for i in items})
        if bench.name == "CharXiv"
        else len(items)
    )
    if bench.rows and n != bench.rows:
        out.append(f"{n} rows, {bench.rows} expected")
    if bench.scorer is ocr:
        out.append(meteor_note())
    if bench.name == "MVBench":
        out.append(f"{len({i.group for i in items})} of 20 tasks")
    if bench.name == "IMO-AB" and (
        probe := [i.gold for i in items if i.id.endswith("combinatorics-005")]
    ):
        out.append(f"version {'2' if probe[0] == '1431655764' else '1'} of the data")
    return out


def listing(table=TABLE):
    lines = [f"{'name':10s} {'family':6s} {'rows':>6s}  {'scoring':15s} {'data':58s} note"]
    for b in table:
        config = b.parts[0][0] if len({c for c, _ in b.parts}) == 1 else f"{len(b.parts)} configs"
        split = (
            b.parts[0][1] or "the only split"
            if len({p for _, p in b.parts}) == 1
            else f"{len(b.parts)} splits"
        )
        where = f"{b.repos[0]} ({', '.join(x for x in (config, split) if x != 'default')})"
        lines.append(
            f"{b.name:10s} {b.family:6s} {b.rows or '':>6}  {b.scoring:15s} {where:58s} {'gated; ' * b.gated}{b.note}".rstrip()
        )
    return "\n".join(lines)
