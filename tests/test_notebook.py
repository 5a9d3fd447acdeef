"""zppo.ipynb: what is stored is whole, and it runs from top to bottom.

python -m pytest -n 0 -m "slow or not slow" tests/test_notebook.py
"""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STORED = json.loads((ROOT / "zppo.ipynb").read_text(encoding="utf-8"))


def code(notebook):
    return [c for c in notebook["cells"] if c["cell_type"] == "code"]


def text(cells):
    """All that the cells printed."""
    outputs = [o for c in cells for o in c["outputs"] if o["output_type"] == "stream"]
    return "".join("".join(o["text"]) for o in outputs)


def check(notebook):
    """Run in order, without an error, to what a reader looks for; returns what the step printed."""
    cells = code(notebook)
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c["outputs"]]
    assert {o["output_type"] for o in outputs} <= {"stream", "execute_result", "display_data"}
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2  # the question, the curve
    *step, training, curve = cells
    assert "held-out accuracy" in text([training]) and "of them are solved alone" in text([curve])
    return text(step)


def test_what_is_stored_was_run():
    said = check(STORED)
    wrong, right = said.partition("correct:")[0].count("\n0  "), said.count("\n1  ")
    assert wrong == 8 and right > 4  # eight failed alone, some succeed with help
    assert "trained on" in said and "/site-packages/" not in json.dumps(STORED)
    before, after = said.split(" nats")[0].split("\n")[-1].split(" -> ")
    assert float(after) > float(before)
    assert len(json.dumps(STORED)) < 300_000


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    for entry in ROOT.iterdir():  # beside the code, with a folder runs/ of its own
        if entry.name != "runs":
            os.symlink(entry, tmp_path / entry.name)
    notebook = nbformat.reads(json.dumps(STORED), as_version=4)
    settings = {"timeout": 900, "kernel_name": "python3"}
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, **settings).execute()
    assert check(notebook)[:2000] == check(STORED)[:2000]
