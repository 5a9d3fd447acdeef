"""ZPPO-77K: the paper's training corpus (Appendix B.1) from its two public sources, in the format
of data.py.

    # streams both sources from the hub
    python data.py build --out zppo-77k
    # local copies, same layout
    python data.py build --out zppo-77k --vero copy/of/Vero --mmfr copy/of/MMFineReason
    # a first look
    python data.py build --out trial --limit 500 --tokenizer Qwen/Qwen3.5-0.8B
    python train.py --data zppo-77k

What it does: every wanted sub-set is streamed shard by shard. A row passes the cheap filters (kind
of reward, pass rate, texts), then draws a number from a hash of (seed, sub-set, shard, row). The
`cap` rows with the smallest numbers among those that pass everything are the sample: uniform
without replacement, and the expensive filters (decode the image, count the tokens of the plain
prompt) run only on rows whose number is small enough so far. After each shard the state is written
to OUT.partial; a killed build started again goes on there and ends in the same bytes. Images are
kept as the bytes they came in.

Choices where the paper or the sources are silent, also written into the report:
* Sub-sets in both sources (canonical name) are taken from Vero alone.
* `wemath` is one sub-set with one cap, although Vero has it as two configs; MMFineReason's three
  WeMath2 are the same name.
* The paper counts 34 Vero sub-sets and names fewer. We add reachqa and ecd_vqa, the only chart/OCR
  configs that it does not name, as tier 1; the rest can't be guessed. `--extra CONFIG=TIER` adds
  any other.
* Only the split `train`. Only rewards that compare one short answer (USABLE); a list of accepted
  answers is kept whole, the most frequent one first and used for the 512-character rule. A numeric
  tolerance in Vero is not carried over.
* Rows are dropped, not repaired, when they hold control or text-direction characters or a
  chat-template token of the tokenizer.
"""

import argparse
import hashlib
import heapq
import json
import os
import re
import shutil
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from corpus.inspection import visible
from corpus.sources import (
    CAPS,
    MARKS,
    MMFR,
    MMFR_TIER,
    PAPER_TOTAL,
    USABLE,
    VERO,
    VERO_PLAN,
    VERO_TIER,
    VERO_UNUSED,
    Drop,
    MMFineReason,
    Vero,
    check_text,
    configs_of,
    examine,
    image_bytes,
    prompt_parts,
    roots_of,
    squeeze,
)
from data import HIDDEN
from processor import control_strings

MAX_NAMES = 500  # sub-sets of MMFineReason counted by name


# ---- one stream: read, filter, sample, and remember ----------------------------------------------


