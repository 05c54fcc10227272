"""The benchmark of trained files: its inputs, its records and its page, without the files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tapml_nb as tapml
from benchmarks.trained.__main__ import found, key, valid
from benchmarks.trained.document import document, summary, unexplained
from benchmarks.trained.explanations import EXPLANATIONS
from benchmarks.trained.inputs import CHUNK, CONTEXT, RATE, chunked, inputs_of, picture, speech
from benchmarks.trained.measure import Finding, Record, measure, record
from tapml_nb import Verdict

FINDING = Finding("onnx.Relu", "FAIL", "a | b", "like nothing", 2, "a/Relu")
RECORD = Record("a/b.onnx", "k", operators=9, verdicts={"PASS": 7, "FAIL": 2}, findings=(FINDING,))


def model(path, *kinds):
    """A file whose nodes, one behind the other, take a picture."""
    names = [f"v{k}" for k in range(len(kinds) + 1)]
    weights = [np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)]
    nodes = [
        helper.make_node(kind, [x, "w"] if kind == "Conv" else [x], [y])
        for kind, x, y in zip(kinds, names, names[1:], strict=False)
    ]
    graph = helper.make_graph(
        nodes,
        "picture",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, [-1, 3, "?", "?"])],
        [onnx.ValueInfoProto(name=names[-1])],
        [numpy_helper.from_array(weights[0], "w")],
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_a_sound_has_the_pitch_and_the_pauses_of_speech():
    sound = speech(1.0)
    assert len(sound) == RATE
    spectrum = np.abs(np.fft.rfft(sound))
    assert spectrum[80:1000].max() > 20 * spectrum[4000:].max()
    loud = np.square(sound.reshape(-1, RATE // 40)).mean(1)
    assert loud.min() < 1e-3 * loud.max()


def test_chunks_overlap():
    chunks = chunked(np.arange(4 * CHUNK, dtype=np.float32))
    assert chunks.shape == (4, CONTEXT + CHUNK)
    assert chunks[0, CONTEXT] == 0
    assert np.array_equal(chunks[1, :CONTEXT], chunks[0, -CONTEXT:])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_shows_dark_text_on_light_paper(channels):
    pixels = picture(48, 320, channels)
    assert pixels.shape == (1, channels, 48, 320)
    assert pixels.dtype == np.float32
    assert np.median(pixels) > 0.5
    assert 0.02 < (pixels < 0).mean() < 0.4


def test_a_file_from_end_to_end(tmp_path):
    path = model(tmp_path / "common.onnx", "Conv", "Relu", "Det")
    assert found(tmp_path) == {"common.onnx": path}
    with pytest.raises(Exception, match="Det"):
        list(measure(path, "common.onnx", "k"))
    path = model(tmp_path / "common.onnx", "Conv", "Relu", "GlobalAveragePool")
    (one,) = measure(path, "common.onnx", "k")
    assert (one.operators, one.judged, one.findings) == (3, 3, ())
    assert Record.read(one.line()) == one


def test_a_wrong_kernel_is_a_finding_without_an_explanation(tmp_path):
    path = model(tmp_path / "common.onnx", "Conv", "Relu", "Sigmoid")
    with tapml.debug(path, inputs_of(path), target="llvm") as session:
        assert list(unexplained(record(session.run(), "common.onnx", "k", 1.0))) == []
        session.override("Relu", np.abs)
        one = record(session.run(), "common.onnx", "k", 1.0)
    (finding,) = unexplained(one)
    assert (finding.kind, finding.verdict, finding.op) == ("onnx.Relu", str(Verdict.FAIL), "Relu")


def test_the_page_tells_what_is_not_judged_and_what_is_wrong():
    missing = Finding("onnx.Loop", "UNSUPPORTED", "runs subgraphs", "", 1, "Loop")
    page = document([replace(RECORD, findings=(FINDING, missing))])
    assert "| `onnx.Loop` | 1 | UNSUPPORTED | runs subgraphs | `a/b.onnx` |" in page
    assert "### Not explained" in page
    assert (
        "`onnx.Relu` FAIL, 2 in `a/b.onnx`; for instance `a/Relu`: a \\| b (like nothing)" in page
    )
    assert summary([RECORD])[:2] == ["- 1 of 1 files load and run.", "- 9 operators, 9 judged."]


def test_a_file_that_does_not_load_is_counted_as_that():
    broken = Record("c.onnx", "k", error="FrontendError: no")
    assert summary([RECORD, broken])[0] == "- 1 of 2 files load and run."
    assert "| `c.onnx` | | | | | FrontendError: no | |" in document([RECORD, broken])


def test_what_has_changed_is_measured_again(tmp_path):
    path = model(tmp_path / "a.onnx", "Relu")
    before = key(path)
    assert valid([replace(RECORD, key=before)], {RECORD.name: before})
    model(path, "Sigmoid")
    assert valid([replace(RECORD, key=before)], {RECORD.name: key(path)}) == {}


def test_explanations_say_something():
    assert len({explanation.title for explanation in EXPLANATIONS}) == len(EXPLANATIONS)
    for explanation in EXPLANATIONS:
        assert explanation.kinds
        assert len(explanation.text) > 40
