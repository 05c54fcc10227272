"""One call of one kernel on the target: inputs there, deadline kept, accidents told apart.

A kernel that dies or hangs is the kernel's fault and is reported: if its launch was open when the
process ended.  All else is the fault of the tool, the line or the machine: the call is made again,
once, in a fresh process, and what fails there too ends the run with an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from tapml_nb.compile.cache import Compiled
from tapml_nb.execute.host_call import Overdue, call_within
from tapml_nb.execute.overrides import NumpyOverride
from tapml_nb.execute.source import Stopped
from tapml_nb.graph import TensorSpec
from tapml_nb.numerics import bitwise_equal, np_dtype
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.errors import (
    BeyondTarget,
    GivenUp,
    KernelRaised,
    NoRoom,
    TargetError,
    TargetLost,
)
from tapml_nb.targets.wire.results import CallResult

Send = Callable[[], np.ndarray]
"""Makes a tensor's array when it has to be sent."""


@dataclass(frozen=True)
class Accident:
    """A call that gave no result, and what is known of it.

    ``"refused"``: the target could not take an input, or has a limit, so nothing ran.
    """

    kind: Literal["crash", "timeout", "refused"]
    message: str


@dataclass(frozen=True)
class Outcome:
    """What came of a call.

    Attributes:
        ms: milliseconds of each run of the kernel.
        deterministic: per output, whether all runs agreed bit for bit.
        identical: per output, whether it equals the reference bit for bit (None: not compared).
        sent: bytes that had to be sent for the call.
        spoiled: positions of inputs that the kernel wrote to.
        stale: where runs differ, whether it is by what memory held before they began.
        overruns: what a guarded kernel wrote beyond its buffers, in words.
        notes: what it did beside its work that is no fault of its results, in words.
        accident: set when there is no result.
    """

    ms: tuple[float, ...]
    deterministic: tuple[bool, ...]
    identical: tuple[bool | None, ...]
    sent: int
    spoiled: tuple[int, ...] = ()
    stale: bool = False
    overruns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accident: Accident | None = None


class _Refused(Exception):
    """The target does not take a tensor."""


class Device:
    """Calls kernels on a target session."""

    def __init__(self, session: TargetSession) -> None:
        self.session = session

    @property
    def guarded(self) -> bool:
        """Whether kernels run between guard pages."""
        return self.session.target.guard

    def call(
        self,
        compiled: Compiled,
        tensors: Mapping[str, Send],
        inputs: Sequence[str],
        outputs: Sequence[str],
        references: Sequence[str | None] = (),
        repeats: int = 2,
    ) -> Outcome:
        """Run a kernel; its outputs stay on the target under the keys ``outputs``.

        Args:
            compiled: the kernel, loaded.
            tensors: key → array of every tensor the call needs; those not there are sent.
            inputs: the key of each parameter.
            outputs: a key for each output.
            references: for each output the key of a tensor to compare it with, or None.
            repeats: runs; with two, an output that depends on chance shows.

        Raises:
            Stopped: if the session was interrupted.
            GivenUp: if the target was lost twice, and not by the kernel.
            TargetError: if the target refuses for another reason, twice.
        """
        wanted = {**tensors, **{key: _constant(compiled, key) for key in compiled.kernel.constants}}
        sent = 0
        earlier: TargetLost | None = None
        kernel = compiled.kernel.key
        again = False
        while True:
            try:
                sent += self._send(wanted)
                result = self._launch(compiled, inputs, outputs, references, repeats)
            except BeyondTarget as error:
                return _failed("refused", f"the target cannot do that: {error}", outputs, sent)
            except _Refused as error:
                message = f"the target cannot hold an input: {error}"
                return _failed("refused", message, outputs, sent)
            except KernelRaised as error:
                return _failed("crash", f"the kernel raised: {error}", outputs, sent)
            except NoRoom as error:
                if error.hopeless:
                    return _failed("refused", f"the target cannot hold it: {error}", outputs, sent)
                if again:
                    raise _full(error) from None
                self.session.renew()  # kernels may have kept memory
            except TargetError:
                if again:
                    raise
                self.session.renew()  # whatever it is, this process knows something else than we
            except TargetLost as lost:
                if lost.reason == "interrupted":
                    raise Stopped from None
                if lost.reason in ("crash", "timeout") and lost.running == kernel:
                    return _failed(lost.reason, lost.detail, outputs, sent)
                if detail := blamed(kernel, earlier, lost):
                    return _failed("crash", detail, outputs, sent)
                if again:
                    raise GivenUp(lost.reason, lost.detail) from None
                earlier = lost
            else:
                return Outcome(
                    result.ms,
                    result.deterministic,
                    result.identical,
                    sent,
                    tuple(k for k, key in enumerate(inputs) if key in result.overwritten),
                    result.stale,
                    result.overruns,
                    result.notes,
                )
            again = True

    def _launch(
        self,
        compiled: Compiled,
        inputs: Sequence[str],
        outputs: Sequence[str],
        references: Sequence[str | None],
        repeats: int,
    ) -> CallResult:
        """Make the call; where the device is full, once more without what it does not need.

        Raises:
            NoRoom: if there is no room for it either way.
        """
        kept = [*inputs, *compiled.kernel.constants, *(key for key in references if key)]

        def call() -> CallResult:
            return self.session.call(
                compiled.kernel.key,
                list(inputs),
                list(outputs),
                list(references) or [None] * len(outputs),
                repeats=repeats,
                numbers=compiled.numbers,
            )

        try:
            return call()
        except NoRoom as error:
            if error.hopeless:
                raise
        self.session.drop_all_but(kept)
        return call()

    def _send(self, tensors: Mapping[str, Send]) -> int:
        """Send what is not there; the bytes that took.

        Raises:
            NoRoom: if there is no room for one, also without all that is not among them.
        """
        sent = 0
        for key, array in tensors.items():
            if not self.session.resident(key):
                try:
                    sent += self._put(key, array, tensors)
                except BeyondTarget as error:
                    raise _Refused(str(error)) from None
                except NoRoom as error:
                    if error.hopeless:
                        raise _Refused(str(error)) from None
                    raise
        return sent

    def _put(self, key: str, array: Send, needed: Collection[str]) -> int:
        try:
            return self.session.put(key, array())
        except NoRoom as error:
            if error.hopeless:
                raise
        self.session.drop_all_but(needed)
        return self.session.put(key, array())

    def fetch(self, key: str) -> np.ndarray:
        """Fetch a tensor.

        Raises:
            Stopped: if the session was interrupted.
            TargetLost: if the target died, and the tensor with it.
        """
        try:
            return self.session.fetch(key)
        except TargetLost as lost:
            if lost.reason == "interrupted":
                raise Stopped from None
            raise


