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


def check(cells):
    """Run in order, without an error, with the pictures and the results that a reader looks for."""
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c["outputs"]]
    kinds = {o["output_type"] for o in outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2  # the question, the curve
    said = text(cells)
    assert said.count("0  ") > 8 and "trained on" in said and "of them are solved alone" in said
    assert "held-out accuracy" in said  # the fifteen steps came to their end


def test_what_is_stored_was_run_from_top_to_bottom():
    check(code(STORED))
    assert len(json.dumps(STORED)) < 300_000


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    for entry in ROOT.iterdir():  # beside the code, with a folder runs/ of its own
        if entry.name != "runs":
            os.symlink(entry, tmp_path / entry.name)
    notebook = nbformat.from_dict(STORED)
    settings = {"timeout": 900, "kernel_name": "python3"}
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, **settings).execute()
    check(code(notebook))
    # all but the fifteen steps says word for word what is stored, on any machine of one float32
    by_hand = [text(code(n)[:-2]).split("gradient norm")[0] for n in (notebook, STORED)]
    assert by_hand[0].split()[:200] == by_hand[1].split()[:200]
