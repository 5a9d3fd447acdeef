"""The command of the package: measure what was asked for, print it, write it down."""

import argparse
import json
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import torch

import bench
from bench.contenders import compare, guarded
from bench.meter import flops, matmul_rate, work_flops
from bench.parts import head, single
from bench.table import PHASES, lines, median, table
from bench.work import PRESETS, make_work, meta_lm, recorded, text_config
from config import flags

COMMANDS = ("gpu", "scaling", "speedrun", "teacher")  # python -m bench COMMAND: a file each
PARTS = (*PHASES, "head", "single", "transformers", "trl")


def parser():
    """The argparse parser of our own flags."""
    p = argparse.ArgumentParser(
        prog="python -m bench",
        description=bench.__doc__.split("\n\n")[0],
        allow_abbrev=False,
        epilog="Other flags go to train.py: --n, --iterations, --dtype, --device, --engine, ...",
    )
    number = lambda name, default, why: p.add_argument(name, type=int, default=default, help=why)
    presets = sorted(x.stem for x in PRESETS.glob("*.json"))
    p.add_argument("--student", default="tiny", choices=presets, help="preset")
    number("--layers", 0, "only its first layers; 0: all")
    number("--prompts", 0, "a step; default: those of the recorded step, large presets 4")
    number("--prompt", 512, "tokens of a prompt; the tiny preset has its own questions")
    why = "tokens; default: the recorded mean, with --prompts 28, large presets 2048 8192"
    p.add_argument("--response", type=int, nargs="+", default=None, help=why)
    number("--micro-batch", 0, "rows per forward and backward; default: 48 to 64, large presets 4")
    number("--single", 12288, "tokens of the one response whose update's memory is measured")
    why = "default: all (tiny: all but single)"
    p.add_argument("--what", nargs="+", choices=PARTS, default=None, help=why)
    number("--repeat", 5, "steps of each contender, after one that warms up")
    p.add_argument("--out", default="", help="folder for bench.json and bench.md")
    return p


def parse(argv):
    """(our arguments, the config of train.py). Raises ValueError for what can't be compared."""
    args, rest = parser().parse_known_args(argv)
    small = args.student == "tiny"
    args.recorded = small and not args.prompts
    step = recorded() if args.recorded else []
    written = [tokens for group in step for tokens in group["responses"]]
    args.prompts = args.prompts or len(step) or 4
    mean = round(sum(written) / len(written)) if step else 28
    args.response = args.response or ([mean] if small else [2048, 8192])
    args.what = args.what or [x for x in PARTS if not small or x != "single"]
    if small and args.prompts > 150:
        raise ValueError("the tiny preset has 150 text questions; --prompts 150 is the most")
    # a folder that need not exist stands for a large student: the paper's numbers, and no question
    # about its data
    student = "tiny" if small else "random"
    cfg = flags(["--student", student, "--method", "grpo", "--data", "tiny", *rest])
    rows = args.prompts * cfg.group_size // cfg.iterations
    default = rows // 2 if args.recorded else 64 if small else 4
    args.micro_batch = min(args.micro_batch or default, rows)
    if args.prompts % cfg.iterations or rows % args.micro_batch:
        raise ValueError(
            f"--prompts {args.prompts} must be a multiple of --iterations {cfg.iterations}, and "
            f"the {rows} rows of an update one of --micro-batch {args.micro_batch}: TRL takes "
            f"whole micro-batches only"
        )
    return args, cfg