def blamed(kernel: str, first: TargetLost | None, second: TargetLost) -> str:
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


def _full(error: NoRoom) -> TargetError:
    return TargetError(
        f"the target's device is full: there is {error}, although this session holds nothing else "
        "there.  Other processes or sessions may hold its memory: end them, and run again"
    )


def call_numpy(
    override: NumpyOverride,
    inputs: Sequence[np.ndarray],
    specs: Sequence[TensorSpec],
    seconds: float,
) -> tuple[list[list[np.ndarray]], Outcome]:
    """Run a NumPy override twice in this process.

    Results are cast to the operator's dtypes, for NumPy widens where a kernel would not.

    Args:
        override: the function.
        inputs: its arguments.
        specs: what it shall return.
        seconds: what both runs together may take.

    Returns:
        The outputs of each run, and the outcome; no outputs where the function raised, or did not
        return in time.

    Raises:
        Stopped: if the session was interrupted.
    """
    deadline = time.monotonic() + seconds
    runs: list[list[np.ndarray]] = []
    ms: list[float] = []
    for _ in range(2):
        begin = time.perf_counter()
        try:
            given = [_read_only(array) for array in inputs]
            result: Any = call_within(
                deadline - time.monotonic(), partial(override.function, *given)
            )
            arrays = list(result) if isinstance(result, tuple | list) else [result]
            if len(arrays) != len(specs):
                raise ValueError(f"it returned {len(arrays)} arrays, {len(specs)} are expected")
            runs.append(
                [
                    np.array(a, dtype=np_dtype(spec.dtype), copy=True)
                    for a, spec in zip(arrays, specs, strict=True)
                ]
            )
        except Overdue as overdue:
            message = f"override {override.name} did not return within {seconds:g} s{overdue}"
            return [], _failed("timeout", message, list(specs), 0)
        except Stopped:
            raise
        except Exception as error:
            message = f"override {override.name} raised {type(error).__name__}: {error}"
            return [], _failed("crash", message, list(specs), 0)
        ms.append((time.perf_counter() - begin) * 1e3)
    deterministic = tuple(bitwise_equal(a, b) for a, b in zip(*runs, strict=True))
    return runs, Outcome(tuple(ms), deterministic, (None,) * len(specs), 0)


def _failed(
    kind: Literal["crash", "timeout", "refused"], message: str, outputs: Sequence[Any], sent: int
) -> Outcome:
    nothing = (False,) * len(outputs)
    return Outcome((), nothing, nothing, sent, accident=Accident(kind, message))


def _constant(compiled: Compiled, key: str) -> Send:
    return lambda: compiled.constants[key]


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
