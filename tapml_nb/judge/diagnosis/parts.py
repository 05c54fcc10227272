"""Whether what is said of a whole is true of its parts.

A factor that fits a tensor need not be that of the tensor: half of it may be scaled by twice as
much.  And what stays below the limit is not right for that: the rest of a tensor of which one
block is beyond it may be off in the same way.  So errors are averaged over parts (the slices along
every axis, large and small values, positive and negative ones), where noise cancels and what has a
system does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tapml_nb.judge.diagnosis.case import SLACK, Case, Points, rms

_LEAST = 8
"""Elements that a part needs."""

_MOST_PARTS = 512
"""Slices that are told apart; of longer axes, as many stretches."""

_BINS = 8
_TELLING = 0.6
"""Part of the elements that must be in parts which can tell a factor from none."""

_SURE = 6.0
"""Standard errors from what is claimed at which a part is another."""

ALIKE = 0.1
"""How far a part's factor or term may be from the whole's, relative to it."""


@dataclass(frozen=True)
class Grouping:
    """Elements by one of their properties: the part of each, and how many parts there are.

    ``axis`` is the one along which the parts are slices (None if they are none, or stretches of
    several); ``of_sizes`` is whether the elements of a part are of about one magnitude.
    """

    label: np.ndarray
    count: int
    axis: int | None = None
    of_sizes: bool = False


@dataclass(frozen=True)
class Fit:
    """A number for each part, with its standard error (infinite where there are too few)."""

    value: np.ndarray
    error: np.ndarray

    def differs(self, value: float, tolerance: float) -> np.ndarray:
        """The parts for which the number is certainly not this one."""
        far = np.abs(self.value - value) > _SURE * self.error + tolerance
        return np.asarray(far & np.isfinite(self.error))


def usable(points: Points) -> Points:
    """Those that statistics can use."""
    return points[points.finite & (points.allowed > 0)]


def groupings(case: Case, points: Points) -> Iterator[Grouping]:
    """The parts that an error may be confined to."""
    places = case.places(points.index)
    for axis, size in enumerate(case.shape):
        if size < 2:
            continue
        parts = min(size, _BINS if size == case.size else _MOST_PARTS, len(points) // (2 * _LEAST))
        if parts < 2:
            continue
        yield Grouping(places[axis] * parts // size, parts, axis if parts == size else None)
    size = np.abs(points.exact)
    if len(points) >= _BINS * _LEAST:
        bounds = np.quantile(size, np.arange(1, _BINS) / _BINS)
        yield Grouping(np.searchsorted(bounds, size), _BINS, of_sizes=True)
    yield Grouping((points.exact < 0).astype(np.int64), 2)


def factors(points: Points, grouping: Grouping) -> Fit:
    """The factor that each part is scaled by, weighted by the noise."""
    x = points.exact / points.allowed
    return _fit(x, points.target / points.allowed, grouping)


def same_factor(case: Case, points: Points, factor: float, tolerance: float) -> bool:
    """Whether every part of these elements is scaled by this factor, as far as it can tell; and
    whether most of them can."""
    points = points[points.exact != 0]
    for grouping in groupings(case, points) if len(points) else ():
        fit = factors(points, grouping)
        if fit.differs(factor, tolerance).any():
            return False
        tells = fit.error < 5 * tolerance
        if grouping.of_sizes and np.mean(tells[grouping.label]) < _TELLING:
            return False
    return bool(len(points))


def same_term(case: Case, term: float) -> bool:
    """Whether this term is added to every part that can tell; weighted by the noise."""
    points = usable(case.many)
    weight = 1 / points.allowed
    for grouping in groupings(case, points) if len(points) else ():
        fit = _fit(weight, points.error / points.allowed, grouping)
        if fit.differs(term, ALIKE * abs(term)).any():
            return False
    return True


def has_system(case: Case, points: Points, weight: np.ndarray, least: float = 0.0) -> bool:
    """Whether errors, times a weight, have a mean or follow the result in some part.

    ``least`` is how much of either is too little to count.
    """
    error, result = points.error * weight, points.exact * weight
    one = np.ones_like(error)
    for grouping in groupings(case, points):
        for x in (one, result):
            fit = _fit(x, error, grouping)
            size = root_mean_squares(x, grouping.label, grouping.count)
            if Fit(fit.value * size, fit.error * size).differs(0.0, least).any():
                return True
    return False


def rest_is_right(case: Case, inside: Callable[[np.ndarray], np.ndarray] | None = None) -> bool:
    """Whether what is not beyond the limit is as right as an honest kernel's.

    Not so if its noise is above the source's, if many elements are just below the limit, or if
    some part of it is off in one direction.  ``inside`` tells of flat indices which are in the
    region that is said to be wrong, where some elements are right by chance.
    """
    floor = case.reference.floor
    if not case.floating or floor is None or not len(case.good):
        return True
    points = usable(case.good)
    if inside is not None:
        points = points[~inside(points.index)]
    if not len(points):
        return True
    error = points.error / points.allowed
    bad = usable(case.bad)
    above = min(rms(bad.error / bad.allowed), 1e3) if len(bad) else 1e3
    source = case.reference.source.reshape(-1)[points.index].astype(np.float64)
    honest = max(4 * rms((source - points.exact) / points.allowed), 1.5 * floor.rms / floor.units)
    if rms(error) > min(1.0, max(honest, above / 50)):
        return False
    share = len(points) / len(case.good)
    near = float(np.mean(np.abs(error) > SLACK)) * share * (case.size - case.count)
    if near > 0.1 * case.count:
        return False
    return not has_system(case, points, 1 / points.allowed, max(0.25, above / 30))


def _fit(x: np.ndarray, y: np.ndarray, grouping: Grouping) -> Fit:
    """Least squares of ``y = c x`` in each part."""

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(grouping.label, weights=values, minlength=grouping.count)

    number = np.bincount(grouping.label, minlength=grouping.count)
    power = total(x * x)
    value = total(x * y) / np.maximum(power, 1e-300)
    left = y - value[grouping.label] * x
    variance = total(left * left) / np.maximum(number - 1, 1)
    # A part may be quiet by chance, or because it is all zeros: never below the whole's by much.
    variance = np.maximum(variance, 0.25 * float(np.mean(left * left)))
    error = np.sqrt(variance / np.maximum(power, 1e-300))
    enough = (number >= _LEAST) & (power > 0)
    return Fit(np.where(enough, value, 0.0), np.where(enough, error, np.inf))


def root_mean_squares(x: np.ndarray, label: np.ndarray, count: int) -> np.ndarray:
    """Root mean square of each of so many parts; ``label`` tells the part of each element."""
    squares = np.bincount(label, weights=x * x, minlength=count)
    return np.asarray(np.sqrt(squares / np.maximum(np.bincount(label, minlength=count), 1)))
