"""The rules of the house, read from the syntax trees: which way imports go, how long things are;
and that the method trains alone, with all that surrounds it deleted.

python -m pytest tests/test_house.py
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
LISTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
TRACKED = [f for f in LISTED.stdout.splitlines() if (ROOT / f).is_file()]
CODE = [f for f in TRACKED if f.endswith(".py") and not f.startswith("tests/")]
TREES = {f: ast.parse((ROOT / f).read_text(encoding="utf-8")) for f in CODE}
LINES = {f: len((ROOT / f).read_text(encoding="utf-8").splitlines()) for f in CODE}

SURROUNDINGS = {"evaluation", "corpus", "tiny", "compare", "figures", "bench", "forks"}
CORE = [f for f in CODE if f.split("/")[0] not in SURROUNDINGS]
METHOD = "train rollout teacher reformulate buffer loss policy reward records".split()
# what a file may import of ours; a folder stands for all that is in it
ALLOWED = {
    f"{name}.py": set() for name in "records buffer loss packing reformulate math_equal".split()
}
ALLOWED["reward.py"] = {"math_equal.py"}
FOR_ENGINES = {"records.py", "processor.py", "model.py", "engines"}
ALLOWED |= {f: FOR_ENGINES for f in CODE if f.startswith("engines/")}


def file_of(module):
    """The file of ours that a dotted name stands for, or None."""
    path = module.replace(".", "/")
    return next((f for f in (f"{path}.py", f"{path}/__init__.py") if f in TREES), None)


def is_door(node):
    """A function, or what runs only where the file is the command."""
    guard = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
    return guard or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imported(node, through_doors):
    """Files of ours that a tree imports, as names in TREES."""
    if is_door(node) and not through_doors:
        return
    if isinstance(node, ast.Import):
        yield from filter(None, (file_of(alias.name) for alias in node.names))
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            found = file_of(f"{node.module}.{alias.name}") or file_of(node.module)
            if found:
                yield found
    for child in ast.iter_child_nodes(node):
        yield from imported(child, through_doors)


EVERYWHERE = {f: set(imported(TREES[f], True)) - {f} for f in CODE}
AT_THE_TOP = {f: set(imported(TREES[f], False)) - {f} for f in CODE}


@pytest.mark.parametrize("file", ALLOWED)
def test_pure_files_and_engines_import_only_what_they_may(file):
    assert file in TREES
    allowed = ALLOWED[file]
    wrong = {f for f in EVERYWHERE[file] if not {f, f.split("/")[0]} & allowed}
    assert not wrong


@pytest.mark.parametrize("file", CORE)
def test_the_core_does_not_import_what_surrounds_it(file):
    """But through a door: the tiny world as a data set, the figures at the end of a run."""
    assert not {f for f in AT_THE_TOP[file] if f.split("/")[0] in SURROUNDINGS}


def test_only_forks_and_comparisons_import_the_loop():
    importers = {f.split("/")[0] for f, found in EVERYWHERE.items() if "train.py" in found}
    assert importers <= {"forks", "compare", "bench"}


def test_imports_make_no_circle():
    try:
        TopologicalSorter(AT_THE_TOP).prepare()
    except CycleError as e:
        raise AssertionError(" <- ".join(e.args[1])) from e


def test_files_and_functions_are_short():
    assert not {f: n for f, n in LINES.items() if n > 500 and f != "math_equal.py"}
    functions = [(f, n) for f in CORE for n in ast.walk(TREES[f])]
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    lengths = {
        f"{f}:{n.name}": n.end_lineno - n.lineno + 1 for f, n in functions if isinstance(n, kinds)
    }
    assert not {name: length for name, length in lengths.items() if length > 60}


def test_the_method_can_be_read_in_one_sitting():
    assert sum(LINES[f"{name}.py"] for name in METHOD) <= 1800


# ---- the method alone ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The checkout's tracked files without tests and surroundings."""
    folder = tmp_path_factory.mktemp("alone")
    for f in TRACKED:
        if f.split("/")[0] not in SURROUNDINGS | {"tests"}:
            (folder / f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / f, folder / f)
    return folder


def train(folder, *argv):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "train.py", *argv]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_the_method_alone_prints_its_flags(alone):
    assert "--student" in train(alone, "--help")


def test_the_method_alone_trains_on_a_file_of_questions(alone):
    Image.new("L", (32, 16), 200).save(alone / "two.png")
    text = "Multiply the digits from left to right."
    questions = [
        {"id": "a", "question": f"7 8\n{text}", "answer": "56"},
        {"id": "b", "question": text, "answer": "63", "images": ["two.png"]},
    ]
    (alone / "my.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    models = "--student assets/student --teacher assets/teacher --device cpu --threads 1".split()
    sizes = "--steps 1 --batch 1 --iterations 2 --n 2 --max-prompt 256 --max-response 8".split()
    train(alone, "--data", "my.jsonl", *models, *sizes, "--aug", "1", "--out", "run")
    steps = [json.loads(x)["step"] for x in (alone / "run/metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 1 and (alone / "run/final/model.safetensors").stat().st_size > 1_000_000
