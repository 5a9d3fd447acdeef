"""The two public sources of ZPPO-77K: their names, their schemas with all oddities, and which of
their rows belong in the corpus.

build.py samples and writes; here a row of Vero-600k or of MMFineReason becomes (question, accepted
answers), its image becomes bytes, or it is dropped for a reason that is counted. Cheap filters
(kind of reward, pass rate, texts) come first; `examine` holds the expensive ones (decode the image,
count the tokens of the plain prompt).

What is known of the sources, and what is a guess, stands beside the names. Both are read by
`datasets` with streaming, from the hub or from a local copy: Vero as one config per sub-set (of a
README's list, or just folders of Parquet), MMFineReason as one mixed stream with a `source` column.
Nothing a row holds is run, followed or trusted: golds that are lists go through ast.literal_eval,
image paths must stay inside the copy's folder, sizes are checked before anything is decoded.
"""

import ast
import io
import math
import re
from collections import Counter
from pathlib import Path

from PIL import Image

from data import HIDDEN, Question, check_pictures
from pictures import FORMATS, MAX_BYTES, MAX_PIXELS
from reward import grade
from runtime.rows import BadRow, unwrapped

# Vero also stands under gsarch/Vero-600k, which its own download script names. Pin either with
# @REVISION.
VERO = "zlab-princeton/Vero-600k"
MMFR = "OpenDataArena/MMFineReason-SFT-586K-Qwen3-VL-235B-Thinking"
CAPS = {1: 2800, 2: 1400}
PAPER_TOTAL = 77_000  # "about"
MAX_ANSWER = 512  # characters
MIN_SIDE = 100  # pixels
MAX_PROMPT = 4096  # tokens of the plain prompt: image, question and closer, in the chat template
MAX_CHARS = 32_768  # of a question; longer ones are no 4,096 tokens, and not tokenized to see
MAX_PASS_RATE = 0.5
MARKS = re.compile("[\u061c\u200e\u200f\ufeff]")  # invisible direction marks, byte order mark
# reward types that compare one short answer
USABLE = "string_match multiple_choice numeric counting search list_string_match".split()
# the loaders and the card disagree on the name
RATE_COLUMNS = ("pass_rate", "qwen3vl_4b_pass_rate")
EXTENSION = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}  # others are named as their format
# Golds with other words than these are free-form. Two-letter runs beside digits or operators are
# products of variables, unless they are English.
FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan log ln exp sqrt lim max min mod pi or and"
UNITS = (
    "mm cm dm km ft yd mi kg mg lb oz ml mL kL sec min hr mph kph kmh Hz kHz Pa kPa kJ kW kWh mol "
    "rad deg am pm meter meters degree degrees"
)
ENGLISH = "of to in is at on by an no so it if as us we he me my up go do be ok"
LETTERS = r"\(?[A-Za-z\u0370-\u03ff]\)?[.:]?|[A-J]{2,6}"  # an option, a variable, several options
EXACT_RULE = (
    "free_form (a judge decides what exact matching leaves open): golds that are neither option "
    "letters nor a number, with or without a unit, nor a formula, which is text without words "
    "outside LaTeX commands, function names and units"
)

