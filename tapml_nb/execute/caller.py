"""One call of one kernel on the target: inputs there, deadline kept, failures told apart.

A kernel that dies or hangs is the kernel's fault and is reported: if its launch was open when the
process ended.  All else is the fault of the tool, the line or the machine: the call is made again,
once, in a fresh process, and what fails there too ends the run with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from tapml_nb.array_api import Array, on_host
from tapml_nb.compile.cache import Compiled
from tapml_nb.execute.source import SourceRun, Stopped
from tapml_nb.graph import TensorSpec, ValueId
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.calls import CallResult
from tapml_nb.targets.wire.errors import (
    BeyondTarget,
    GivenUp,
    KernelRaised,
    NoRoom,
    TargetError,
    TargetLost,
)

_LARGE = 1 << 26
"""Bytes from which a tensor takes long enough to be sent that it pays to do so early."""

_Send = Callable[[], Array]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Argument:
    """A tensor that a call reads: its name on the target, what it holds, where that is, and the
    same to be sent under its name (which raises ``ModelChanged`` if it is not what that says any
    more)."""

    key: Callable[[], str]
    there: Callable[[], Array]
    outgoing: Callable[[], Array]

    def array(self) -> np.ndarray:
        """What it holds, on the host."""
        return on_host(self.there())

    @classmethod
    def of_source(cls, source: SourceRun, value: ValueId, step: int) -> Argument:
        """A value of the pure source run."""
        return cls(
            partial(source.key, value, step),
            partial(source.array_there, value, step),
            partial(source.outgoing, value, step),
        )


@dataclass(frozen=True)
class Operands:
    """What an operator reads (its tensor inputs, in order) and writes in a call."""

    inputs: Sequence[Argument]
    outputs: Sequence[str]
    """The key under which the target keeps each."""
    specs: Sequence[TensorSpec]
    """Shape and dtype of each output as the graph has them."""
    references: Sequence[Argument] = ()
    """What to compare each output with bit for bit; empty to compare none."""
    others: Sequence[Sequence[str]] = ()
    """For each output keys of what else to compare it with, as far as that is there; empty to
    compare none."""

    @property
    def compared(self) -> list[tuple[str, ...]]:
        """For each output the keys of all that it may be compared with."""
        places = range(len(self.outputs))
        first = [[self.references[k].key()] if self.references else [] for k in places]
        others = [self.others[k] if self.others else () for k in places]
        return [(*one, *more) for one, more in zip(first, others, strict=True)]


@dataclass(frozen=True)
class CallFailure:
    """Why a call gave no result.

    ``"crash"`` and ``"timeout"`` are what the kernel did; ``"refused"``: the target could not take
    an input, or has a limit, or there is no rule to make a kernel by, so nothing ran;
    ``"uncompiled"``: no kernel could be made.
    """

    kind: Literal["crash", "timeout", "refused", "uncompiled"]
    message: str


@dataclass(frozen=True)
class Wanted:
    """A call that is to be made.

    Attributes:
        compiled: the kernel.
        operands: what it reads and writes.
        repeats: how often to run it.
    """

    compiled: Compiled
    operands: Operands
    repeats: int

    @property
    def inputs(self) -> list[str]:
        """The keys of its inputs."""
        return [argument.key() for argument in self.operands.inputs]

    @property
    def reads(self) -> dict[str, _Send]:
        """All that has to be on the target for it, by key."""
        arguments = (*self.operands.inputs, *self.operands.references)
        reads = {argument.key(): argument.outgoing for argument in arguments}
        constants = self.compiled.constants
        return reads | {
            key: partial(constants.__getitem__, key) for key in self.compiled.kernel.constants
        }


def _nothing(output: int, first: bool) -> Array:
    raise LookupError("a call that failed has no outputs")


@dataclass(frozen=True)
class Outcome:
    """What came of a call: a result, or a failure."""

    result: CallResult | None = None
    read: Callable[[int, bool], Array] = _nothing
    """Reads an output by its number, of the last run or of the first; from the target, where it is
    there.  It may stay on a GPU."""
    sent: int = 0
    """Bytes that had to be sent for the call."""
    overwritten: tuple[int, ...] = ()
    """Positions of inputs that the kernel wrote to."""
    equal: Sequence[str] = ()
    """For each output the key of what it was compared with and equals bit for bit; "" if none."""
    failure: CallFailure | None = None

    def outputs(self) -> list[Array]:
        """All outputs of the last run; none where there is no result."""
        count = len(self.result.equals) if self.result else 0
        return [self.read(k, False) for k in range(count)]


class _Refused(Exception):
    """The target does not take a tensor."""


class Caller:
    """Calls kernels on a target session."""

    def __init__(self, session: TargetSession) -> None:
        self.session = session

    def call(self, compiled: Compiled, operands: Operands, repeats: int = 2) -> Outcome:
        """Run a kernel that is loaded, so many times: with two, an output that depends on chance
        shows.  What it reads and is not there is sent; its outputs stay on the target.

        Raises:
            Stopped: if the session was interrupted.
            GivenUp: if the target was lost twice, and not by the kernel.
            TargetError: if the target refuses for another reason, twice.
        """
        kernel = compiled.kernel.key
        inputs = [argument.key() for argument in operands.inputs]
        compared = operands.compared
        wanted = Wanted(compiled, operands, repeats).reads

        def call() -> tuple[CallResult, list[list[str]]]:
            there = [list(filter(self.session.resident, keys)) for keys in compared]
            outputs, numbers = list(operands.outputs), compiled.numbers
            result = self.session.call(
                kernel, inputs, outputs, there, repeats=repeats, numbers=numbers
            )
            return result, there

        sent = 0
        earlier: TargetLost | None = None
        again = False

        def failed(kind: Literal["crash", "timeout", "refused"], message: str) -> Outcome:
            return Outcome(sent=sent, failure=CallFailure(kind, message))

        while True:
            try:
                self.session.reserve(
                    kernel, inputs, wanted, repeats=repeats, numbers=compiled.numbers
                )
                sent += self._send(wanted)
                result, there = self._with_room(call, wanted)
            except BeyondTarget as error:
                return failed("refused", f"the target cannot do that: {error}")
            except _Refused as error:
                return failed("refused", f"the target cannot hold an input: {error}")
            except KernelRaised as error:
                return failed("crash", f"the kernel raised: {error}")
            except NoRoom as error:
                if error.hopeless:
                    return failed("refused", f"the target cannot hold it: {error}")
                if again:
                    raise TargetError(
                        f"the target's device is full: there is {error}, although this session "
                        "holds nothing else there.  Other processes or sessions may hold its "
                        "memory: end them, and run again"
                    ) from None
                self.session.renew()  # kernels may have kept memory
            except TargetError:
                if again:
                    raise
                self.session.renew()  # whatever it is, this process knows something else than we
            except TargetLost as lost:
                if lost.reason == "interrupted":
                    raise Stopped from None
                if lost.reason in ("crash", "timeout") and lost.running == kernel:
                    return failed(lost.reason, lost.detail)
                if detail := _blamed(kernel, earlier, lost):
                    return failed("crash", detail)
                if again:
                    raise GivenUp(lost.reason, lost.detail) from None
                earlier = lost
            else:
                return self.outcome(operands.outputs, inputs, there, result, sent)
            again = True

    def send_early(self, arguments: Sequence[Argument]) -> int:
        """Send what is large of what a call will read, whose kernel is not there yet; where memory
        is bounded the call itself makes room.  Returns the bytes sent; what goes wrong, the call
        will tell.

        Raises:
            Stopped: if the session was interrupted.
            ModelChanged: if a tensor is not what the source has read.
        """
        sent = 0
        if self.session.target.bound is not None:
            return sent
        try:
            for argument in arguments:
                if argument.there().nbytes >= _LARGE:
                    sent += self.session.put(argument.key(), argument.outgoing())
        except TargetError:
            pass
        except TargetLost as lost:
            if lost.reason == "interrupted":
                raise Stopped from None
        return sent

    def outcome(
        self,
        outputs: Sequence[str],
        inputs: Sequence[str],
        there: Sequence[Sequence[str]],
        result: CallResult,
        sent: int,
    ) -> Outcome:
        """What came of a call that gave a result, given the keys of its inputs, and of what its
        outputs were compared with."""
        overwritten = tuple(k for k, key in enumerate(inputs) if key in result.overwritten)
        equal = [
            keys[place] if place >= 0 else ""
            for keys, place in zip(there, result.equals, strict=True)
        ]
        read = partial(self._read, outputs, result, equal)
        return Outcome(result, read, sent, overwritten, equal)

    def _send(self, tensors: Mapping[str, _Send]) -> int:
        """Send what is not there; the bytes that took."""

        def put(key: str, array: _Send) -> int:
            return self.session.put(key, array())

        sent = 0
        for key, array in tensors.items():
            if not self.session.resident(key):
                try:
                    sent += self._with_room(partial(put, key, array), tensors)
                except BeyondTarget as error:
                    raise _Refused(str(error)) from None
                except NoRoom as error:
                    if error.hopeless:
                        raise _Refused(str(error)) from None
                    raise
        return sent

    def _with_room(self, work: Callable[[], _Result], needed: Collection[str]) -> _Result:
        """Work that takes memory there; where that is full, once more without all but what is
        needed."""
        try:
            return work()
        except NoRoom as error:
            if error.hopeless:
                raise
        self.session.drop_all_but(needed)
        return work()

    def _read(
        self,
        keys: Sequence[str],
        result: CallResult,
        equal: Sequence[str],
        output: int,
        first: bool,
    ) -> Array:
        differs = first and not result.deterministic[output]
        key = f"{keys[output]}#1" if differs else equal[output] or keys[output]
        try:
            return self.session.fetch_there(key)
        except TargetLost as lost:
            if lost.reason == "interrupted":
                raise Stopped from None
            raise


def twice(
    kernel: str, work: Callable[[], _Result], failed: Callable[[CallFailure], _Result]
) -> _Result:
    """Work that calls a kernel and reads what it gave; where the target is lost after the call,
    once more, in a fresh process.  ``failed`` makes the result of the kernel's failure, where both
    losses are the kernel's.

    Raises:
        TargetLost: if the target was lost twice, and not by the kernel.
    """
    earlier: TargetLost | None = None
    while True:
        try:
            return work()
        except GivenUp:
            raise
        except TargetLost as lost:
            if detail := _blamed(kernel, earlier, lost):
                return failed(CallFailure("crash", detail))
            if earlier:
                raise
            earlier = lost


def _blamed(kernel: str, first: TargetLost | None, second: TargetLost) -> str:
    """Why a kernel is to blame for two losses although its launch was open in neither, or it was
    ended from outside; "" if it is not.

    Once may be anybody's doing.  But where a fresh process, in which only this kernel has run,
    ends in the same way, the kernel has left something behind that ends it.
    """
    if first is None or first.reason != second.reason:
        return ""
    ran = all(kernel in (lost.running, lost.before) for lost in (first, second))
    if ran and second.reason == "killed":
        return f"the target was killed twice in this call: {second.detail}"
    if ran and second.reason == "crash":
        return f"after the call: {second.detail}"
    return ""
