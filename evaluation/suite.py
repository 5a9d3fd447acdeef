r"""Accuracy of a checkpoint, `python eval.py`: the paper's 31 benchmarks (Appendix B.2), or the
tiny world's held-out questions.

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

What happens, in order, each step skipping what is on disk: rows become questions (loading.py), the
closer of training is appended, one response each is sampled with the paper's decoding (temperature
0.6, top-p 0.95, top-k 20, presence penalty 1.5, at most 12,288 new tokens; fixed seeds), scored by
rules (scorers.py, ocrbench.py), the judge (judge.py) settles what rules cannot, and scores.py makes
the table: terminal, results.md, results.csv, results.json. Every response and verdict is a line of
a JSONL file in the output folder; a killed run goes on with the same command. A benchmark whose
data are missing costs one line, a row whose video or picture is missing is not evaluated; the exit
status is 1 when anything that was asked for was not evaluated. The tables hold the benchmarks of
the last call; a call without --only brings all back and generates only what is not there.

On GPUs the model is served by `vllm serve` with one copy a GPU (engines/server.py), on a CPU it
runs in this process. The tiny world is sampled greedily, as train.py measures it, and its score is
the training reward; --temperature changes that. MultiChallenge keeps its conversation and gets no
closer: its rules are about the reply's own form.

What loads a model is imported where one is opened: --list, compare and what is missing come at
once.
"""

import argparse
import hashlib
import json
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from evaluation import benchmarks, scores
from evaluation.benchmarks import TABLE, TINY
from evaluation.judge import open_judge, settle, templates
from evaluation.loading import Questions, Unavailable
from evaluation.responses import graded, progress
from evaluation.video import TOKEN
from runtime.files import write_atomic

# ---- the command line ----------------------------------------------------------------------------


def parser():
    """The argument parser; what its defaults leave open is filled in by flags()."""
    p = argparse.ArgumentParser(
        prog="eval.py",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="also: python eval.py compare A B ..., python eval.py bench",
    )

    def add(group, name, default, text, **more):
        if default is False:
            more["action"] = "store_true"
        elif "action" not in more:
            more.setdefault("type", str if isinstance(default, list) else type(default))
        group.add_argument(name, default=default, help=text, **more)

    p.add_argument("model", nargs="?", help="a model folder or hub id, for example assets/student")
    add(p, "--list", False, "print the benchmarks and end")
    add(p, "--tiny", False, "the tiny world's three held-out families instead of the 31")
    add(p, "--only", [], "some benchmarks, by name or title", nargs="+", metavar="NAME")
    add(p, "--limit", 0, "evenly spaced data rows of each benchmark; 0: all")
    add(p, "--rescore", False, "grade the responses in --out again, generate nothing")
    add(p, "--out", "", "folder of responses, verdicts and tables; default: runs/eval/NAME")
    add(p, "--data", "data/benchmarks", "folder with local copies, as DATA/owner/repo")
    repo = "another repository, NAME=owner/repo or NAME=owner/repo@revision"
    add(p, "--source", [], repo, nargs="+", metavar="NAME=REPO")
    add(p, "--judge", "", "a model folder or hub id, or the URL of an OpenAI-compatible server")
    add(p, "--judge-model", "", "the model's name at the judge's URL; default: its first")
    text = "folder with KIND.txt files that replace those in evaluation/judge_prompts"
    add(p, "--judge-prompts", "", text, metavar="DIR")
    add(p, "--student-name", "", "row of the paper: 0.8b, 2b, 4b or 9b; default: from the name")
    text = "row of the paper: base, zppo, grpo+buffer, ...; default: from the run's config.json"
    add(p, "--method", "", text)
    g = p.add_argument_group("decoding (the paper's; --tiny: greedy, 40 tokens)")
    add(g, "--temperature", None, "[0.6]", type=float)
    add(g, "--top-p", 0.95, "nucleus")
    add(g, "--top-k", 20, "most likely tokens that are sampled from")
    add(g, "--presence-penalty", None, "[1.5]", type=float)
    add(g, "--max-new", None, "tokens of a response [12288]", type=int)
    text = "let the chat template open <think>"
    add(g, "--thinking", True, text, action=argparse.BooleanOptionalAction)
    add(g, "--seed", 0, "of all sampling")
    add(g, "--engine", "", "default: vllm on GPUs, hf on a CPU", choices=("", "vllm", "hf"))
    add(g, "--workers", 0, "copies of the model, one a GPU (vllm); 0: one for each visible GPU")
    text = "of the hf engine; default: bfloat16 on GPUs, float32 on a CPU"
    add(g, "--dtype", "", text, choices=("", "float32", "bfloat16"))
    add(g, "--chunk", 0, "questions in flight; what a killed run may lose; 0: 256 a worker")
    v = p.add_argument_group("pictures and videos")
    add(v, "--min-pixels", 256 * TOKEN, "smaller pictures are enlarged to")
    add(v, "--max-pixels", 1280 * TOKEN, "larger pictures are reduced to")
    add(v, "--fps", 2.0, "frames a second")
    add(v, "--max-frames", 768, "of a video")
    add(v, "--video-tokens", 24_576, "visual tokens of a whole video")
    return p


