"""The source run: every tensor of the model, computed once per step by the source itself."""

from __future__ import annotations

import itertools
import math
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np

from tapml_nb.array_api import Array, size_of
from tapml_nb.execute.events import EventStream, RunProgress
from tapml_nb.execute.given import Given, Noting, Slot
from tapml_nb.execute.storage import Kept, Storage
from tapml_nb.frontends.program import Program, SourceTensor, SquaringProgram
from tapml_nb.graph import Op, OpId, ValueId
from tapml_nb.measured import far
from tapml_nb.numerics import bitwise_equal, digest

RANDOM = (
    "the source itself is random here: it draws other numbers each time, so there is nothing to "
    "judge a kernel by"
)
"""Why an operator that :meth:`SourceRun.is_random` tells of has no kernel."""

_DRAWS = {1 << 16: 16, math.inf: 2}
"""How often an operator of which nobody knows whether it draws random numbers is run again, by
elements that it gives at most: a few booleans may well be the same twice."""

Again = Callable[[Mapping[ValueId, SourceTensor]], list[SourceTensor]]


class Stopped(Exception):
    """The run was told to stop; what was done stays done."""


@dataclass(frozen=True)
class _Made:
    """A tensor that an operator has made, in memory that is kept."""

    kept: Kept
    over: Callable[[Array], SourceTensor]
    shape: tuple[int, ...]

    def tensor(self) -> SourceTensor:
        return self.over(self.kept.array())


class _Values(Mapping[ValueId, Any]):
    """The values of a step, where a storage with a budget keeps what operators have made, each
    memory once; what was given (parameters, inputs) is the user's own, and so are views of it."""

    def __init__(self, given: Mapping[ValueId, Any], program: Program, storage: Storage) -> None:
        self._values: dict[ValueId, Any] = dict(given)
        self._program = program
        self._storage = storage

    def __getitem__(self, value: ValueId) -> Any:
        found = self._values[value]
        return found.tensor() if isinstance(found, _Made) else found

    def __iter__(self) -> Iterator[ValueId]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def shape(self, value: ValueId) -> tuple[int, ...]:
        """A tensor's shape, without looking at the tensor."""
        return tuple(self._values[value].shape)

    def is_kept(self, value: ValueId) -> bool:
        """Whether a value lies in memory that is the session's own."""
        return isinstance(self._values[value], _Made)

    def carry(self, changed: Mapping[ValueId, ValueId], before: _Values) -> None:
        """Take over what the step before has left in buffers."""
        for buffer, value in changed.items():
            self._values[buffer] = before._values[value]

    def record(self, read: Mapping[ValueId, Any], made: Mapping[ValueId, Any]) -> None:
        """Remember what an operator has made, and what of it lies in what it has read."""
        homes: dict[int, Kept | None] = {}
        for value, tensor in read.items():
            if memory := self._program.memory(tensor):
                found = self._values[value]
                homes[memory.address] = found.kept if isinstance(found, _Made) else None
        for value, tensor in made.items():
            memory = self._program.memory(tensor)
            if memory and memory.address not in homes:
                homes[memory.address] = self._storage.keep(memory.data())
            kept = homes[memory.address] if memory else None
            self._values[value] = (
                _Made(kept, memory.over, tuple(tensor.shape)) if memory and kept else tensor
            )


class _Reading(Mapping[ValueId, Any]):
    """Values as an operator reads them, each looked up once and in ``found`` from then on."""

    def __init__(self, values: Mapping[ValueId, Any]) -> None:
        self.found: dict[ValueId, Any] = {}
        self._values = values

    def __getitem__(self, value: ValueId) -> Any:
        if value not in self.found:
            self.found[value] = self._values[value]
        return self.found[value]

    def __iter__(self) -> Iterator[ValueId]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass
class _Step:
    values: Mapping[ValueId, Any]
    ms: dict[OpId, float] = field(default_factory=dict)
    keys: dict[ValueId, str] = field(default_factory=dict)
    random: dict[OpId, Again | None] = field(default_factory=dict)
    """Operators that draw random numbers, with what runs them again with the same ones."""

    homes: dict[int, list[Slot]] | None = None
    """The step's inputs by the address of the memory they lie in; None until that is asked."""


@dataclass
class _Running:
    """A step that the source is at."""

    number: int
    step: _Step
    noting: Noting
    done: int = 0
    """How many operators have run."""


