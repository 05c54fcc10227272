"""A wrong tensor as the detectors see it: which elements are wrong, and samples of both kinds.

Detectors test *candidates*: values that the target would have if a certain fault were at work.
A candidate explains the target if it is right where the target is wrong, and does not spoil what
is right.  Both are tested on samples, so that a detector's cost does not grow with the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tapml_nb.graph.model import Constant
from tapml_nb.judge.floor import Reference
from tapml_nb.judge.verdict import LIMIT, deviation
from tapml_nb.numerics import as_bytes, is_float

SLACK = 4.0
"""Floors within which a candidate counts as met: where honest kernels are."""

MOST = 0.99
"""Part of the elements that a candidate must explain."""

_SAMPLE = 1 << 14
"""Elements of either kind that detectors look at."""

_PROBE = 192
"""Elements that reject most candidates at once."""


@dataclass(frozen=True)
class Points:
    """Some elements of the tensor, by flat index: the target's values, the reference's, and one
    noise floor each in the tensor's own unit, all float64."""

    index: np.ndarray
    target: np.ndarray
    exact: np.ndarray
    allowed: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, chosen: np.ndarray | slice) -> Points:
        columns = (self.index, self.target, self.exact, self.allowed)
        return Points(*(column[chosen] for column in columns))

    @property
    def error(self) -> np.ndarray:
        """Target minus exact."""
        return np.asarray(self.target - self.exact)

    @cached_property
    def finite(self) -> np.ndarray:
        """Where both values are finite."""
        return np.asarray(np.isfinite(self.target) & np.isfinite(self.exact))


Candidate = Callable[[Points], np.ndarray]
"""Gives for some points the values expected there."""


@dataclass(frozen=True)
class Known:
    """What is known of an output beside its numbers: those among the operator's arguments, by
    parameter name, and the elements that both of two runs left with the poison of their own (None
    where no two runs differed)."""

    constants: Mapping[str, Constant] = field(default_factory=dict)
    unwritten: np.ndarray | None = None


