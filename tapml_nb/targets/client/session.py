"""The notebook's side of a target: one supervised session that survives its target.

The notebook holds no remote TVM objects but the connection and a handful of functions, so that a
dead one can be dropped whole and a new one put in its place: the next use does that by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from tapml_nb.array_api import Array, on_host
from tapml_nb.compile.kernel import BufferSpec
from tapml_nb.targets.client.chains import ChainPart
from tapml_nb.targets.client.connection import Connection
from tapml_nb.targets.client.libraries import SLOWEST, LibraryConnection
from tapml_nb.targets.client.prefetch import Prefetch
from tapml_nb.targets.client.residency import NOTHING, Footprint, spec_of
from tapml_nb.targets.client.supervisor import CONTROL_SECONDS
from tapml_nb.targets.spec import BROWSER, Target
from tapml_nb.targets.wire.calls import (
    CallRequest,
    CallResult,
    ChainCall,
    ChainRequest,
    ChainResult,
)
from tapml_nb.targets.wire.errors import (
    BeyondMemory,
    TargetEvent,
    TargetLost,
)

_MARGIN = 16
"""Of a bound on memory that comes in blocks, the part for what these take beyond their tensors."""


class TargetSession(LibraryConnection):
    """A target, always behind a process boundary.

    Methods are called from one thread at a time; :meth:`interrupt`, :meth:`close` and the
    counters from any.  Those under "use" raise a TargetError if the target answers with an error
    (NoTensor, which is a KeyError, for a tensor that is not there), and TargetLost if it is lost
    meanwhile.

    Attributes:
        target: where it is and what it is.
        prefetch: what is sent ahead of need, where it goes over a line.
        state: ``"idle"``: not used yet; ``"lost"``: the next use begins anew.
        bytes_sent: tensor and library bytes sent so far.
        bytes_received: tensor bytes fetched so far.
        calls: kernel calls made.
        restarts: how often the session had to be made anew.
    """

    def __init__(
        self,
        target: Target,
        *,
        machine: str = "",
        on_event: Callable[[TargetEvent], None] = lambda event: None,
    ) -> None:
        """Nothing is started before the first use.

        Args:
            target: where it is and what it is.
            machine: what its processor has to be, by ``platform.machine()``; "" for any.
            on_event: told of every start and loss, on the thread that uses the session.
        """
        super().__init__(target, machine, on_event)
        self.bytes_received = self.calls = 0
        self._counted = self._told = 0
        self._bound = target.bound
        self.prefetch = Prefetch(self._bound)

    @property
    def platform(self) -> dict[str, Any]:
        """What the target says of itself (``pid``, ``machine``, ``cpus``, ``versions``)."""
        return self.connected().platform

    @property
    def peak_bytes(self) -> int:
        """The most that was taken there at a time: what the device held, with the blocks of memory
        that it keeps, if it has such; else what tensors, and kernels beside them, can have taken.
        """
        connection = self.connection  # once: another thread may drop it
        self._told = max(self._told, connection.peak if connection else 0)
        return self._told or self._counted

    @property
    def link(self) -> str:
        """The page that becomes the target in the browser that opens it; starts the server.
        RuntimeError if the target is no browser."""
        if self.target.rpc != BROWSER:
            raise RuntimeError("the target is no browser")
        return self.endpoint.link

    def connected(self) -> Connection:
        """As :meth:`SupervisedConnection.connected`; what is to be sent ahead goes over it."""
        connection = super().connected()
        self.prefetch.over(connection)
        return connection

    def close(self) -> None:
        """End the session, and the server if it is ours.  Idempotent; from any thread."""
        super().close()
        if not self._owner.elsewhere:
            self.prefetch.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- use ---------------------------------------------------------------------------------------

    @property
    def compares(self) -> bool:
        """Whether tensors are compared where they are; else whatever is compared travels."""
        return self.connection is not None and not self.connection.stock

    @property
    def takes_rows(self) -> bool:
        """Whether calls may be made as an observed chain: not where each is to be seen to, between
        guard pages or within a bound."""
        return self.compares and not self.target.guard and self._bound is None

    def resident(self, key: str) -> bool:
        """Whether the target holds a tensor under this key."""
        connection = self.connection
        return connection is not None and key in connection.resident

    def put(self, key: str, array: Array) -> int:
        """Send a tensor under a key that stands for its content; one that is there is not sent.
        Returns the bytes sent.

        Raises:
            BeyondMemory: if what has to stay there leaves no room for it.
        """
        connection = self.connected()
        if key in connection.resident:
            return 0
        spec = spec_of(array)
        self._make_room(connection, spec.nbytes, (key,))
        seconds = CONTROL_SECONDS + array.nbytes / SLOWEST
        begun = self.prefetch.take(key)

        def send() -> int:
            whole = begun is not None and begun.finish(array)
            return spec.nbytes if whole else connection.service.put(key, array)

        sent = self.run(seconds, send)
        connection.resident.note(key, spec)
        self.bytes_sent += sent
        return sent

    def put_all(self, tensors: Mapping[str, Callable[[], Array]]) -> dict[str, int]:
        """The same of many, at once where that takes less time; bytes sent, by key."""
        connection = self.connected()
        shown: dict[str, Array] = {}
        sent: dict[str, int] = {}
        for key in [key for key in tensors if key not in connection.resident]:
            array = tensors[key]()
            if connection.service.shows(array):
                shown[key], sent[key] = array, 0
            else:
                sent[key] = self.put(key, array)
        if shown:
            size = sum(array.nbytes for array in shown.values())
            self._make_room(connection, size, ())
            seconds = CONTROL_SECONDS + size / SLOWEST
            self.run(seconds, lambda: connection.service.put_all(shown))
            for key, array in shown.items():
                connection.resident.note(key, spec_of(array))
        return sent

    def reserve(
        self,
        kernel: str,
        inputs: Sequence[str],
        tensors: Mapping[str, Callable[[], Array]],
        *,
        repeats: int,
        numbers: Sequence[int] = (),
    ) -> None:
        """Before anything is sent for a call: where memory is bounded, free what was not used for
        longest, so that there is room for all that the call takes.

        Args:
            kernel, inputs, repeats, numbers: as for the call.
            tensors: all that it reads, constants and references as well, by key.

        Raises:
            BeyondMemory: if it does not fit even alone.
            TargetLost: if the target is lost meanwhile.
        """
        if self._bound is None:
            return
        connection = self.connected()
        resident = connection.resident
        missing = {key: spec_of(a()) for key, a in tensors.items() if key not in resident}
        given = [missing[key] if key in missing else resident[key] for key in inputs]
        takes = self._footprints.at(kernel, given, numbers).of_call(repeats, self.target.guard)
        takes += sum(spec.nbytes for spec in missing.values())
        self._make_room(connection, takes, tensors)

    def fetch(self, key: str) -> np.ndarray:
        """Fetch a tensor."""
        return on_host(self.fetch_there(key))

    def fetch_there(self, key: str) -> Array:
        """The same; on the GPU where the target shares it with PyTorch here."""
        connection = self.connected()
        array = self.run(CONTROL_SECONDS, lambda: connection.service.get(key), resident=[key])
        if isinstance(array, np.ndarray):
            self.bytes_received += array.nbytes
        return array

    def fetch_all_there(self, keys: Sequence[str]) -> list[Array]:
        """Fetch tensors as :meth:`fetch_there`, all at once where that takes less time."""
        connection = self.connected()
        size = sum(connection.resident[key].nbytes for key in keys if key in connection.resident)
        seconds = CONTROL_SECONDS + size / SLOWEST
        arrays = self.run(seconds, lambda: connection.service.get_all(keys), resident=keys)
        self.bytes_received += sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
        return arrays

    def call(
        self,
        kernel: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        references: Sequence[Sequence[str]] = (),
        *,
        repeats: int = 2,
        numbers: Sequence[int] = (),
        timeout: float | None = None,
    ) -> CallResult:
        """Run a loaded kernel on resident tensors.

        Args:
            kernel: its key.
            inputs: a key for each parameter.
            outputs: keys under which the last run's outputs stay, but those that equal a
                reference; where the first run's differ, they stay under the key with ``#1``
                behind it.
            references: for each output resident tensors to compare with bit for bit, in this
                order; empty to compare none.
            repeats: how often to run; all memory that it writes is poisoned before each run.
            numbers: sizes that the kernel cannot read off its inputs.
            timeout: seconds for all runs together; default the target's.

        Raises:
            ValueError: if ``repeats`` is below 1.
            KernelRaised: if the kernel raises.
            BeyondMemory: if it needs more memory than there may be.
            TargetLost: if it kills the target, or takes too long.
        """
        if repeats < 1:
            raise ValueError(f"repeats: {repeats}; a call runs at least once")
        request = CallRequest(
            kernel,
            tuple(inputs),
            tuple(outputs),
            tuple(map(tuple, references)) or ((),) * len(outputs),
            self.target.timeout if timeout is None else timeout,
            repeats,
            tuple(numbers),
            self.target.guard,
        )
        return self.call_all([request])[0]

    def call_all(self, requests: Sequence[CallRequest]) -> list[CallResult]:
        """Make calls one after the other, as far as it goes well: results of as many.  Raises as
        :meth:`call` where the first does not."""
        connection = self.connected()
        footprints, takes, needed = [], 0, list[str]()
        for request in requests:
            self._reload(connection, request.kernel)
            footprint = self._footprint(connection, request)
            footprints.append(footprint)
            takes = max(takes, footprint.of_call(request.repeats, request.guard))
            needed += [*request.inputs, *(key for keys in request.references for key in keys)]
        constants = [key for one in requests for key in self._footprints.constants(one.kernel)]
        self._make_room(connection, takes, [*needed, *constants])
        results = self.run(
            sum(request.timeout for request in requests) + CONTROL_SECONDS,
            lambda: connection.service.call(requests),
            launch=max(request.timeout for request in requests),
            resident=needed,
        )
        self.calls += len(results)
        for request, result, footprint in zip(requests, results, footprints, strict=False):
            self._note(connection, request, result, footprint)
        return results

    def _note(
        self,
        connection: Connection,
        request: CallRequest,
        result: CallResult,
        footprint: Footprint,
    ) -> None:
        """Remember what a call has left."""
        resident, outputs = connection.resident, request.outputs
        resident.discard([*result.overwritten, *(f"{key}#1" for key in outputs)])
        for k, (key, spec) in enumerate(zip(outputs, footprint.outputs, strict=True)):
            if not result.deterministic[k]:
                resident.note(f"{key}#1", spec)
            if result.equals[k] < 0:
                resident.note(key, spec)
            elif request.references[k][result.equals[k]] != key:
                resident.discard([key])

    def parts(
        self,
        calls: Sequence[ChainCall],
        keep: Collection[str],
        outgoing: Mapping[str, Callable[[], Array]],
    ) -> Iterator[tuple[ChainPart, Sequence[str]]]:
        """A chain in parts, each with what it has to keep, to be run one after the other: one part,
        or where memory is bounded, as many as it takes for each to fit.  When one is given out,
        there is room for all that it reads and makes.

        Args:
            calls, keep: as for :meth:`chain`.
            outgoing: what may have to be sent for it, by key.

        Raises:
            BeyondMemory: if a kernel alone does not fit beside what is kept.
            TargetLost: if the target is lost meanwhile.
        """
        connection, rest = self.connected(), tuple(calls)
        resident, kept = connection.resident, set[str]()
        bound = None if self._bound is None else self._bound - self._margin(connection)

        def spec_at(key: str) -> BufferSpec:
            if key in resident or key not in outgoing:
                return resident.get(key, NOTHING)
            return spec_of(outgoing[key]())

        while rest:
            part = ChainPart(self._footprints, spec_at).as_far_as_fits(rest, resident, bound)
            rest = rest[len(part.calls) :]
            read = {key for call in rest for key in call.inputs}
            self._make_room(connection, part.bytes_beside(resident), part.outside)
            staying = [key for key in part.made if key in read or key in keep]
            yield part, staying
            kept.update(staying)
            self._free(connection, [key for key in kept if key not in read and key not in keep])

    def chain(
        self,
        calls: Sequence[ChainCall],
        keep: Sequence[str],
        references: Sequence[Sequence[str]] = (),
        *,
        observed: bool = False,
    ) -> ChainResult:
        """Run loaded kernels one after the other as a deployed model would: memory is not
        poisoned and freed after its last use, and nothing is looked at in between.

        Args:
            calls: the kernels, in order; each reads resident tensors and what those before it
                have made.
            keep: what stays under its key, but what equals a reference, until it is dropped; all
                else that the chain makes is gone after it.
            references: as for :meth:`call`, for each that stays.
            observed: poison memory before each kernel, and watch all that it reads, as in a call.

        Raises:
            KernelRaised: if a kernel raises.
            BeyondMemory: if it needs more memory than there may be.
            TargetLost: if one kills the target, or takes longer than the target's timeout.
        """
        seconds = self.target.timeout
        connection = self.connected()
        for call in calls:
            if call.kernel:
                self._reload(connection, call.kernel)
        self.calls += sum(call.kernel is not None for call in calls)
        compared = tuple(map(tuple, references)) or ((),) * len(keep)
        request = ChainRequest(tuple(calls), tuple(keep), seconds, observed, compared)
        resident = connection.resident
        whole = ChainPart(self._footprints, lambda key: resident.get(key, NOTHING)).then(*calls)
        self._make_room(connection, whole.bytes_beside(resident), whole.outside)
        read = [key for call in calls for key in call.inputs if key not in whole.made]
        result = self.run(
            seconds * max(1, len(calls)) + CONTROL_SECONDS,
            lambda: connection.service.chain(request),
            launch=seconds,
            resident=[*read, *(key for keys in compared for key in keys)],
        )
        resident.discard(result.overwritten)
        for key, equal in zip(keep, result.equals, strict=True):
            if equal < 0:
                resident.note(key, whole.made[key], pinned=not observed)
        return result

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        """Error statistics of one resident tensor against another, computed where they are: the
        fields of :class:`tapml_nb.numerics.Statistics`."""
        connection = self.connected()
        return self.run(
            CONTROL_SECONDS,
            lambda: connection.service.statistics(output, reference),
            resident=[output, reference],
        )

    def drop(self, keys: Sequence[str]) -> TargetLost | None:
        """Free tensors; keys that are not there are fine.  Returns how the target was lost, if it
        was: then they are gone as well."""
        connection = self.connection
        held = [key for key in keys if self.resident(key)]
        if connection is None or not held:
            return None
        try:
            self.run(CONTROL_SECONDS, lambda: connection.service.drop(held))
        except TargetLost as lost:
            return lost
        connection.resident.discard(held)
        return None

    def drop_all_but(self, keys: Collection[str]) -> None:
        """Free all tensors but these, and those that chains have kept; whoever needs one of them
        sends it again."""
        if connection := self.connection:
            self.drop(connection.resident.all_but(keys))
            self._withdraw(keys)

    def spare(self, keys: Sequence[str]) -> None:
        """Where memory is bounded, free these tensors before all others."""
        if connection := self.connection:
            connection.resident.spare(keys)

    def held(self) -> int:
        """Bytes of all tensors on the target."""
        connection = self.connected()
        return self.run(CONTROL_SECONDS, lambda: connection.service.held())

    # -- memory ------------------------------------------------------------------------------------

    def _make_room(self, connection: Connection, takes: int, needed: Collection[str]) -> None:
        """See to it that so many bytes have room beside what is there and needed."""
        resident, ahead = connection.resident, self.prefetch.bytes_beside(needed, takes)
        if self._bound is not None:
            resident.use(needed)
            margin = self._margin(connection)
            try:
                going = resident.excess(self._bound, takes + ahead, needed, margin)
            except BeyondMemory:
                self._withdraw(needed)
                ahead = self.prefetch.bytes_beside(needed, takes)
                going = resident.excess(self._bound, takes + ahead, needed, margin)
            self._free(connection, going)
        self._counted = max(self._counted, resident.nbytes + takes + ahead)
        self._told = max(self._told, connection.peak)

    def _withdraw(self, needed: Collection[str]) -> None:
        """Have what was sent ahead go, but for what is needed."""
        connection, keys = self.connection, self.prefetch.withdraw(needed)
        line = connection.line if connection else None
        if not keys or line is None:
            return

        def forget() -> None:
            with line.way.at_once():
                line.forget(keys)

        self.run(CONTROL_SECONDS, forget)

    def _margin(self, connection: Connection) -> int:
        """Bytes of the bound that are better left."""
        return self._bound // _MARGIN if self._bound and connection.pooled else 0

    def _free(self, connection: Connection, keys: Sequence[str]) -> None:
        """Drop tensors of a connection that is still there; TargetLost if it is not any more."""
        if (lost := self.drop(keys)) is not None:
            raise lost

    def _footprint(self, connection: Connection, request: CallRequest) -> Footprint:
        """What a kernel takes, given these tensors; nothing if they are not there."""
        resident = connection.resident
        if not all(key in resident for key in request.inputs):
            return Footprint()
        given = [resident[key] for key in request.inputs]
        return self._footprints.at(request.kernel, given, request.numbers)
