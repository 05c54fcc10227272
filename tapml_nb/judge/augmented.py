"""Operators on inputs derived from the real ones: faults that real inputs do not meet.

Each kernel is tried once, at the operator where the model first calls it.  A try counts only where
the operator is defined: the source must compute it, without an infinity or NaN that the real
inputs do not give, without a conversion out of an integer's range, and better than as noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from tapml_nb.array_api import on_host
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Op, OpId
from tapml_nb.judge.derived import Derived, Magnitudes, derived_shapes, derived_values
from tapml_nb.judge.floor import lower_bound
from tapml_nb.judge.introduced import IntroducedRun
from tapml_nb.judge.references import References
from tapml_nb.judge.results import AugmentedResult
from tapml_nb.judge.verdict import Verdict
from tapml_nb.numerics import is_float

_BATCH = 64
"""Operators whose derived inputs are in memory at once, and whose kernels compile together."""

_NOT_TRIED = (Verdict.SKIPPED, Verdict.UNSUPPORTED)
"""Verdicts of a shape at which nothing runs: it became a view, or TVM's importer bakes in the
real one."""

_NOISE = 16.0
"""Times the least floor: where the source is noisier than that, its result says nothing."""


class AugmentedRun:
    """Tries operators on derived inputs."""

    def __init__(
        self,
        source: SourceRun,
        kernels: KernelTable,
        introduced: IntroducedRun,
        references: References,
    ) -> None:
        self._source = source
        self._graph = source.program.graph
        self._kernels = kernels
        self._introduced = introduced
        self._references = references

    def chosen(self, calls: Sequence[tuple[OpId, int]]) -> list[tuple[OpId, int]]:
        """Of these calls the first one of each kernel; none of kernels that launch nothing."""
        first: dict[str, tuple[OpId, int]] = {}
        for op, step in calls:
            kernel = self._kernels[op, step]
            if kernel.computes:
                first.setdefault(kernel.version, (op, step))
        return list(first.values())

    def run(
        self, calls: Sequence[tuple[OpId, int]], stopped: Callable[[], bool]
    ) -> Iterator[list[AugmentedResult]]:
        """Try each call's kernel on all its derived inputs; yields the results call by call.

        Raises:
            Stopped: between two kernels, if ``stopped`` says so.
        """
        values = self._graph.values.values()
        activations = [v for v in values if v.role in ("input", "operator") and not v.host]
        magnitudes = Magnitudes.of(self._source.array(v.id, 0) for v in activations)
        for start in range(0, len(calls), _BATCH):
            batch = calls[start : start + _BATCH]
            tries = {call: self._derive(*call, magnitudes) for call in batch}
            try:
                wanted = [(op, s) for (op, _), found in tries.items() for s in found]
                self._kernels.prepare(wanted, stopped)
                for (op, step), found in tries.items():
                    results = []
                    for number, derived in found.items():
                        result = self._introduced.judge(self._graph[op], number)
                        if result.verdict not in _NOT_TRIED:
                            shapes = tuple(array.shape for array in derived.arrays)
                            result = replace(result, step=step)
                            results.append(AugmentedResult(derived.variant, shapes, result))
                    yield results
            finally:
                for (op, _), found in tries.items():
                    for number in found:
                        self._forget(self._graph[op], number)

    def _derive(self, name: OpId, step: int, magnitudes: Magnitudes) -> dict[int, Derived]:
        """Derived inputs on which the operator is defined, by the step that holds them."""
        op = self._graph[name]
        values = [self._graph.values[v] for v in self._graph.tensor_inputs(op)]
        arrays = [self._source.array(v.id, step) for v in values]
        activations = [v.role in ("input", "operator") for v in values]
        found = list(derived_values(arrays, activations, magnitudes))
        if self._kernels.takes_any_shape(name):
            found += derived_shapes(arrays, activations)
        result: dict[int, Derived] = {}
        for derived in found:
            number = self._source.derive(op, step, derived.arrays)
            if number is not None and self._defined(op, step, number, derived):
                result[number] = derived
            elif number is not None:
                self._forget(op, number)
        return result

    def _defined(self, op: Op, step: int, number: int, derived: Derived) -> bool:
        """Whether the operator means anything there: see the module's text."""
        for value, reference in zip(op.outputs, self._references.local(op, number), strict=True):
            source, real = on_host(reference.source), self._source.array(value, step)
            if source.size == 0:
                return False
            if is_float(source.dtype):
                if not np.isfinite(source).all() and np.isfinite(real).all():
                    return False
                floor = reference.floor
                if floor and floor.units > _NOISE * lower_bound(source.dtype, floor.length):
                    return False
            elif source.dtype.kind in "iu" and not _fits(derived.arrays, np.iinfo(source.dtype)):
                return False
        return True

    def _forget(self, op: Op, number: int) -> None:
        self._kernels.forget(op.id, number, self._source.keys(number))
        self._references.forget(op, number)
        self._source.forget(number)


def _fits(arrays: Sequence[np.ndarray], bounds: np.iinfo) -> bool:
    """Whether floating-point numbers can become integers of these bounds; past them the result
    is undefined."""
    floats = [x for x in arrays if is_float(x.dtype) and x.size]
    return all(bounds.min <= x.min() and x.max() <= bounds.max for x in floats)