class Sample:
    """The sample of one stream so far: for each canonical name the `cap` rows with the smallest
    draws, and the counts.

    state: {"shards", "next", "read": {config: rows}, "stats": {name: {"seen", "over", "dropped":
    {reason: n}}}, "kept": {canonical: rows}}, as it stands in the state file. A row holds all that
    questions.jsonl needs; its image is a file.
    """

    def __init__(self, source, folder, lm, tags, seed, state):
        self.source, self.folder, self.lm, self.tags, self.seed, self.state = (
            source,
            folder,
            lm,
            tags,
            seed,
            state,
        )
        self.heaps = {
            name: [(-r["draw"], r["shard"], r["row"], r) for r in rows]
            for name, rows in state["kept"].items()
        }
        for heap in self.heaps.values():
            heapq.heapify(heap)  # the largest draw first: the one to displace

    def __len__(self):
        return sum(map(len, self.heaps.values()))

    def offer(self, row, config, roots, shard, n):
        """Count row n of a shard, and take it into the sample if it belongs there. roots: see
        image_bytes.
        """
        stats, source, name = (
            self.state["stats"],
            self.source,
            config or str(row.get("source"))[:80],
        )
        if name not in stats and len(stats) >= MAX_NAMES and squeeze(name) not in MMFR_TIER:
            name = "(further names)"  # a damaged column must not fill the memory
        count = stats.setdefault(name, {"seen": 0, "over": 0, "dropped": {}})
        count["seen"] += 1
        try:
            canonical, tier = source.place(row, config)
            question, golds, id = source.fields(row)
            check_text((question, *golds), self.tags)
            draw = int.from_bytes(
                hashlib.blake2b(
                    f"{self.seed}/{source.name}/{shard}/{n}".encode(), digest_size=8
                ).digest()
            )
            heap = self.heaps.setdefault(canonical, [])
            if len(heap) == CAPS[tier] and draw > -heap[0][0]:
                count["over"] += 1  # whatever its image is like, it is not in the sample
                return
            raw = image_bytes(row.get("image"), roots)
            extension = examine(raw, question, self.lm)
        except Drop as e:
            count["dropped"][str(e)] = count["dropped"].get(str(e), 0) + 1
            return
        image = f"images/{source.label}-{canonical}/{shard:03d}-{n:07d}.{extension}"
        (self.folder / image).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / image).write_bytes(raw)
        kept = {
            "draw": draw,
            "shard": shard,
            "row": n,
            "name": name,
            "id": str(id or "")[:80],
            "question": question,
            "answer": golds,
            "image": image,
        }
        if len(heap) < CAPS[tier]:
            heapq.heappush(heap, (-draw, shard, n, kept))
        else:
            stats[heapq.heapreplace(heap, (-draw, shard, n, kept))[3]["name"]]["over"] += 1

    def close_shard(self, shard, config, read):
        """The state after a shard of which the stream has read `read` rows of this config in all."""
        self.state["kept"] = {
            name: [r for *_, r in sorted(heap, key=lambda e: e[1:3])]
            for name, heap in self.heaps.items()
        }
        self.state["next"], self.state["read"][str(config)] = shard + 1, read
        return self.state


def stream(source, folder, lm, tags, seed, limit):
    """Sample one Vero sub-set, or all of MMFineReason, into folder/data/images; returns the state
    of Sample, complete.

    The state is written to folder/state-NAME.json after each shard, and read from there when the
    build starts again.
    """
    file = folder / f"state-{source.name}.json"
    state = json.loads(file.read_text()) if file.exists() else None
    if state and state["next"] == state["shards"]:
        sweep(
            folder / "data", source.label, state["kept"]
        )  # the kill may have come between state and sweep
        return state
    opened = [(config, source.open(config)) for config in source.configs]
    shards = [(config, data, k) for config, data in opened for k in range(data.num_shards)]
    state = state or {"shards": len(shards), "next": 0, "read": {}, "stats": {}, "kept": {}}
    if state["shards"] != len(shards):
        raise ValueError(
            f"{source.spec}: has {len(shards)} shards now and had {state['shards']} when the build began; "
            f"pin it with @REVISION, and remove {folder} to start again"
        )
    for config in filter(None, source.configs):  # an empty sub-set should stand in the report
        state["stats"].setdefault(config, {"seen": 0, "over": 0, "dropped": {}})
    sample = Sample(source, folder / "data", lm, tags, seed, state)
    begin, before = time.perf_counter(), sum(state["read"].values())
    with tqdm(desc=source.name, unit="row", initial=before, mininterval=0.5) as bar:
        for s, (config, data, k) in enumerate(shards):
            if s < state["next"]:
                continue
            bar.set_postfix_str(f"shard {s + 1} of {len(shards)}, kept {len(sample)}")
            read, row, roots = state["read"].get(str(config), 0), 0, roots_of(source.spec, config)
            rows = iter(data.shard(data.num_shards, k))
            while not limit or read + row < limit:
                try:
                    found = next(rows, None)
                # fsspec, pyarrow and datasets have no common error; a bad shard must be named
                except Exception as e:
                    raise ValueError(
                        f"{source.spec}{f', {config}' if config else ''}, shard {k}, after row {row}: can't be read "
                        f"({type(e).__name__}: {(str(e).strip().splitlines() or [''])[0][:200]})"
                    ) from e
                if found is None:
                    break
                sample.offer(found, config, roots, s, row)
                row += 1
                bar.update()
            state = sample.close_shard(s, config, read + row)
            write_atomically(file, json.dumps(state))
            sweep(folder / "data", source.label, state["kept"])
    total = sum(state["read"].values())
    print(
        f"{source.name}: {total} rows read, {len(sample)} kept, {(total - before) / (time.perf_counter() - begin):.0f} rows/s"
    )
    return state