# Canonical name: (tier, Vero configs). Names of configs are compared without case and punctuation.
# All stem-, counting- and chart_ocr- names occur in public code that reads Vero, except
# chartqa_difficulty; of the knowledge_ ones only iconqa does, the others are the sources' names
# with the prefix. The build reports a name that is not there, and every config that we don't know.
_K, _C, _O = "knowledge_recognition-", "counting_grounding_search-", "chart_ocr-"
VERO_PLAN = {
    "ai2d": (1, ["stem-ai2d_merged"]),
    "geo170k": (1, ["stem-geo170k"]),
    "geomverse": (1, ["stem-geomverse"]),
    "geoqa_plus": (1, ["stem-geoqa_plus"]),
    "mmk12": (1, ["stem-mmk12"]),
    "cosyn_math": (1, ["stem-CoSyn_400k_math"]),
    "cosyn_chart": (1, [_O + "CoSyn_400k_chart"]),
    "cosyn_diagram": (1, [_O + "CoSyn_400k_diagram"]),
    "cosyn_table": (1, [_O + "CoSyn_400k_table"]),
    "wemath": (1, ["stem-wemath20_pro", "stem-wemath20_standard"]),
    "tqa": (1, ["stem-tqa"]),
    "visualwebinstruct": (1, ["stem-visualwebinstruct"]),
    "chartqa": (1, [_O + "chartqa_difficulty"]),
    "arxivqa": (1, [_O + "arxivqa_formatted"]),
    "reachqa": (1, [_O + "reachqa"]),
    "ecd_vqa": (1, [_O + "ecd_vqa"]),  # our guess, see build.py
    "pathvqa": (2, ["stem-pathvqa"]),
    "vqarad": (2, ["stem-vqarad"]),
    "raven": (2, ["stem-raven"]),
    "evochart": (2, [_O + "evochart"]),
    "infographic_vqa": (2, [_O + "infographic_vqa"]),
    "aokvqa": (2, [_K + "aokvqa"]),
    "gqa": (2, [_K + "gqa"]),
    "iconqa": (2, [_K + "iconqa"]),
    "vqav2": (2, [_K + "vqav2"]),
    "visual7w": (2, [_K + "visual7w"]),
    "tallyqa": (2, [_C + "tallyqa"]),
    "pixelreasoner": (2, [_C + "pixelreasoner"]),
    "multihop": (2, [_C + "multihop"]),
    "pixmo": (2, [_C + "pixmo"]),
    "visual_probe": (2, [_C + "visual_probe"]),
}
VERO_UNUSED = [
    *(_C + s for s in "aerialvg groundui objects365_qa oodvqa osatlas refcocog".split()),
    *(_K + s for s in "indoor_qa kvg kvqa popvqa vcrqa viquae vizwiz".split()),
    *("spatial_action-" + s for s in "game_QA magma_aitw magma_mind2web robo2vlm".split()),
    *("spatial_action-" + s for s in "spatial_ssrl stvqa".split()),
    *("spatial_action-" + s for s in "visual_jigsaw_2d visual_jigsaw_3d".split()),
    *("captioning_IF-" + s for s in "PixMo-AskAnything PixMo-CapQA PixMo-Cap".split()),
    *("captioning_IF-" + s for s in "MM-RLVR-IFEval MMIF-23K Flickr30K".split()),
]

# MMFineReason's `source`: (canonical name, tier), or None where the paper does not use it.
MMFR_PLAN = {
    "MMR1": ("mmr1", 1),
    "Euclid30K": ("euclid", 1),
    "FineVision-geo170k(qa)": ("geo170k", 1),
    "FineVision-geometry3k(mathv360k)": ("geometry3k", 1),
    "mmopenr1-8k": ("mm_openr1", 1),
    "WeMath2-Pro": ("wemath", 1),
    "WeMath2-Standard": ("wemath", 1),
    "WeMath2-SFT": ("wemath", 1),
    "FineVision-visualwebinstruct(filtered)": ("visualwebinstruct", 1),
    "BMMR": ("bmmr", 1),
    "FineVision-tqa": ("tqa", 1),
    "FineVision-ai2d_merged": ("ai2d", 1),
    "FineVision-scienceqa": ("scienceqa", 1),
    "ViRL39K": ("virl39k", 1),
    "FineVision-raven": ("raven", 2),
    "VisualSphinx": ("visualsphinx", 2),
    "PuzzleQA": ("puzzleqa", 2),
    "LLaVA-CoT": ("llava_cot", 2),
    "Zebra-CoT-Physics": ("zebra_cot", 2),
    "MMK12": None,
    "WaltonColdStart": None,
    "GameQA-140K": None,
}


class Drop(Exception):
    """A row that does not belong into the corpus; the message is the reason it is counted under."""


