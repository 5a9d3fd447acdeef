"""The data rows of a benchmark, from a local copy or from the hub, as questions.

    questions = Questions(bench, "data/benchmarks", limit=20)
    for row in questions.by_row(): ...

`--data DIR`: DIR/owner/repo is a clone of the hub's repository, or a folder with
CONFIG/SPLIT.parquet (.jsonl, .json, .csv; no CONFIG folder for the default one), or the layout of
the benchmark's own repository: split/CONFIG_SPLIT.csv also inside a zip (C-Eval), one data file
under any name (MultiChallenge). Gated sets (GPQA, HLE, MVBench, Video-MMMU) need an accepted
licence and a login; what is missing costs one line and the others go on.
"""

import csv
import io
import json
import logging
import re
import threading
import urllib.error
import urllib.request
import zipfile
from functools import cache
from pathlib import Path

from evaluation.rows import Where

HUB = "https://huggingface.co"
KINDS = ("parquet", "jsonl", "json", "csv")


class Unavailable(ValueError):
    """A benchmark that cannot run here; the message is the one line that says what to do."""


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

            splits = [split for _, split in bench.parts]
            self.parts = [("tiny", split, tiny.questions(split), Path()) for split in splits]
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
        name, seen = self.bench.name, set()
        for p, i in self.at:
            config, split, table, root = self.parts[p]
            try:
                items = self.bench.items(table[i], Where(config, split, i, root))
            except (KeyError, ValueError, TypeError, IndexError, SyntaxError) as e:
                raise Unavailable(
                    f"{name}: row {i} of {config}/{split} is not as expected "
                    f"({type(e).__name__}: {e}); did the data set change?"
                ) from e
            for item in items:
                if item.id in seen:
                    raise Unavailable(
                        f"{name}: the id {item.id!r} stands twice in its data; "
                        "is this the right data set?"
                    )
                seen.add(item.id)
            yield items


def open_parts(bench, data, source=None):
    """[(config, split, rows, folder of the local copy)] from the first repository that loads."""
    why = ""
    for repo in (source,) if source else bench.repos:
        repo, _, revision = repo.partition("@")
        root = Path(data) / repo
        if bench.family == "video" and not root.is_dir():
            page = f"{HUB}/datasets/{repo}"
            why = why or f"its videos are not on this disk: unpack {page} into {root}"
            continue
        try:
            found = local_parts(bench, root)
            if found is None:
                found = [hub_part(repo, *part, revision) for part in bench.parts]
        except Unavailable:
            raise
        except (OSError, ValueError, KeyError) as e:  # datasets raises all of these
            why = why or reason(bench, repo, root, e)
            continue
        configs = [config for config, _ in bench.parts]
        return [(c, split, rows, root) for c, (split, rows) in zip(configs, found)]
    raise Unavailable(f"{bench.name}: {why}")


def reason(bench, repo, root, error):
    """One line on why a repository did not load, and what to do."""
    text = " ".join(str(error).split())[:160]
    page = f"{HUB}/datasets/{repo}"
    gated = bench.gated or "gated" in text.lower()
    accept = f"accept its terms at {page} and log in" if gated else f"see {page}"
    copy = (
        f"complete {root}, which holds no data file" if root.is_dir() else f"put a copy into {root}"
    )
    return f"its data do not load ({text}); {accept}, or {copy}"


# ---- a local copy --------------------------------------------------------------------------------


def local_parts(bench, root):
    """[(split, rows)] of a local copy; None where there is none (a folder with videos alone is
    not). Raises Unavailable naming the first part that a copy lacks.
    """
    if not root.is_dir():
        return None
    there = listed(root)
    files = [local_files(there, *part, len(bench.parts) == 1) for part in bench.parts]
    card, error = root / "README.md", ""
    if card.is_file() and card.read_text(encoding="utf-8", errors="replace").startswith("---"):
        try:  # a clone of the hub: its card says which file is which
            return [from_hub(str(root), *part) for part in bench.parts]
        except (OSError, ValueError, KeyError) as e:
            error = f"; its README.md does not help ({' '.join(str(e).split())[:120]})"
    if not any(files) and not error:
        return None
    for (config, split), some in zip(bench.parts, files):
        if not some:
            name = f"{split or 'SPLIT'}.parquet (.jsonl, .json, .csv)"
            where = name if config == "default" else f"{config}/{name}"
            raise Unavailable(
                f"{bench.name}: its copy in {root} is not whole: there is no {where}{error}"
            )
    return [
        (split or _stem(some[0]), read([f"{root}/{f}" for f in some]))
        for (_, split), some in zip(bench.parts, files)
    ]


