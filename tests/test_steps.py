"""Prefill and decode steps of one model in one session, judged step by step."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tapml_nb as tapml
from tapml_nb import Verdict
from tests import kernels
from tests.models import llama, two_layers

PROMPT, STEPS = 3, 8

MANUAL = Path(__file__).parent.parent / "docs" / "steps.md"


@pytest.fixture(scope="module")
def manual():
    """The blocks of code of the manual, and the names that the first one has made."""
    text = MANUAL.read_text(encoding="utf-8")
    first, *others = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(first, MANUAL, "exec"), names)
    with names["session"]:
        yield others, names


@pytest.fixture(scope="module")
def decoding(manual):
    """The manual's Llama with a static cache, a prompt of three tokens, then eight; judged."""
    return manual[1]["session"]


@pytest.fixture
def cached(decoding):
    """The operator that writes the last layer's keys into the cache; overrides are taken back."""
    found = [op.id for op in decoding.graph.ops if op.kind == "aten.index_copy_"]
    op = found[2]
    assert "layers.1" in op
    yield op
    decoding.override(op, None)
    decoding.run(op)


def several_kernels(report):
    """The operators that have not one kernel for all steps."""
    used: dict[str, set[str]] = {}
    for (op, _), result in report.introduced.items():
        used.setdefault(op, set()).add(result.kernel.split("/")[0])
    return {op for op, made in used.items() if len(made) > 1}


class TestDecoding:
    def test_nothing_is_blamed(self, decoding):
        report = decoding.report
        assert report.culprits == []
        assert report.counts[Verdict.PASS] > 80
        assert report.missing == []

    def test_all_steps_share_their_kernels(self, decoding):
        head = "model.lm_head/linear"
        lengths = [decoding.tensor(head, step=step).shape[1] for step in range(1 + STEPS)]
        assert lengths == [PROMPT, *[1] * STEPS]
        results = decoding.report.introduced
        assert len({results[head, step].kernel for step in range(1 + STEPS)}) == 1

    def test_heatmap_of_layers_by_step(self, decoding):
        table = decoding.report.heatmap_table("layer", "step")
        assert list(table.columns) == list(range(1 + STEPS))
        assert {"model.model.layers.0", "model.model.layers.1"} <= set(table.index)
        layers = table.loc[["model.model.layers.0", "model.model.layers.1"]]
        assert layers.notna().all(axis=None)
        assert (layers < 8).all(axis=None)
        assert decoding.report.heatmap(cols="step").axes

    def test_heatmap_of_layers_by_token(self, decoding):
        table = decoding.report.heatmap_table("layer", "position")
        steps = [f"{step}:0" for step in range(1, 1 + STEPS)]
        assert list(table.columns) == ["0:0", "0:1", "0:2", *steps]
        assert table.loc["model.model.layers.1"].notna().all()
        texts = decoding.report.heatmap(cols="position").texts
        assert any("of 161 judged operators" in text.get_text() for text in texts)

    def test_a_fault_from_position_5_on(self, decoding, cached):
        """Keys from position 5 on land in the slot before; three tokens of prompt come first."""

        def one_slot_before(cache, position, keys):
            cache = cache.copy()
            cache[:, :, np.where(position >= 5, position - 1, position)] = keys
            return cache

        decoding.override(cached, one_slot_before)
        report = decoding.run(cached)
        verdicts = [report.verdict(cached, step) for step in range(1 + STEPS)]
        assert verdicts == [Verdict.PASS] * 3 + [Verdict.FAIL] * 6
        (culprit,) = report.culprits
        assert culprit.op == cached
        assert culprit.steps == (3, 4, 5, 6, 7, 8)
        assert culprit.step in culprit.steps
        assert "broken in steps 3-8" in culprit.evidence

    def test_a_fault_from_position_5_on_reaches_later_steps(self, decoding, cached):
        """What one step leaves in the cache, the next one reads, in the hybrid run, too."""

        def spoils_slot_5(cache, position, keys):
            cache = cache.copy()
            cache[:, :, position] = np.where((position == 5)[:, None], -keys, keys)
            return cache

        decoding.override(cached, spoils_slot_5)
        report = decoding.run(cached)
        assert [c.steps for c in report.culprits] == [(3,)]
        decoding.offload(cached)
        frame = decoding.hybrid().frame().set_index(["op", "step"])
        decoding.restore(cached)
        ratios = frame.loc["model.lm_head/linear"]["acc_ratio"]
        assert (ratios[:3] < 8).all()
        assert (ratios[3:] > 8).all()

    def test_an_honest_function_in_its_place_passes(self, decoding, cached):
        def honest(cache, position, keys):
            cache = cache.copy()
            cache[:, :, position] = keys
            return cache

        decoding.override(cached, honest)
        assert decoding.run(cached).culprits == []