class Report:
    """What is printed and written: text for people, numbers for bench.json."""

    def __init__(self, args, cfg, config):
        self.args, self.cfg, self.config = args, cfg, config
        self.lm, self.cuda = meta_lm(config), cfg.device.startswith("cuda")
        self.unit = "seconds" if self.cuda else "core-s"
        self.rate = matmul_rate(cfg.device, getattr(torch, cfg.dtype))
        self.missing, self.shapes = [], []
        where, per = f"cpu, {torch.get_num_threads()} thread(s)", " a core"
        if self.cuda:
            where, per = torch.cuda.get_device_name(), ""
        self.numbers = {"args": vars(args), "shapes": self.shapes, "where": where}
        self.numbers |= {"dtype": cfg.dtype, "matmul_flops": self.rate, "torch": torch.__version__}
        count = sum(p.numel() for p in self.lm.net.parameters()) / 1e6
        self.title = (
            f"{args.student}: {count:,.2f} M parameters, random, text only, {cfg.dtype} on "
            f"{where}; matrix products {self.rate / 1e12:.3g} TFLOP/s{per}"
        )

    def write(self, folder):
        """bench.json and bench.md."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = self.numbers | {"missing": self.missing}
        (folder / "bench.json").write_text(json.dumps(numbers, indent=1) + "\n")
        text = [self.title, ""]
        for shape in self.shapes:
            rows = lines(shape["rows"], self.unit, markdown=True)
            text += [f"responses of {shape['response']} tokens", "", *rows, ""]
        (folder / "bench.md").write_text("\n".join(text + self.missing) + "\n")


def measure_steps(report, response):
    """Whole rollout steps with responses of one length, by all contenders."""
    args, cfg, config = report.args, report.cfg, report.config
    work = make_work(cfg, args, response)
    found = compare(config, cfg, args, work)
    for who, why in found.items():
        if isinstance(why, str):
            report.missing.append(f"not measured: {who}: {why}")
    if isinstance(found["ours"], str):
        return
    lengths = [len(p.ids) for p in work.prompts]
    if args.recorded:
        kinds = Counter(group["kind"] for group in recorded())
        told = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        print(f"\na recorded ZPPO step: {told} groups, {sum(work.flat)} of {len(lengths)} flat")
    print(
        f"\n{len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens x {work.n} responses "
        f"of {response}, {work.iterations} updates, micro-batches of {work.micro_batch}; medians "
        f"of {args.repeat}"
    )
    rows = table(found, work, work_flops(report.lm, work), report.rate)
    shape = {"response": response, "prompts": len(lengths), "n": work.n, "rows": rows}
    report.shapes.append(shape)
    print(*lines(rows, report.unit), sep="\n", flush=True)


def measure_head(report, tokens):
    """The head alone, chunked beside whole."""
    meters = guarded(lambda: head(report.config, report.cfg, tokens, report.args.repeat))
    if isinstance(meters, str):
        report.missing.append(f"not measured: head over {tokens} tokens: {meters}")
        return
    pair, unit = {}, report.unit
    for kind in ("chunked", "full"):
        pair[kind] = median(m.seconds[kind] for m in meters[1:]), meters[0].peak[kind]
    ratio = median(m.seconds["chunked"] / m.seconds["full"] for m in meters[1:])
    report.numbers.setdefault("head", []).append({"tokens": tokens, **pair, "ratio": ratio})
    (chunked, chunked_gb), (full, full_gb) = pair["chunked"], pair["full"]
    print(
        f"\nhead over {tokens:,} tokens, forward and backward: chunked {chunked:.4f} {unit}, "
        f"{chunked_gb:.2f} GB; in one piece {full:.4f} {unit}, {full_gb:.2f} GB; "
        f"chunked / full = {ratio:.2f}",
        flush=True,
    )


def measure_single(report):
    """The update of one long response: what memory it takes."""
    prompt, tokens = report.args.prompt, report.args.single
    meter = guarded(lambda: single(report.config, report.cfg, tokens, prompt))
    if isinstance(meter, str):
        report.missing.append(f"not measured: update of one response of {tokens} tokens: {meter}")
        return
    seconds, peak = meter.seconds["update"], meter.peak["update"]
    mfu = flops(report.lm, prompt, tokens, backward=True) / seconds / report.rate
    report.numbers["single"] = {"tokens": tokens, "seconds": seconds, "peak_gb": peak, "mfu": mfu}
    print(
        f"\nupdate of one response of {tokens:,} tokens after a prompt of {prompt}: {seconds:.3f} "
        f"{report.unit}, {100 * mfu:.0f} % MFU, {peak:.1f} GB at most",
        flush=True,
    )


def main(argv=None):
    """Measure what was asked for and print it. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return import_module(f"bench.{argv[0]}").main(argv[1:])
    begin = time.perf_counter()
    args, cfg = parse(argv)
    report = Report(args, cfg, text_config(args.student, args.layers))
    print(report.title, flush=True)
    if set(PHASES) & set(args.what):
        for response in args.response:
            measure_steps(report, response)
    if "head" in args.what:
        tokens = args.response
        if args.student == "tiny":
            tokens = [args.micro_batch * args.response[0]]
        for count in tokens:
            measure_head(report, count)
    if "single" in args.what:
        measure_single(report)
    report.missing += [f"not asked for: {x} (--what)" for x in PARTS if x not in args.what]
    print("", *report.missing, f"{time.perf_counter() - begin:.0f} s in all", sep="\n")
    if args.out:
        report.write(args.out)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
