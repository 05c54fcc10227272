"""Some operators of a program as a program of their own, each step starting from given values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tapml_nb.frontends.program import Mark, Memory, Program, SourceTensor, Unit
from tapml_nb.graph import Op, OpId, ValueId


class Inside:
    """A part of a program, run on values that are known already.

    Values that its operators read and that are not given are computed by the operators of the
    whole program that yield them.
    """

    def __init__(
        self,
        program: Program,
        ops: Iterable[OpId],
        given: Sequence[Mapping[ValueId, SourceTensor]],
    ) -> None:
        """Take the operators ``ops`` of a program; ``given`` holds values for every step."""
        self._program = program
        self._given = given
        chosen = set(ops)
        whole = program.graph
        inside = tuple(op for op in whole.ops if op.id in chosen)
        yielded = {value for op in inside for value in op.outputs}
        read = {value for op in whole.ops if op.id not in chosen for value in op.inputs}
        values = {
            value: whole.values[value] for op in inside for value in (*op.inputs, *op.outputs)
        }
        starts = [v for v in values if v not in yielded and values[v].producer is not None]
        values |= {v: replace(values[v], role="input", producer=None) for v in starts}
        self.graph = replace(
            whole,
            ops=inside,
            values=values,
            inputs=tuple(v for v in values if values[v].role == "input"),
            outputs=tuple(v for v in values if v in yielded and (v in read or v in whole.outputs)),
        )
        self._missing = self._upstream(inside)

    @property
    def steps(self) -> int:
        """How many steps of values were given."""
        return len(self._given)

    def bind(self, step: int, state: Mapping[ValueId, SourceTensor]) -> dict[ValueId, SourceTensor]:
        """What the operators read and yield, as far as it was given or follows from that."""
        values = dict(self._given[step])
        for op in self._missing:
            values.update(zip(op.outputs, self._program.run(op.id, values), strict=True))
        return {value: values[value] for value in self.graph.values if value in values}

    @property
    def mutations(self) -> Mapping[ValueId, ValueId]:
        """None: what a step starts from is given."""
        return {}

    def marks(self) -> dict[tuple[ValueId, int], Mark]:
        """None: who opens it has looked at those of the whole program."""
        return {}

    def run(self, op: OpId, values: Mapping[ValueId, SourceTensor]) -> list[SourceTensor]:
        """As the whole program does."""
        return self._program.run(op, values)

    def may_be_random(self, op: OpId) -> bool:
        """As the whole program says."""
        return self._program.may_be_random(op)

    def repeatable(
        self, op: OpId
    ) -> Callable[[Mapping[ValueId, SourceTensor]], list[SourceTensor]] | None:
        """As the whole program does."""
        return self._program.repeatable(op)

    def run_exact(
        self, op: OpId, values: Mapping[ValueId, SourceTensor]
    ) -> list[SourceTensor] | None:
        """As the whole program does."""
        return self._program.run_exact(op, values)

    def unit(
        self, op: OpId, values: Mapping[ValueId, SourceTensor], *, symbolic: bool = False
    ) -> Unit:
        """As the whole program does."""
        return self._program.unit(op, values, symbolic=symbolic)

    def to_numpy(self, tensor: SourceTensor) -> np.ndarray:
        """As the whole program does."""
        return self._program.to_numpy(tensor)

    def from_numpy(self, array: np.ndarray, like: SourceTensor) -> SourceTensor:
        """As the whole program does."""
        return self._program.from_numpy(array, like)

    def memory(self, tensor: SourceTensor) -> Memory | None:
        """As the whole program does."""
        return self._program.memory(tensor)

    def _upstream(self, inside: Sequence[Op]) -> list[Op]:
        """The operators outside that have to run for those inside to have all that they read."""
        whole = self._program.graph
        known = set(self._given[0]) | {value for op in inside for value in op.outputs}
        wanted = {value for op in inside for value in op.inputs} - known
        needed: list[Op] = []
        for op in reversed(whole.ops):
            if not wanted.isdisjoint(op.outputs):
                needed.insert(0, op)
                wanted = (wanted - set(op.outputs)) | (set(op.inputs) - known)
        return needed