def test_a_fault_in_one_token_of_a_prompt():
    """In the heatmap by position it is where it is, and nowhere else."""
    model, (prompt,) = llama(layers=1, length=7)

    def wrong(x):
        y = x / (1 + np.exp(-x))
        y[:, 4] *= 1.01
        return y

    with tapml.debug(model, (prompt,)) as session:
        session.override("model.layers.0.mlp.act_fn", wrong)
        report = session.run("model.layers.0.mlp.*")
        table = report.heatmap_table("op", "position")
        row = table.loc["model.layers.0.mlp.act_fn/silu"]
        assert list(row.index) == list(range(7))
        assert (row > 8).tolist() == [False, False, False, False, True, False, False]
        assert "model.layers.0.self_attn.q_proj/linear" not in table.index, "not judged"


def test_positions_need_tokens():
    with tapml.debug(*two_layers()) as session:
        with pytest.raises(ValueError, match=r"^cols: 'position': no operator"):
            session.run().heatmap(cols="position")


def test_a_dynamic_cache():
    """Another length in every step, and all judged, with one kernel for each operator."""
    model, (prompt,) = llama(layers=1, length=4)
    program, inputs = tapml.decode_steps(model, prompt, 2, cache="dynamic")
    with tapml.debug(program, inputs) as session:
        report = session.run()
        assert report.ok
        frame = report.frame()
        assert set(frame[frame["step"] == 2]["verdict"]) == {"PASS", "SKIPPED"}
        cats = [op.id for op in session.graph.ops if op.kind == "aten.cat"]
        assert {session.tensor(cats[-1], step=step).shape[2] for step in range(3)} == {4, 5, 6}
        assert several_kernels(report) == set()
        assert report.conversions == {}, "nothing is compiled shape by shape"


def test_a_dynamic_cache_module_by_module():
    """TVM's compiler cannot make one kernel for all sizes of what computes the mask."""
    model, (prompt,) = llama(layers=1, length=4)
    program, inputs = tapml.decode_steps(model, prompt, 2, cache="dynamic")
    with tapml.debug(program, inputs, granularity="module") as session:
        report = session.run()
        assert report.ok
        (mask,) = several_kernels(report)
        assert report.verdict(mask) is Verdict.SKIPPED, "of known sizes, it is a constant"
        said = report.conversions[mask]
        assert said.startswith("a kernel for each shape, as there can be none for all: Internal")


def test_a_primfunc_for_the_shapes_of_one_step_is_not_blamed_in_another(tmp_path):
    model, _ = two_layers()
    steps = [(torch.randn(rows, 8),) for rows in (3, 5, 3)]
    shapes = ({0: torch.export.Dim("rows", min=2, max=64)},)
    with tapml.debug(model, steps, dynamic_shapes=shapes) as session:
        session.override("act", kernels.honest)
        report = session.run("act")
        verdicts = [report.verdict("act/silu", step) for step in range(3)]
        assert verdicts == [Verdict.PASS, Verdict.UNSUPPORTED, Verdict.PASS]
        (row,) = [r for r in report.frame().itertuples() if r.verdict == "UNSUPPORTED"]
        assert row.message == (
            "your PrimFunc is for shapes [3, 16], [3, 16]; here they are [5, 16], [5, 16]"
        )
        assert math.isnan(row.ratio)
        replayed = session.carve(tmp_path / "act.tapml", "act").replay("llvm")
        assert [replayed.verdict("act/silu", step) for step in range(3)] == verdicts


class _Sizes(torch.nn.Module):
    """Sizes as axes of tensors, of nothing but results, and as numbers; and two that no kernel of
    TVM's is for."""

    table: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.randn(16, 8))

    def forward(self, x, y):
        rows = x.shape[0]
        both = torch.cat([x, y])
        return (
            torch.softmax(both @ both.T, -1),
            torch.arange(2 * rows) + 1,
            self.table[:rows] + x,
            torch.full((rows, 3), 2.5),
            both.var(0),
            both.reshape(-1, 4).mean(1),
        )


@pytest.fixture(scope="module")
def open_sizes():
    """A model with open sizes in steps of three lengths, the last of them 1; judged."""
    steps = [(torch.randn(n, 8), torch.randn(n + 1, 8)) for n in (3, 5, 1)]
    rows = torch.export.Dim.DYNAMIC
    with tapml.debug(_Sizes().eval(), steps, dynamic_shapes=({0: rows}, {0: rows})) as session:
        session.run()
        yield session


