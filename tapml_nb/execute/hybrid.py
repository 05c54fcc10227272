"""The hybrid run: the model with today's placement, each operator where it is placed.

Every value has a *version*: ``"source"`` while it equals the pure source run bit for bit, else a
hash of what made it (operator, implementation, versions of the inputs).  A value whose version
would not change is not computed again, so moving one operator recomputes its cone, and no more
of it than really changes.  Tensors cross between source and target only where placement does.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tapml_nb.array_api import Array, dtype_of, moved_to, on_host
from tapml_nb.execute.caller import Argument, Caller, Operands, twice
from tapml_nb.execute.events import EventStream, OpStarted
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.source import SourceRun, Stopped
from tapml_nb.execute.storage import Kept
from tapml_nb.graph import Op, OpId, ValueId
from tapml_nb.numerics import bitwise_equal, same_type

SOURCE = "source"
TARGET = "target"


@dataclass
class _Entry:
    """A value that a run computed: how it was made, and what it is where it is not the source's."""

    made: str
    version: str
    failure: str = ""
    """Why the source had to compute it although its operator is on the target."""

    kept: Kept | None = None
    """Its array; None if it equals the source's, or is a number."""

    number: Any = None
    """A host value."""


@dataclass(frozen=True)
class _Made:
    """What an output became: an array or a host number; or the key of what it equals on the target,
    which is known here."""

    result: Any
    equal: str = ""


@dataclass(frozen=True)
class HybridStep:
    """One operator of a hybrid run, ``fresh`` if it was computed in this one; ``failure`` tells why
    the source had to compute one that is placed on the target."""

    op: Op
    placement: str
    fresh: bool
    ms: float
    failure: str = ""


