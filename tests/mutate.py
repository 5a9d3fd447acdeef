"""Would the tests notice? Small faults, put into the core one at a time, and the tests run on each.

    python tests/mutate.py --minutes 10     # goes on where it stopped; not part of CI
    python tests/mutate.py --report         # what was tried so far, and the survivors

A mutant is one change of the syntax tree: a comparison, an operator, a constant, a condition, a
call left out. Of each file some are chosen by lot (--per-file, --seed). They run in a copy of the
working tree, the file's own tests first to fail; torch is imported once and each mutant's process
is forked from there. A mutant that lives is either one that nobody can tell from the original, or
a test that is missing.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# the quickest tests of a file first: most faults fall to those
TESTS = {
    "train.py": "candidates train",
    "baselines.py": "idle_flags teacher methods",
    "rollout.py": "corners rollout train",
    "teacher.py": "teacher train",
    "reformulate.py": "candidates reformulate train",
    "buffer.py": "buffer train",
    "loss.py": "loss corners policy",
    "policy.py": "policy corners rollout text_only",
    "reward.py": "reward",
    "records.py": "candidates rollout train",
    "judge.py": "teacher",
    "data.py": "data runtime/rows runtime/dataset reports",
    "processor.py": "processor policy turns",
    "model.py": "reports text_only engines/hf policy",
    "runtime/alarms.py": "runtime/alarms",
    "runtime/checkpoint.py": "runtime/checkpoint runtime/changed",
}
COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq}
COMPARE |= {ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In}
COMPARE |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is}
OPERATOR = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
OPERATOR |= {ast.FloorDiv: ast.Mult, ast.Mod: ast.Add, ast.BitOr: ast.BitAnd}
OTHER = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum"}
# what is only said or measured, and how a file is opened as a command
QUIET = {"tqdm", "print", "heartbeat", "update", "close", "append", "clock", "on_rank0", "warn"}


def changes(node):
    """(name, changed copy) of every way in which a node is changed."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARE:
        new = COMPARE[type(node.ops[0])]()
        yield type(new).__name__, ast.Compare(node.left, [new, *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATOR:
        new = OPERATOR[type(node.op)]()
        yield type(new).__name__, ast.BinOp(node.left, new, node.right)
    elif isinstance(node, ast.BoolOp):
        new = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield type(new).__name__, ast.BoolOp(new, node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "without " + type(node.op).__name__, node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "other", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "plus 1", ast.Constant(node.value + 1)
    elif isinstance(node, ast.If | ast.While):
        other = copy.copy(node)
        other.test = ast.UnaryOp(ast.Not(), node.test)
        yield "negated", other
    elif isinstance(node, ast.IfExp):
        yield "swapped", ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Call) and name_of(node.func) in OTHER:
        other = copy.deepcopy(node)
        attribute = "id" if isinstance(node.func, ast.Name) else "attr"
        setattr(other.func, attribute, OTHER[name_of(node.func)])
        yield OTHER[name_of(node.func)], other
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        if name_of(node.value.func) not in QUIET:
            yield "left out", ast.Pass()
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATOR:
        new = OPERATOR[type(node.op)]()
        yield type(new).__name__, ast.AugAssign(node.target, new, node.value)


def name_of(func):
    """The last name of what is called."""
    return getattr(func, "attr", getattr(func, "id", ""))


def untouched(node):
    """Messages, annotations, and what runs only as a command are left alone."""
    command = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
    bench = isinstance(node, ast.FunctionDef) and node.name in ("bench", "main", "__repr__")
    return command or bench or isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.arg)


def mutants(file):
    """[(key, source)] of all mutants of a file, in its order. A key stays as long as the function
    that it lies in has the same words.
    """
    tree, seen, out = ast.parse((ROOT / file).read_text(encoding="utf-8")), {}, []

    def visit(parent, inside):
        for field, value in ast.iter_fields(parent):
            if field == "annotation" or field == "returns" or field == "decorator_list":
                continue
            for k, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(node, ast.AST) or untouched(node):
                    continue
                name = getattr(node, "name", None) if hasattr(node, "body") else None
                where = f"{inside}.{name}".strip(".") if name else inside
                for change, new in changes(node):
                    first = ast.unparse(node).splitlines()[0]
                    key = f"{file} {where}: {first} | {change}"
                    seen[key] = seen.get(key, 0) + 1
                    if seen[key] > 1:
                        key += f" #{seen[key]}"
                    put(parent, field, k, new)
                    out.append((key, ast.unparse(ast.fix_missing_locations(tree))))
                    put(parent, field, k, node)
                visit(node, where)

    visit(tree, "")
    return out


def put(parent, field, k, node):
    """Hang a node into the place of another."""
    if k is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[k] = node


def chosen(per_file, seed, only):
    """[(file, key, source)], in turns over the files, so that any part of them is a fair sample."""
    by_file = []
    for file in [f for f in TESTS if only in ("", f)]:
        found = mutants(file)
        some = random.Random(f"{seed}/{file}").sample(found, min(per_file, len(found)))
        by_file.append([(file, *m) for m in some])
    longest = max(map(len, by_file))
    return [some[k] for k in range(longest) for some in by_file if k < len(some)]


def copy_of_the_tree(folder):
    """What git would commit, as it is now, in `folder`; returns a short name of its content."""
    content = hashlib.sha256()
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True,
        capture_output=True, check=True)  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
            content.update((ROOT / name).read_bytes())
    # some tests ask git what is there
    subprocess.run("git init -q && git add -A", cwd=folder, shell=True, check=True)
    return content.hexdigest()[:16]


