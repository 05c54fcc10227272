"""The hybrid run: the model with today's placement, each operator where it is placed.

Every value has a *version*: ``"source"`` while it equals the pure source run bit for bit, else a
hash of what made it (operator, implementation, versions of the inputs).  A value whose version
would not change is not computed again, so moving one operator recomputes its cone, and no more
of it than really changes.  Tensors cross between source and target only where placement does.

Operators that follow one another on the target are called in a row (:mod:`tapml_nb.execute.row`),
ahead of their turn; where that does not go well, one by one.
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
from tapml_nb.execute.row import Made, Row
from tapml_nb.execute.source import SourceRun, Stopped
from tapml_nb.execute.storage import Kept
from tapml_nb.graph import Op, OpId, ValueId
from tapml_nb.numerics import bitwise_equal, same_type

SOURCE = "source"
TARGET = "target"

_SHORT, _LONG = 4, 512
"""Operators that are called in a row: at first, and at most."""

_SLOW = 0.5
"""Seconds that a row should take at most: until then nobody sees what its operators gave."""


@dataclass
class _Entry:
    """A value that a run computed: how it was made, and what it is where it is not the source's."""

    made: str
    version: str
    key: str
    """Where the target has it, or would have it."""

    failure: str = ""
    """Why the source had to compute it although its operator is on the target."""

    kept: Kept | None = None
    """Its array; None if it equals the source's, or is a number."""

    number: Any = None
    """A host value."""


@dataclass(frozen=True)
class HybridStep:
    """One operator of a hybrid run, ``fresh`` if it was computed in this one; ``failure`` tells why
    the source had to compute one that is placed on the target."""

    op: Op
    placement: str
    fresh: bool
    failure: str = ""