def sweep(folder, label, kept):
    """Remove the images of a stream that no kept row names: rows that later ones displaced, and
    leftovers of a killed build.

    Only after the state is on disk: until then a restart may still need them.
    """
    for canonical, rows in kept.items():
        images, wanted = (
            folder / f"images/{label}-{canonical}",
            {os.path.basename(r["image"]) for r in rows},
        )
        for name in os.listdir(images) if images.is_dir() else ():
            if name not in wanted:
                os.unlink(images / name)


def write_atomically(file, text):
    """Write under a temporary name, then rename: a kill leaves the old file or the new one."""
    temporary = file.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)


# ---- the whole build -----------------------------------------------------------------------------


def plan(spec, extra):
    """(what to read of Vero: [(canonical, tier, configs)], canonical names not found, config names
    that we don't know).

    extra: {config name: tier} that the caller adds. Raises ValueError when an extra one does not
    exist.
    """
    if not spec:
        return [], [], []
    found = {squeeze(c): c for c in configs_of(spec)}
    for config in extra:
        if squeeze(config) not in found:
            raise ValueError(
                f"--extra {config}: there is no such config; {spec} has {', '.join(sorted(found.values()))}"
            )
    wanted = {
        name: (tier, [found[squeeze(c)] for c in configs if squeeze(c) in found])
        for name, (tier, configs) in VERO_PLAN.items()
    }
    for config, tier in extra.items():
        if squeeze(config) in VERO_TIER:
            raise ValueError(f"--extra {config}: that sub-set is in the corpus already")
        wanted[re.sub(r"[^\w.-]", "_", config)] = (tier, [found[squeeze(config)]])
    known = {*VERO_TIER, *map(squeeze, VERO_UNUSED), *map(squeeze, extra)}
    return (
        [(name, tier, configs) for name, (tier, configs) in wanted.items() if configs],
        [c for _, configs in VERO_PLAN.values() for c in configs if squeeze(c) not in found],
        sorted(c for key, c in found.items() if key not in known),
    )