def flags(argv):
    """The checked arguments of a command line. Raises ValueError."""
    p = parser()
    args = p.parse_args(argv)
    if args.list:
        return args
    if not args.model:
        p.error("which model? a folder or hub id (or --list)")
    names = [b.name for b in TABLE]
    for source in args.source:
        if "=" not in source or source.split("=")[0] not in names:
            raise ValueError(f"--source {source}: expected NAME=owner/repo with a NAME of --list")
    args.source = dict(s.split("=", 1) for s in args.source)
    fill_in(args, torch.cuda.device_count())
    if min(args.max_new, args.chunk, args.workers) < 1:
        raise ValueError("--max-new, --chunk and --workers must be at least 1")
    if min(args.limit, args.temperature) < 0 or not 0 < args.top_p <= 1:
        raise ValueError("--limit and --temperature must be at least 0, --top-p in (0, 1]")
    if args.engine == "hf" and args.workers > 1:
        raise ValueError("--workers needs --engine vllm; the hf engine runs in this process")
    return args


def fill_in(args, gpus):
    """Set what was left open: the paper's decoding or the tiny world's, an engine for the GPUs that
    are visible, the folder.
    """
    decoding = {"temperature": 0.6, "presence_penalty": 1.5, "max_new": 12_288}
    if args.tiny:
        decoding = {"temperature": 0.0, "presence_penalty": 0.0, "max_new": 40}
    for name, value in decoding.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.engine = args.engine or ("vllm" if gpus else "hf")
    args.dtype = args.dtype or ("bfloat16" if gpus else "float32")
    if args.workers == 0:
        args.workers = max(1, gpus) if args.engine == "vllm" else 1
    if args.chunk == 0:
        args.chunk = 256 * args.workers
    parts = [*Path(args.model).parts[-2:]]
    if args.tiny:
        parts.append("tiny")
    name = "-".join(parts).replace("/", "").replace("runs-", "")
    args.out = args.out or f"runs/eval/{name}"


# ---- models and settings -------------------------------------------------------------------------


@contextmanager
def open_model(path, args, who="the model"):
    """An engine of the model at `path`: a server on the GPUs that ends with the context and so
    gives them back (the judge is next), or transformers in this process.
    """
    from model import load, text_side

    if args.engine == "hf":
        from engines.hf import HFEngine

        device = "cuda" if torch.cuda.device_count() else "cpu"
        yield HFEngine(load(path, args.dtype, device, masters=args.dtype == "float32"))
        return
    from engines.client import ClientEngine
    from engines.server import vllm_server

    lm = text_side(path)
    log = Path(args.out) / "server.log"
    with vllm_server(path, log, data_parallel_size=args.workers) as url:
        engine = ClientEngine(url, lm=lm, who=who, flag="--engine")
        try:
            yield engine
        finally:
            engine.close()


# What decides the responses in a folder; the rest (which benchmarks, how many rows, which judge)
# may change between calls.
DECIDES = """model tiny temperature top_p top_k presence_penalty max_new thinking seed engine dtype
min_pixels max_pixels fps max_frames video_tokens source""".split()


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
    now = {k: getattr(args, k) for k in DECIDES} | {"weights": weights_of(args.model)}
    file = out / "settings.json"
    if file.is_file():
        was = json.loads(file.read_text())
        changed = [f"{k} {was.get(k)} -> {now[k]}" for k in now if was.get(k) != now[k]]
        if changed and not args.rescore:
            raise ValueError(
                f"{out} holds responses made with other settings ({'; '.join(changed)}); "
                "give another --out, or the same settings"
            )
    elif args.rescore:
        raise ValueError(f"{out}: there is nothing to score again; give the --out of an evaluation")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(now, indent=1))


# ---- the evaluation ------------------------------------------------------------------------------


def run(args, engine=None, judge=None):
    """Evaluate args.model. engine, judge: in place of those that the flags name (tests).

    Returns (results, lines of what is missing).
    """
    out, texts = Path(args.out), templates(args.judge_prompts)
    check_folder(out, args)
    student, method = scores.guess(args.model)
    student, method = args.student_name or student, args.method or method
    paper = {} if args.tiny else scores.paper_results(student, method)
    results = []
    with ExitStack() as models:  # servers end also when something goes wrong
        # first all responses, then all verdicts: one model in memory at a time
        answered, missing = answer(args, engine, models)
        open_rows = sum(s.how == "judge" for _, pairs, _ in answered for _, s in pairs)
        if args.judge and judge is None and open_rows:
            models.close()  # lets go of the student before the judge is loaded

            def make_engine(path):
                return models.enter_context(open_model(path, args, "the judge"))

            judge = open_judge(args.judge, args.judge_model, make_engine)
        for bench, pairs, records in answered:
            malformed = 0
            if judge is not None:
                pairs, malformed, why = verdicts(bench, pairs, records, judge, texts, out)
                missing += why
            write_scores(out / f"scores/{bench.name}.jsonl", pairs)
            results.append(scores.summarize(bench, pairs, records, paper, malformed, args.limit))
    write_results(out, results, missing, args, student, method, judge)
    return results, missing