@dataclass(frozen=True)
class _Given:
    """What a run is given.

    Attributes:
        placement, step, afresh: as of :meth:`HybridRun.run`.
    """

    placement: Mapping[OpId, str]
    step: int
    afresh: bool


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
        self._rows = itertools.count(1)
        self._longest = _SHORT
        self._ahead: dict[OpId, list[Made]] = {}
        """What operators gave in a row whose turn has not come yet."""

        self._singly = 0
        """The place of the first operator behind those that do not go well in a row."""

        self._unneeded: list[str] = []
        """Keys of what the target may forget."""

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
        given = _Given(placement, step, afresh)
        self._singly = 0
        try:
            for place, op in enumerate(self._graph.ops):
                if stopped():
                    raise Stopped
                computed = self._advance(place, op, given)
                if not op.host:
                    yield computed
        finally:
            self._forget_ahead()
            self._tidy()

    def is_source(self, value: ValueId, step: int) -> bool:
        """Whether a value equals the pure source run's."""
        return self.version(value, step) == SOURCE

    def version(self, value: ValueId, step: int) -> str:
        """What a value is called: the same while it is the same, bit for bit."""
        entry = self._entries.get((step, value))
        return entry.version if entry else SOURCE

    def key(self, value: ValueId, step: int) -> str:
        """Where the target may have a value of the last hybrid run."""
        entry = self._entries.get((step, value))
        return entry.key if entry and entry.kept else self._source.known_key(value, step)

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

    def _advance(self, place: int, op: Op, given: _Given) -> HybridStep:
        where, step = given.placement[op.id], given.step
        if not op.outputs:  # an assertion of the model's: nothing depends on it
            return HybridStep(op, where, False)
        if self._is_pure(op, where, step):
            self._purify(op, step)
            return HybridStep(op, where, False)
        made = self._provenance(op, where, step)
        name = made
        if known := self._known(op, made, step):
            if where == SOURCE or not given.afresh:
                return HybridStep(op, where, False, known[0].failure)
            name = f"{made}.{next(self._again)}"
        self._events.emit(OpStarted("hybrid", op.id, step, where))
        failure = ""
        if where == TARGET:
            if op.id not in self._ahead and place >= self._singly:
                self._go_ahead(place, given)
            outputs = self._ahead.pop(op.id, [])
            if not outputs:
                outputs, failure = self._on_target(op, made, name, step)
            failure = failure or self._misfit(op, outputs, step)
        if where == SOURCE or failure:
            if failure:  # what comes behind it in its row was given something else
                self._forget_ahead()
            others = [v for v in op.inputs if not self.is_source(v, step)]
            changed = {v: self.value(v, step) for v in others}
            outputs = [Made(made) for made in self._source.compute_on(op, step, changed)]
        for k, value in enumerate(op.outputs):
            version = f"{name}#{k}"
            key = outputs[k].key or f"version/{version}"
            self._record(step, value, _Entry(made, version, key, failure), outputs[k])
        return HybridStep(op, where, True, failure)

    def _is_pure(self, op: Op, where: str, step: int) -> bool:
        """Whether the source computes an operator of nothing but values of its own."""
        return where == SOURCE and all(self.is_source(v, step) for v in op.inputs)

    def _purify(self, op: Op, step: int) -> None:
        """Have an operator's values be the source's."""
        for value in op.outputs:
            if entry := self._entries.pop((step, value), None):
                self._unneeded.append(entry.key)

    def _provenance(self, op: Op, where: str, step: int) -> str:
        implementation = self._kernels[op.id, step].version if where == TARGET else SOURCE
        # The step, too: "source" is another tensor in each.
        parts = [op.id, str(step), implementation, *(self.version(v, step) for v in op.inputs)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _known(self, op: Op, made: str, step: int) -> list[_Entry]:
        """What is known of an operator's outputs; nothing if they were made otherwise."""
        entries = [self._entries.get((step, value)) for value in op.outputs]
        known = [entry for entry in entries if entry and entry.made == made]
        return known if len(known) == len(op.outputs) else []

    def _record(self, step: int, value: ValueId, entry: _Entry, made: Made) -> None:
        """Remember a new value and let the target forget what nobody will ask for."""
        old = self._entries.get((step, value))
        before = old if old and old.kept else None
        if self._graph.values[value].host:
            entry.number = made.result
        elif before and made.equal == before.key:
            self._keep_as(entry, before)
        elif made.equal:
            entry.version = SOURCE
        else:
            source = self._source.array_there(value, step)
            result = moved_to(made.result, source)
            alike = self._source.known_key(value, step) not in made.compared
            if alike and bitwise_equal(result, source):
                self._unneeded.append(entry.key)
                entry.version = SOURCE
            elif before and self._is_again(entry, before, made, result):
                self._unneeded.append(entry.key)
                self._keep_as(entry, before)
            else:
                entry.kept = self._source.storage.keep(result)
                if before and before.version == entry.version:  # by chance it is another
                    entry.version = f"{entry.version}.{next(self._again)}"
        if old and old.kept and old.key != entry.key:
            self._unneeded.append(old.key)
        self._entries[step, value] = entry

    @staticmethod
    def _keep_as(entry: _Entry, before: _Entry) -> None:
        entry.version, entry.key, entry.kept = before.version, before.key, before.kept

    @staticmethod
    def _is_again(entry: _Entry, before: _Entry, made: Made, result: Array) -> bool:
        """Whether a value that was made in the same way as before is the same."""
        if before.kept is None or before.made != entry.made:
            return False
        return before.key not in made.compared and bitwise_equal(result, before.kept.array())

    # -- ahead of their turn -------------------------------------------------------------------

    def _go_ahead(self, place: int, given: _Given) -> None:
        """Call the operators from a place on, as far as the target can go on alone, in a row."""
        self._forget_ahead()
        self._tidy()
        session = self._caller.session
        if not session.takes_rows:
            return
        row = Row(session, f"row/{next(self._rows)}")
        end = self._line_up(row, place, given)
        if len(row) < 2:
            return
        begin = time.monotonic()
        self._ahead = row.run()
        if not self._ahead:
            self._singly = end
        took = time.monotonic() - begin
        if took > _SLOW:
            self._longest = max(_SHORT, self._longest // 2)
        elif took < _SLOW / 2 and len(row) == self._longest:
            self._longest = min(_LONG, self._longest * 2)

    def _line_up(self, row: Row, place: int, given: _Given) -> int:
        """Put operators into a row; the place of the first that is not in it."""
        step = given.step
        for number in range(place, len(self._graph)):
            op = self._graph.ops[number]
            if len(row) == self._longest:
                return number
            where = given.placement[op.id]
            in_row = any(value in row for value in op.inputs)
            if not op.outputs:
                continue
            if not in_row:
                if self._is_pure(op, where, step):
                    self._purify(op, step)
                    continue
                known = self._known(op, self._provenance(op, where, step), step)
                if known and (where == SOURCE or not given.afresh):
                    continue
            implementation = self._kernels[op.id, step] if where == TARGET else None
            if implementation is None or not implementation.on_target:
                return number
            if not (implementation.computes or in_row):  # nothing has to go there for a view
                return number
            order = self._graph.tensor_inputs(op)
            inputs = {v: self._argument(v, step) for v in order if v not in row}
            row.add(op, implementation, inputs, order, [self._alike(v, step) for v in op.outputs])
        return len(self._graph.ops)

    def _forget_ahead(self) -> None:
        for outputs in self._ahead.values():
            self._unneeded += [made.key for made in outputs]
        self._ahead = {}

    def _tidy(self) -> None:
        """Let the target forget what nobody will ask for."""
        unneeded, self._unneeded = self._unneeded, []
        self._caller.session.drop(unneeded)

    def _on_target(self, op: Op, made: str, name: str, step: int) -> tuple[list[Made], str]:
        """The outputs, or why there are none."""
        implementation = self._kernels[op.id, step]
        operands = Operands(
            [self._argument(v, step) for v in self._graph.tensor_inputs(op)],
            # Named by version, so that the next operator there finds them.
            [f"version/{name}#{k}" for k in range(len(op.outputs))],
            [self._graph.values[v].spec for v in op.outputs],
            others=[self._alike(v, step) for v in op.outputs],
        )

        def compute() -> tuple[list[Made], str]:
            outcome = implementation.run(self._caller, operands, repeats=1)
            if outcome.failure:
                return [], outcome.failure.message
            equal = outcome.equal or [""] * len(op.outputs)
            read = [None if same else outcome.read(k, False) for k, same in enumerate(equal)]
            return list(map(Made, read, operands.outputs, equal)), ""

        return twice(implementation.label, compute, lambda failure: ([], failure.message))

    def _alike(self, value: ValueId, step: int) -> list[str]:
        """Where the target may have what a value is likely to be: the source's, or what it was."""
        if not self._caller.session.compares:
            return []
        old = self._entries.get((step, value))
        before = old.key if old and old.kept else ""
        return list(filter(None, (self._source.known_key(value, step), before)))

    def _misfit(self, op: Op, outputs: list[Made], step: int) -> str:
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
        key = self._entries[step, value].key
        array = partial(self.array_there, value, step)
        return Argument(lambda: key, array, array)
