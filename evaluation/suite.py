r"""Accuracy of a checkpoint, `python eval.py`: the paper's 31 benchmarks (Appendix B.2), or the tiny world's held-out
questions.

    python eval.py assets/student --tiny                     # about a minute on two CPU cores
    python eval.py runs/zppo-tiny-1/final --tiny
    # all 31; needs GPUs, and the data (benchmarks.py)
    python eval.py Qwen/Qwen3.5-0.8B --judge Qwen/Qwen3.5-27B-FP8
    python eval.py MODEL --only AIME25 GPQA-D --limit 20     # a quick look: evenly spaced rows
    # grade what is there, generate nothing
    python eval.py MODEL --rescore --judge http://host:8000/v1
    # paired, with the benchmark bootstrap of F.6
    python eval.py compare runs/eval/A runs/eval/B paper:0.8b:zppo
    # the table of benchmarks; responses scored a second
    python eval.py --list;  python eval.py bench

What happens, in order, each step skipping what is on disk: rows become questions (rows.py,
video.py), the closer of training is appended, one response each is sampled with the paper's
decoding (temperature 0.6, top-p 0.95, top-k 20, presence penalty 1.5, at most 12,288 new tokens;
fixed seeds), scored by rules (scorers.py, ocrbench.py), the judge (judge.py) settles what rules
cannot, and scores.py makes the table: terminal, results.md, results.csv, results.json. Every
response and verdict is a line of a JSONL file in the output folder; a killed run goes on with the
same command. A benchmark whose data are missing costs one line. The tables hold the benchmarks of
the last call; a call without --only brings all back and generates only what is not there.

The tiny world is sampled greedily, as train.py measures it, and its score is the training reward;
--temperature changes that. MultiChallenge keeps its conversation and gets no closer: its rules are
about the reply's own form.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from engines.remote import Fleet, visible_gpus
from tqdm import tqdm

from data import decode
from engines.base import seed_of
from engines.hf import HFEngine
from evaluation import benchmarks, scores
from evaluation.benchmarks import TABLE, TINY, Questions, Unavailable
from evaluation.scorers import Score, score, training
from evaluation.video import TOKEN, Video, fit, sample, with_subtitles
from model import load
from processor import CLOSER, encode, encode_turns

# ---- what is kept on disk ------------------------------------------------------------------------


class Kept(dict):
    """{key: record} on top of an append-only JSONL file; a torn last line is as if it had not been
    written, later lines win.
    """

    def __init__(self, path, key):
        super().__init__()
        self.path, self.key = Path(path), key
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                record = json.loads(line)
                self[record[key]] = record
            except (ValueError, KeyError, TypeError):
                continue

    def append(self, records):
        """On disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as f:
            if f.seek(0, os.SEEK_END) and (f.seek(-1, os.SEEK_END), f.read(1))[1] != b"\n":
                f.write(b"\n")
            f.write(
                b"".join(
                    json.dumps(r, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
                    for r in records
                )
            )
            f.flush()
            os.fsync(f.fileno())
        self.update((r[self.key], r) for r in records)


def asked(item):
    """A digest of what the model is asked, so that a changed data set is asked again."""
    return hashlib.sha256(repr((item.text(), item.turns, item.gold)).encode()).hexdigest()[:16]


# ---- generate ------------------------------------------------------------------------------------


def generate(bench, questions, engine, args, kept):
    """One response to each question that has none yet. Returns the Items without pictures. engine:
    None generates nothing.
    """
    light, chunk = [], []
    with tqdm(
        total=len(questions), desc=f"{bench.name:9s}", unit="row", leave=False, dynamic_ncols=True
    ) as bar:
        for items in questions.by_row():
            light += [replace(i, images=(), video=None) for i in items]
            chunk += (
                [i for i in items if kept.get(i.id, {}).get("asked") != asked(i)] if engine else []
            )
            while len(chunk) >= args.chunk:
                kept.append(respond(bench, chunk[: args.chunk], engine, args))
                chunk = chunk[args.chunk :]
            bar.update()
        if chunk:
            kept.append(respond(bench, chunk, engine, args))
    return light


def respond(bench, chunk, engine, args):
    """Response records of a chunk of Items; one whose picture or video does not open gets a record
    that says so, and counts as wrong.
    """
    records, prompts = {}, {}
    for item in chunk:
        try:
            prompts[item.id] = prompt_of(bench, item, engine.lm, args)
        except Unreadable as e:
            records[item.id] = {
                "id": item.id,
                "asked": asked(item),
                "response": "",
                "truncated": False,
                "tokens": 0,
                "error": str(e),
            }
    seed = seed_of(args.seed, bench.name, chunk[0].id)
    drawn = (
        engine.sample(
            list(prompts.values()),
            1,
            args.max_new,
            seed,
            args.temperature,
            args.top_p,
            args.top_k,
            presence_penalty=args.presence_penalty,
        )
        if prompts
        else []
    )
    for item in chunk:
        if item.id in prompts:
            got = drawn[len(records) - sum("error" in r for r in records.values())][0]
            records[item.id] = {
                "id": item.id,
                "asked": asked(item),
                "response": got.text,
                "truncated": got.truncated,
                "tokens": len(got.response_ids),
                **{k: item.meta[k] for k in ("order",) if k in item.meta},
            }
    return [records[item.id] for item in chunk]


class Unreadable(ValueError):
    """A picture or video that does not open."""


def prompt_of(bench, item, lm, args):
    """The Prompt of an Item: pictures within the paper's pixel bounds, sampled frames, subtitles,
    the closer. Raises Unreadable.
    """
    try:
        images, frames, times = decode(item.images, item.id), item.video or (), []
        if isinstance(item.video, Video):
            frames, times = sample(
                item.video, roots(bench, args), args.fps, args.max_frames, args.video_tokens
            )
    except (ValueError, OSError) as e:
        raise Unreadable(str(e)) from e
    if bench.family != "tiny":
        images = [fit(i, args.min_pixels, args.max_pixels) for i in images]
    if item.turns:
        return encode_turns(lm, item.turns, args.thinking)
    text = (
        with_subtitles(item.text(), item.video, roots(bench, args), times) if times else item.text()
    )
    prompt = encode(lm, text + CLOSER * bench.closer, images, frames, args.thinking)
    if (
        len(times) > 1 and times[-1] > times[0]
    ):  # the stamps that the model reads are those of the frames it was given
        prompt = replace(prompt, video_fps=(len(times) - 1) / (times[-1] - times[0]))
    return prompt


def roots(bench, args):
    return [
        Path(args.data) / repo.partition("@")[0]
        for repo in ([args.source[bench.name]] if bench.name in args.source else bench.repos)
    ]


# ---- grade ---------------------------------------------------------------------------------------


def graded(bench, items, kept):
    """[(Item, Score)] of the Items that have a response. The training reward sees the whole
    response, all else what follows </think>.
    """
    out = []
    for item in items:
        record = kept.get(item.id)
        if record is None or record["asked"] != asked(item):
            continue
        if "error" in record:
            out.append((item, Score(0.0, "unreadable")))
        elif bench.scorer is training:
            out.append((item, training(item, record["response"])))
        else:
            out.append((item, score(bench.scorer, item, record["response"], record["truncated"])))
    return out


def write_scores(path, pairs):
    """What each question got, for people and for pandas: one line a question, written anew each
    time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        for item, s in pairs:
            gold = item.gold if isinstance(item.gold, (str, list)) else str(item.gold)
            f.write(
                json.dumps(
                    {
                        "id": item.id,
                        "group": item.group,
                        "score": s.value,
                        "how": s.how,
                        "answer": s.answer[:500],
                        "gold": gold,
                    },
                    ensure_ascii=False,
                )
                + "\n"
            )


# ---- the command ---------------------------------------------------------------------------------


def flags(argv):
    p = argparse.ArgumentParser(
        prog="eval.py",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="also: python eval.py compare A B ..., python eval.py bench",
    )
    p.add_argument(
        "model",
        nargs="?",
        help="a model folder or hub id, for example runs/NAME/final or assets/student",
    )
    p.add_argument("--list", action="store_true", help="print the benchmarks and end")
    p.add_argument(
        "--tiny",
        action="store_true",
        help="the tiny world's three held-out families instead of the 31",
    )
    p.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="some benchmarks, by name or title"
    )
    p.add_argument(
        "--limit", type=int, default=0, help="evenly spaced data rows of each benchmark; 0: all"
    )
    p.add_argument(
        "--rescore",
        action="store_true",
        help="grade the responses in --out again, generate nothing",
    )
    p.add_argument(
        "--out",
        default="",
        help="folder of responses, verdicts and tables; default: runs/eval/NAME",
    )
    p.add_argument(
        "--data", default="data/benchmarks", help="folder with local copies, as DATA/owner/repo"
    )
    p.add_argument(
        "--source",
        nargs="+",
        default=[],
        metavar="NAME=REPO",
        help="another repository, NAME=owner/repo or NAME=owner/repo@revision",
    )
    p.add_argument(
        "--judge",
        default="",
        help="a model folder or hub id, or the URL of an OpenAI-compatible server",
    )
    p.add_argument(
        "--judge-model", default="", help="the model's name at the judge's URL; default: its first"
    )
    p.add_argument(
        "--judge-prompts",
        default="",
        metavar="DIR",
        help="folder with KIND.txt files that replace judge_prompts.py",
    )
    p.add_argument(
        "--student-name",
        default="",
        help="row of the paper: 0.8b, 2b, 4b or 9b; default: from the model's name",
    )
    p.add_argument(
        "--method",
        default="",
        help="row of the paper: base, zppo, grpo+buffer, ...; default: from the run's config.json",
    )
    g = p.add_argument_group("decoding (the paper's; --tiny: greedy, 40 tokens)")
    g.add_argument("--temperature", type=float, default=None, help="[0.6]")
    g.add_argument("--top-p", type=float, default=0.95)
    g.add_argument("--top-k", type=int, default=20)
    g.add_argument("--presence-penalty", type=float, default=None, help="[1.5]")
    g.add_argument("--max-new", type=int, default=None, help="tokens of a response [12288]")
    g.add_argument(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let the chat template open <think>",
    )
    g.add_argument("--seed", type=int, default=0)
    g.add_argument(
        "--engine",
        choices=("", "vllm", "hf"),
        default="",
        help="default: vllm on GPUs, hf on a CPU",
    )
    g.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes with a copy of the model each; 0: one for each visible GPU",
    )
    g.add_argument(
        "--dtype",
        choices=("", "float32", "bfloat16"),
        default="",
        help="default: bfloat16 on GPUs, float32 on a CPU",
    )
    g.add_argument(
        "--chunk",
        type=int,
        default=0,
        help="questions in flight; what a killed run may lose; 0: 256 a worker",
    )
    v = p.add_argument_group("pictures and videos")
    v.add_argument("--min-pixels", type=int, default=256 * TOKEN)
    v.add_argument("--max-pixels", type=int, default=1280 * TOKEN)
    v.add_argument("--fps", type=float, default=2.0, help="frames a second")
    v.add_argument("--max-frames", type=int, default=768)
    v.add_argument(
        "--video-tokens", type=int, default=24_576, help="visual tokens of a whole video"
    )
    args = p.parse_args(argv)
    if args.list:
        return args
    if not args.model:
        p.error("which model? a folder or hub id (or --list)")
    bad = [s for s in args.source if "=" not in s or s.split("=")[0] not in [b.name for b in TABLE]]
    if bad:
        raise ValueError(f"--source {bad[0]}: expected NAME=owner/repo with a NAME of --list")
    args.source = dict(s.split("=", 1) for s in args.source)
    for name, paper, tiny in (
        ("temperature", 0.6, 0.0),
        ("presence_penalty", 1.5, 0.0),
        ("max_new", 12_288, 40),
    ):
        if getattr(args, name) is None:
            setattr(args, name, tiny if args.tiny else paper)
    gpus = len(visible_gpus())
    args.engine, args.dtype = (
        args.engine or ("vllm" if gpus else "hf"),
        args.dtype or ("bfloat16" if gpus else "float32"),
    )
    args.workers = args.workers or max(1, gpus)
    args.chunk = args.chunk or 256 * args.workers
    if (
        args.max_new < 1
        or args.chunk < 1
        or args.workers < 1
        or args.limit < 0
        or args.temperature < 0
        or not 0 < args.top_p <= 1
    ):
        raise ValueError(
            "--max-new, --chunk and --workers must be at least 1, --limit and --temperature at least 0, --top-p in (0, 1]"
        )
    if not args.out:
        args.out = "runs/eval/" + "-".join(
            Path(args.model).parts[-2:] + ("tiny",) * args.tiny
        ).replace("/", "").replace("runs-", "")
    return args


@contextmanager
def open_model(path, args):
    """An engine of the model at `path`: in this process, or data parallel over worker processes
    with a GPU each.
    """
    if (
        args.workers > 1 or args.engine == "vllm"
    ):  # a process of its own gives the GPU back when it ends: the judge is next
        with Fleet(args.workers, path, args.engine, args.dtype, memory=0.9, sleep=False) as pool:
            yield pool
    else:
        yield HFEngine(
            load(
                path,
                args.dtype,
                "cuda" if visible_gpus() else "cpu",
                masters=args.dtype == "float32",
            )
        )


# What decides the responses in a folder; the rest (which benchmarks, how many rows, which judge)
# may change between calls.
DECIDES = (
    "model",
    "tiny",
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "max_new",
    "thinking",
    "seed",
    "engine",
    "dtype",
    "min_pixels",
    "max_pixels",
    "fps",
    "max_frames",
    "video_tokens",
    "source",
)


def weights_of(path):
    """A digest of a model folder's weights, from slices all over its files: a folder that was
    trained on has another. "" for a hub id.
    """
    files, digest = sorted(Path(path).glob("*.safetensors")), hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with open(file, "rb") as f:
            for k in range(256):
                f.seek(size * k // 256)
                digest.update(f.read(4096))
    return digest.hexdigest()[:16] if files else ""


def check_folder(out, args):
    """Write settings.json, or compare with the one that is there. Raises ValueError that names what
    changed.
    """
    now, file = (
        {k: getattr(args, k) for k in DECIDES} | {"weights": weights_of(args.model)},
        out / "settings.json",
    )
    if file.is_file():
        was = json.loads(file.read_text())
        changed = [f"{k} {was.get(k)} -> {now[k]}" for k in now if was.get(k) != now[k]]
        if changed and not args.rescore:
            raise ValueError(
                f"{out} holds responses made with other settings ({'; '.join(changed)}); give another --out, or the same settings"
            )
    elif args.rescore:
        raise ValueError(f"{out}: there is nothing to score again; give the --out of an evaluation")
    else:
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=1))


def run(args, engine=None, judge=None):
    """Evaluate args.model. engine, judge: in place of those that the flags name (tests). Returns
    (results, lines of what is missing).
    """
    with ExitStack() as models:  # worker processes end also when something goes wrong
        return _run(args, engine, judge, models)


def _run(args, engine, judge, models):
    from evaluation.judge import open_judge, settle, templates

    table, out = benchmarks.find(args.only, TINY if args.tiny else TABLE), Path(args.out)
    texts = templates(args.judge_prompts)
    check_folder(out, args)
    student, method = scores.guess(args.model)
    student, method = args.student_name or student, args.method or method
    paper = {} if args.tiny else scores.paper_results(student, method)
    done, missing, results = [], [], []
    for bench in table:  # first all responses, then all verdicts: one model in memory at a time
        kept = Kept(out / f"responses/{bench.name}.jsonl", "id")
        try:
            questions = Questions(bench, args.data, args.limit, args.source.get(bench.name))
            if engine is None and not args.rescore:
                engine = models.enter_context(open_model(args.model, args))
            pairs = graded(
                bench,
                generate(bench, questions, None if args.rescore else engine, args, kept),
                kept,
            )
        except Unavailable as e:
            missing.append(f"not evaluated: {e}")
            continue
        except ValueError as e:  # a text-only model and pictures, a prompt beyond the context
            if engine is None:
                raise
            missing.append(f"not evaluated: {bench.name}: {e}")
            continue
        if pairs:
            done.append((bench, pairs, kept))
        else:
            missing.append(
                f"not evaluated: {bench.name}: "
                + (f"no response in {out / 'responses'}" if args.rescore else "it has no questions")
            )
    open_rows = sum(s.how == "judge" for _, pairs, _ in done for _, s in pairs)
    if args.judge and judge is None and open_rows:
        engine = models.close()  # lets go of the student before the judge is loaded
        judge = open_judge(
            args.judge, args.judge_model, lambda path: models.enter_context(open_model(path, args))
        )
    for bench, pairs, kept in done:
        malformed = 0
        if judge is not None and (todo := sum(s.how == "judge" for _, s in pairs)):
            with tqdm(
                total=todo,
                desc=f"judge {bench.name:9s}",
                unit="row",
                leave=False,
                dynamic_ncols=True,
            ) as bar:
                try:
                    pairs, malformed = settle(
                        pairs,
                        kept,
                        judge,
                        texts,
                        Kept(out / f"verdicts/{bench.name}.jsonl", "key"),
                        bar,
                    )
                except (
                    ValueError
                ) as e:  # a server that went away, a prompt beyond the judge's context
                    missing.append(f"not judged: {bench.name}: {e}")
        write_scores(out / f"scores/{bench.name}.jsonl", pairs)
        results.append(scores.summarize(bench, pairs, kept, paper, malformed))
    write_results(out, results, missing, args, student, method, judge)
    return results, missing


def write_results(out, results, missing, args, student, method, judge):
    shown = ("", "") if args.tiny else (student, method)
    (out / "results.md").write_text(scores.markdown(results, missing, *shown), encoding="utf-8")
    (out / "results.csv").write_text(scores.as_csv(results), encoding="utf-8")
    whole = {
        "model": args.model,
        "student": student,
        "method": method,
        "settings": json.loads((out / "settings.json").read_text()),
        "limit": args.limit,
        "judge": judge.name if judge else None,
        "averages": scores.averages(results),
        "missing": missing,
        "results": results,
    }
    (out / "results.json").write_text(
        json.dumps(whole, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    print(scores.terminal(results, missing, *shown) if results else "\n".join(missing))
    if any(r["unscored"] for r in results):
        print(
            f"\n{sum(r['unscored'] for r in results)} responses need a judge: the same command with --rescore --judge MODEL_OR_URL"
        )
    if results:
        print(f"\ntables, responses and scores are in {out}")


def bench(n=10_000):
    """The path of n scripted responses: rows, questions, JSONL on disk, scores, table; without a
    model or a judge.
    """
    import tempfile

    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp) / "data/TIGER-Lab/MMLU-Pro"
        root.mkdir(parents=True)
        rows = [
            {
                "question_id": i,
                "question": f"Which number is {i}?",
                "options": [f"{i + k} apples" for k in range(10)],
                "answer": "D",
                "answer_index": 3,
                "cot_content": "",
                "category": f"c{i % 14}",
                "src": "",
            }
            for i in range(n)
        ]
        datasets.Dataset.from_list(rows).to_parquet(str(root / "test.parquet"))
        args = flags(
            ["scripted", "--only", "MMLU-Pro", "--data", f"{tmp}/data", "--out", f"{tmp}/out"]
        )
        kept, b = Kept(Path(tmp) / "r.jsonl", "id"), benchmarks.find(["MMLU-Pro"])[0]
        start = time.perf_counter()
        items = list(Questions(b, args.data))
        read = time.perf_counter()
        texts = [
            "Let me think. " * 60 + "</think>So the answer is " + t
            for t in ("\\boxed{D}", "\\boxed{A}", "(D).", "{0} apples", "\\boxed{D. ok}")
        ]
        for i in range(0, n, args.chunk):
            kept.append(
                [
                    {
                        "id": x.id,
                        "asked": asked(x),
                        "response": texts[k % 5],
                        "truncated": False,
                        "tokens": 9,
                    }
                    for k, x in enumerate(items[i : i + args.chunk])
                ]
            )
        written = time.perf_counter()
        pairs = graded(b, items, Kept(Path(tmp) / "r.jsonl", "id"))
        scored = time.perf_counter()
        scores.summarize(b, pairs, kept)
        end = time.perf_counter()
    print(
        f"{n:,} responses: rows to questions {read - start:.2f} s, written {written - read:.2f} s, read and scored {scored - written:.2f} s, "
        f"table {end - scored:.2f} s\n{n / (scored - written):,.0f} scored a second, {n / (end - start):,.0f} through all of it"
    )


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["compare"]:
        if len(argv) < 3:
            raise ValueError(
                "compare takes two or more: evaluation folders, or paper:STUDENT:METHOD"
            )
        print(
            scores.comparison(
                argv[1:], scores.read_scores(argv[1]), [scores.read_scores(a) for a in argv[2:]]
            )
        )
    elif argv[:1] == ["bench"]:
        bench()
    else:
        args = flags(argv)
        if args.list:
            print(benchmarks.listing())
            return 0
        results, _ = run(args)
        return 0 if results else 1
    return 0