def answer(args, engine, models):
    """([(benchmark, [(Item, Score)], response records)], lines of what is missing)."""
    table, out = benchmarks.find(args.only, TINY if args.tiny else TABLE), Path(args.out)
    done, missing = [], []
    for bench in table:
        try:
            questions = Questions(bench, args.data, args.limit, args.source.get(bench.name))
            if engine is None and not args.rescore:
                engine = models.enter_context(open_model(args.model, args))
            path = out / f"responses/{bench.name}.jsonl"
            asks = None if args.rescore else engine
            items, records = responses(bench, questions, asks, args, path)
            pairs = graded(bench, items, records)
        except Unavailable as e:
            missing.append(f"not evaluated: {e}")
            continue
        except ValueError as e:  # a text-only model and pictures, a prompt beyond the context
            if engine is None:
                raise
            said = str(e).replace("--max-response", "--max-new")  # training's name for it
            missing.append(f"not evaluated: {bench.name}: {said}")
            continue
        if all(s.how == "missing" for _, s in pairs):
            missing.append(f"not evaluated: {bench.name}: {_why_nothing(pairs, out, args)}")
        else:
            done.append((bench, pairs, records))
    return done, missing


def responses(*arguments):
    """generate.generate, imported when there is something to generate."""
    from evaluation.generate import generate

    return generate(*arguments)


def _why_nothing(pairs, out, args):
    if pairs:
        return f"no file of its {len(pairs)} rows is there ({pairs[0][1].answer})"
    return f"no response in {out / 'responses'}" if args.rescore else "it has no questions"


def verdicts(bench, pairs, records, judge, texts, out):
    """(pairs with the judge's scores, malformed replies, lines of what could not be judged)."""
    todo = sum(s.how == "judge" for _, s in pairs)
    if not todo:
        return pairs, 0, []
    path = out / f"verdicts/{bench.name}.jsonl"
    with progress(f"judge {bench.name:9s}", todo) as bar:
        try:
            pairs, malformed = settle(pairs, records, judge, texts, path, bar)
        except ValueError as e:  # a server that went away
            return pairs, 0, [f"not judged: {bench.name}: {e}"]
    left = sum(s.how == "judge" for _, s in pairs)
    why = f"not judged: {bench.name}: {left} prompts do not fit the judge's context"
    return pairs, malformed, [f"{why}; give --judge a model with a longer one"] if left else []


def write_scores(path, pairs):
    """What each question got, for people and for pandas: one line a question, written anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for item, s in pairs:
        gold = item.gold if isinstance(item.gold, (str, list)) else str(item.gold)
        line = {"id": item.id, "group": item.group, "score": s.value, "how": s.how}
        line |= {"answer": s.answer[:500], "gold": gold}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomic(path, "".join(lines).encode("utf-8", "replace"))


def write_results(out, results, missing, args, student, method, judge):
    """results.md, results.csv and results.json, and the table on the terminal."""
    shown = ("", "") if args.tiny else (student, method)
    write_atomic(out / "results.md", scores.markdown(results, missing, *shown))
    write_atomic(out / "results.csv", scores.as_csv(results))
    everything = {
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
    write_atomic(out / "results.json", json.dumps(everything, indent=1, ensure_ascii=False))
    print(scores.terminal(results, missing, *shown) if results else "\n".join(missing))
    if unscored := sum(r["unscored"] for r in results):
        again = "the same command with --rescore --judge MODEL_OR_URL"
        print(f"\n{unscored} responses need a judge: {again}")
    if gone := sum(r["missing"] for r in results):
        print(
            f"\n{gone} rows not evaluated: their pictures or videos are not there (scores/*.jsonl)"
        )
    if args.limit:
        print(f"\nat most {args.limit} evenly spaced rows of each benchmark (--limit)")
    if results:
        print(f"\ntables, responses and scores are in {out}")


def main(argv=None):
    """The exit status of `python eval.py ...`: 1 when something asked for was not evaluated."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["compare"]:
        if len(argv) < 3:
            raise ValueError("compare takes two or more: evaluation folders, paper:STUDENT:METHOD")
        base, *others = map(scores.read_scores, argv[1:])
        print(scores.comparison(argv[1:], base, others))
        return 0
    if argv[:1] == ["bench"]:
        from evaluation.speed import bench

        bench()
        return 0
    args = flags(argv)
    if args.list:
        print(benchmarks.listing())
        return 0
    results, missing = run(args)
    incomplete = any(r["missing"] for r in results)
    return 0 if results and not missing and not incomplete else 1
