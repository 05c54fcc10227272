"""Which axis of a tensor runs along the tokens of a step.

No graph says so, but sizes do: it is the axis that in every step is as long as the step's token
ids.  Where steps differ in length (a prompt, then single tokens) hardly any other axis can be
that; where two axes could, nothing is claimed.
"""

from __future__ import annotations

from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import ValueId
from tapml_nb.numerics import np_dtype


class TokenAxes:
    """The token axes of a model's tensors; the source run must be complete."""

    def __init__(self, source: SourceRun) -> None:
        self._source = source
        self._known: dict[ValueId, int | None] = {}
        graph = source.program.graph
        self._tokens = next(
            (
                value
                for value in graph.inputs
                if not (found := graph.values[value]).host
                and len(found.spec.shape) == 2
                and np_dtype(found.spec.dtype).kind in "iu"
            ),
            None,
        )
        """The model's first integer input ``[batch, positions]``; None if it takes no tokens."""

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