class TestOpenSizes:
    def test_one_kernel_is_for_all_sizes(self, open_sizes):
        assert open_sizes.report.ok
        assert several_kernels(open_sizes.report) == {"var"}

    def test_where_there_can_be_none_the_report_says_why(self, open_sizes):
        assert list(open_sizes.report.conversions) == ["var"]
        said = open_sizes.report.conversions["var"]
        assert said.startswith("a kernel for each shape, as there can be none for all: TVM's")
        assert "requires statically known reduction-axis sizes" in said

    def test_everything_on_the_target(self, open_sizes):
        open_sizes.offload("*")
        report = open_sizes.hybrid()
        assert report.info.outputs is Verdict.PASS
        assert report.info.unobserved.same

    def test_its_code_is_for_all_sizes(self, open_sizes):
        assert open_sizes.code("softmax", step=0) == open_sizes.code("softmax", step=1)
        assert "n0" in open_sizes.code("softmax", step=1).relax

    @pytest.mark.parametrize("target", ["llvm", "opencl"])
    def test_carved_tests_keep_their_sizes(self, open_sizes, tmp_path, target):
        """Also where there must be a kernel for each: launches on OpenCL are worked out before."""
        ops = ["softmax", "arange", "slice", "full", "var"]
        replayed = open_sizes.carve(tmp_path / "sizes.tapml", ops).replay(target)
        assert replayed.ok
        assert {replayed.verdict("softmax", step) for step in range(3)} == {Verdict.PASS}
        assert replayed.counts[Verdict.UNSUPPORTED] == 0

    def test_a_rounding_error_of_a_long_step_is_none(self):
        """How many terms a sum has is another number in every step, and so is its noise."""

        class Sum(torch.nn.Module):
            def forward(self, x):
                return x.sum(0)

        steps = [(torch.rand(n, 8),) for n in (2, 100_000)]
        with tapml.debug(
            Sum().eval(), steps, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        ) as session:
            assert session.run().ok

    def test_a_kernel_that_is_wrong_beyond_a_size(self):
        model, _ = two_layers()
        steps = [(torch.randn(rows, 8),) for rows in (3, 5, 4, 6)]
        shapes = ({0: torch.export.Dim("rows", min=2, max=64)},)
        with tapml.debug(model, steps, dynamic_shapes=shapes) as session:
            session.override("act", kernels.wrong_beyond_four_rows)
            report = session.run()
            assert [c.op for c in report.culprits] == ["act/silu"]
            assert report.culprits[0].steps == (1, 3)
            session.override("act", kernels.honest_for_any_rows)
            assert session.run().culprits == []

    def test_a_fault_of_the_importer_is_one_at_any_size(self, tmp_path):
        """TVM's importer takes a negative index as it is where it knows no size to add."""

        class Last(torch.nn.Module):
            def forward(self, x):
                return x[-1] * 2

        steps = [(torch.randn(n, 8),) for n in (4, 6)]
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        with tapml.debug(Last().eval(), steps, dynamic_shapes=dynamic) as session:
            report = session.run()
            assert [(c.op, c.steps) for c in report.culprits] == [("select", (0, 1))]
            script = session.repro("select", tmp_path / "select.py", step=1)
            run = subprocess.run([sys.executable, script], capture_output=True, text=True)
            assert run.returncode == 1, run.stdout + run.stderr
            assert "it reproduces" in run.stdout
        with tapml.debug(
            Last().eval(), steps, dynamic_shapes=dynamic, workarounds=["negative_index"]
        ) as session:
            assert session.run().ok

    def test_numbers_that_are_no_sizes_are_those_of_the_step(self):
        class Scaled(torch.nn.Module):
            def forward(self, x, scale):
                return x * scale.item()

        steps = [(torch.randn(n, 8), torch.tensor(float(n))) for n in (4, 6)]
        rows = torch.export.Dim.DYNAMIC
        with tapml.debug(Scaled().eval(), steps, dynamic_shapes=({0: rows}, {})) as session:
            report = session.run()
            assert [report.verdict("mul", step) for step in range(2)] == [Verdict.PASS] * 2

    def test_sizes_that_values_decide(self):
        class Nonzero(torch.nn.Module):
            def forward(self, x):
                return x.nonzero() + 1

        with tapml.debug(Nonzero().eval(), (torch.tensor([1.0, 0.0, 2.0]),)) as session:
            report = session.run()
            assert (
                str(session.graph.values[session.graph["nonzero"].outputs[0]].spec) == "int64[?, 1]"
            )
            assert report.verdict("nonzero") is Verdict.PASS
            assert report.verdict("add") is Verdict.PASS

    def test_sizes_that_values_decide_are_each_steps_own(self):
        class Select(torch.nn.Module):
            def forward(self, x):
                return x[x > 0] * 2

        torch.manual_seed(0)
        steps = [(torch.randn(50),), (torch.randn(50),)]
        with tapml.debug(Select().eval(), steps) as session:
            sizes = {len(session.tensor("index", step=step)) for step in range(2)}
            assert len(sizes) == 2
            report = session.run()
            for op in ("index", "mul"):
                assert [report.verdict(op, step) for step in range(2)] == [Verdict.PASS] * 2


def test_the_manual(manual):
    """Its other blocks run, too, in the order of the page."""
    others, names = manual
    assert len(others) == 3
    for block in others:
        exec(compile(block, MANUAL, "exec"), names)
