"""The notebooks run from top to bottom in a kernel of their own, and show what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def executed(name: str, page: Path) -> str:
    """What a notebook prints where it sums up; it is written to ``page``."""
    done = subprocess.run(
        [sys.executable, str(NOTEBOOKS / "run.py"), str(NOTEBOOKS / name), str(page)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def left_behind(text: str) -> int:
    """How many operators a migration leaves on the source; a model's number varies with
    transformers' version."""
    moved, movable = re.search(r"(\d+) of (\d+) operators on the target", text).groups()
    assert int(moved) > 100
    return int(movable) - int(moved)


def quarantined(text: str) -> int:
    """How many operators a migration's summary says that it quarantined, a line for each cause."""
    alike = [
        re.search(r"\((\d+) operators of this cause\)$", line)
        for line in text.splitlines()
        if line.startswith("  quarantined ")
    ]
    return sum(int(found[1]) if found else 1 for found in alike)


def test_quickstart_finds_the_planted_fault(tmp_path):
    page = tmp_path / "quickstart.html"
    before, broken, hybrid = executed("quickstart.ipynb", page).split("Llama on llvm:")[1:]
    assert "no culprit" in before
    assert "culprit 1: model.layers.2.mlp.act_fn/silu FAIL" in broken
    assert "culprit 2" not in broken
    assert "outputs within the noise floor" in hybrid
    html = page.read_text()
    assert "[685 686 687]" in html
    assert html.count("data:image/png") >= 3


def test_triage_tells_three_stories(tmp_path):
    page = tmp_path / "triage.html"
    falcon, _, rest = executed("triage.ipynb", page).partition("Mamba on llvm:")
    mamba, _, llama = rest.partition("Llama on llvm:")
    assert "outputs NOT within the noise floor" in falcon
    assert falcon.count("it reaches 128 bytes before the start of input 0") >= 4
    assert "indices: [-2] into an axis of 6" in falcon
    assert left_behind(falcon) == quarantined(falcon) >= 4
    assert "outputs within the noise floor" in falcon
    assert "unobserved run: the same outputs, bit for bit" in falcon
    assert "outputs within the noise floor" in mamba
    assert re.search(r"culprit \d: backbone\.layers\.0\.mixer/softplus FAIL", mamba)
    before, after = re.search(r"softplus: (\S+) noise floors before, (\S+) after", mamba).groups()
    assert float(after) < 1 < float(before)
    assert "outputs NOT within the noise floor" in llama
    assert "culprit 1:" not in llama
    assert "together: model.layers.3.mlp.act_fn/silu, model.layers.3.mlp/mul" in llama
    assert left_behind(llama) == 2
    assert len(re.findall(r"<img[^>]*data:image/png", page.read_text())) == 1


def test_a_failing_cell_fails_the_run(tmp_path):
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, tmp_path / "bad.ipynb")
    done = subprocess.run(
        [sys.executable, str(NOTEBOOKS / "run.py"), "bad.ipynb", "bad.html"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