def close(target: np.ndarray, candidate: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Element-wise: within the tolerance, or the same infinity, or both NaN."""
    with np.errstate(all="ignore"):
        met = (np.abs(target - candidate) <= tolerance) | (target == candidate)
        return np.asarray(met | (np.isnan(target) & np.isnan(candidate)))


def rms(x: np.ndarray) -> float:
    """Root mean square; 0 of nothing."""
    return math.sqrt(float(np.mean(x * x))) if len(x) else 0.0


class Case:
    """One wrong output of one operator; the arguments are those of
    :func:`~tapml_nb.judge.diagnosis.diagnose`, and the target is of the reference's type."""

    def __init__(
        self,
        kind: str,
        target: np.ndarray,
        reference: Reference,
        inputs: Sequence[np.ndarray],
        others: Iterable[tuple[str, np.ndarray]],
        known: Known,
    ) -> None:
        self.kind = kind.rpartition(".")[2].lower()
        if target.dtype == np.bool_ and (as_bytes(target) > 1).any():  # no booleans, then
            target, source = as_bytes(target), as_bytes(reference.source)
            reference = replace(reference, source=source)
        self.target = np.asarray(target, order="C")
        self.reference = reference
        self.inputs, self.others = list(inputs), others
        self.shape, self.size, self.dtype = target.shape, target.size, target.dtype
        self.floating = is_float(self.dtype)
        found = deviation(self.target, reference, LIMIT)
        self.wrong = found.beyond
        self.constants, self.unwritten = known.constants, known.unwritten
        if known.unwritten is not None:
            self.wrong = self.wrong | known.unwritten  # right at most by chance
        self._allowed = found.allowed.reshape(-1)
        self._random = np.random.default_rng(0)
        self.count = int(np.count_nonzero(self.wrong))

    @cached_property
    def bad(self) -> Points:
        """A sample of the wrong elements."""
        return self.points(self._sample(self.wrong))

    @cached_property
    def good(self) -> Points:
        """A sample of the right elements."""
        return self.points(self._sample(~self.wrong))

    @cached_property
    def any(self) -> Points:
        """A sample of all elements."""
        return self._any(_SAMPLE)

    @cached_property
    def many(self) -> Points:
        """As many of all elements as it takes for every slice to have its share."""
        return self._any(1 << 16)

    def _any(self, most: int) -> Points:
        if self.size <= most:
            return self.points(np.arange(self.size))
        return self.points(self._random.integers(0, self.size, most))

    def points(self, index: np.ndarray) -> Points:
        """The elements with these flat indices."""
        target = self.target.reshape(-1)[index].astype(np.float64)
        allowed = self._allowed[index].astype(np.float64)
        return Points(index, target, self.exact(index), allowed)

    def exact(self, index: np.ndarray) -> np.ndarray:
        """The reference at flat indices, float64."""
        source = np.asarray(self.reference.source.reshape(-1)[index].astype(np.float64))
        delta = self.reference.delta
        if delta is None:
            return source
        with np.errstate(all="ignore"):
            exact = source + delta.reshape(-1)[index]
            return np.asarray(np.where(np.isfinite(source), exact, source))

    def places(self, index: np.ndarray) -> tuple[np.ndarray, ...]:
        """Flat indices as one array of positions per axis."""
        return np.unravel_index(index, self.shape) if self.shape else ()

    def flat(self, places: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of :meth:`places`."""
        return np.asarray(np.ravel_multi_index(tuple(places), self.shape))

    def first(self, index: int) -> list[int]:
        """A flat index as people write it."""
        return [int(i) for i in np.unravel_index(index, self.shape)]

    def aligned(self) -> Iterator[tuple[int, np.ndarray]]:
        """Inputs that have a value per output element (broadcasting), with their number."""
        for k, x in enumerate(self.inputs):
            if x.size > 1 and x.ndim <= len(self.shape):
                try:
                    yield k, np.broadcast_to(x, self.shape)
                except ValueError:
                    continue

    def values(self, x: np.ndarray, points: Points) -> np.ndarray:
        """An aligned input at some elements, float64."""
        return np.asarray(x[self.places(points.index)]).astype(np.float64)

    def explains(self, candidate: Candidate, least: int = 6, factor: float = 1.0) -> bool:
        """Whether a candidate is met by the wrong elements and by the right ones.

        ``least`` is how many wrong elements the claim needs, ``factor`` the floor of its values
        over the elements' own.
        """
        if self.count < least:
            return False
        return all(
            self._met(candidate, points, wrong, factor)
            for points, wrong in ((self.bad[:_PROBE], True), (self.bad, True), (self.good, False))
            if len(points)
        )

    def explained_by_origin(self, origin: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Whether every element holds the reference's value of another place; ``origin`` gives for
        flat indices those where the values come from, -1 where unknown."""
        if self.count < (6 if self.floating else 24):
            return False
        for points in (self.bad[:_PROBE], self.bad):
            there = origin(points.index)
            if np.mean(there >= 0) < 0.5 or not self.comes_from(points, there, wrong=True):
                return False
        if not self.tells(self.bad, origin(self.bad.index)):
            return False
        return self.comes_from(self.good, origin(self.good.index))

    def tells(self, points: Points, origin: np.ndarray) -> bool:
        """Whether the reference's values at ``origin`` (-1: skip) differ by more than its noise."""
        known = origin >= 0
        there = self.exact(origin[known])
        tolerance = SLACK * np.fmax(points.allowed[known], self._allowed[origin[known]])
        there, tolerance = there[np.isfinite(there)], tolerance[np.isfinite(tolerance)]
        if not len(there) or not len(tolerance):
            return True
        return bool(np.median(tolerance) <= 0.5 * np.std(there))

    def comes_from(self, points: Points, origin: np.ndarray, wrong: bool = False) -> bool:
        """Whether most of these elements hold the reference's values at ``origin`` (-1: skip).

        Those that are wrong must be nearer to it than to what they should be: an origin of great
        magnitude (a mask) has a floor in which anything is close.
        """
        known = origin >= 0
        if not known.any():
            return True
        points, origin = points[known], origin[known]
        tolerance = SLACK * np.fmax(points.allowed, self._allowed[origin])
        if wrong:
            tolerance = np.minimum(tolerance, _nearer(points))
        return bool(np.mean(close(points.target, self.exact(origin), tolerance)) >= MOST)

    def _met(self, candidate: Candidate, points: Points, wrong: bool, factor: float) -> bool:
        with np.errstate(all="ignore"):
            tolerance = SLACK * points.allowed * factor
            if wrong:
                tolerance = np.minimum(tolerance, _nearer(points))
            return bool(np.mean(close(points.target, candidate(points), tolerance)) >= MOST)

    def _sample(self, mask: np.ndarray) -> np.ndarray:
        """Flat indices where the mask holds, or a sample of them.  Their order is random, too: the
        probe that is taken from the start must not be one corner of the tensor."""
        index = np.flatnonzero(mask)
        if len(index) > _SAMPLE:
            return index[self._random.integers(0, len(index), _SAMPLE)]
        return self._random.permutation(index)


def _nearer(points: Points) -> np.ndarray:
    """Half the distance to what wrong elements should be: what explains them leaves no more."""
    with np.errstate(all="ignore"):
        return np.asarray(0.5 * np.abs(points.error))
