"""The notebooks run from top to bottom in a kernel of their own, and show what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def test_quickstart_finds_the_planted_fault(tmp_path):
    page = tmp_path / "quickstart.html"
    done = subprocess.run(
        [sys.executable, str(NOTEBOOKS / "run.py"), str(NOTEBOOKS / "quickstart.ipynb"), str(page)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    )
    assert done.returncode == 0, done.stderr
    before, broken, hybrid = done.stdout.split("Llama on llvm:")[1:]
    assert "no culprit" in before
    assert "culprit 1: model.layers.2.mlp.act_fn/silu FAIL" in broken
    assert "culprit 2" not in broken
    assert "outputs within the noise floor" in hybrid
    html = page.read_text()
    assert "[685 686 687]" in html
    assert html.count("data:image/png") >= 3


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
