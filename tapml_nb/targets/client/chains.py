"""A chain of kernels, as far as it fits into the target's memory: what each part of it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy

from tapml_nb.compile.kernel import BufferSpec
from tapml_nb.targets.client.residency import Footprints, Residency
from tapml_nb.targets.wire.calls import ChainCall


class ChainPart:
    """Calls in a row.

    Attributes:
        calls: they.
        outside: what they read that none of them makes.
        made: what they make.
    """

    def __init__(self, footprints: Footprints, spec_of: Callable[[str], BufferSpec]) -> None:
        """``spec_of``: shape and dtype of what is there, or will be sent."""
        self.calls: tuple[ChainCall, ...] = ()
        self.outside: dict[str, BufferSpec] = {}
        self.made: dict[str, BufferSpec] = {}
        self._footprints, self._spec_of = footprints, spec_of
        self._watched: set[str] = set()
        self._read_bytes = self._copied_bytes = self._own = 0

    def then(self, *calls: ChainCall) -> ChainPart:
        """The same with more calls behind."""
        grown = copy(self)
        grown.calls = (*self.calls, *calls)
        grown.outside, grown.made = dict(self.outside), dict(self.made)
        grown._watched = set(self._watched)
        for call in calls:
            grown._add(call)
        return grown

    def as_far_as_fits(
        self, calls: Sequence[ChainCall], resident: Residency, bound: int | None
    ) -> ChainPart:
        """The same with as many calls behind, one at least, as have room there if all goes that it
        does not need; with all where nothing is bounded."""
        if bound is None:
            return self.then(*calls)
        grown, count = self.then(), 0
        for call in calls:
            grown._add(call)
            takes = grown._read_bytes + grown._copied_bytes + grown._own
            if (self.calls or count) and takes + resident.pinned_beside(grown.outside) > bound:
                break
            count += 1
        return self.then(*calls[:count])

    def bytes_beside(self, resident: Residency) -> int:
        """What it takes beside what is there.  Counted as if nothing were freed before its end, and
        every kernel watched, by copies of what it reads from outside."""
        missing = sum(spec.nbytes for key, spec in self.outside.items() if key not in resident)
        return missing + self._copied_bytes + self._own

    def _add(self, call: ChainCall) -> None:
        inputs = self._read(call.inputs)
        if call.kernel is None:
            self.made[call.outputs[0]] = BufferSpec(call.shape, call.dtype)
            return
        self._read(self._footprints.constants(call.kernel))
        footprint = self._footprints.at(call.kernel, inputs, call.numbers)
        for key in call.inputs:
            if key in self.outside and key not in self._watched:
                self._watched.add(key)
                self._copied_bytes += self.outside[key].nbytes
        self._own += footprint.own
        self.made.update(zip(call.outputs, footprint.outputs, strict=False))

    def _read(self, keys: Iterable[str]) -> Sequence[BufferSpec]:
        specs = []
        for key in keys:
            if key not in self.made and key not in self.outside:
                self.outside[key] = self._spec_of(key)
                self._read_bytes += self.outside[key].nbytes
            specs.append(self.made[key] if key in self.made else self.outside[key])
        return specs