def build(out, vero=VERO, mmfr=MMFR, tokenizer="Qwen/Qwen3.5-0.8B", seed=0, limit=0, extra=None):
    """Build the corpus into the folder `out`; returns the report. The folder appears when all is
    done, OUT.partial before.

    vero, mmfr: hub id or folder, with @REVISION; "" leaves one out. limit: rows read per config, 0
    for all. extra: {config: tier}. Raises ValueError: nothing to read, sources without the columns,
    another build in OUT.partial, `out` exists.
    """
    out, folder = Path(out), Path(f"{out}.partial")
    if out.exists():
        if (
            folder.exists() and not (folder / "data").exists()
        ):  # killed between the last two steps: data became `out`
            shutil.rmtree(folder)
            return json.loads((out / "report.json").read_text())
        raise ValueError(f"{out} exists already; remove it or give another --out")
    if not vero and not mmfr:
        raise ValueError("--vero and --mmfr are both empty: there is nothing to build from")
    settings = {
        "vero": vero,
        "mmfr": mmfr,
        "tokenizer": tokenizer,
        "seed": seed,
        "limit": limit,
        "extra": extra or {},
    }
    lm = prompt_parts(tokenizer)
    if lm.image_processor is None:
        raise ValueError(f"--tokenizer {tokenizer}: a text-only model; the corpus has images")
    wanted, missing, unknown = plan(vero, extra or {})
    taken = {name for name, *_ in wanted}
    last = (
        MMFineReason(mmfr, taken) if mmfr else None
    )  # opened first: a missing column should not show after hours
    (folder / "data").mkdir(parents=True, exist_ok=True)
    if (file := folder / "settings.json").exists():
        if (was := json.loads(file.read_text())) != settings:
            changed = ", ".join(
                f"{k} {was.get(k)!r} -> {v!r}" for k, v in settings.items() if was.get(k) != v
            )
            raise ValueError(
                f"{folder} holds a build with other settings ({changed}); give the same ones, or remove it"
            )
        print(f"going on with the build in {folder}")
    else:
        write_atomically(file, json.dumps(settings))
    for line in choices(wanted, extra):
        print(line)
    if missing:
        print(f"NOT FOUND in {vero}, {len(missing)} of the plan's configs: {', '.join(missing)}")
    if unknown:
        print(f"unknown to us, not used (--extra adds one): {', '.join(unknown)}")

    tags = re.compile("|".join(map(re.escape, control_strings(lm.tokenizer))))
    states = {}
    for source in [Vero(vero, *w) for w in wanted] + [last] * bool(last):
        states[source] = stream(source, folder, lm, tags, seed, limit)
        if source is not last and not any(states[source]["kept"].values()):
            taken.discard(
                source.canonical
            )  # Vero has the name and no usable row: then MMFineReason's
    data = folder / "data"
    report = summarize(states, settings, missing, unknown, choices(wanted, extra))
    write_questions(data / "questions.jsonl", states)
    (data / "report.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (data / "report.md").write_text(as_markdown(report), encoding="utf-8")
    data.rename(out)
    shutil.rmtree(folder)
    return report


def choices(wanted, extra):
    """What was decided where the paper is silent, as lines for people."""
    have = {name for name, *_ in wanted}
    guessed = sorted(have & {"reachqa", "ecd_vqa"})
    return [
        "wemath is one sub-set with one cap; Vero's two configs share it",
        "of the 34 Vero sub-sets the paper leaves some unnamed; "
        + (
            f"our guess, tier 1: {', '.join(guessed)}"
            if guessed
            else "our guesses are not in this source"
        )
        + (f"; added by --extra: {', '.join(sorted(extra))}" if extra else ""),
        "sub-sets that both sources have are taken from Vero alone",
        f"reward types used: {', '.join(USABLE)}; split train only",
    ]


def write_questions(file, states):
    """questions.jsonl: sub-sets in the order of the plan, rows in the order of the source."""
    seen = set()
    with open(file, "w", encoding="utf-8") as lines:
        for source, state in states.items():
            for canonical in sorted(state["kept"]):
                for r in state["kept"][canonical]:
                    place = f"{r['shard']:03d}-{r['row']:07d}"
                    readable = (
                        r["id"]
                        if r["id"] and not (HIDDEN.search(r["id"]) or MARKS.search(r["id"]))
                        else place
                    )
                    id = f"{source.label}/{MARKS.sub('', HIDDEN.sub('', r['name']))}/{readable}"
                    while id in seen:  # the sources' ids are not unique
                        id = f"{id}@{place}"
                    seen.add(id)
                    row = {
                        "id": id,
                        "question": r["question"],
                        "answer": r["answer"] if len(r["answer"]) > 1 else r["answer"][0],
                        "images": [r["image"]],
                        "source": canonical,
                    }
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")


# ---- the report ----------------------------------------------------------------------------------


def summarize(states, settings, missing, unknown, decided):
    """The report: one entry per sub-set of a source, and sums. For each, seen = kept + over the cap
    + dropped.
    """
    rows = []
    for source, state in states.items():
        kept = Counter(r["name"] for rows_ in state["kept"].values() for r in rows_)
        for name in sorted(state["stats"]):
            count = state["stats"][name]
            canonical, tier = MMFR_TIER.get(squeeze(name)) or (None, None)
            if source.label == "vero":
                canonical, tier = source.canonical, source.tier
            rows.append(
                {
                    "source": source.label,
                    "name": name,
                    "canonical": canonical,
                    "tier": tier,
                    "cap": CAPS.get(tier),
                    "seen": count["seen"],
                    "kept": kept[name],
                    "over_cap": count["over"],
                    "dropped": dict(sorted(count["dropped"].items())),
                }
            )
            if source.label == "mmfr" and squeeze(name) not in MMFR_TIER:
                unknown = [*unknown, f"{name} (MMFineReason, {count['seen']} rows)"]
    dropped = Counter()
    for r in rows:
        dropped.update(r["dropped"])
    return {
        "settings": settings,
        "choices": decided,
        "rows": sum(r["kept"] for r in rows),
        "paper_rows": PAPER_TOTAL,
        "seen": sum(r["seen"] for r in rows),
        "over_cap": sum(r["over_cap"] for r in rows),
        "dropped": dict(dropped.most_common()),
        "not_found": missing,
        "unknown": unknown,
        "subsets": rows,
    }


def as_markdown(report):
    """The report for people. Names come from the data, so they can't break the table."""

    def cell(value):
        return re.sub(r"[|\s`<\[\]]+", " ", HIDDEN.sub("?", str(value)))

    lines = [
        "# ZPPO-77K, as built",
        "",
        f"{report['rows']} rows; the paper has about {report['paper_rows']}. "
        f"{report['seen']} rows seen, {report['over_cap']} over the cap, {sum(report['dropped'].values())} dropped.",
        "",
        '"paper" is the paper\'s upper bound for the sub-set (it gives no counts); a bound that two sub-sets of one name '
        "share holds for both together. Rows over the cap were not examined further, so the drops for images and prompt "
        "length are those among the rows that came up for the sample.",
        "",
        *(f"* {cell(c)}" for c in report["choices"]),
        f"* settings: {cell(json.dumps(report['settings']))}",
        "",
        "| source | sub-set | name | tier | seen | kept | paper | over cap | dropped |",
        "|---|---|---|---|--:|--:|--:|--:|---|",
    ]
    for r in report["subsets"]:
        why = "; ".join(f"{n} {cell(reason)}" for reason, n in r["dropped"].items())
        bound = f"≤ {r['cap']}" if r["cap"] else 0
        lines.append(
            f"| {r['source']} | {cell(r['name'])} | {r['canonical'] or '-'} | {r['tier'] or '-'} | "
            f"{r['seen']} | {r['kept']} | {bound} | {r['over_cap']} | {why} |"
        )
    for title, key in (
        ("In the plan, not in the source", "not_found"),
        ("In the source, unknown to us: not used", "unknown"),
    ):
        lines += ["", f"{title}: " + (", ".join(map(cell, report[key])) or "none") + "."]
    return "\n".join(lines) + "\n"


def main(argv):
    """python data.py build. Returns the exit status."""
    p = argparse.ArgumentParser(
        prog="data.py build",
        description="Build ZPPO-77K from its two public sources.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--out", required=True, help="folder to make")
    p.add_argument(
        "--vero", default=VERO, help="hub id[@REVISION] or local copy; empty: without it"
    )
    p.add_argument(
        "--mmfr", default=MMFR, help="hub id[@REVISION] or local copy; empty: without it"
    )
    p.add_argument(
        "--tokenizer",
        default="Qwen/Qwen3.5-0.8B",
        help="folder or hub id of the student, for the length of the prompts",
    )
    p.add_argument("--seed", type=int, default=0, help="of the sample")
    p.add_argument(
        "--limit",
        type=int,
        default=0,
        help="rows to read per Vero config and of MMFineReason; 0: all",
    )
    p.add_argument(
        "--extra",
        nargs="*",
        default=[],
        metavar="CONFIG=TIER",
        help="further Vero configs, tier 1 or 2",
    )
    args = p.parse_args(argv)
    extra = {}
    for part in args.extra:
        config, _, tier = part.rpartition("=")
        if not config or tier not in ("1", "2"):
            raise ValueError(f"--extra {part}: expected CONFIG=1 or CONFIG=2")
        extra[config] = int(tier)
    report = build(args.out, args.vero, args.mmfr, args.tokenizer, args.seed, args.limit, extra)
    if report["unknown"]:
        print(f"sub-sets unknown to us, not used: {visible(', '.join(report['unknown']))}")
    print(
        f"\n{report['rows']} questions in {args.out} (the paper: about {PAPER_TOTAL}); the counts are in {args.out}/report.md"
    )
    return 0 if report["rows"] else 1
