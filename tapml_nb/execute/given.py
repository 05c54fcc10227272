"""The tensors that were given: weights, buffers and inputs, in memory that is the user's own.

A session keeps what the source made of them, and sends their bytes more than once: after a target
was lost, or in a later run.  So their contents are noted before the source first runs, and whoever
uses the bytes for something new asks here first.  What an optimizer or an assignment does shows in
marks that cost next to nothing; a write behind a framework's back shows in the bytes alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from tapml_nb.array_api import Array, dtype_of
from tapml_nb.frontends.program import Mark, Program
from tapml_nb.graph import ValueId
from tapml_nb.numerics import digest, digests_there

_PATIENCE = 0.05
"""Seconds between two chances to break off who waits."""

_MUCH = 1 << 20
"""Bytes from which it pays to hash with more than one thread."""

_TOGETHER = 1 << 28
"""Bytes that are hashed together, at least, and then no more."""

Slot = tuple[ValueId, int]
"""A given value and the step it belongs to; 0 for what all steps share."""


class ModelChanged(RuntimeError):
    """A weight or an input is not what it was when the session first ran the model.

    Example:
        >>> with tapml.debug(model, (given := x.clone(),)) as session:
        ...     _ = session.run(), given.zero_(), session.run()
        Traceback (most recent call last):
        tapml_nb.execute.given.ModelChanged: ...
    """


class Given:
    """Keys of the given tensors (``inputs`` of each step, ``shared`` by all steps), and whether
    these are still what they were."""

    def __init__(self, program: Program, held: Callable[[ValueId, int], Array]) -> None:
        """``held`` gives a tensor as the session holds it, in memory that the user may share."""
        self._program = program
        self._graph = program.graph
        self._held = held
        tensors = [v for v in self._graph.values.values() if not v.host and v.role != "operator"]
        self.inputs = [v.id for v in tensors if v.role == "input"]
        self.shared = [v.id for v in tensors if v.role != "input"]
        self._inputs = set(self.inputs)
        self._marks: dict[Slot, Mark] = {}
        self._keys: dict[Slot, str] = {}
        self._sure: dict[Slot, int] = {}
        self._awaited: set[Slot] = set()
        """Of the step that the source is at, and not noted yet."""
        self._command = 0

    def slot(self, value: ValueId, step: int) -> Slot | None:
        """Where a value of a step belongs; None if an operator or an earlier step has made it."""
        known = self._graph.values[value]
        if known.role == "operator" or known.host:
            return None
        if known.role == "input":
            return value, step
        return None if step and value in self._program.mutations else (value, 0)

    def key(self, slot: Slot) -> str | None:
        """The content address of a given tensor when the source first ran; None if that is not
        known."""
        return self._keys.get(slot)

    def begin(self, *, anew: bool) -> None:
        """Something new begins that uses these tensors; ``anew``: there are no results yet, so
        that they may be whatever they are now.

        Raises:
            ModelChanged: if one is another now, as far as marks tell.
        """
        self._command += 1
        marks = self._program.marks()
        if anew:
            self._keys.clear()
            self._sure.clear()
            self._awaited.clear()
            self._marks = dict(marks)
            return
        for slot, mark in marks.items():
            if mark != self._marks.get(slot):
                if slot in self._awaited:  # and there are results of before
                    raise self._changed(slot)
                if slot in self._keys:  # else its step has not run yet
                    self._compare(slot, mark.tensor)
                self._marks[slot] = mark

    def noting(self, step: int, values: Mapping[ValueId, Any], uses: Sequence[ValueId]) -> Noting:
        """What notes what a step is given, each before the source first reads it; ``uses``: in the
        order in which that is."""
        slots: dict[Slot, Any] = {}
        for value in dict.fromkeys((*uses, *self.inputs, *self.shared)):
            slot = self.slot(value, step) if value in values else None
            if slot and (value in self._inputs or self._sure.get(slot) != self._command):
                slots[slot] = values[value]
        self._awaited = set(slots)
        return Noting(self, slots)

    def note(self, slots: Mapping[Slot, Any]) -> None:
        """Note what tensors are, before the source reads them.

        Raises:
            ModelChanged: if an earlier step has read one that has changed since, or one was written
                to since the step began.
        """
        arrays: dict[Slot, Array] = {}
        for slot, tensor in slots.items():
            with contextlib.suppress(Exception):  # no bytes that one knows of: nobody can send it
                array = self._program.array_of(tensor)
                dtype_of(array)
                arrays[slot] = array
        for slot, key in self._digests(arrays):
            known, self._keys[slot] = self._keys.get(slot), key
            self._sure[slot] = self._command
            if known and known != key and slot[0] not in self._inputs:
                raise self._changed(slot)
        marks = self._program.marks()
        for slot in slots:
            if slot in marks and marks[slot] != self._marks.get(slot):
                raise self._changed(slot)
        self._awaited.difference_update(slots)

    @staticmethod
    def _digests(arrays: Mapping[Slot, Array]) -> Iterator[tuple[Slot, str]]:
        """The content addresses of arrays, in order."""
        if sum(array.nbytes for array in arrays.values()) < _MUCH:
            for slot, array in arrays.items():
                yield slot, digest(array)
            return
        there = [slot for slot, array in arrays.items() if not isinstance(array, np.ndarray)]
        known = dict(zip(there, digests_there([arrays[slot] for slot in there]), strict=True))
        # Gigabytes, by all cores: hashing lets go of Python's lock.
        pool = ThreadPoolExecutor(os.cpu_count(), "tapml-hashing")
        try:
            here = {s: pool.submit(digest, array) for s, array in arrays.items() if s not in known}
            for slot in arrays:
                if slot in here:
                    while not here[slot].done():  # bit by bit, so that it can be broken off
                        wait([here[slot]], _PATIENCE)
                    known[slot] = here[slot].result()
                yield slot, known[slot]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def forget(self, step: int) -> None:
        """The source did not come to the end of a step, which begins anew later."""
        self._awaited.clear()
        for value in self.inputs:
            self._keys.pop((value, step), None)

    def vouch(self, slots: Iterable[Slot] | None = None, *, afresh: bool = False) -> None:
        """Make sure that tensors, by default all, have the bytes that they had; ``afresh``: also
        where that was found out since the last :meth:`begin`.

        Raises:
            ModelChanged: if they have not.
        """
        wanted = [
            slot
            for slot in (list(self._keys) if slots is None else slots)
            if slot in self._keys and (afresh or self._sure[slot] != self._command)
        ]
        for slot, key in self._digests({slot: self._held(*slot) for slot in wanted}):
            if key != self._keys[slot]:
                raise self._changed(slot)
            self._sure[slot] = self._command

    def _compare(self, slot: Slot, tensor: Any) -> None:
        """Writing what was there before is no change."""
        try:
            same = tensor is not None and self._is(slot, self._program.array_of(tensor))
        except Exception:  # it has no bytes any more
            same = False
        if not same:
            raise self._changed(slot)
        self.vouch([slot], afresh=True)

    def _is(self, slot: Slot, array: Array) -> bool:
        return digest(array) == self._keys[slot]

    def _changed(self, slot: Slot) -> ModelChanged:
        value, step = slot
        known = self._graph.values[value]
        where = f" of step {step}" if known.role == "input" and self._program.steps > 1 else ""
        return ModelChanged(
            f"the {known.role} {known.name}{where} has changed since this session first ran the "
            f"model, and its results are of what it was then; to judge the model as it is now, "
            f"make a new session with tapml.debug"
        )


class Noting:
    """Notes what a step is given a little ahead of the source, so that who waits for its first
    values does not wait until all that was given is hashed.

    The source does not run meanwhile: it is to be measured alone.
    """

    def __init__(self, given: Given, slots: Mapping[Slot, Any]) -> None:
        """``slots``: what is to be noted, in this order."""
        self._given = given
        self._left = dict(slots)
        self._values = {value for value, _ in slots}

    def before(self, values: Iterable[ValueId]) -> None:
        """The source is about to read values; raises as :meth:`Given.note`."""
        wanted = self._values.intersection(values)
        if not wanted:
            return
        some = {slot: self._left[slot] for slot in self._left if slot[0] in wanted}
        size = sum(map(_bytes_of, some.values()))
        for slot, tensor in self._left.items():
            if size >= _TOGETHER:
                break
            if slot not in some:
                some[slot] = tensor
                size += _bytes_of(tensor)
        self._given.note(some)
        for slot in some:
            self._left.pop(slot, None)
        self._values.difference_update(value for value, _ in some)

    def rest(self) -> None:
        """The source has run; raises as :meth:`Given.note`."""
        self.before(set(self._values))


def _bytes_of(tensor: Any) -> int:
    """How large a given tensor is; 0 if it does not say."""
    return int(getattr(tensor, "nbytes", 0))
