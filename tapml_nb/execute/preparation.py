"""Kernels for calls, a few at a time, so that the first are of use while the compiler is at others.

Units are made here, bit by bit; they are compiled on another thread, by other processes; and what
is compiled is loaded when there is nothing else to do, not too often, for linking costs.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from tapml_nb.compile.cache import Compiled, Failure
from tapml_nb.execute.background import Background
from tapml_nb.execute.events import EventStream, RunProgress
from tapml_nb.execute.loader import Loader, interruptible
from tapml_nb.execute.overrides import Overrides
from tapml_nb.execute.planner import Plan, Planner
from tapml_nb.execute.source import Stopped
from tapml_nb.graph import OpId

Call = tuple[OpId, int]
"""An operator in a step."""

_SLICE = 0.02
"""Seconds for which units are made before something else has its turn."""

_FIRST_LOAD = 0.5
"""Seconds before which nothing is loaded, unless all is there."""

_WARM = 2.5
"""Seconds more, as long as all kernels come from the cache: then the others soon will, too."""

_LOAD_SHARE = 0.05
"""Part of the time, at most, that loading may take."""

_PACE = 8
"""Kernels that tell how long the others take."""


class Preparation:
    """The kernels that calls need.  A context manager: what goes on ends with the block.

    Attributes:
        compiling: what compiles.
        done: whether all calls were given back.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        planner: Planner,
        overrides: Overrides,
        loader: Loader,
        compiling: Background,
        events: EventStream,
        stopped: Callable[[], bool],
        has_run: Callable[[OpId, int], bool],
    ) -> None:
        """``has_run``: whether the source has run a call yet; before, its unit is not known."""
        self._planner, self._overrides, self._loader = planner, overrides, loader
        self._events, self._stopped, self._has_run = events, stopped, has_run
        self.compiling = compiling
        self._calls = deque(calls)
        """Not given back yet; in this order, so that what is sent when does not depend on time."""
        self._unplanned = deque(calls)
        self._waiting: dict[str, list[Call]] = {}
        """For a kernel that is being compiled."""
        self._compiled: set[Call] = set()
        """Whose kernels are not loaded yet."""
        self._ready: set[Call] = set()
        self._launching: list[Call] = []
        """Who has a kernel that launches something, and was not told of yet."""
        self._needs_target = False
        self._begin = time.monotonic()
        self._due = self._begin + _FIRST_LOAD

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.compiling.close()

    @property
    def done(self) -> bool:
        return not self._calls

    def left(self) -> float | None:
        """Seconds until all is compiled, at the pace so far; None where nobody can tell."""
        if not self._waiting and not self._unplanned:
            return 0.0
        made = self.compiling.made
        if self._unplanned or made < _PACE:
            return None
        return (time.monotonic() - self._begin) / made * (self.compiling.given - made)

    def launching(self) -> list[Call]:
        """Calls that were found out, since this was asked last, to have a kernel that launches
        something; it may not be loaded yet."""
        found, self._launching = self._launching, []
        return found

    def advance(self, idle: bool) -> list[Call]:
        """Go on a bit; returns the next calls, as far as they can be made now or need no kernel.

        Args:
            idle: whether the caller has nothing else to do.  Then this may wait a little, and what
                is compiled is loaded.

        Raises:
            Stopped: if the run is to end; what is compiled stays.
            CompilerTrouble: if something keeps the compiler, or its linker, from its work.
            TargetLost: if the target is lost for good.
        """
        if self._stopped():
            raise Stopped
        until = time.monotonic() + _SLICE
        while self._can_plan and time.monotonic() < until:
            self._plan(self._unplanned.popleft())
        if self._needs_target:  # which comes up while the first is compiled
            self._needs_target = False
            self._tell()
            self._loader.start()
        self._collect(idle)
        due = self._due + (0.0 if self.compiling.compiled else _WARM)
        wanted = idle and self._next_is_in(self._compiled) and time.monotonic() >= due
        if wanted or (self._compiled and not (self._unplanned or self._waiting)):
            self._load()
        ready: list[Call] = []
        while self._next_is_in(self._ready):
            ready.append(self._calls.popleft())
        return ready

    def finish(self) -> None:
        """Go on to the end, and load all at once.  Raises as :meth:`advance`."""
        self._due = math.inf
        while not self.done:
            self.advance(idle=True)

    def _next_is_in(self, calls: set[Call]) -> bool:
        return bool(self._calls) and self._calls[0] in calls

    @property
    def _can_plan(self) -> bool:
        return bool(self._unplanned) and self._has_run(*self._unplanned[0])

    def _plan(self, call: Call) -> None:
        """See what a call needs, and have that compiled."""
        key, module = self._needed(call)
        if key is None:
            self._ready.add(call)
        elif key in self._waiting:
            self._waiting[key].append(call)
        elif known := self._loader.known(key):
            self._settle(call, key, known)
        else:
            self._waiting[key] = [call]
            self._needs_target |= not self.compiling.given
            self.compiling.give(key, module())

    def _needed(self, call: Call) -> tuple[str | None, Callable[[], Any]]:
        """The key of what is compiled for a call, if anything is, and what makes that."""
        op = call[0]
        if key := self._overrides.primfuncs.get(op):
            return key, lambda: self._overrides.modules[key]
        if op in self._overrides:
            return None, lambda: None
        plan, unit = self._planner.plan(*call)
        if isinstance(plan, Failure):
            return None, lambda: None
        return plan.key, lambda: (unit or self._planner.unit(*call)).module

    def _collect(self, idle: bool) -> None:
        """Take over what was compiled meanwhile."""
        waits = idle and self._waiting and not (self._can_plan or self._next_is_in(self._ready))
        with interruptible():
            while found := self.compiling.take(_SLICE if waits else 0):
                waits = False
                key, result = found
                self._loader.put(key, result)
                if idle:  # else something else is worth telling
                    self._tell()
                for call in self._waiting.pop(key):
                    self._settle(call, key, result)

    def _settle(self, call: Call, key: str, result: Compiled | Failure) -> None:
        """The kernel of a call is there, or can be none."""
        if self._fails_for_open_sizes(call, key, result):
            self._plan(call)
            return
        if isinstance(result, Compiled) and result.kernel.launches:
            self._launching.append(call)
        if self._loader.is_loaded(key) or isinstance(result, Failure):
            self._ready.add(call)
        else:
            self._compiled.add(call)

    def _fails_for_open_sizes(self, call: Call, key: str, result: Compiled | Failure) -> bool:
        """Whether there can be no kernel with open sizes for a call; from now on its operator has
        one for each shape."""
        if call[0] in self._overrides or not isinstance(result, Failure):
            return False
        plan = self._planner[call]
        assert isinstance(plan, Plan), "or nothing was compiled"
        if plan.key != key:  # another step of the same shapes has found out already
            return True
        if plan.is_open is False or not (plan.is_open or result.is_open):
            return False
        self._planner.fix_sizes(*call, result.message)
        return True

    def _tell(self) -> None:
        self._events.emit(RunProgress("compile", self.compiling.made, self.compiling.given))

    def _load(self) -> None:
        begin = time.monotonic()
        self._loader.load()
        took = time.monotonic() - begin
        self._due = max(self._due, begin + took / _LOAD_SHARE)
        self._ready |= self._compiled
        self._compiled = set()