class HybridRun:
    """Runs the model with a placement and remembers every value that differs from the source."""

    def __init__(
        self, source: SourceRun, kernels: KernelTable, caller: Caller, events: EventStream
    ) -> None:
        self._source = source
        self._graph = source.program.graph
        self._kernels = kernels
        self._caller = caller
        self._events = events
        self._entries: dict[tuple[int, ValueId], _Entry] = {}
        self._again = itertools.count(1)

    def run(
        self,
        placement: Mapping[OpId, str],
        step: int,
        stopped: Callable[[], bool] = lambda: False,
        *,
        afresh: bool = False,
    ) -> Iterator[HybridStep]:
        """Compute what the placement changes, in order; yields every operator that has tensors.

        Args:
            afresh: launch every kernel, also where its result is known: a kernel that leaves
                something behind, or depends on what others left, is not what its inputs say.

        Raises:
            Stopped: between two operators, if ``stopped`` says so.
        """
        if step:
            self._carry(step)
        for op in self._graph.ops:
            if stopped():
                raise Stopped
            computed = self._advance(op, placement[op.id], step, afresh)
            if not op.host:
                yield computed

    def is_source(self, value: ValueId, step: int) -> bool:
        """Whether a value equals the pure source run's."""
        return self.version(value, step) == SOURCE

    def version(self, value: ValueId, step: int) -> str:
        """What a value is called: the same while it is the same, bit for bit."""
        entry = self._entries.get((step, value))
        return entry.version if entry else SOURCE

    def array(self, value: ValueId, step: int) -> np.ndarray:
        """A value of the last hybrid run."""
        return on_host(self.array_there(value, step))

    def array_there(self, value: ValueId, step: int) -> Array:
        """The same where it is: on a GPU, if the source computes there."""
        entry = self._entries.get((step, value))
        if entry is None or entry.kept is None:
            return self._source.array_there(value, step)
        return entry.kept.array()

    def value(self, value: ValueId, step: int) -> Any:
        """The same, also where it is a host number."""
        if not self._graph.values[value].host:
            return self.array_there(value, step)
        entry = self._entries.get((step, value))
        return self._source.values(step)[value] if entry is None else entry.number

    def failure(self, op: Op, step: int) -> str:
        """Why the source computed an operator of the last run that is placed on the target; ""
        if it did not."""
        entries = (self._entries.get((step, value)) for value in op.outputs)
        return next((entry.failure for entry in entries if entry), "")

    def _carry(self, step: int) -> None:
        """Begin with the buffers that the step before has left."""
        for buffer, value in self._source.program.mutations.items():
            self._entries.pop((step, buffer), None)
            if (step - 1, value) in self._entries:
                self._entries[step, buffer] = self._entries[step - 1, value]

    # -- one operator --------------------------------------------------------------------------

    def _advance(self, op: Op, where: str, step: int, afresh: bool) -> HybridStep:
        if not op.outputs:  # an assertion of the model's: nothing depends on it
            return HybridStep(op, where, False, 0.0)
        if where == SOURCE and all(self.is_source(v, step) for v in op.inputs):
            for value in op.outputs:
                self._entries.pop((step, value), None)
            return HybridStep(op, where, False, 0.0)
        made = self._provenance(op, where, step)
        name = made
        known = [e for v in op.outputs if (e := self._entries.get((step, v))) and e.made == made]
        if known and len(known) == len(op.outputs):
            if where == SOURCE or not afresh:
                return HybridStep(op, where, False, 0.0, known[0].failure)
            name = f"{made}.{next(self._again)}"
        self._events.emit(OpStarted("hybrid", op.id, step, where))
        begin = time.perf_counter()
        failure = ""
        if where == TARGET:
            outputs, failure = self._on_target(op, made, name, step)
            failure = failure or self._misfit(op, outputs, step)
        if where == SOURCE or failure:
            others = [v for v in op.inputs if not self.is_source(v, step)]
            changed = {v: self.value(v, step) for v in others}
            outputs = [_Made(made) for made in self._source.compute_on(op, step, changed)]
        ms = (time.perf_counter() - begin) * 1e3
        for k, value in enumerate(op.outputs):
            self._record(step, value, _Entry(made, f"{name}#{k}", failure), outputs[k])
        return HybridStep(op, where, True, ms, failure)

    def _provenance(self, op: Op, where: str, step: int) -> str:
        implementation = self._kernels[op.id, step].version if where == TARGET else SOURCE
        # The step, too: "source" is another tensor in each.
        parts = [op.id, str(step), implementation, *(self.version(v, step) for v in op.inputs)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _record(self, step: int, value: ValueId, entry: _Entry, made: _Made) -> None:
        """Remember a new value and let the target forget what nobody will ask for."""
        old = self._entries.get((step, value))
        before = old if old and old.kept and old.made == entry.made else None
        if self._graph.values[value].host:
            entry.number = made.result
        elif before and made.equal == f"version/{before.version}":
            entry.version, entry.kept = before.version, before.kept
        elif made.equal:
            entry.version = SOURCE
        else:
            source = self._source.array_there(value, step)
            result = moved_to(made.result, source)
            if bitwise_equal(result, source):
                self._caller.session.drop([f"version/{entry.version}"])
                entry.version = SOURCE
            elif before and before.kept and bitwise_equal(result, before.kept.array()):
                self._caller.session.drop([f"version/{entry.version}"])
                entry.version, entry.kept = before.version, before.kept
            else:
                entry.kept = self._source.storage.keep(result)
        if old and old.version not in (SOURCE, entry.version):
            self._caller.session.drop([f"version/{old.version}"])
        self._entries[step, value] = entry

    def _on_target(self, op: Op, made: str, name: str, step: int) -> tuple[list[_Made], str]:
        """The outputs, or why there are none."""
        implementation = self._kernels[op.id, step]
        operands = Operands(
            [self._argument(v, step) for v in self._graph.tensor_inputs(op)],
            # Named by version, so that the next operator there finds them.
            [f"version/{name}#{k}" for k in range(len(op.outputs))],
            [self._graph.values[v].spec for v in op.outputs],
            others=[self._alike(v, made, step) for v in op.outputs],
        )

        def compute() -> tuple[list[_Made], str]:
            outcome = implementation.run(self._caller, operands, repeats=1)
            if outcome.failure:
                return [], outcome.failure.message
            equal = outcome.equal or [""] * len(op.outputs)
            read = [None if same else outcome.read(k, False) for k, same in enumerate(equal)]
            return list(map(_Made, read, equal)), ""

        return twice(implementation.label, compute, lambda failure: ([], failure.message))

    def _alike(self, value: ValueId, made: str, step: int) -> list[str]:
        """Where the target may have what a value is likely to be: the source's, or what it was when
        it was made in the same way."""
        if not self._caller.session.compares:
            return []
        old = self._entries.get((step, value))
        before = f"version/{old.version}" if old and old.kept and old.made == made else ""
        return list(filter(None, (self._source.known_key(value, step), before)))

    def _misfit(self, op: Op, outputs: list[_Made], step: int) -> str:
        """Why the model cannot go on with these outputs, if it cannot."""
        for value, made in zip(op.outputs, outputs, strict=True):
            if made.equal:
                continue
            output, source = made.result, self._source.array_there(value, step)
            if not same_type(output, source):
                return (
                    f"the target's result is {dtype_of(output).name}{list(output.shape)}, "
                    f"the model needs {dtype_of(source).name}{list(source.shape)}"
                )
        return ""

    def _argument(self, value: ValueId, step: int) -> Argument:
        """A value as a call reads it: by content, or by version if it is not the source's."""
        if self.is_source(value, step):
            return Argument.of_source(self._source, value, step)
        array = partial(self.array_there, value, step)
        return Argument(lambda: f"version/{self.version(value, step)}", array, array)
