"""The source run: every tensor of the model, computed once per step by the source itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tapml_nb.execute.events import EventStream, RunProgress
from tapml_nb.frontends.program import Program
from tapml_nb.graph import Op, OpId, ValueId
from tapml_nb.numerics import digest


class Stopped(Exception):
    """The run was told to stop; what was done stays done."""


@dataclass
class _Step:
    values: dict[ValueId, Any]
    ms: dict[OpId, float] = field(default_factory=dict)
    keys: dict[ValueId, str] = field(default_factory=dict)


class SourceRun:
    """The values of all steps, with their content addresses and the time each operator took."""

    def __init__(self, program: Program, events: EventStream) -> None:
        self.program = program
        self._events = events
        self._steps: list[_Step] = []
        self._state: dict[ValueId, Any] = {}
        self._shared_keys: dict[ValueId, str] = {}
        self._derived: dict[int, _Step] = {}
        self._numbers = itertools.count(program.steps)

    def complete(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Run every step that has not been run yet.

        Raises:
            Stopped: between two operators, if ``stopped`` says so; the step begins anew later.
        """
        while len(self._steps) < self.program.steps:
            self._steps.append(self._run_step(len(self._steps), stopped))

    def values(self, step: int) -> Mapping[ValueId, Any]:
        """All tensors of a step, as the source framework's own."""
        return self._step(step).values

    def array(self, value: ValueId, step: int) -> np.ndarray:
        """A tensor of a step as a NumPy array (shared memory where possible)."""
        return self.program.to_numpy(self._step(step).values[value])

    def key(self, value: ValueId, step: int) -> str:
        """The content address of a tensor; parameters are hashed once for all steps."""
        shared = self.program.graph.values[value].role in ("parameter", "constant")
        keys = self._shared_keys if shared else self._step(step).keys
        if value not in keys:
            keys[value] = digest(self.array(value, step))
        return keys[value]

    def derive(self, op: Op, step: int, arrays: Sequence[np.ndarray]) -> int | None:
        """Make up a step in which one operator alone meets other tensors.

        Args:
            op: the operator.
            step: the step that all else is taken from.
            arrays: its tensor inputs, in order.

        Returns:
            The number of the new step, beyond those of the model; None if the source cannot
            compute the operator there.
        """
        values = self._step(step).values
        tensors = [v for v in op.inputs if not self.program.graph.values[v].host]
        inputs = {v: values[v] for v in op.inputs} | {
            v: self.program.from_numpy(array, values[v])
            for v, array in zip(tensors, arrays, strict=True)
        }
        begin = time.perf_counter()
        try:
            outputs = self.program.run(op.id, inputs)
        except Exception:  # whatever a framework raises where an operator is not defined
            return None
        made = _Step({**inputs, **dict(zip(op.outputs, outputs, strict=True))})
        made.ms[op.id] = (time.perf_counter() - begin) * 1e3
        number = next(self._numbers)
        self._derived[number] = made
        return number

    def forget(self, number: int) -> None:
        """Drop a step that :meth:`derive` made."""
        del self._derived[number]

    def keys(self, step: int) -> list[str]:
        """The content addresses of a step's own tensors, as far as they were asked for."""
        return list(self._step(step).keys.values())

    def ms(self, op: OpId, step: int) -> float:
        """Milliseconds the source took for an operator."""
        return self._step(step).ms[op]

    def exact(self, op: OpId, step: int) -> list[np.ndarray] | None:
        """The operator's outputs in float64 on the source's inputs, if that can be computed."""
        result = self.program.run_exact(op, self._step(step).values)
        if result is None:
            return None
        return [self.program.to_numpy(tensor) for tensor in result]

    def _step(self, step: int) -> _Step:
        return self._derived[step] if step in self._derived else self._steps[step]

    def _run_step(self, step: int, stopped: Callable[[], bool]) -> _Step:
        graph = self.program.graph
        record = _Step(self.program.bind(step, self._state))
        for done, op in enumerate(graph.ops):
            if stopped():
                raise Stopped
            begin = time.perf_counter()
            outputs = self.program.run(op.id, record.values)
            record.ms[op.id] = (time.perf_counter() - begin) * 1e3
            record.values.update(zip(op.outputs, outputs, strict=True))
            if done % 64 == 0:
                self._events.emit(
                    RunProgress("source", step * len(graph) + done, len(graph) * self.program.steps)
                )
        for buffer, value in self.program.mutations.items():
            self._state[buffer] = record.values[value]
        return record
