"""ZPPO-77K: the paper's training corpus (Appendix B.1) from its two public sources, in the format
of data.py.

    python data.py build --out zppo-77k            # streams both sources from the hub
    python data.py build --out zppo-77k --vero copy/of/Vero --mmfr copy/of/MMFineReason
    python data.py build --out trial --limit 500 --tokenizer Qwen/Qwen3.5-0.8B      # a first look
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
* Golds that are no letter, number or formula are marked free_form (sources.EXACT_RULE): the judge
  decides what exact matching leaves open, as in the paper's Appendix D.1.
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

from corpus import sources
from corpus.inspection import visible
from corpus.sources import CAPS, MARKS, MMFR_TIER, Drop, is_exact, squeeze
from data import HIDDEN, QuestionCheck
from processor import control_strings
from runtime.files import write_atomic

MAX_NAMES = 500  # sub-sets of MMFineReason counted by name


# ---- one stream: read, filter, sample, and remember ----------------------------------------------


class Reservoir:
    """The sample of one stream so far: for each canonical name the `cap` rows with the smallest
    draws, and the counts.

    state: {"shards", "next", "read": {config: rows}, "stats": {name: {"seen", "over", "dropped":
    {reason: n}}}, "kept": {canonical: rows}}, as it stands in the state file. A row holds all that
    questions.jsonl needs; its image is a file in folder. check: a data.QuestionCheck; tags: a
    compiled pattern of the template's tokens.
    """

    def __init__(self, source, folder, check, tags, seed, state):
        self.source, self.folder, self.check = source, folder, check
        self.tags, self.seed, self.state = tags, seed, state
        self.heaps = {}  # the largest draw first: the one to displace
        for name, rows in state["kept"].items():
            self.heaps[name] = [(-r["draw"], r["shard"], r["row"], r) for r in rows]
            heapq.heapify(self.heaps[name])

    def __len__(self):
        return sum(map(len, self.heaps.values()))

    def offer(self, row, config, roots, shard, n):
        """Count row n of a shard, and take it into the sample if it belongs there. roots: see
        sources.image_bytes.
        """
        name = config or str(row.get("source"))[:80]
        count = self._count(name)
        count["seen"] += 1
        try:
            canonical, tier = self.source.place(row, config)
            question, golds, id = self.source.fields(row)
            sources.check_text((question, *golds), self.tags)
            draw = self._draw(shard, n)
            heap = self.heaps.setdefault(canonical, [])
            if len(heap) == CAPS[tier] and draw > -heap[0][0]:
                count["over"] += 1  # whatever its image is like, it is not in the sample
                return
            raw = sources.image_bytes(row.get("image"), roots)
            extension = sources.examine(raw, question, self.check)
        except Drop as e:
            count["dropped"][str(e)] = count["dropped"].get(str(e), 0) + 1
            return
        image = f"images/{self.source.label}-{canonical}/{shard:03d}-{n:07d}.{extension}"
        (self.folder / image).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / image).write_bytes(raw)
        kept = {"draw": draw, "shard": shard, "row": n, "name": name, "id": str(id or "")[:80]}
        kept |= {"question": question, "answer": golds, "image": image}
        if len(heap) < CAPS[tier]:
            heapq.heappush(heap, (-draw, shard, n, kept))
        else:
            displaced = heapq.heapreplace(heap, (-draw, shard, n, kept))[3]
            self.state["stats"][displaced["name"]]["over"] += 1

    def _count(self, name):
        stats = self.state["stats"]
        if name not in stats and len(stats) >= MAX_NAMES and squeeze(name) not in MMFR_TIER:
            name = "(further names)"  # a damaged column must not fill the memory
        return stats.setdefault(name, {"seen": 0, "over": 0, "dropped": {}})

    def _draw(self, shard, n):
        key = f"{self.seed}/{self.source.name}/{shard}/{n}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())

    def close_shard(self, shard, config, read):
        """The state after a shard; read: rows of this config that the stream has read in all."""
        for name, heap in self.heaps.items():
            self.state["kept"][name] = [r for *_, r in sorted(heap, key=lambda e: e[1:3])]
        self.state["next"], self.state["read"][str(config)] = shard + 1, read
        return self.state


def stream(source, folder, check, tags, seed, limit):
    """Sample one Vero sub-set, or all of MMFineReason, into folder/data/images; returns the state
    of its Reservoir, complete.

    The state is written to folder/state-NAME.json after each shard, and read from there when the
    build starts again.
    """
    file = folder / f"state-{source.name}.json"
    state = json.loads(file.read_text()) if file.exists() else None
    if state and state["next"] == state["shards"]:
        # the kill may have come between state and sweep
        sweep(folder / "data", source.label, state["kept"])
        return state
    opened = [(config, source.open(config)) for config in source.configs]
    shards = [(config, data, k) for config, data in opened for k in range(data.num_shards)]
    state = state or {"shards": len(shards), "next": 0, "read": {}, "stats": {}, "kept": {}}
    if state["shards"] != len(shards):
        raise ValueError(
            f"{source.spec}: has {len(shards)} shards now and had {state['shards']} when the build "
            f"began; pin it with @REVISION, and remove {folder} to start again"
        )
    for config in filter(None, source.configs):  # an empty sub-set should stand in the report
        state["stats"].setdefault(config, {"seen": 0, "over": 0, "dropped": {}})
    sample = Reservoir(source, folder / "data", check, tags, seed, state)
    begin, before = time.perf_counter(), sum(state["read"].values())
    with tqdm(desc=source.name, unit="row", initial=before, mininterval=0.5) as bar:
        for s, (config, data, k) in enumerate(shards):
            if s < state["next"]:
                continue
            bar.set_postfix_str(f"shard {s + 1} of {len(shards)}, kept {len(sample)}")
            read, roots = state["read"].get(str(config), 0), sources.roots_of(source.spec, config)
            place = f"{source.spec}{f', {config}' if config else ''}, shard {k}"
            for row, found in enumerate(rows_of(data, k, place, limit - read if limit else None)):
                sample.offer(found, config, roots, s, row)
                read += 1
                bar.update()
            state = sample.close_shard(s, config, read)
            write_atomic(file, json.dumps(state))
            sweep(folder / "data", source.label, state["kept"])
    total = sum(state["read"].values())
    rate = (total - before) / (time.perf_counter() - begin)
    print(f"{source.name}: {total} rows read, {len(sample)} kept, {rate:.0f} rows/s")
    return state


def rows_of(data, k, place, limit):
    """The rows of shard k, at most `limit` of them. Raises ValueError that names the place."""
    rows, n = iter(data.shard(data.num_shards, k)), 0
    while limit is None or n < limit:
        try:
            found = next(rows, None)
        # fsspec, pyarrow and datasets have no common error; a bad shard must be named
        except Exception as e:
            why = (str(e).strip().splitlines() or [""])[0][:200]
            raise ValueError(
                f"{place}, after row {n}: can't be read ({type(e).__name__}: {why})"
            ) from e
        if found is None:
            return
        yield found
        n += 1


def sweep(folder, label, kept):
    """Remove the images of a stream that no kept row names: rows that later ones displaced, and
    leftovers of a killed build.

    Only after the state is on disk: until then a restart may still need them.
    """
    for canonical, rows in kept.items():
        images = folder / f"images/{label}-{canonical}"
        wanted = {os.path.basename(r["image"]) for r in rows}
        for name in os.listdir(images) if images.is_dir() else ():
            if name not in wanted:
                os.unlink(images / name)


# ---- the whole build -----------------------------------------------------------------------------


def plan(spec, extra):
    """(what to read of Vero: [(canonical, tier, configs)], canonical names not found, config names
    that we don't know).

    extra: {config name: tier} that the caller adds. Raises ValueError when an extra one does not
    exist.
    """
    if not spec:
        return [], [], []
    found = {squeeze(c): c for c in sources.configs_of(spec)}
    wanted = {}
    for name, (tier, configs) in sources.VERO_PLAN.items():
        wanted[name] = tier, [found[squeeze(c)] for c in configs if squeeze(c) in found]
    for config, tier in extra.items():
        if squeeze(config) not in found:
            has = ", ".join(sorted(found.values()))
            raise ValueError(f"--extra {config}: there is no such config; {spec} has {has}")
        if squeeze(config) in sources.VERO_TIER:
            raise ValueError(f"--extra {config}: that sub-set is in the corpus already")
        wanted[re.sub(r"[^\w.-]", "_", config)] = (tier, [found[squeeze(config)]])
    known = {*sources.VERO_TIER, *map(squeeze, sources.VERO_UNUSED), *map(squeeze, extra)}
    return (
        [(name, tier, configs) for name, (tier, configs) in wanted.items() if configs],
        [
            c
            for _, configs in sources.VERO_PLAN.values()
            for c in configs
            if squeeze(c) not in found
        ],
        sorted(c for key, c in found.items() if key not in known),
    )


def build(
    out,
    vero=sources.VERO,
    mmfr=sources.MMFR,
    tokenizer="Qwen/Qwen3.5-0.8B",
    seed=0,
    limit=0,
    extra=None,
):
    """Build the corpus into the folder `out`; returns the report. The folder appears when all is
    done, OUT.partial before.

    vero, mmfr: hub id or folder, with @REVISION; "" leaves one out. limit: rows read per config, 0
    for all. extra: {config: tier}. Raises ValueError: nothing to read, sources without the columns,
    another build in OUT.partial, `out` exists.
    """
    out, folder = Path(out), Path(f"{out}.partial")
    if out.exists():
        # killed between the last two steps: data became `out`
        if folder.exists() and not (folder / "data").exists():
            shutil.rmtree(folder)
            return json.loads((out / "report.json").read_text())
        raise ValueError(f"{out} exists already; remove it or give another --out")
    if not vero and not mmfr:
        raise ValueError("--vero and --mmfr are both empty: there is nothing to build from")
    settings = {"vero": vero, "mmfr": mmfr, "tokenizer": tokenizer, "seed": seed, "limit": limit}
    settings["extra"] = extra or {}
    lm = sources.student_side(tokenizer)
    if lm.image_processor is None:
        raise ValueError(f"--tokenizer {tokenizer}: a text-only model; the corpus has images")
    wanted, missing, unknown = plan(vero, extra or {})
    taken = {name for name, *_ in wanted}
    # opened first: a missing column should not show after hours
    last = [sources.MMFineReason(mmfr, taken)] if mmfr else []
    begin_folder(folder, settings)
    decided = choices(wanted, extra)
    for line in decided:
        print(line)
    if missing:
        print(f"NOT FOUND in {vero}, {len(missing)} of the plan's configs: {', '.join(missing)}")
    if unknown:
        print(f"unknown to us, not used (--extra adds one): {', '.join(unknown)}")

    check = QuestionCheck(lm, sources.MAX_PROMPT)
    tags = re.compile("|".join(map(re.escape, control_strings(lm.tokenizer))))
    states = {}
    for source in [sources.Vero(vero, *w) for w in wanted] + last:
        states[source] = stream(source, folder, check, tags, seed, limit)
        if source not in last and not any(states[source]["kept"].values()):
            # Vero has the name and no usable row: then MMFineReason's
            taken.discard(source.canonical)
    data = folder / "data"
    report = summarize(states, settings, missing, unknown, decided)
    write_questions(data / "questions.jsonl", states)
    write_atomic(data / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_atomic(data / "report.md", as_markdown(report))
    data.rename(out)
    shutil.rmtree(folder)
    return report


def begin_folder(folder, settings):
    """Make the folder of a build, or go on in it. Raises ValueError: another one's settings."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if not file.exists():
        write_atomic(file, json.dumps(settings))
        return
    was = json.loads(file.read_text())
    changed = [f"{k} {was.get(k)!r} -> {v!r}" for k, v in settings.items() if was.get(k) != v]
    if changed:
        raise ValueError(
            f"{folder} holds a build with other settings ({', '.join(changed)}); "
            f"give the same ones, or remove it"
        )
    print(f"going on with the build in {folder}")


def choices(wanted, extra):
    """What was decided where the paper is silent, as lines for people."""
    guessed = sorted({name for name, *_ in wanted} & {"reachqa", "ecd_vqa"})
    guess = "our guesses are not in this source"
    if guessed:
        guess = f"our guess, tier 1: {', '.join(guessed)}"
    if extra:
        guess += f"; added by --extra: {', '.join(sorted(extra))}"
    return [
        "wemath is one sub-set with one cap; Vero's two configs share it",
        f"of the 34 Vero sub-sets the paper leaves some unnamed; {guess}",
        "sub-sets that both sources have are taken from Vero alone",
        f"reward types used: {', '.join(sources.USABLE)}; split train only",
        sources.EXACT_RULE,
    ]


def write_questions(file, states):
    """questions.jsonl: sub-sets in the order of the plan, rows in the order of the source."""
    seen = set()
    with open(file, "w", encoding="utf-8") as lines:
        for source, state in states.items():
            for canonical in sorted(state["kept"]):
                for r in state["kept"][canonical]:
                    golds = r["answer"]
                    row = {"id": unique_id(r, source.label, seen), "question": r["question"]}
                    row["answer"] = golds if len(golds) > 1 else golds[0]
                    row |= {"images": [r["image"]], "source": canonical}
                    if not is_exact(golds[0]):
                        row["free_form"] = True
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def unique_id(r, label, seen):
    """A readable id that no row has yet: the sources' ids are not unique. Adds it to `seen`."""
    place = f"{r['shard']:03d}-{r['row']:07d}"
    plain = r["id"] and not (HIDDEN.search(r["id"]) or MARKS.search(r["id"]))
    id = f"{label}/{MARKS.sub('', HIDDEN.sub('', r['name']))}/{r['id'] if plain else place}"
    while id in seen:
        id = f"{id}@{place}"
    seen.add(id)
    return id


# ---- the report ----------------------------------------------------------------------------------


def summarize(states, settings, missing, unknown, decided):
    """The report: one entry per sub-set of a source, and sums. For each, seen = kept + over the cap
    + dropped.
    """
    rows = []
    for source, state in states.items():
        kept = [r for rows_ in state["kept"].values() for r in rows_]
        counts = Counter(r["name"] for r in kept)
        judged = Counter(r["name"] for r in kept if not is_exact(r["answer"][0]))
        for name, count in sorted(state["stats"].items()):
            canonical, tier = MMFR_TIER.get(squeeze(name)) or (None, None)
            if source.label == "vero":
                canonical, tier = source.canonical, source.tier
            elif squeeze(name) not in MMFR_TIER:
                unknown = [*unknown, f"{name} (MMFineReason, {count['seen']} rows)"]
            row = {"source": source.label, "name": name, "canonical": canonical, "tier": tier}
            row |= {"cap": CAPS.get(tier), "seen": count["seen"], "kept": counts[name]}
            row |= {"free_form": judged[name], "over_cap": count["over"]}
            rows.append(row | {"dropped": dict(sorted(count["dropped"].items()))})
    dropped = Counter()
    for r in rows:
        dropped.update(r["dropped"])
    return {
        "settings": settings,
        "choices": decided,
        "rows": sum(r["kept"] for r in rows),
        "paper_rows": sources.PAPER_TOTAL,
        "free_form": sum(r["free_form"] for r in rows),
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

    columns = "source, sub-set, name, tier, seen, kept, free-form, paper, over cap, dropped"
    lines = [
        "# ZPPO-77K, as built",
        "",
        f"{report['rows']} rows, {report['free_form']} of them free-form; the paper has about "
        f"{report['paper_rows']}. {report['seen']} rows seen, {report['over_cap']} over the cap, "
        f"{sum(report['dropped'].values())} dropped.",
        "",
        "'paper' is the paper's upper bound for the sub-set (it gives no counts); a bound that two "
        "sub-sets of one name share holds for both together. Rows over the cap were not examined "
        "further, so the drops for images and prompt length are those among the rows that came up "
        "for the sample.",
        "",
        *(f"* {cell(c)}" for c in report["choices"]),
        f"* settings: {cell(json.dumps(report['settings']))}",
        "",
        f"| {columns.replace(',', ' |')} |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for r in report["subsets"]:
        why = "; ".join(f"{n} {cell(reason)}" for reason, n in r["dropped"].items())
        bound = f"≤ {r['cap']}" if r["cap"] else 0
        cells = [r["source"], cell(r["name"]), r["canonical"] or "-", r["tier"] or "-", r["seen"]]
        cells += [r["kept"], r["free_form"], bound, r["over_cap"], why]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for title, names in (
        ("In the plan, not in the source", report["not_found"]),
        ("In the source, unknown to us: not used", report["unknown"]),
    ):
        lines += ["", f"{title}: " + (", ".join(map(cell, names)) or "none") + "."]
    return "\n".join(lines) + "\n"


def main(argv):
    """python data.py build. Returns the exit status."""
    p = argparse.ArgumentParser(
        prog="data.py build",
        description="Build ZPPO-77K from its two public sources.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    of = "hub id[@REVISION] or local copy; empty: without it"
    p.add_argument("--out", required=True, help="folder to make")
    p.add_argument("--vero", default=sources.VERO, help=of)
    p.add_argument("--mmfr", default=sources.MMFR, help=of)
    p.add_argument("--tokenizer", default="Qwen/Qwen3.5-0.8B", help="the student, folder or hub id")
    p.add_argument("--seed", type=int, default=0, help="of the sample")
    p.add_argument("--limit", type=int, default=0, help="rows per Vero config and of MMFineReason")
    more = {"nargs": "*", "default": [], "metavar": "CONFIG=TIER"}
    p.add_argument("--extra", help="further Vero configs, tier 1 or 2", **more)
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
        f"\n{report['rows']} questions in {args.out} (the paper: about {sources.PAPER_TOTAL}), "
        f"{report['free_form']} of them for a judge; the counts are in {args.out}/report.md"
    )
    return 0 if report["rows"] else 1
