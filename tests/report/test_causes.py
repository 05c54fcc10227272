"""Causes: what fails in the same way is one, what fails in another way is another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import Cause, Verdict
from tapml_nb.graph import Graph, Op
from tapml_nb.judge.diagnosis import Pattern, found
from tapml_nb.judge.results import OpResult
from tapml_nb.migrate import Localization, Migration
from tapml_nb.report import Report
from tapml_nb.report.causes import shape

FAIL, UNKNOWN = Verdict.FAIL, Verdict.UNKNOWN


def report_of(*results: tuple[str, OpResult]) -> Report:
    """A report on operators of these kinds, one after the other."""
    ops = tuple(Op(r.op, kind, "", "", "", (), (), None, ()) for kind, r in results)
    return Report(Graph("some", ops, {}, (), ()), 1, {(r.op, 0): r for _, r in results})


def pow_(layer: int, ratio: float, message: str, **more) -> tuple[str, OpResult]:
    return "aten.pow", OpResult(f"{layer}/pow", 0, FAIL, ratio, message=message, **more)


def wrong_at(index: int, of: int = 96) -> str:
    return (
        f"{index} of {of} elements are beyond 8 noise floors; worst at [0, {index}]: target "
        f"{index / 7}, source -{index / 3:.3e}, {index * 11.5:.3g} floors off"
    )


class TestCauses:
    def test_equal_ones_are_one_with_its_first_and_its_worst(self):
        report = report_of(*(pow_(k, 10.0 + (k == 7), wrong_at(k)) for k in range(1, 34)))
        (cause,) = report.causes
        assert cause.count == len(cause.ops) == len(report.culprits) == 33
        assert (cause.first, cause.worst, cause.ratio) == ("1/pow", "7/pow", 11.0)
        assert (cause.kind, cause.verdict) == ("aten.pow", FAIL)
        assert cause.diagnosis == report.culprits[0].diagnosis == wrong_at(7)

    @pytest.mark.parametrize(
        "other",
        [
            ("aten.mul", OpResult("x", 0, FAIL, 9.0, message=wrong_at(3))),
            ("aten.pow", OpResult("x", 0, Verdict.NONDETERMINISTIC, 9.0, message=wrong_at(3))),
            pow_(99, 9.0, "never writes 3 of 96 elements, from [0, 3] on"),
            pow_(99, 9.0, wrong_at(3), diagnosis=found(Pattern.SIGN, "the sign is flipped", "")),
        ],
        ids=["kind", "verdict", "message", "diagnosis"],
    )
    def test_what_differs_is_another(self, other):
        report = report_of(pow_(0, 10.0, wrong_at(1)), pow_(1, 10.0, wrong_at(2)), other)
        assert [cause.count for cause in report.causes] == [2, 1]

    def test_the_worst_comes_first(self):
        crash = "aten.mm", OpResult("mm", 0, Verdict.CRASH, message="SIGSEGV")
        report = report_of(
            pow_(0, 20.0, wrong_at(1)), pow_(1, 900.0, "tail"), pow_(2, 30.0, wrong_at(2)), crash
        )
        assert [(c.worst, c.count) for c in report.causes] == [
            ("mm", 1),
            ("1/pow", 1),
            ("2/pow", 2),
        ]
        assert math.isnan(report.causes[0].ratio)

    def test_a_factor_is_told_by_its_size_or_its_name(self):
        def scaled(layer, by):
            look = found(Pattern.FACTOR, f"the whole tensor is scaled by {by}", "")
            return pow_(layer, 9.0, wrong_at(layer), diagnosis=look)

        same = report_of(scaled(1, "1.00999"), scaled(2, "1.01001"))
        assert len(same.causes) == 1
        other = report_of(scaled(1, "2"), scaled(2, "0.5 (1/2)"), scaled(3, "7.1"))
        assert len(other.causes) == 3
        named = report_of(scaled(1, "0.125 (1/√64)"), scaled(2, "0.0884 (1/√128)"))
        assert len(named.causes) == 1

    def test_a_broken_step_counts_once(self):
        kind, first = pow_(0, 9.0, wrong_at(3))
        report = report_of((kind, first))
        worse = OpResult("0/pow", 1, FAIL, 90.0, message=wrong_at(4))
        twice = Report(report.graph, 2, {("0/pow", 0): first, ("0/pow", 1): worse})
        assert [(c.count, c.ratio) for c in twice.causes] == [(1, 90.0)]

    def test_a_good_report_has_none(self):
        assert report_of(("aten.pow", OpResult("0/pow", 0, Verdict.PASS, 0.5))).causes == []


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("the target's result is float32[4, 8]", "the target's result is float32[4]", True),
        ("the target's result is float32[4]", "the target's result is bfloat16[4]", False),
        ("the target's result is int32[4]", "the target's result is int64[4]", False),
        ("3 NaN and 0 infinities", "12 NaN and 0 infinities", True),
        ("3 NaN and 0 infinities", "0 NaN and 3 infinities", False),
        ("target True, source False", "target False, source True", True),
        ("target nan, source -1.5", "target -inf, source 0.0", True),
        ("undefined symbol fused_add3 (0x7f01)", "undefined symbol fused_add12 (0x55ee)", True),
        ("undefined symbol fused_add3", "undefined symbol fused_sub3", False),
        ("in lv12: no rule", "in lv: no rule", False),
        ("no definition: `i8`", "no definition: `i64`", False),
        (
            "rejects k38849a595cf3d82c_not_equal_kernel: no `i8` ┌─ wgsl:5:72 │ 5 │ ptr_out",
            "rejects kbad88127d2e797aa_fused_where_kernel: no `i8` ┌─ wgsl:7:57 │ 7 │ ptr_in",
            True,
        ),
    ],
)
def test_the_shape_of_a_message(one, other, equal):
    assert (shape(one) == shape(other)) is equal


class TestWords:
    def test_broken_missing_and_not_judged_stand_apart(self):
        pieces = [
            *(pow_(k, 9.0, wrong_at(k)) for k in (1, 2)),
            *(
                ("aten.cumsum", OpResult(f"{k}/cumsum", 0, v, message="no rule"))
                for k, v in enumerate([Verdict.COMPILE_ERROR, Verdict.UNSUPPORTED])
            ),
            ("aten.mm", OpResult("mm", 0, UNKNOWN)),
        ]
        report = report_of(*pieces)
        assert report.outcome == "2 culprits of 1 cause, 2 missing, 1 not judged"
        (_, _, third, *_) = report.summary().splitlines()
        assert third.strip() == report.outcome
        assert "faulty" not in report.summary()

    def test_why_there_is_no_kernel_is_one_cause_whatever_the_kind(self):
        def without_kernel(kind, why):
            return f"aten.{kind}", OpResult(kind, 0, Verdict.COMPILE_ERROR, message=why)

        report = report_of(
            without_kernel("ne", "the driver rejects k38849a595cf3d82c_ne_kernel: no `i8`"),
            without_kernel("le", "the driver rejects kbad88127d2e797aa_le_kernel: no `i8`"),
            without_kernel("sort", "the driver rejects kda469ba0e2ba31f4_sort_kernel: no `z`"),
        )
        assert [[result.op for result in gap] for gap in report.gaps] == [["ne", "le"], ["sort"]]

    def test_missing_is_no_culprit(self):
        gap = "aten.cumsum", OpResult("cumsum", 0, Verdict.COMPILE_ERROR, message="no rule")
        good = "aten.mm", OpResult("mm", 0, Verdict.PASS)
        assert report_of(gap, good).outcome == "no culprit among 1 judged operator, 1 missing"

    def test_a_summary_has_a_line_for_each_cause(self):
        gap = [
            ("aten.cumsum", OpResult(f"{k}/cumsum", 0, Verdict.UNSUPPORTED, message="no rule"))
            for k in range(40)
        ]
        report = report_of(*(pow_(k, 10.0 + k, wrong_at(k)) for k in range(1, 34)), *gap)
        text = report.summary()
        assert (
            "  culprit 1: 33/pow FAIL, 43 floors; 33 operators of this cause, the first 1/pow\n"
        ) in text
        assert text.count("culprit 1") == 1
        assert "culprit 2" not in text
        assert "  missing: 0/cumsum UNSUPPORTED: no rule; 40 operators of this cause" in text
        assert text.count("/cumsum") == 1

    def test_pages_show_the_same_words(self):
        from tapml_nb.report.html import fragment, table

        report = report_of(*(pow_(k, 10.0 + k, wrong_at(k)) for k in range(1, 34)))
        for html in (fragment(report), table(report)):
            assert "33 culprits of 1 cause" in html
            assert "the first</th>" in html or "the first 1/pow" in html
            assert "1/pow" in html
            assert "17/pow" not in html

    def test_migration_and_localization_group_what_they_list(self):
        report = report_of(*(pow_(k, 10.0 + k, wrong_at(k)) for k in range(1, 34)))
        reasons = {c.op: c.diagnosis for c in report.culprits}
        migration = Migration(report.graph, [], reasons, [], {})
        assert "33/pow" in migration.summary()
        assert "(33 operators of this cause)" in migration.summary()
        assert len(migration.summary().splitlines()) == 2
        alone = [frozenset({c.op}) for c in report.culprits]
        alike = [[c.op for c in report.culprits]]
        pair = frozenset({"a", "b"})
        found = Localization([*alone, pair], 7, [], alike=alike).summary()
        assert found.splitlines() == [
            "34 culprits in 7 hybrid runs",
            "  33/pow (33 operators of this cause)",
            "  together: a, b",
        ]


def off_by(factor: float):
    def kernel(x):
        y = x / (1 + np.exp(-x))
        y[..., -3:] *= np.float32(factor)
        return y

    return kernel


def test_a_session_s_causes_and_the_control_beside_them():
    layers = [nn.Sequential(nn.Linear(16, 16), nn.SiLU()) for _ in range(5)]
    torch.manual_seed(0)
    with tapml.debug(nn.Sequential(*layers).eval(), (torch.randn(4, 16),)) as session:
        assert session.run().causes == []
        for layer in range(4):
            session.override(f"{layer}.1", off_by(2 + layer / 10))
        session.override("4.1", lambda x: np.maximum(x, 0))
        report = session.run()
        assert sorted((c.count, c.first) for c in report.causes) == [
            (1, "4.1/silu"),
            (4, "0.1/silu"),
        ]
        many = max(report.causes, key=lambda c: c.count)
        assert isinstance(many, Cause)
        assert many.ops == tuple(f"{layer}.1/silu" for layer in range(4))
        worst = max(report.culprits, key=lambda c: c.ratio * (c.op in many.ops))
        assert many.worst == worst.op
        assert report.outcome == "5 culprits of 2 causes"
        assert session.run(many.ops).causes == report.causes
