"""Agreement of logits, against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tapml_nb.judge.tokens import agreement


def test_equal_logits_agree():
    logits = np.random.default_rng(0).normal(size=(2, 5, 11)).astype(np.float32)
    same = agreement(logits, logits)
    assert (same.positions, same.top1, same.kl) == (10, 1.0, 0.0)
    assert str(same) == "top-1 agrees at 10 of 10 positions, KL 0 nats"


def test_the_divergence_of_two_coins():
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    found = agreement(np.log(q)[None], np.log(p)[None] + 7)
    assert found.kl == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))


def test_a_tie_may_be_broken_in_another_way():
    source = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    target = np.array([[1.0, 1.0 + 1e-6, 0.0], [0.0, 1.0, 0.0]])
    assert agreement(target, source).top1 == 0.5


def test_not_a_number_agrees_with_nothing():
    source = np.zeros((2, 3))
    target = np.array([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0]])
    found = agreement(target, source)
    assert (found.top1, found.kl) == (0.5, math.inf)


def test_masked_tokens():
    source = np.array([[0.0, -np.inf, 1.0]])
    assert agreement(source, source).kl == 0.0
