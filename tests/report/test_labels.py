"""Labels: cut, and still different from each other; the page's are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapml_nb.report.labels import apart

CASES = json.loads(
    (Path(__file__).parents[2] / "extensions" / "widgets" / "tests" / "labels.json").read_text()
)


@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_that_the_page_has(case):
    assert apart(case["names"], case["most"]) == case["labels"]


names = st.lists(st.text("ab+./", max_size=30) | st.text(max_size=30), max_size=20)


@given(names, st.integers(12, 40))
def test_different_names_have_different_labels_that_fit(names, most):
    labels = apart(names, most)
    assert len(labels) == len(names)
    assert all(len(label) <= most for label in labels)
    assert len(set(zip(names, labels, strict=True))) == len(set(names)), "one label for one name"
    assert len(set(labels)) == len(set(names))


def test_of_fused_kinds_what_tells_them_apart_stays():
    shared = "aten.view+aten.transpose+aten.mul+aten.slice+aten.neg+aten.cat+aten.add"
    labels = apart([f"{shared}+aten.expand", f"{shared}+aten.reshape"], 24)
    assert ["expand" in label for label in labels] == [True, False]
    assert "reshape" in labels[1]
