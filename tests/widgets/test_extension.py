"""JupyterLab's extension without JupyterLab: what is committed, what reads bundles, templates."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tapml_nb import tensorfile
from tapml_nb.array_api import np_dtype
from tapml_nb.carve.archive import SCHEMA
from tapml_nb.report.tensors import picture, summarize
from tapml_nb.targets.spec import KINDS

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "extensions" / "jupyterlab"
BUILT = SOURCES / "labextension"
WIDGETS = ROOT / "tapml_nb" / "widgets" / "static"


def node(script: str, *arguments: object) -> str:
    """What a script prints that can import the extension's TypeScript as ``load(path)``."""
    esbuild = ROOT / "extensions" / "widgets" / "node_modules" / "esbuild" / "lib" / "main.js"
    load = f"""
        const esbuild = await import({json.dumps(str(esbuild))});
        const load = async (path) => {{
          const built = await esbuild.build({{
            entryPoints: [{json.dumps(f"{SOURCES}/src/")} + path],
            bundle: true, format: "esm", write: false,
          }});
          const text = built.outputFiles[0].text;
          return import("data:text/javascript;base64," + Buffer.from(text).toString("base64"));
        }};
    """
    command = ["node", "--input-type=module", "--eval", load + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_extension_is_built_from_its_sources(tmp_path):
    command = ["node", "build.mjs", str(tmp_path)]
    done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    written = {path.relative_to(BUILT) for path in BUILT.rglob("*") if path.is_file()}
    assert built == written
    for path in built:
        same = (tmp_path / path).read_bytes() == (BUILT / path).read_bytes()
        assert same, f"{path} is old: make bundle"


def test_the_extension_stays_small():
    assert sum(path.stat().st_size for path in BUILT.rglob("*") if path.is_file()) < 60_000


def test_verdicts_look_as_in_python():
    spec = importlib.util.spec_from_file_location("verdicts", SOURCES / "verdicts.py")
    verdicts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(verdicts)
    assert verdicts.text() == (SOURCES / "src" / "bundle" / "verdicts.ts").read_text()


def test_what_it_knows_of_python_is_so():
    settings = json.loads((SOURCES / "schema" / "plugin.json").read_text())
    assert settings["properties"]["target"]["enum"] == list(KINDS)
    assert f"const SCHEMA = {SCHEMA};" in (SOURCES / "src" / "bundle" / "manifest.ts").read_text()


def test_nothing_makes_html_of_text():
    for path in (SOURCES / "src").rglob("*.ts"):
        text = path.read_text()
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
            assert way not in text, f"{path.name}: {way}"


def test_nothing_is_loaded_from_elsewhere():
    for path in (BUILT / "static").iterdir():
        text = path.read_text()
        assert "https://" not in text
        assert "http://" not in text.replace("http://www.w3.org/", "")


READ = """
    import { readFileSync } from "node:fs";
    const [, path] = process.argv;
    const { parse } = await load("bundle/safetensors.ts");
    const { picture, summarize } = await load("bundle/pictures.ts");
    const file = readFileSync(path);
    const bytes = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
    const plain = (values) => Array.from(values, String);
    const told = {};
    for (const name of JSON.parse(process.argv[2])) {
      const tensor = parse(bytes, name);
      const { bins, ...spread } = summarize(tensor);
      const shown = {};
      for (const [key, args] of Object.entries({
        whole: { axes: null, fixed: {}, window: null },
        window: { axes: null, fixed: {}, window: [1, 3, 0, 2] },
        turned: { axes: [2, 0], fixed: { 1: 1 }, window: null },
      })) {
        try {
          const { answer, values } = picture(tensor, args);
          shown[key] = { ...answer, values: plain(values) };
        } catch (error) { shown[key] = { error: error.message }; }
      }
      told[name] = {
        shape: tensor.shape, data: plain(tensor.data), bins: plain(bins),
        spread: Object.fromEntries(Object.entries(spread).map(([k, v]) => [k, String(v)])), shown,
      };
    }
    console.log(JSON.stringify(told));
"""


def read_in_a_page(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    path.write_bytes(tensorfile.dump(arrays))
    told: dict[str, Any] = json.loads(node(READ, path, json.dumps(list(arrays))))
    return told


def numbers(texts: list[str]) -> np.ndarray:
    return np.array([float(t) for t in texts])


def test_a_page_reads_every_dtype_as_numpy_does(tmp_path):
    patterns = np.arange(256, dtype=np.uint8)
    arrays = {
        code: (patterns % 2 if code == "BOOL" else patterns).view(np_dtype(name))
        for name, code in tensorfile._CODES.items()
        if code not in ("F16", "BF16")
    }
    every = np.arange(1 << 16, dtype=np.uint16)
    arrays |= {"F16": every.view(np.float16), "BF16": every.view(ml_dtypes.bfloat16)}
    told = read_in_a_page(arrays, tmp_path / "all.safetensors")
    assert set(told) == set(tensorfile._CODES.values())
    for name, array in arrays.items():
        wanted = array.view(np.float32) if name == "C64" else array
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(numbers(told[name]["data"]), wanted.astype(np.float64))


def test_a_page_makes_the_pictures_that_a_kernel_makes(tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 4, 600)).astype(np.float32)
    odd = values.copy()
    odd[1, 2, 5:9] = [np.nan, np.inf, -np.inf, 0.0]
    ties = np.array([[1.0, -1.0, 1.0], [-2.0, 2.0, -2.0], [0.0, 0.0, 0.0]], np.float32)
    arrays = {"plain": values, "odd": odd, "ties": np.stack([ties, -ties]), "flat": values[0, 0]}
    told = read_in_a_page(arrays, tmp_path / "some.safetensors")
    ways: dict[str, dict[str, Any]] = {
        "whole": {},
        "window": {"window": (1, 3, 0, 2)},
        "turned": {"axes": (2, 0), "fixed": {1: 1}},
    }
    for name, array in arrays.items():
        for key, args in ways.items():
            seen = told[name]["shown"][key]
            try:
                wanted = picture(array, **args)
            except ValueError:
                assert "error" in seen
                continue
            assert (seen["axes"], seen["window"]) == (list(wanted.axes), list(wanted.window))
            assert seen["note"] == wanted.note
            shape = seen["rows"], seen["cols"]
            np.testing.assert_array_equal(numbers(seen["values"]).reshape(shape), wanted.values)
        spread, exact = told[name]["spread"], summarize(array)
        for part in ("low", "high", "zeros", "nan", "inf"):
            assert float(spread[part]) == getattr(exact, part)
        assert float(spread["mean"]) == pytest.approx(exact.mean, rel=1e-12, abs=1e-12)
        assert np.abs(numbers(told[name]["bins"]) - exact.bins).sum() <= 2  # on a bin's very edge


TEMPLATE = """
    const { notebookOf } = await load("template.ts");
    console.log(JSON.stringify(notebookOf(process.argv[1], "llvm", "python3")));
"""


SMALLER = {
    "num_hidden_layers=4": "num_hidden_layers=1",
    "hidden_size=256": "hidden_size=64",
    "intermediate_size=688": "intermediate_size=96",
    "vocab_size=2000": "vocab_size=50",
}


@pytest.mark.parametrize("kind", ["torch", "onnx", "relax", "bundle"])
def test_a_new_notebook_runs_as_it_is(kind, tmp_path, monkeypatch, capsys, kernel_cache):
    """With a smaller model, and without a notebook: cell after cell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads(node(TEMPLATE, kind))
    space: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = cell["source"]
            for large, small in SMALLER.items():
                source = source.replace(large, small)
            exec(compile(source, kind, "exec"), space)
    assert "no culprit among" in capsys.readouterr().out
    assert space["report"].culprits == []
    if "session" in space:
        space["session"].close()
