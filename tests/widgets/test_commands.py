"""What pages ask for, on a real session with a real target."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.widgets.feed import feed_of
from tests.conftest import wait_until
from tests.widgets.conftest import RecordingPage
from tests.widgets.test_kernel_text import PRIMFUNC


def number(session, name):
    return next(k for k, op in enumerate(session.graph.ops) if op.id == name)


def test_run_and_stop(session, page):
    page.ready()
    page.value("run")
    assert wait_until(lambda: len(session.report.introduced) == len(session.graph), 30)
    page.value("stop")
    assert not session.status.busy


def test_run_one_operator(session, page):
    op = number(session, "act/silu")
    page.value("run", ops=[op])
    assert wait_until(lambda: not session.status.busy and session.report.introduced, 30)
    assert [key[0] for key in session.report.introduced] == ["act/silu"]


def test_hybrid(session, page):
    session.run()
    page.value("offload", ops=[0, 1])
    page.value("hybrid")
    assert wait_until(lambda: session.report.info.outputs is Verdict.PASS, 30)


def test_placement_is_confirmed(session, page):
    session.run()
    heard: list[Any] = []
    session.on("PlacementChanged", heard.append)
    assert page.value("offload", ops=[0, 2]) == 2
    assert page.value("restore", ops=[2]) == 1
    assert [(e.ops, e.placement) for e in heard] == [
        (("first/linear", "second/linear"), "target"),
        (("second/linear",), "source"),
    ]


def test_placement_before_anything_is_compiled(session, page):
    assert page.value("offload", ops=[0]) == 1
    assert session.placement["first/linear"] == "target"


def test_an_operator_out_of_range(session, page):
    assert "there are 3 operators" in page.error("inspect", op=99, step=0)
    assert "no command 'rm'" in page.error("rm")


def test_inspect(session, page):
    op = number(session, "act/silu")
    before = page.value("inspect", op=op, step=0)
    assert not before["judged"]
    assert before["metrics"] == {}
    session.run()
    facts = page.value("inspect", op=op, step=0)
    assert facts["judged"]
    assert facts["kind"] == "aten.silu"
    assert facts["module"] == "SiLU"
    assert facts["file"].endswith("models.py")
    assert "self.act" in facts["text"]
    assert facts["inputs"] == [
        {"name": "first/linear", "role": "operator", "spec": "float32[3, 16]"}
    ]
    assert facts["metrics"]["ratio"] < 8
    linear = page.value("inspect", op=0, step=0)
    assert {t["role"] for t in linear["inputs"]} == {"input", "parameter"}


def test_inspect_a_fault_with_a_diagnosis(session, page):
    op = number(session, "act/silu")
    session.run()
    assert page.value("inspect", op=op, step=0)["diagnosis"] is None
    session.override("act", lambda x: x)
    session.run("act")
    facts = page.value("inspect", op=op, step=0)
    assert "noise floors" in facts["message"]
    assert facts["diagnosis"]["pattern"] == "copy of another tensor"
    assert facts["diagnosis"]["words"] == "the output equals input 0 unchanged"
    assert "bit for bit" in facts["diagnosis"]["evidence"]
    assert facts["diagnosis"]["cause"].startswith("usually a buffer")


def test_values_of_every_tensor(session, page):
    session.run()
    answer = page.value("values", op=number(session, "act/silu"), step=0)
    assert [(v["which"], v["name"]) for v in answer["values"]] == [
        ("input", "first/linear"),
        ("source", "act/silu"),
        ("target", "act/silu"),
        ("difference", "act/silu"),
    ]
    source = session.tensor("act", "source")
    assert answer["values"][1]["high"] == pytest.approx(float(source.max()))
    (bins,) = page.last_buffers("reply")
    counts = np.frombuffer(bins, "<f4").reshape(4, -1)
    assert counts.sum(axis=1).tolist() == [48] * 4


def test_values_of_an_operator_that_crashes(session, page):
    def crash(x):
        raise RuntimeError("no")

    session.override("act", crash)
    answer = page.value("values", op=number(session, "act/silu"), step=0)
    assert [v["which"] for v in answer["values"]] == ["input", "source"]
    assert "No tensor from the target" in answer["note"]


def tensor_args(**changes):
    whole: dict[str, Any] = {"axes": None, "fixed": {}, "window": None}
    return {"which": "source", "step": 0, "output": 0, **whole} | changes


def test_a_tensor(session, page):
    op = number(session, "act/silu")
    reply = page.value("tensor", op=op, **tensor_args())
    assert (reply["rows"], reply["cols"], reply["shape"]) == (3, 16, [3, 16])
    values = np.frombuffer(page.last_buffers("reply")[0], "<f4").reshape(3, 16)
    assert values.tolist() == session.tensor("act").tolist()
    reply = page.value("tensor", op=op, **tensor_args(axes=[1, 0], window=[2, 4, 0, 3]))
    assert (reply["rows"], reply["cols"]) == (2, 3)


def test_the_difference_of_a_broken_kernel(session, page):
    def off(x):
        y = x / (1 + np.exp(-x))
        y[2, 5] += 1
        return y

    session.override("act", off)
    op = number(session, "act/silu")
    reply = page.value("tensor", op=op, **tensor_args(which="difference"))
    assert [*map(list, reply["blocks"])] == [[2, 3, 5, 6]]
    difference, beyond = page.last_buffers("reply")
    values = np.frombuffer(difference, "<f4").reshape(3, 16)
    assert np.unravel_index(np.abs(values).argmax(), values.shape) == (2, 5)
    assert np.argwhere(np.frombuffer(beyond, "u1").reshape(3, 16)).tolist() == [[2, 5]]
    assert np.argwhere(session.beyond("act")).tolist() == [[2, 5]]
    assert session.heatmap("act").axes
    # what was kept for zooming is not shown for another kernel
    session.override("act", None)
    reply = page.value("tensor", op=op, **tensor_args(which="difference"))
    values, beyond = page.last_buffers("reply")
    assert np.abs(np.frombuffer(values, "<f4")).max() < 1e-3
    assert reply["blocks"] == []
    assert not any(beyond)
    assert not session.beyond("act").any()


def test_code(session, page):
    session.run()
    code = page.value("code", op=number(session, "act/silu"), step=0)
    assert "prim_func" in code["tir"]
    assert "define" in code["source"]
    assert code["language"] == "LLVM IR"


def test_a_fix_as_text_is_judged_at_once(session, page):
    op = number(session, "act/silu")
    wrong = "def kernel(x):\n    return x"
    assert page.value("override", op=op, text=wrong).startswith("FAIL: override kernel")
    right = "import numpy as np\ndef kernel(x):\n    return x / (1 + np.exp(-x))"
    assert page.value("override", op=op, text=right).startswith("PASS")
    assert page.value("override", op=op, text=PRIMFUNC).startswith("PASS")
    assert session.overrides["act/silu"] == "a PrimFunc of yours"
    assert page.value("override", op=op, text="").startswith("PASS")
    assert session.overrides == {}
    assert "SyntaxError" in page.error("override", op=op, text="def")
    assert "needs its inputs" in page.error("override", op=0, text=PRIMFUNC)


def test_the_kernels_own_tir_is_a_fix_that_passes(session, page):
    op = number(session, "act/silu")
    text = page.value("template", op=op)
    assert page.value("override", op=op, text=text).startswith("PASS")


def test_a_carved_test_runs_under_pytest(session, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session.run()
    answer = page.value("pytest", op=number(session, "act/silu"))
    assert "def test_operator" in answer["text"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tmp_path / answer["path"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


ASKED = {"rows": "layer", "cols": "position", "order": "", "beyond": False, "views": False}


def test_positions_need_a_token_axis(session, page):
    session.run()
    assert "takes token ids" in page.error("cells", **ASKED)
    assert "choose among" in page.error("cells", **ASKED | {"rows": "colour"})


def test_cells_that_only_python_knows(session, page):
    session.override("act", lambda x: x)
    report = session.run()
    answer = page.value("cells", **ASKED | {"rows": "dtype", "cols": "device"})
    assert (answer["rows"], answer["cols"], answer["notes"]) == (["float32"], ["llvm"], [])
    values, beyond, ops, _ = page.last_buffers("reply")
    assert np.frombuffer(values, "<f4") == np.float32(report.worst_ratio("act/silu"))
    assert np.frombuffer(ops, "<i4").tolist() == [number(session, "act/silu")]
    assert np.frombuffer(beyond, "u1").tolist() == [1]


class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 16)
        self.head = torch.nn.Linear(16, 4)

    def forward(self, tokens):
        return self.head(torch.relu(self.embedding(tokens)))


def test_positions_are_the_reports_where_steps_differ_in_length():
    steps = [(torch.arange(n)[None],) for n in (7, 3)]
    shapes = ({1: torch.export.Dim("tokens", min=2, max=9)},)

    def wrong(x):
        y = np.maximum(x, 0)
        y[:, 1] += 1
        return y

    with tapml.debug(Tagger().eval(), steps, dynamic_shapes=shapes) as session:
        page = RecordingPage(feed_of(session))
        assert page.error("cells", **ASKED).startswith("cols: 'position': no operator was judged")
        relu = next(op.id for op in session.graph.ops if op.kind == "aten.relu")
        session.override(relu, wrong)
        report = session.run()
        answer = page.value("cells", **ASKED)
        ratios, beyond, ops, when = page.last_buffers("reply")
        table = report.heatmap_table("layer", "position")
        shown = np.frombuffer(ratios, "<f4").reshape(table.shape)
        np.testing.assert_array_equal(shown, table.to_numpy(dtype=np.float32))
        assert answer["rows"] == list(table.index)
        assert (
            answer["cols"]
            == list(table.columns)
            == [*(f"0:{p}" for p in range(7)), *(f"1:{p}" for p in range(3))]
        )
        (row,) = np.argwhere((shown > 8).any(axis=1))[0]
        assert np.flatnonzero(shown[row] > 8).tolist() == [1, 8]
        whose = np.frombuffer(ops, "<i4").reshape(table.shape)[row]
        assert whose[1] == whose[8] == number(session, relu)
        marks = np.frombuffer(beyond, "u1").reshape(table.shape)
        assert np.argwhere(marks).tolist() == [[row, 1], [row, 8]]
        assert np.frombuffer(when, "<i4").reshape(table.shape)[row, [1, 8]].tolist() == [0, 1]
        assert ((whose >= 0) == ~np.isnan(shown[row])).all()
