"""The unobserved run: the target computes by itself what a hybrid run computes under observation.

Observing changes what is observed: a hybrid run poisons memory, fetches every tensor, and begins
every kernel from what the notebook knows its inputs to be.  Here kernels run one after the other
on what those before them have left, as in a deployed model; what comes out is compared there, and
only what differs comes back.  If the outputs differ by a single bit, a kernel depends on more than
its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tapml_nb.array_api import Array, moved_to
from tapml_nb.execute.caller import Argument, Caller, Operands
from tapml_nb.execute.hybrid import TARGET, HybridRun
from tapml_nb.execute.implementation import Implementation
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.source import SourceRun, Stopped
from tapml_nb.graph import Op, OpId, ValueId
from tapml_nb.numerics import bitwise_equal, statistics
from tapml_nb.targets.wire.calls import ChainCall
from tapml_nb.targets.wire.errors import BeyondTarget, NoRoom, TargetError, TargetLost


@dataclass(frozen=True)
class Unobserved:
    """How an unobserved run compares with the hybrid run of the same placement.

    Attributes:
        same: whether all outputs agree bit for bit; None if the run could not be made.
        message: what differs, or why there was no run, in words; empty if nothing differs.
        op: the first operator whose result differs; empty if none does, or if the difference
            goes away when one looks.
    """

    same: bool | None
    message: str = ""
    op: OpId = ""


@dataclass(frozen=True)
class _Difference:
    step: int
    value: ValueId
    words: str


class _NoResult(Exception):
    """The run broke off, by what the target did (False), or cannot be made (None); and why."""


class UnobservedRun:
    """Runs a placement unobserved, and compares it with the hybrid run before it."""

    def __init__(
        self, source: SourceRun, kernels: KernelTable, caller: Caller, hybrid: HybridRun
    ) -> None:
        self.source, self.kernels, self.hybrid = source, kernels, hybrid
        self.caller = caller
        self._graph = source.program.graph
        finals = [*self._graph.outputs, *source.program.mutations.values()]
        self._finals = self._graph.tensors(finals)
        uses = {v: number for number, op in enumerate(self._graph.ops) for v in op.inputs}
        self.last_use: dict[ValueId, float] = uses | dict.fromkeys(self._finals, math.inf)

    def check(
        self,
        placement: Mapping[OpId, str],
        steps: Sequence[int],
        stopped: Callable[[], bool] = lambda: False,
    ) -> Unobserved:
        """Run the model and compare its outputs with those of the hybrid run just made, which has
        the same placement; ``steps`` are from the first.

        Raises:
            Stopped: if ``stopped`` says so.
            TargetLost: if the target cannot be reached any more.
        """
        try:
            differences = partial(self._differences, placement, steps, stopped)
            found = self._first(partial(differences, traced=False))
            if found is None:
                return Unobserved(True)
            where = f" in step {found.step}" if len(steps) > 1 else ""
            message = f"{self._name(found.value)} differs{where}: {found.words}"
            # Once more, operator by operator: where does it begin?
            first = self._first(partial(differences, traced=True))
        except _NoResult as end:
            return Unobserved(*end.args)
        if first is None:
            hint = "it does not where each operator is looked at: a race, or memory reused"
            return Unobserved(False, f"{message}; {hint}")
        op = self._graph.values[first.value].producer or ""
        return Unobserved(False, f"{message}; it begins at {op}: {first.words}", op)

    def _first(self, differences: Callable[[], Iterator[_Difference]]) -> _Difference | None:
        """The first difference of a run, which is made once more if the target was lost,
        or full of what this process knows nothing of."""
        for attempt in (1, 2):
            try:
                return next(differences(), None)
            except BeyondTarget as error:
                raise _NoResult(None, f"the target cannot do that: {error}") from None
            except NoRoom as error:
                if attempt == 2 or error.hopeless:
                    raise _NoResult(None, f"the target cannot hold it: {error}") from None
                self.caller.session.renew()
            except TargetError as error:
                raise _NoResult(False, f"a kernel raised: {error}") from None
            except TargetLost as lost:
                if lost.reason == "interrupted":
                    raise Stopped from None
                if lost.reason in ("crash", "timeout"):
                    raise _NoResult(False, f"{lost.reason.upper()}: {lost.detail}") from None
                if attempt == 2:
                    raise
        raise AssertionError("unreachable: the second attempt returns or raises")

    def _name(self, value: ValueId) -> str:
        if value in self._graph.outputs:
            return f"output {self._graph.outputs.index(value)}"
        return f"the buffer that {self._graph.values[value].producer} updates"

    def _differences(
        self,
        placement: Mapping[OpId, str],
        steps: Sequence[int],
        stopped: Callable[[], bool],
        traced: bool,
    ) -> Iterator[_Difference]:
        """Run all steps; the values that are not the hybrid run's.

        Only outputs are compared, at the end; or, if ``traced``, every result as it comes.
        """
        mutations = self.source.program.mutations
        state: dict[ValueId, Array] = {}
        for step in steps:
            run = _Step(self, step, state)
            try:
                for number, op in enumerate(self._graph.ops):
                    if stopped():
                        raise Stopped
                    run.advance(number, op, placement[op.id])
                    if traced and not op.host:
                        overwritten = run.flush(number + 1, op.outputs)
                        if overwritten:
                            yield _Difference(step, op.outputs[0], "it writes to its own inputs")
                        yield from self._compare(run, step, op.outputs)
                yield from self._compare(run, step, self._finals)
                for value in self._finals[:1] if run.mended else ():
                    yield _Difference(step, value, "a kernel writes to what another one reads")
                state = {b: a for b, v in mutations.items() if (a := run.array(v)) is not None}
            finally:
                run.drop()

    def _compare(self, run: _Step, step: int, values: Sequence[ValueId]) -> Iterator[_Difference]:
        for value in values:
            ours = run.array(value)
            if ours is not None and not run.is_hybrids(value):
                theirs = self.hybrid.array_there(value, step)
                ours = moved_to(ours, theirs)
                if not bitwise_equal(ours, theirs):
                    yield _Difference(step, value, _in_words(ours, theirs))


class _Step:
    """One step of an unobserved run: what differs from the pure source run, and where it is."""

    def __init__(self, run: UnobservedRun, step: int, state: Mapping[ValueId, Array]) -> None:
        self._run, self._source, self._session = run, run.source, run.caller.session
        self._graph = run.source.program.graph
        self._step = step
        self._here: dict[ValueId, Any] = dict(state)
        """Arrays, and host numbers, that this process has."""

        self._there: dict[ValueId, str] = {}
        """Keys of what the target has, or will have when the pending calls have run."""

        self._outgoing: dict[str, Callable[[], Array]] = {}
        """What has to be there for the pending calls, by key; sent when they run."""

        self._pending: list[ChainCall] = []
        self._made: dict[ValueId, None] = {}
        self._kept: dict[str, ValueId] = {}
        self._hybrids: set[ValueId] = set()
        """Values of which the target has found that they are the hybrid run's."""

        self._overwritten: set[str] = set()
        """Keys of what kernels wrote to."""

        self.mended = False
        """Whether a kernel read what another one had written to, as it was before."""

    def advance(self, number: int, op: Op, where: str) -> None:
        """Compute an operator, or note it down for the target."""
        implementation = self._run.kernels.prepared(op.id, self._step)
        by_target = where == TARGET and not self._run.hybrid.failure(op, self._step)
        if by_target and implementation and not implementation.failure:
            known_there = any(v in self._there for v in op.inputs)
            if implementation.on_target and (implementation.computes or known_there):
                self._note(op, implementation)
            else:  # as in a hybrid run: what nothing has computed there need not go there
                self.flush(number, op.inputs)
                self._run_here(op, implementation)
        elif any(v in self._here or v in self._there for v in op.inputs):
            self.flush(number, op.inputs)
            self._compute(op)

    def flush(self, number: int, needed: Sequence[ValueId]) -> bool:
        """Run what is pending if a value is needed that it makes; what the first ``number``
        operators alone read is not kept.  Whether a kernel wrote to tensors that were there before.
        """
        if self._made.keys().isdisjoint(needed):
            return False
        keep = {
            self._there[v]: v
            for v in self._made
            if v in needed or self._run.last_use.get(v, -1) >= number
        }
        self._kept |= keep
        before = len(self._overwritten)
        for part, staying in self._session.parts(self._pending, keep.keys(), self._outgoing):
            # It is sent as it was, and would be what it is now if all had been run at once.
            self.mended |= not self._overwritten.isdisjoint(part.outside)
            self._send(part.outside)
            alike = [self._alike(keep.get(key)) for key in staying]
            result = self._session.chain(part.calls, staying, alike)
            self._overwritten.update(result.overwritten)
            for key, others, place in zip(staying, alike, result.equals, strict=True):
                if place >= 0:
                    self._take_hybrids(keep[key], others[place])
        self._pending, self._made = [], {}
        last_use = self._run.last_use
        self._free(
            [k for k, v in self._kept.items() if last_use.get(v, -1) < number and v not in needed]
        )
        return len(self._overwritten) > before

    def _alike(self, value: ValueId | None) -> list[str]:
        """Where the target has a value as it is in the hybrid run."""
        if value is None or not self._session.takes_rows:
            return []
        return list(filter(self._session.resident, [self._run.hybrid.key(value, self._step)]))

    def _take_hybrids(self, value: ValueId, key: str) -> None:
        """A value is the hybrid run's, which the target has under a key."""
        self._hybrids.add(value)
        del self._kept[self._there[value]]
        self._there[value] = key
        self._outgoing[key] = partial(self._run.hybrid.array_there, value, self._step)

    def is_hybrids(self, value: ValueId) -> bool:
        """Whether a value is known to be the hybrid run's."""
        return value in self._hybrids

    def array(self, value: ValueId) -> Array | None:
        """A value at the end of the step; None if it is the source's."""
        self.flush(len(self._graph.ops), [value])
        return self._value(value) if value in self._there or value in self._here else None

    def drop(self) -> None:
        """Free the target's memory of this step."""
        self._free(list(self._kept))

    def _free(self, keys: Sequence[str]) -> None:
        self._session.drop(keys)
        for key in keys:
            del self._kept[key]

    def _note(self, op: Op, implementation: Implementation) -> None:
        """Have the target compute an operator in its chain."""
        inputs = [self._key(v) for v in self._graph.tensor_inputs(op)]
        for key in implementation.constants:
            self._outgoing[key] = partial(implementation.constants.__getitem__, key)
        outputs = [f"unobserved/{self._step}/{v}" for v in op.outputs]
        self._pending += implementation.chained(inputs, outputs)
        self._there.update(zip(op.outputs, outputs, strict=True))
        self._made.update(dict.fromkeys(op.outputs))

    def _run_here(self, op: Op, implementation: Implementation) -> None:
        """A view, a constant or a function of what this process has."""
        arguments = [
            Argument(partial(self._key, v), partial(self._value, v), partial(self._value, v))
            for v in self._graph.tensor_inputs(op)
        ]
        specs = [self._graph.values[v].spec for v in op.outputs]
        outcome = implementation.run(self._run.caller, Operands(arguments, op.outputs, specs))
        if outcome.failure:
            message = f"the NumPy function in the place of {op.id} gave no result"
            raise _NoResult(False, message)
        self._here.update(zip(op.outputs, outcome.outputs(), strict=True))

    def _compute(self, op: Op) -> None:
        """Compute an operator on the source; of the inputs that it has in the hybrid run, it is
        what it was there."""
        if all(map(self._is_hybrids, op.inputs)):
            outputs = [self._run.hybrid.value(v, self._step) for v in op.outputs]
        else:
            known = [v for v in op.inputs if v in self._here or v in self._there]
            changed = {v: self._value(v) for v in known}
            outputs = self._source.compute_on(op, self._step, changed)
        self._here.update(zip(op.outputs, outputs, strict=True))

    def _is_hybrids(self, value: ValueId) -> bool:
        """Whether a value is what it is in the hybrid run, bit for bit."""
        if value in self._hybrids:
            return True
        ours, theirs = self._value(value), self._run.hybrid.value(value, self._step)
        if self._graph.values[value].host:
            return bool(ours == theirs)
        return ours is theirs or bitwise_equal(moved_to(ours, theirs), theirs)

    def _value(self, value: ValueId) -> Any:
        """A value as this process has it: an array, or a host number."""
        if value in self._hybrids:
            return self._run.hybrid.value(value, self._step)
        if value not in self._here and value in self._there:
            self._here[value] = self._session.fetch_there(self._there[value])
        if value in self._here:
            return self._here[value]
        if self._graph.values[value].host:
            return self._source.values(self._step)[value]
        return self._source.array_there(value, self._step)

    def _key(self, value: ValueId) -> str:
        """Where the target has a value; sent if it has it not."""
        if value in self._there:
            return self._there[value]
        if value in self._here:
            key = f"unobserved/{self._step}/{value}"
            self._there[value] = key
            self._kept[key] = value
            self._outgoing[key] = partial(self._here.__getitem__, value)
        else:
            key = self._source.key(value, self._step)
            self._outgoing[key] = partial(self._source.outgoing, value, self._step)
        return key

    def _send(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._outgoing and not self._session.resident(key):
                try:
                    self._session.put(key, self._outgoing[key]())
                except NoRoom:
                    raise
                except TargetError as error:
                    words = f"the target cannot hold a tensor: {error}"
                    raise _NoResult(None, words) from None


def _in_words(ours: Array, theirs: Array) -> str:
    found = statistics(ours, theirs)
    return (
        f"{found.mismatched} of {found.elements} elements, by up to {found.max_abs:.3g}"
        if found.mismatched
        else "in the sign of zeros or the bits of NaNs"
    )