def run_tests(folder, file, seconds):
    """(whether they fail, what pytest said last) of a file's tests, in a forked process."""
    tests = [f"tests/{p.replace('/', '/test_') if '/' in p else 'test_' + p}.py"
        for p in TESTS[file].split()]  # fmt: skip
    said = folder / "said.txt"
    child = os.fork()
    if child == 0:
        os.setsid()
        out = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.chdir(folder)
        os.environ["HF_HUB_OFFLINE"] = "1"
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests])))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return True, "took too long"
    lines = said.read_text(errors="replace").splitlines()
    failed = [x for x in lines if x.startswith(("FAILED", "ERROR"))]
    return status != 0, (failed or lines[-1:] or [""])[0][:160]


def warm_up():
    """Import once what every test imports, but nothing of ours."""
    import hypothesis  # noqa: F401
    import matplotlib  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from transformers import AutoModelForImageTextToText, AutoTokenizer  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401
    from transformers.models.qwen3_5 import modeling_qwen3_5  # noqa: F401

    torch.set_num_threads(1)


def run(args):
    """Try what has not been tried, until the time is over. Returns what is left to try."""
    before = rows(args.results)
    known = {row["key"] for row in before}
    todo = [m for m in chosen(args.per_file, args.seed, args.only) if m[1] not in known]
    if args.survivors_of:
        alive = {row["key"] for row in rows(args.survivors_of) if not row.get("killed", True)}
        every = [(file, *m) for file in TESTS for m in mutants(file)]
        todo = [m for m in every if m[1] in alive - known]
    end = time.monotonic() + 60 * args.minutes
    sys.dont_write_bytecode = True
    warm_up()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name, open(args.results, "a") as log:
        folder = Path(name)
        tree = copy_of_the_tree(folder)
        # how long a file's tests take, without any mutant, and that they pass
        usual = {r["file"]: r["seconds"] for r in before if r.get("tree") == tree}
        for n, (file, key, source) in enumerate(todo):
            if time.monotonic() > end:
                return len(todo) - n
            if file not in usual:
                start = time.monotonic()
                fails, said = run_tests(folder, file, 900)
                if fails:
                    raise SystemExit(f"{file}: its tests fail without any mutant: {said}")
                usual[file] = time.monotonic() - start
                keep(log, {"key": "", "file": file, "tree": tree, "seconds": usual[file]})
            original = (folder / file).read_text(encoding="utf-8")
            (folder / file).write_text(source, encoding="utf-8")
            start = time.monotonic()
            killed, said = run_tests(folder, file, 60 + 4 * usual[file])
            (folder / file).write_text(original, encoding="utf-8")
            row = {"key": key, "killed": killed, "by": said if killed else ""}
            keep(log, row | {"seconds": round(time.monotonic() - start, 1)})
            print("killed  " if killed else "SURVIVES", key, flush=True)
    return 0


def keep(log, row):
    """Write a line of the results at once."""
    log.write(json.dumps(row) + "\n")
    log.flush()


def rows(path):
    """The results so far."""
    if not Path(path).exists():
        return []
    return [json.loads(line) for line in open(path)]


def report(args):
    """Counts by file, and the survivors."""
    wanted = {key for _, key, _ in chosen(args.per_file, args.seed, args.only)}
    found = {row["key"]: row for row in rows(args.results) if row["key"] in wanted}
    for file in TESTS:
        own = [row for key, row in found.items() if key.split()[0] == file]
        if own:
            print(f"{file:24s}{sum(row['killed'] for row in own):4d} of {len(own)} killed")
    print(f"{'all':24s}{sum(r['killed'] for r in found.values()):4d} of {len(found)} killed")
    for key, row in found.items():
        if not row["killed"]:
            print("survives:", key)


def main():
    """Returns the exit status: 0 when nothing is left to try."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-file", type=int, default=10, help="mutants of each file [10]")
    parser.add_argument("--seed", type=int, default=0, help="which ones [0]")
    parser.add_argument("--only", default="", help="one file")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no more after so many")
    parser.add_argument("--results", default="runs/mutants.jsonl", help="where they are kept")
    parser.add_argument("--survivors-of", default="", help="only what lived in these results")
    parser.add_argument("--report", action="store_true", help="say what is known, try nothing")
    args = parser.parse_args()
    Path(args.results).parent.mkdir(parents=True, exist_ok=True)
    if args.report:
        return report(args)
    left = run(args)
    print(f"{left} left to try")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
