"""The searches, against models that break in any way: what they find is true of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tapml_nb.migrate import Answer, Probes, localize, migrate

OPS = [f"op{k}" for k in range(12)]
ops = st.sets(st.sampled_from(OPS), min_size=1, max_size=3)
Check = Callable[[frozenset[str]], Answer]


@st.composite
def monotone(draw: st.DrawFn) -> Check:
    """Models that stay broken when more moves; some operators give nothing on the target."""
    bad = draw(st.lists(ops, max_size=4))
    lost = draw(st.sets(st.sampled_from(OPS), max_size=2))

    def check(moved: frozenset[str]) -> Answer:
        came = moved - lost
        return Answer(not any(s <= came for s in bad), dict.fromkeys(moved & lost, "it crashed"))

    return check


@st.composite
def any_model(draw: st.DrawFn) -> Check:
    """Models that break on any sets at all, but for the one of nothing."""
    seed, share = draw(st.integers(0, 2**32)), draw(st.integers(1, 255))

    def check(moved: frozenset[str]) -> Answer:
        said = hashlib.sha256(f"{seed} {sorted(moved)}".encode()).digest()
        return Answer(not moved or said[0] >= share)

    return check


suspects = st.lists(st.sampled_from(OPS), unique=True)


@given(monotone() | any_model(), suspects)
def test_culprits_break_the_model_and_without_them_it_is_right(check, suspects):
    probes = Probes(check)
    found = localize(OPS, suspects, probes)
    taken = frozenset().union(*found)
    assert len(taken) == sum(map(len, found)), "they share nothing"
    assert check(frozenset(OPS) - taken).ok or check(frozenset(OPS)).ok
    for culprit in found:
        answer = check(culprit)
        assert not answer.ok or answer.failures
    assert len(probes.journal) == len({probe.ops for probe in probes.journal})


@given(monotone(), suspects)
def test_no_culprit_can_be_smaller(check, suspects):
    for culprit in localize(OPS, suspects, Probes(check)):
        assert all(check(culprit - {op}).ok for op in culprit)


@given(monotone() | any_model(), st.permutations(OPS))
def test_what_has_moved_is_right_after_every_step(check, order):
    told: list[bool] = []
    growth = migrate(
        order, Probes(check), lambda step, safe: told.append(check(frozenset(safe)).ok)
    )
    assert all(told)
    assert set(growth.safe) | set(growth.quarantined) == set(order)
    assert not set(growth.safe) & set(growth.quarantined)
    assert growth.safe == [op for op in order if op in growth.safe]


@given(monotone(), st.permutations(OPS))
def test_nothing_more_can_move(check, order):
    growth = migrate(order, Probes(check))
    for op, why in growth.quarantined.items():
        answer = check(frozenset([*growth.safe, op]))
        assert answer.failures == {op: why} if op in answer.failures else not answer.ok
