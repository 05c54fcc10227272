"""Kept tensors under any sequence of use, and budgets in any words."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tapml_nb.array_api import on_host
from tapml_nb.budget import parse_budget
from tapml_nb.execute.storage import Kept, Storage

steps = st.lists(
    st.tuples(st.sampled_from(["keep", "keep there"]), st.integers(0, 9000))
    | st.tuples(st.sampled_from(["read", "forget"]), st.integers(0, 20)),
    max_size=30,
)


@given(st.none() | st.integers(1, 20_000), steps)
def test_every_tensor_comes_back_and_memory_stays_within_the_budget(budget, steps):
    storage = Storage(budget)
    held: list[tuple[Kept, bytes]] = []
    for seed, (what, number) in enumerate(steps):
        if what.startswith("keep"):
            array = np.random.default_rng(seed).integers(0, 255, number, np.uint8)
            tensor = torch.from_numpy(array.copy()) if what == "keep there" else array
            held.append((storage.keep(tensor), array.tobytes()))
        elif held and what == "read":
            kept, content = held[number % len(held)]
            assert on_host(kept.array()).tobytes() == content
        elif held:
            del held[number % len(held)]
        kept = array = tensor = None
        if budget is not None:
            inside = [one.nbytes for one, _ in held if one.held is not None]
            outside = [one.nbytes for one, _ in held if one.held is None]
            assert (storage.resident, storage.spilled) == (sum(inside), sum(outside))
            assert storage.resident <= min(budget, storage.peak)
    for one, content in held:
        assert on_host(one.array()).tobytes() == content
    held.clear()
    one = None
    assert storage.resident == storage.spilled == 0
    storage.close()


UNITS = {"": 1, "k": 10**3, "M": 10**6, "GB": 10**9, "tb": 10**12, "KiB": 2**10, "gib": 2**30}


@given(st.integers(1, 10**20), st.sampled_from(list(UNITS)), st.sampled_from(["", " ", "  "]))
def test_a_budget_is_its_number_of_units(number, unit, space):
    assert parse_budget(f"{number}{space}{unit}") == number * UNITS[unit]


@given(st.text("0123456789.kmgtib ", max_size=400) | st.text())
def test_other_words_are_refused_in_one_line(words):
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*([kmgt]i?)?b?\s*", words, re.IGNORECASE):
        assume(not re.search("[1-9]", words))
    with pytest.raises(ValueError, match=r"^max_memory: "):
        parse_budget(words)


@pytest.mark.parametrize("digits", [17, 400])
def test_large_budgets_are_exact(digits):
    assert parse_budget("9" * digits + " kB") == (10**digits - 1) * 1000