def _stem(name):
    return re.split(r"[./]|-\d{5}-of-", name.rsplit("/", 1)[-1])[0]


def local_files(there, config, split, alone=False):
    """The files of one config and split among listed() ones. alone: the set has one part, so one
    data file under any name is it.
    """
    if config == "default":
        places = [("", split), ("data", split)]
    else:
        places = [(config, split), ("json", config), ("", config)]
        places += [(split, f"{config}_{split}"), (split, config), ("", f"{config}_{split}")]
    for folder, name in places:
        # the whole name, or NAME-00000-of-00002: sample_variant1 is not sample_variant10
        pattern = re.compile(rf"{re.escape(name) if name else 'train|test'}(?!\w)", re.I)
        for kind in KINDS:
            found = [
                path
                for path, (at, file) in there.items()
                if at == folder and file.endswith(f".{kind}") and pattern.match(file)
            ]
            if found:
                return sorted(found)
    if alone and config == "default":
        for folder in ("", "data"):
            found = [path for path, (at, _) in there.items() if at == folder]
            if len(found) == 1:
                return found
    return []


def listed(root):
    """{path below root: (folder, file name)} of its data files: at most one folder deep, and in
    zips of a moderate size (videos come in large ones), "x.zip//MEMBER" there.
    """
    out = {}
    for path in sorted([*root.glob("*.*"), *root.glob("*/*.*")]):
        relative = path.relative_to(root).as_posix()
        if path.suffix[1:] in KINDS:
            out[relative] = (relative.rpartition("/")[0], path.name)
        elif path.suffix == ".zip" and path.stat().st_size < 200e6 and zipfile.is_zipfile(path):
            for info in zipfile.ZipFile(path).infolist():
                member, locked = info.filename, info.flag_bits & 1  # GPQA's has a password
                folder, _, name = member.rpartition("/")
                if name.rpartition(".")[2] in KINDS and "__MACOSX" not in member and not locked:
                    folder = folder.removeprefix(path.stem).strip("/")
                    out[f"{relative}//{member}"] = (folder, name)
    return out


def read(files):
    """The rows of some files of one kind: a Dataset of parquet, else a list of dicts that all have
    the same keys. Text stays text: a csv's "1.0" is no number.
    """
    if files[0].endswith(".parquet"):
        import datasets

        datasets.disable_progress_bars()
        table = datasets.load_dataset("parquet", data_files=files, split="train")
        return undecoded(datasets, table)
    rows = [row for file in files for row in _rows(file)]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [dict.fromkeys(keys) | row for row in rows]


def _rows(file):
    path, _, member = file.partition("//")
    raw = zipfile.ZipFile(path).read(member) if member else Path(path).read_bytes()
    text = raw.decode("utf-8-sig")
    if file.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if file.endswith(".jsonl"):
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    data = json.loads(text)
    return list(data.values()) if isinstance(data, dict) else data


# ---- the hub -------------------------------------------------------------------------------------


def hub_part(repo, config, split, revision=""):
    """(split, Dataset) from the hub, or from its cache on this disk. Raises as datasets does."""
    offline_without_hub()
    try:
        return from_hub(repo, config, split, revision or None)
    except (OSError, ValueError, KeyError) as e:
        if not hub_answers():
            raise ValueError(f"the hub does not answer; {e}") from e
        raise


def from_hub(where, config, split, revision=None):
    """(split, Dataset) as `datasets` loads them. where: a repository, or a folder with a clone."""
    import datasets

    datasets.disable_progress_bars()
    # its retries would bury our one line
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    name = None if config == "default" else config
    loaded = datasets.load_dataset(where, name, revision=revision, split=split or None)
    if not split:
        if len(loaded) != 1:
            raise ValueError(f"expected one split, found {', '.join(loaded)}")
        split, loaded = next(iter(loaded.items()))
    return split, undecoded(datasets, loaded)


@cache
def hub_answers(seconds=3):
    """Whether the hub says anything at all, asked once: its client would try five times for each
    of 31 data sets.
    """
    from huggingface_hub import constants

    heard = threading.Event()

    def ask():
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            urllib.request.urlopen(request, timeout=seconds).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            return
        heard.set()

    # a thread, for looking up a name has no time limit
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return heard.is_set()


def offline_without_hub():
    """Where the hub does not answer, its libraries are told to look into their cache only."""
    if not hub_answers():
        import datasets
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True


def undecoded(datasets, table):
    """Images stay bytes until a prompt is made: a table of 10,000 pictures must not be decoded to
    read its ids.
    """
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table
