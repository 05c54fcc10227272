"""Tensors of a model that a wrong output may be a stale copy of."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Op, TensorSpec, ValueId


class Lookalikes:
    """The tensors of the source run by shape and dtype."""

    def __init__(self, source: SourceRun) -> None:
        self._source = source
        self._graph = source.program.graph
        self._by_spec: dict[int, Mapping[TensorSpec, Sequence[tuple[int, ValueId]]]] = {}

    def of(self, op: Op, step: int, k: int) -> Iterator[tuple[str, np.ndarray]]:
        """For an operator's ``k``-th output: its own of the step before, then those of its shape
        and dtype in this step, the nearest in the graph first; each with its name."""
        values = self._graph.values
        output = op.outputs[k]
        if 0 < step < self._source.program.steps:
            yield f"its own result of step {step - 1}", self._source.array(output, step - 1)
        alike = self._alike(step)[self._seen(output, step)]
        k = next(k for k, (_, value) in enumerate(alike) if value == output)
        at, _ = alike[k]
        before, after = reversed(alike[:k]), alike[k + 1 :]
        for _, value in heapq.merge(before, after, key=lambda place: abs(place[0] - at)):
            yield values[value].name, self._source.array(value, step)

    def _seen(self, value: ValueId, step: int) -> TensorSpec:
        """What a tensor is in a step."""
        return TensorSpec(self._source.shape(value, step), self._graph.values[value].spec.dtype)

    def _alike(self, step: int) -> Mapping[TensorSpec, Sequence[tuple[int, ValueId]]]:
        """The tensors of a step by shape and dtype, each with its place among all of them."""
        if step in self._by_spec:
            return self._by_spec[step]
        found: dict[TensorSpec, list[tuple[int, ValueId]]] = {}
        for place, name in enumerate(self._source.values(step)):
            value = self._graph.values.get(name)  # a step binds more than tensors
            if value and not value.host:
                found.setdefault(self._seen(name, step), []).append((place, name))
        if step < self._source.program.steps:  # not one that was made up
            self._by_spec[step] = found
        return found