def squeeze(name):
    """A sub-set's name without case and punctuation: the sources spell FineVision-geo170k(qa) and
    FineVision-geo170k_qa_.
    """
    return re.sub("[^a-z0-9]", "", str(name).lower())


VERO_TIER = {
    squeeze(c): (name, tier) for name, (tier, configs) in VERO_PLAN.items() for c in configs
}
MMFR_TIER = {squeeze(s): entry for s, entry in MMFR_PLAN.items()}


# ---- a row of a source -> question, accepted answers, id -----------------------------------------


def vero_row(row):
    """(question, [answer, further accepted ones], source id) of a Vero row. Raises Drop."""
    info, reward = row.get("extra_info") or {}, row.get("reward_model") or {}
    kind = info.get("reward_type")
    if kind not in USABLE:
        raise Drop(f"reward type {str(kind)[:40]}")
    question = info.get("question") or user_message(row.get("prompt"))
    gold = reward.get("ground_truth")
    gold = info.get("answer") if gold is None else gold
    golds = listed_golds(gold) if kind == "list_string_match" else [gold]
    return clean_question(question), clean_golds(golds), row.get("id") or info.get("id")


def mmfr_row(row, rate_column):
    """(question, [answer], source id) of a MMFineReason row whose pass rate is low enough. Raises
    Drop.
    """
    rate = row.get(rate_column)
    try:
        rate = math.nan if rate is None else float(rate)
    except (ValueError, TypeError):
        rate = math.nan
    if math.isnan(rate):
        raise Drop("no pass rate")
    if rate > MAX_PASS_RATE:
        raise Drop("pass rate > 0.5")
    return clean_question(row.get("question")), clean_golds([row.get("answer")]), row.get("id")


def user_message(prompt):
    """The last user message: `prompt` is a list of {role, content}, or one dict of two lists (both
    occur in Vero). None without one.
    """
    if isinstance(prompt, dict):
        turns = zip(prompt.get("role") or [], prompt.get("content") or [])
    else:
        turns = [(m.get("role"), m.get("content")) for m in prompt or [] if isinstance(m, dict)]
    users = [content for role, content in turns if role == "user"]
    return users[-1] if users else None


def clean_question(text):
    if not isinstance(text, str):
        raise Drop("no question")
    if len(text) > MAX_CHARS:
        raise Drop("question too long")
    text = text.replace("<image>", "").replace("\r\n", "\n").strip()
    if not text:
        raise Drop("no question")
    return text


def listed_golds(text):
    """The items of a Python list written as a string. Raises Drop; never runs what it reads."""
    if not text:
        return []
    try:
        # a deeper expression could exhaust the parser; real lists are a dozen phrases
        if len(text) > 8192:
            raise ValueError
        golds = ast.literal_eval(text.strip())
        repr(golds)  # a hexadecimal number may be too long for a decimal one: ValueError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Drop("gold is not a list") from None
    known = (str, int, float, type(None))
    if not isinstance(golds, list) or not all(isinstance(g, known) for g in golds):
        raise Drop("gold is not a list")
    return golds


def clean_golds(golds):
    """Stripped, without empty and over-long ones, the most frequent first. Raises Drop when none is
    left.
    """
    texts = [unwrapped(str(g)[:MAX_CHARS].strip()) for g in golds if g is not None]
    golds = Counter(filter(None, texts))
    if not golds:
        raise Drop("no answer")
    golds = [g for g, _ in golds.most_common()]  # ties in the order of the list
    if len(golds[0]) > MAX_ANSWER:
        raise Drop(f"answer > {MAX_ANSWER} characters")
    return [g for g in golds if len(g) <= MAX_ANSWER]


