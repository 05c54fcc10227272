"""Prefill and decode steps of one model in one session, judged step by step."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.report.figures import heatmap_table
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


class TestDecoding:
    def test_nothing_is_blamed(self, decoding):
        report = decoding.report
        assert report.culprits == []
        assert report.counts[Verdict.PASS] > 80
        # What TVM's importer cannot do is said: it knows no index_put along an inner axis.
        assert {report.graph[r.op].kind for r in report.missing} <= {"aten.index_copy_"}

    def test_decode_steps_share_their_kernels(self, decoding):
        head = "model.lm_head/linear"
        lengths = [decoding.tensor(head, step=step).shape[1] for step in range(1 + STEPS)]
        assert lengths == [PROMPT, *[1] * STEPS]
        results = decoding.report.introduced
        assert len({results[head, step].kernel for step in range(1 + STEPS)}) == 2

    def test_heatmap_of_layers_by_step(self, decoding):
        table = heatmap_table(decoding.report, "layer", "step")
        assert list(table.columns) == list(range(1 + STEPS))
        assert {"model.model.layers.0", "model.model.layers.1"} <= set(table.index)
        layers = table.loc[["model.model.layers.0", "model.model.layers.1"]]
        assert layers.notna().all(axis=None)
        assert (layers < 8).all(axis=None)
        assert decoding.report.heatmap(cols="step").axes

    def test_heatmap_of_layers_by_token(self, decoding):
        table = heatmap_table(decoding.report, "layer", "position")
        steps = [f"{step}:0" for step in range(1, 1 + STEPS)]
        assert list(table.columns) == ["0:0", "0:1", "0:2", *steps]
        assert table.loc["model.model.layers.1"].notna().all()
        label = decoding.report.heatmap(cols="position").axes[0].get_xlabel()
        assert "(step:position); of 161 judged operators" in label

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
        table = heatmap_table(report, "op", "position")
        row = table.loc["model.layers.0.mlp.act_fn/silu"]
        assert list(row.index) == list(range(7))
        assert (row > 8).tolist() == [False, False, False, False, True, False, False]
        assert table.loc["model.layers.0.self_attn.q_proj/linear"].isna().all(), "not judged"


def test_positions_need_tokens():
    with tapml.debug(*two_layers()) as session:
        with pytest.raises(ValueError, match=r"^cols: 'position': no operator"):
            session.run().heatmap(cols="position")


def test_a_dynamic_cache():
    """Another length in every step: another kernel for each, all judged."""
    model, (prompt,) = llama(layers=1, length=4)
    program, inputs = tapml.decode_steps(model, prompt, 2, cache="dynamic")
    with tapml.debug(program, inputs) as session:
        report = session.run()
        assert report.ok
        frame = report.frame()
        assert set(frame[frame["step"] == 2]["verdict"]) == {"PASS", "SKIPPED"}
        cats = [op.id for op in session.graph.ops if op.kind == "aten.cat"]
        assert {session.tensor(cats[-1], step=step).shape[2] for step in range(3)} == {4, 5, 6}


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
            "your PrimFunc is for shapes [3, 16] [3, 16]; here they are [5, 16] [5, 16]"
        )
        assert math.isnan(row.ratio)
        replayed = session.carve(tmp_path / "act.tapml", "act").replay("llvm")
        assert [replayed.verdict("act/silu", step) for step in range(3)] == verdicts


def test_the_manual(manual):
    """Its other blocks run, too, in the order of the page."""
    others, names = manual
    assert len(others) == 3
    for block in others:
        exec(compile(block, MANUAL, "exec"), names)
