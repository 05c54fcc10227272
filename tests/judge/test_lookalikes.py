"""What a wrong output may be a stale copy of: the tensors of its kind, the nearest first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tapml_nb.judge.introduced import _Alike


@given(st.sets(st.integers(0, 50), min_size=1), st.data())
def test_the_nearest_come_first_and_of_two_the_one_before(places, data):
    alike = _Alike()
    for place in sorted(places):
        alike.add(f"v{place}", place)
    at = data.draw(st.sampled_from(sorted(places)))
    wanted = sorted(places - {at}, key=lambda place: (abs(place - at), place))
    assert list(alike.nearest(f"v{at}")) == [f"v{place}" for place in wanted]
