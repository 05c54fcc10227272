"""The notebooks run from top to bottom in a kernel of their own, and show what they promise."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from notebooks.run import settle

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
    assert html.count("data:image/png") >= 4


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


def test_bring_up_webgpu_moves_all_but_booleans(tmp_path):
    text = executed("bring_up_webgpu.ipynb", tmp_path / "page.html")
    assert "no culprit" in text
    assert len(set(re.findall(r"missing: (\S+)", text))) == 2
    assert "no definition in scope for identifier: `i8`" in text
    assert left_behind(text) == quarantined(text) > 0


def test_custom_kernel_flips_its_verdict(tmp_path):
    text = executed("custom_kernel.ipynb", tmp_path / "page.html")
    _, *verdicts = re.findall(r"^  (\d [A-Z]+)", text, re.MULTILINE)
    assert verdicts == ["3 PASS", "1 NONFINITE", "1 NONFINITE", "1 PASS", "1 PASS"]
    assert "worst at [0, 49]" in text


def test_decode_steps_name_the_step(tmp_path):
    text = executed("decode_steps.ipynb", tmp_path / "page.html")
    assert "no culprit" in text
    assert "layers.1.self_attn/scaled_dot_product_attention FAIL" in text
    assert "culprit 2" not in text
    assert "broken in steps 6-8" in text
    assert "outputs NOT within the noise floor" in text


def test_importer_fault_leaves_a_script_that_shows_it(tmp_path):
    page = tmp_path / "page.html"
    text = executed("importer_fault.ipynb", page)
    assert "outputs NOT within the noise floor" in text
    assert "6 culprits of 1 cause" in text
    assert "scaled by 0.951746" in text
    assert text.endswith("bit for bit\n\n") or "outputs within the noise floor" in text
    html = page.read_text()
    assert "it reproduces" in html
    assert "exit status 1" in html


def test_carve_for_ci_ends_with_a_status(tmp_path):
    page = tmp_path / "page.html"
    executed("carve_for_ci.ipynb", page)
    html = page.read_text()
    assert re.search(r"\b41 passed in", html)
    assert html.count("exit status 1") == 2
    assert "beyond 0.3 noise floors" in html


def test_real_size_finds_one_element(tmp_path):
    text = executed("real_size.ipynb", tmp_path / "page.html")
    assert "no culprit" in text
    assert "silu FAIL" in text
    assert "one element of 32768 is wrong, at [0, 7, 100]" in text
    assert "culprit 2" not in text


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_committed_with_what_came_of_it(path):
    """A code host shows it without a kernel, and running it anew changes no more than it must."""
    notebook = nbformat.read(path, as_version=4)
    before = copy.deepcopy(notebook)
    settle(notebook)
    assert notebook == before
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    kinds = [output.output_type for cell in ran for output in cell.outputs]
    assert "error" not in kinds
    shown = {kind for cell in ran for output in cell.outputs for kind in output.get("data", {})}
    assert shown <= {"text/plain", "text/html", "image/png"}
    assert path.stat().st_size < 1_000_000


def test_a_failing_cell_fails_the_run(tmp_path):
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
