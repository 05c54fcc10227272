"""The tensors that were given: weights, buffers and inputs, in memory that is the user's own.

A session keeps what the source made of them, and sends their bytes more than once: after a target
was lost, or in a later run.  So their contents are noted before the source first runs, and whoever
uses the bytes for something new asks here first.  What an optimizer or an assignment does shows in
marks that cost next to nothing; a write behind a framework's back shows in the bytes alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from tapml_nb.array_api import Array
from tapml_nb.frontends.program import Mark, Program
from tapml_nb.graph import ValueId
from tapml_nb.measured import far
from tapml_nb.numerics import digest

_PATIENCE = 0.05
"""Seconds between two chances to break off who waits."""

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
            self._marks = dict(marks)
            return
        for slot, mark in marks.items():
            if mark != self._marks.get(slot):
                if slot in self._keys:  # else its step has not run yet
                    self._compare(slot, mark.tensor)
                self._marks[slot] = mark

    def note(self, step: int, values: Mapping[ValueId, Any]) -> None:
        """Note what a step is given, before the source runs it.

        Raises:
            ModelChanged: if it shares with an earlier step what has changed since.
        """
        slots: dict[Slot, Any] = {(v, step): values[v] for v in self.inputs if v in values}
        for value in self.shared:
            slot = self.slot(value, step)
            if slot and value in values and self._sure.get(slot) != self._command:
                slots[slot] = values[value]
        pool = ThreadPoolExecutor(self._threads(slots.values()), "tapml-hashing")
        try:
            asked = {slot: pool.submit(self._digest, tensor) for slot, tensor in slots.items()}
            for slot, digested in asked.items():
                while not digested.done():  # bit by bit, so that it can be broken off
                    wait([digested], _PATIENCE)
                if (key := digested.result()) is None:
                    continue
                known, self._keys[slot] = self._keys.get(slot), key
                self._sure[slot] = self._command
                if known and known != key and slot[0] not in self._inputs:
                    raise self._changed(slot)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _threads(self, tensors: Iterable[Any]) -> int:
        """How many hash at a time: gigabytes by all cores, for hashing lets go of Python's lock; on
        a GPU, which does one after the other, each would only hold memory meanwhile."""
        for tensor in tensors:
            with suppress(Exception):  # as :meth:`_digest`
                if far(self._program.array_of(tensor)):
                    return 1
        return os.cpu_count() or 1

    def _digest(self, tensor: Any) -> str | None:
        try:
            return digest(self._program.array_of(tensor))
        except Exception:  # a layout or a dtype without bytes: nobody can send it either
            return None

    def forget(self, step: int) -> None:
        """The source did not come to the end of a step, which begins anew later."""
        for value in self.inputs:
            self._keys.pop((value, step), None)

    def vouch(self, slots: Iterable[Slot] | None = None, *, afresh: bool = False) -> None:
        """Make sure that tensors, by default all, have the bytes that they had; ``afresh``: also
        where that was found out since the last :meth:`begin`.

        Raises:
            ModelChanged: if they have not.
        """
        for slot in list(self._keys) if slots is None else slots:
            if slot in self._keys and (afresh or self._sure[slot] != self._command):
                self._check(slot)

    def _compare(self, slot: Slot, tensor: Any) -> None:
        """Writing what was there before is no change."""
        try:
            same = tensor is not None and self._is(slot, self._program.array_of(tensor))
        except Exception:  # it has no bytes any more
            same = False
        if not same:
            raise self._changed(slot)
        self._check(slot)

    def _check(self, slot: Slot) -> None:
        if not self._is(slot, self._held(*slot)):
            raise self._changed(slot)
        self._sure[slot] = self._command

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