def is_exact(gold):
    """Whether a gold is an option's letter, a number or a formula, by EXACT_RULE; else a judge is
    asked for answers that differ from it. LaTeX's \\text{...} holds words.
    """
    if re.fullmatch(LETTERS, gold):
        return True
    text = re.sub(r"\\(?:text\w*|math\w+|operatorname|mbox)\*?\s*(?=\{)", " ", gold)
    formula = bool(re.search(r"[\d=+^*/<>\\]", text))
    text = re.sub(r"\\[A-Za-z]+", " ", text)
    if not formula or re.search(r"[^\W\d_A-Za-z\u0370-\u03ff]", text):  # accents, other scripts
        return False
    known = {*FUNCTIONS.split(), *UNITS.split()}
    words = [w for w in re.findall(r"[^\W\d_]{2,}", text) if w not in known]
    if any(len(w) > 2 or w.lower() in ENGLISH.split() for w in words):
        return False
    return bool(grade(f"\\boxed{{{gold}}}", gold))


def check_text(texts, tags):
    """Raises Drop for hidden characters and for tokens that mean something to the chat template.
    tags: compiled pattern.
    """
    for text in texts:
        if HIDDEN.search(text) or MARKS.search(text) or re.search("[\ud800-\udfff]", text):
            raise Drop("control or direction character")
        if tags.search(text):
            raise Drop("chat-template token")


# ---- the image and the prompt --------------------------------------------------------------------


def image_bytes(value, roots):
    """The encoded bytes of an `image` column: {bytes, path}, bytes, a path, or a list of one.
    Raises Drop.

    roots: local folders that a path may be relative to, and must stay inside of (none when the
    source is on the hub).
    """
    if isinstance(value, (list, tuple)):
        if len(value) > 1:
            raise Drop("more than one image")
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value:
        raise Drop("no image")
    if isinstance(value, str):
        for root in roots:
            path = (root / value).resolve() if "\0" not in value and len(value) < 1000 else root
            if path.is_relative_to(root.resolve()) and path.is_file():
                if path.stat().st_size > MAX_BYTES:
                    raise Drop("image file too large")
                return path.read_bytes()
        raise Drop("image file missing")
    if len(value) > MAX_BYTES:
        raise Drop("image file too large")
    return value


def examine(raw, question, check):
    """The file extension of an image that may stay with its question; the expensive filters.
    check: a data.QuestionCheck. Raises Drop.
    """
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:  # the header only
            size, kind = opened.size, opened.format
    except Image.DecompressionBombError as e:
        raise Drop("image too large to decode") from e
    except Exception as e:  # Pillow's readers raise whatever comes on damaged files
        raise Drop("image does not open") from e
    if size[0] * size[1] > MAX_PIXELS:
        raise Drop("image too large to decode")
    if min(size) < MIN_SIDE:
        raise Drop(f"image side < {MIN_SIDE} px")
    row = Question("", question, "", (raw,), free_form=True)
    try:
        check(row, "")
        check_pictures(row, "")
    except BadRow as e:
        reasons = {
            "image does not fit the model": "image refused by the processor",
            "prompt too long": f"prompt > {MAX_PROMPT} tokens",
        }
        raise Drop(reasons.get(e.reason, e.reason)) from e
    return EXTENSION.get(kind, kind.lower())


def student_side(path):
    """The tokenizer and image processor of a folder or hub id: enough to count tokens."""
    import model

    try:
        return model.text_side(str(path))
    except ValueError as e:
        raise ValueError(
            f"--tokenizer {path}: no tokenizer and image processor there ({e}); "
            f"name the folder or hub id of the student"
        ) from e


# ---- sources -------------------------------------------------------------------------------------


