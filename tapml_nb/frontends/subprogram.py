"""Some operators of a program as a program of their own, each step starting from given values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tapml_nb.frontends.program import Mark, Program, SourceTensor, SquaringProgram
from tapml_nb.graph import Op, OpId, ValueId


class Subprogram:
    """A part of a program, run on values that are known already.

    Values that its operators read and that are not given are computed by the operators of the
    program that yield them.  All else is as the program has it.
    """

    def __init__(
        self,
        program: Program,
        ops: Iterable[OpId],
        given: Sequence[Mapping[ValueId, SourceTensor]],
    ) -> None:
        """Take the operators ``ops`` of a program; ``given`` holds values for every step."""
        self._program = program
        self.run, self.run_exact, self.unit = program.run, program.run_exact, program.unit
        if isinstance(program, SquaringProgram):
            self.run_squared = program.run_squared
        self.draws, self.repeatable = program.draws, program.repeatable
        self.to_numpy, self.array_of = program.to_numpy, program.array_of
        self.from_array = program.from_array
        self.memory = program.memory
        self._given, self.steps = given, len(given)
        self.mutations: Mapping[ValueId, ValueId] = {}  # what a step starts from is given
        chosen = set(ops)
        graph = program.graph
        own = tuple(op for op in graph.ops if op.id in chosen)
        yielded = {value for op in own for value in op.outputs}
        read = {value for op in graph.ops if op.id not in chosen for value in op.inputs}
        values = {value: graph.values[value] for op in own for value in (*op.inputs, *op.outputs)}
        starts = [v for v in values if v not in yielded and values[v].producer is not None]
        values |= {v: replace(values[v], role="input", producer=None) for v in starts}
        self.graph = replace(
            graph,
            ops=own,
            values=values,
            inputs=tuple(v for v in values if values[v].role == "input"),
            outputs=tuple(v for v in values if v in yielded and (v in read or v in graph.outputs)),
        )
        self._missing = self._upstream(own)

    def bind(self, step: int, state: Mapping[ValueId, SourceTensor]) -> dict[ValueId, SourceTensor]:
        """What the operators read and yield, as far as it was given or follows from that."""
        values = dict(self._given[step])
        for op in self._missing:
            values.update(zip(op.outputs, self._program.run(op.id, values), strict=True))
        return {value: values[value] for value in self.graph.values if value in values}

    def marks(self) -> dict[tuple[ValueId, int], Mark]:
        """None: who opens it has looked at those of the program."""
        return {}

    def _upstream(self, own: Sequence[Op]) -> list[Op]:
        """The operators outside that have to run for its own to have all that they read."""
        graph = self._program.graph
        known = set(self._given[0]) | {value for op in own for value in op.outputs}
        wanted = {value for op in own for value in op.inputs} - known
        needed: list[Op] = []
        for op in reversed(graph.ops):
            if not wanted.isdisjoint(op.outputs):
                needed.insert(0, op)
                wanted = (wanted - set(op.outputs)) | (set(op.inputs) - known)
        return needed