class SourceRun:
    """The values of all steps, with their content addresses and the time each operator took."""

    def __init__(
        self, program: Program, events: EventStream, storage: Storage | None = None
    ) -> None:
        """``storage`` is where values are kept; by default in memory, without a limit."""
        self.program = program
        self.storage = storage or Storage()
        self._events = events
        self._steps: list[_Step] = []
        self._running: _Running | None = None
        """The last of these, unless it has run to its end."""
        self._given_tensors = Given(program, self.array_there)
        self._shared_homes: dict[int, list[Slot]] = {}
        self._derived: dict[int, _Step] = {}
        self._numbers = itertools.count(program.steps)

    def complete(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Run every step that has not been run yet.  Whatever uses the values calls this first.

        Raises:
            Stopped: between two operators, if ``stopped`` says so; the step begins anew later.
            ModelChanged: if something that was given has changed since the first run.
        """
        self.begin()
        self.go_on(math.inf, stopped)

    def begin(self) -> None:
        """Something new begins that uses the values.  ModelChanged: as :meth:`complete`."""
        self._given_tensors.begin(anew=not self._steps)

    @property
    def is_complete(self) -> bool:
        """Whether every step has been run to its end."""
        return len(self._steps) == self.program.steps and self._running is None

    @cached_property
    def is_far(self) -> bool:
        """Whether it computes where looking at a value means to wait."""
        graph, given = self.program.graph, self.program.bind(0, {})
        tensors = [given[value] for value in graph.tensors(list(graph.values)) if value in given]
        return bool(tensors) and far(self.program.array_of(tensors[0]))

    def has_run(self, op: OpId, step: int) -> bool:
        """Whether an operator has run in a step, so that its values are there."""
        known = step in self._derived or step < len(self._steps)
        return known and op in self._step(step).ms

    def go_on(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
        """Run the source for about so long, one operator at least.  From then on what has run is of
        use, and never runs again: the next call goes on with what comes next.

        Raises:
            Stopped, ModelChanged: as :meth:`complete`; a step of which nothing was of use yet
                begins anew later.
        """
        end = time.monotonic() + seconds
        while not self.is_complete:
            running = self._running or self._start_step(len(self._steps))
            try:
                self._run_step(running, stopped, end)
            except BaseException:
                if self._running is None:
                    self._given_tensors.forget(len(self._steps))
                raise
            over = running.done == len(self.program.graph)
            if not over:
                self._running = running
            if running.number == len(self._steps):
                self._steps.append(running.step)
            if over:
                self._running = None
            if time.monotonic() >= end:
                return

    def values(self, step: int) -> Mapping[ValueId, Any]:
        """All tensors of a step, as the source framework's own."""
        return self._step(step).values

    def array(self, value: ValueId, step: int) -> np.ndarray:
        """A tensor of a step as a NumPy array (shared memory where possible)."""
        return self.program.to_numpy(self._step(step).values[value])

    def array_there(self, value: ValueId, step: int) -> Array:
        """The same where it is: on a GPU, if the source computes there."""
        return self.program.array_of(self._step(step).values[value])

    def shape(self, value: ValueId, step: int) -> tuple[int, ...]:
        """The shape of a tensor of a step, as an array."""
        values = self._step(step).values
        shape = values.shape(value) if isinstance(values, _Values) else tuple(values[value].shape)
        return (*shape, 2) if self.program.graph.values[value].spec.complex else shape

    def key(self, value: ValueId, step: int) -> str:
        """What a tensor is called on a target: its content address, for one that was given, of
        what it was in the first run.  What an operator has made on a GPU has a name of its own:
        nothing of it goes over a line, so it need not be found out what is there already."""
        keys = self._step(step).keys
        if value not in keys:
            slot = self._slot(value, step)
            if slot and (known := self._given_tensors.key(slot)):
                return known
            array = self.array_there(value, step)
            named = slot is None and not isinstance(array, np.ndarray)
            keys[value] = f"source/{step}/{value}" if named else digest(array)
        return keys[value]

    def known_key(self, value: ValueId, step: int) -> str:
        """The same, if it was asked for before; else ""."""
        return self._step(step).keys.get(value, "")

    def outgoing(self, value: ValueId, step: int) -> Array:
        """A tensor to be sent under its key: it has the bytes that the key is of.

        Raises:
            ModelChanged: if it lies in memory that was given and has changed.
        """
        self._given_tensors.vouch(self._roots([value], step))
        return self.array_there(value, step)

    def vouch_for(self, op: Op, step: int) -> None:
        """Before a kernel is blamed: ``ModelChanged`` if what it reads is not what it was."""
        self._given_tensors.vouch(self._roots([*op.inputs, *op.outputs], step), afresh=True)

    def vouch_for_all(self) -> None:
        """Before a placement is blamed: ``ModelChanged`` if not all is what it was."""
        self._given_tensors.vouch()

    def is_random(self, op: OpId, step: int) -> bool:
        """Whether an operator draws other random numbers each time it is run."""
        return op in self._step(step).random

    def compute(
        self, op: Op, step: int, inputs: Mapping[ValueId, SourceTensor]
    ) -> list[SourceTensor]:
        """What the source computes of other inputs, with the random numbers that it drew in this
        step; where it cannot draw them again, what it computed then."""
        random = self._step(step).random
        if op.id not in random:
            return self.program.run(op.id, inputs)
        if again := random[op.id]:
            return again(inputs)
        return [self.values(step)[value] for value in op.outputs]

    def compute_on(self, op: Op, step: int, changed: Mapping[ValueId, Any]) -> list[Any]:
        """The same as arrays and host numbers, and given so: those inputs that are others."""
        values = self.values(step)
        pure = {v: values[v] for v in op.inputs}
        outputs = self.compute(op, step, pure | self._tensors(step, changed))
        return self._arrays(op, outputs)

    def derive(self, op: Op, step: int, arrays: Sequence[np.ndarray]) -> int | None:
        """Make up a step in which one operator alone meets other tensors: its tensor inputs, in
        order; all else is that of ``step``.

        Returns:
            The number of the new step, beyond those of the model; None if the source cannot
            compute the operator there.
        """
        self._given_tensors.vouch(self._roots(op.inputs, step))
        values = self._step(step).values
        made_up = zip(self.program.graph.tensor_inputs(op), arrays, strict=True)
        begin = time.perf_counter()
        try:
            inputs = {v: values[v] for v in op.inputs} | self._tensors(step, dict(made_up))
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

    def exact(self, op: OpId, step: int) -> list[Array] | None:
        """The operator's outputs in float64 on the source's inputs, if that can be computed; where
        the source computes.

        Raises:
            ModelChanged: if an input was given and has changed.
        """
        if self.is_random(op, step):
            return None  # it would draw other numbers
        self._given_tensors.vouch(self._roots(self.program.graph[op].inputs, step))
        return self._exact(op, self._step(step).values)

    def exact_on(self, op: OpId, step: int, given: Mapping[ValueId, Array]) -> list[Array] | None:
        """The same with float64 arrays in the place of some inputs."""
        values = self._step(step).values
        changed = self._tensors(step, given)
        return self._exact(op, ChainMap(changed, cast(dict[ValueId, Any], values)))

    @cached_property
    def squaring(self) -> SquaringProgram | None:
        """The program, if it computes on squares, too: asked once, for to ask what a class has
        takes as long as to run an operator."""
        return self.program if isinstance(self.program, SquaringProgram) else None

    def exact_squared(self, op: OpId, step: int) -> list[Array] | None:
        """The same on the squares of the source's floating-point inputs, of a program that is
        :attr:`squaring`."""
        assert self.squaring, "who asks has seen to that"
        return self._arrays_of(self.squaring.run_squared(op, self._step(step).values))

    def _exact(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Array] | None:
        return self._arrays_of(self.program.run_exact(op, values))

    def _arrays_of(self, result: Sequence[SourceTensor] | None) -> list[Array] | None:
        return None if result is None else [self.program.array_of(tensor) for tensor in result]

    def _tensors(self, step: int, changed: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """Arrays and host numbers as the source has them, each like the one of a step."""
        values, known = self._step(step).values, self.program.graph.values
        return {
            v: found if known[v].host else self.program.from_array(found, values[v])
            for v, found in changed.items()
        }

    def _step(self, step: int) -> _Step:
        return self._derived[step] if step in self._derived else self._steps[step]

    def _start_step(self, step: int) -> _Running:
        values = self._given(step)
        uses = [value for op in self.program.graph.ops for value in op.inputs]
        return _Running(step, _Step(values), self._given_tensors.noting(step, values, uses))

    def _run_step(self, running: _Running, stopped: Callable[[], bool], end: float) -> None:
        """Run a step's operators, to the last one or until it is late."""
        graph = self.program.graph
        record, values = running.step, running.step.values
        assert isinstance(values, dict | _Values)
        for op in graph.ops[running.done :]:
            if stopped():
                raise Stopped
            running.noting.before(op.inputs)
            reading = _Reading(values)
            given = reading if isinstance(values, _Values) else values
            draws = self.program.draws(op.id, given)
            again = None if draws is False else self.program.repeatable(op.id)
            begin = time.perf_counter()
            outputs = self.program.run(op.id, given)
            ms = (time.perf_counter() - begin) * 1e3
            if self._varies(op, given, outputs) if draws is None else draws:
                record.random[op.id] = again
            made = dict(zip(op.outputs, outputs, strict=True))
            if isinstance(values, _Values):
                values.record(reading.found, made)
            else:
                values.update(made)
            record.ms[op.id] = ms
            if running.done % 64 == 0:
                at = running.number * len(graph) + running.done
                self._events.emit(RunProgress("source", at, len(graph) * self.program.steps))
            running.done += 1
            if time.monotonic() >= end and running.done < len(graph):
                return
        running.noting.rest()

    def _varies(
        self, op: Op, inputs: Mapping[ValueId, SourceTensor], outputs: Sequence[SourceTensor]
    ) -> bool:
        """Whether an operator gives something else when it is run again."""
        hosts = [self.program.graph.values[value].host for value in op.outputs]
        first = self._arrays(op, outputs)
        size = sum(1 if host else size_of(o) for o, host in zip(first, hosts, strict=True))
        for _ in range(next(draws for most, draws in _DRAWS.items() if size <= most)):
            again = self._arrays(op, self.program.run(op.id, inputs))
            for host, ours, theirs in zip(hosts, first, again, strict=True):
                if not (_same if host else bitwise_equal)(ours, theirs):
                    return True
        return False

    def _arrays(self, op: Op, outputs: Sequence[SourceTensor]) -> list[Any]:
        """What an operator gave as arrays and host numbers."""
        hosts = (self.program.graph.values[value].host for value in op.outputs)
        array_of = self.program.array_of
        return [o if host else array_of(o) for o, host in zip(outputs, hosts, strict=True)]

    def _slot(self, value: ValueId, step: int) -> Slot | None:
        """Where a value of a step was given, if it was."""
        if step in self._derived:  # in which activations are made up
            shared = self.program.graph.values[value].role in ("parameter", "constant")
            return self._given_tensors.slot(value, 0) if shared else None
        return self._given_tensors.slot(value, step)

    def _roots(self, values: Sequence[ValueId], step: int) -> list[Slot]:
        """The given tensors in whose memory values lie: themselves, or what they are views of."""
        record = self._step(step)
        found: dict[Slot, None] = {}
        for value in values:
            if self.program.graph.values[value].host:
                continue
            if slot := self._slot(value, step):
                found[slot] = None
            elif not (isinstance(record.values, _Values) and record.values.is_kept(value)):
                memory = self.program.memory(record.values[value])
                found.update(dict.fromkeys(self._homes(memory.address, step)) if memory else ())
        return list(found)

    def _homes(self, address: int, step: int) -> Iterator[Slot]:
        """The given tensors that lie in the memory at an address."""
        if step in self._derived:
            return
        if not self._shared_homes:
            self._shared_homes = self._addresses(self._given_tensors.shared, 0)
        record = self._step(step)
        if record.homes is None:
            record.homes = self._addresses(self._given_tensors.inputs, step)
        for homes in (self._shared_homes, record.homes):
            yield from homes.get(address, ())

    def _addresses(self, values: Sequence[ValueId], step: int) -> dict[int, list[Slot]]:
        tensors = self._step(step).values
        found: dict[int, list[Slot]] = {}
        for value in values:
            slot = self._given_tensors.slot(value, step)
            memory = self.program.memory(tensors[value]) if slot and value in tensors else None
            if slot and memory:
                found.setdefault(memory.address, []).append(slot)
        return found

    def _given(self, step: int) -> dict[ValueId, Any] | _Values:
        """The values that a step starts from."""
        mutations = self.program.mutations if step else {}
        before = self._steps[step - 1].values if step else {}
        state = {buffer: before[value] for buffer, value in mutations.items()}
        given = self.program.bind(step, state)
        if self.storage.budget is None:
            return given
        values = _Values(given, self.program, self.storage)
        if isinstance(before, _Values):
            values.carry(mutations, before)
        return values


def _same(one: Any, other: Any) -> bool:
    """Whether two values of the host are the same: numbers, arrays that say what an operator does,
    sequences of tensors."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    return bool(one == other)