def configs_of(spec):
    """Names of the configs of a data set: from the hub, from a local copy's README, or a local
    folder of folders of Parquet.
    """
    import datasets

    path, revision = split_spec(spec)
    try:
        names = datasets.get_dataset_config_names(path, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
        why = str(e).strip().splitlines()[0][:300]
        raise ValueError(
            f"{spec}: can't list its sub-sets ({why}). "
            f"Give the folder of a local copy, or check the name and the network"
        ) from e
    if names == ["default"] and Path(path).is_dir():
        names = sorted(p.name for p in Path(path).iterdir() if any(p.glob("*.parquet")))
    return names


def open_source(spec, config, columns=None):
    """A streaming data set of split `train`, with its images as bytes. config: None for the default
    one.
    """
    import datasets

    path, revision = split_spec(spec)
    of = f"{spec}, {config}" if config else spec
    try:
        where = {"name": config}
        local = config and Path(path, config).is_dir()
        if local and config not in datasets.get_dataset_config_names(path):
            where = {"data_dir": config}  # a local copy whose README declares no configs
        # batch_size: whole row groups of images would fill the memory
        how = {"split": "train", "streaming": True, "verification_mode": "no_checks"}
        how |= {"revision": revision, "columns": columns, "batch_size": 64}
        data = datasets.load_dataset(path, **how, **where)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
        why = str(e).strip().splitlines()[0][:300]
        raise ValueError(f"{of}: does not load ({why})") from e
    image = data.features.get("image")
    if isinstance(image, datasets.Image):
        data = data.cast_column("image", datasets.Image(decode=False))
    elif isinstance(image, datasets.List) and isinstance(image.feature, datasets.Image):
        data = data.cast_column("image", datasets.List(datasets.Image(decode=False)))
    return data


def split_spec(spec):
    """(path or id, revision or None) of "owner/name@revision"."""
    path, _, revision = (spec, "", "") if Path(spec).exists() else spec.partition("@")
    return path, revision or None


def roots_of(spec, config):
    """Local folders that image paths may be relative to."""
    path = Path(split_spec(spec)[0])
    return [p for p in (path, path / (config or "data")) if p.is_dir()]


class Vero:
    """One canonical Vero sub-set: one or two configs that share a cap."""

    label = "vero"

    def __init__(self, spec, name, tier, configs):
        self.spec, self.name, self.tier, self.configs = spec, f"vero-{name}", tier, configs
        self.canonical = name

    def open(self, config):
        data = open_source(self.spec, config)
        missing = {"image", "reward_model", "extra_info"} - set(data.column_names)
        if missing:
            has = ", ".join(data.column_names)
            lacks = ", ".join(sorted(missing))
            raise ValueError(f"{self.spec}, {config}: no column {lacks}; it has {has}")
        flat = [c for c in ("reward_model", "extra_info") if not isinstance(data.features[c], dict)]
        if flat:
            columns = ", ".join(flat)
            raise ValueError(
                f"{self.spec}, {config}: column {columns} is not a struct; is this Vero-600k?"
            )
        return data

    def place(self, row, config):
        """(canonical name, tier) of a row. Raises Drop where the corpus does not take it."""
        return self.canonical, self.tier

    def fields(self, row):
        return vero_row(row)


class MMFineReason:
    """All of MMFineReason in one stream: its sub-sets are mixed in every shard. taken: canonical
    names that Vero has.
    """

    label = "mmfr"

    def __init__(self, spec, taken):
        self.spec, self.name, self.configs, self.taken = spec, "mmfr", [None], taken
        columns = open_source(spec, None).column_names
        self.rate = next((c for c in RATE_COLUMNS if c in columns), None)
        missing = [c for c in ("source", "id", "question", "answer", "image") if c not in columns]
        if self.rate is None:
            missing.append(" or ".join(RATE_COLUMNS))
        if missing:
            raise ValueError(f"{spec}: no column {', '.join(missing)}; it has {', '.join(columns)}")

    def open(self, config):
        columns = ["source", "id", "question", "answer", "image", self.rate]  # not the long traces
        return open_source(self.spec, config, columns)

    def place(self, row, config):
        name = squeeze(str(row.get("source"))[:80])
        if name not in MMFR_TIER:
            raise Drop("sub-set unknown")
        if (entry := MMFR_TIER[name]) is None:
            raise Drop("sub-set not in ZPPO-77K")
        if entry[0] in self.taken:
            raise Drop("sub-set taken from Vero")
        return entry

    def fields(self, row):
        return mmfr_row(row, self.rate)
