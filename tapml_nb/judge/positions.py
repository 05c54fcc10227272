"""Which axis of a tensor runs along the tokens of a step.

No graph says so, but sizes do: it is the axis that in every step is as long as the step's token
ids.  Where steps differ in length (a prompt, then single tokens) hardly any other axis can be
that; where two axes could, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Graph, OpId, ValueId
from tapml_nb.judge.results import OpResult
from tapml_nb.numerics import np_dtype


def token_input(graph: Graph) -> ValueId | None:
    """A model's first integer input ``[batch, positions]``; None if it takes no tokens."""
    for value in graph.inputs:
        found = graph.values[value]
        if (
            not found.host
            and len(found.spec.shape) == 2
            and np_dtype(found.spec.dtype).kind in "iu"
        ):
            return value
    return None


@dataclass(frozen=True)
class ErrorByToken:
    """Where along the tokens groups of operators are off; step stands after step.

    Attributes:
        rows: the groups, in graph order.
        lengths: how many tokens each step has; 0 where nothing of it was judged by token.
        ratios: float64 ``[rows, sum(lengths)]``, the largest in noise floors; NaN where no
            operator of the row was judged by token.
        ops: int32 of the same shape, the number of the operator that is so far off, or -1.
    """

    rows: list[str]
    lengths: list[int]
    ratios: np.ndarray
    ops: np.ndarray

    @classmethod
    def of(
        cls, results: Collection[OpResult], steps: int, groups: Mapping[OpId, str]
    ) -> ErrorByToken:
        """Gather results; ``groups`` names the row of every operator, in graph order."""
        lengths = [0] * steps
        for result in results:
            lengths[result.step] = max(lengths[result.step], len(result.positions))
        starts = np.cumsum([0, *lengths])
        rows = {name: row for row, name in enumerate(dict.fromkeys(groups.values()))}
        number = {op: k for k, op in enumerate(groups)}
        ratios = np.full((len(rows), starts[-1]), np.nan)
        ops = np.full(ratios.shape, -1, np.int32)
        for result in results:
            new, start = np.array(result.positions), starts[result.step]
            here = rows[groups[result.op]], slice(start, start + len(new))
            more = np.isnan(ratios[here]) | (new > ratios[here])
            ratios[here] = np.where(more, new, ratios[here])
            ops[here] = np.where(more, number[result.op], ops[here])
        return cls(list(rows), lengths, ratios, ops)


class TokenAxes:
    """The token axes of a model's tensors; the source run must be complete."""

    def __init__(self, source: SourceRun) -> None:
        self._source = source
        self._known: dict[ValueId, int | None] = {}
        self._tokens = token_input(source.program.graph)

    def axis(self, value: ValueId, step: int) -> int | None:
        """The token axis of a tensor in a step; None where there is none, or it is not clear."""
        if self._tokens is None or step >= self._source.program.steps:
            return None
        if value not in self._known:
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: ValueId) -> int | None:
        shapes, lengths = self._shapes(value), [shape[1] for shape in self._shapes(self._tokens)]
        if len({len(shape) for shape in shapes}) != 1:
            return None
        axes = [
            axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if list(sizes) == lengths
        ]
        # Of single tokens every such axis holds the same, namely all.
        return axes[0] if len(axes) == 1 or (axes and max(lengths) == 1) else None

    def _shapes(self, value: ValueId | None) -> list[tuple[int, ...]]:
        steps = range(self._source.program.steps)
        return [tuple(self._source.values(step)[value].shape) for step in steps]  # type: ignore[index]
