"""Compiling that goes on, on a thread of its own, while its first results are of use already."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping
from typing import Any

from tapml_nb.compile.cache import Compiled, Failure
from tapml_nb.compile.compiler import Compiler
from tapml_nb.execute.host_call import BrokenOff

_PATIENCE = 0.02
"""Seconds between two attempts to end what goes on."""


class Background:
    """Compiles modules in the order in which they are given.

    What was given while one lot is compiled is the next lot.  So the first is a single module,
    whose kernel is there soon, and lots grow as long as they come faster than they are compiled.

    Attributes:
        given: how many modules there were so far.
        made: how many of them were taken out again, as kernels or failures.
    """

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._compiled_before = compiler.compiled
        self._modules: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[str, Compiled | Failure] | BaseException]
        self._results = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.given = self.made = 0

    @property
    def compiled(self) -> int:
        """How many of them were not in the cache."""
        return self._compiler.compiled - self._compiled_before

    def give(self, key: str, module: Any) -> None:
        """Have a module compiled."""
        self.given += 1
        self._modules.put((key, module))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tapml-compiling", daemon=True)
            self._thread.start()

    def take(self, seconds: float) -> tuple[str, Compiled | Failure] | None:
        """The next that is done; None if none is within this time.

        Raises:
            CompilerTrouble, CompilerInterrupted: as :meth:`Compiler.compile
                <tapml_nb.compile.compiler.Compiler.compile>`.
        """
        try:
            result = self._results.get(timeout=seconds) if seconds else self._results.get_nowait()
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        self.made += 1
        return result

    def close(self) -> None:
        """End it; what goes on is broken off."""
        self._modules.put(None)
        unfinished = self.made < self.given  # else what the compiler is at is somebody else's
        while self._thread and self._thread.is_alive():
            try:
                self._thread.join(_PATIENCE)
                if unfinished and self._thread.is_alive():
                    self._compiler.interrupt()
            except BrokenOff:  # of a run that ends here, but not before its compiler
                continue

    def _work(self) -> None:
        try:
            while lot := self._lot():
                with contextlib.closing(self._compiler.compile(lot)) as results:
                    for result in results:
                        self._results.put(result)
        except BaseException as error:  # whoever takes the next result meets it
            self._results.put(error)

    def _lot(self) -> Mapping[str, Any]:
        """All that was given and not compiled yet, at least one; nothing at the end."""
        lot: dict[str, Any] = {}
        while not (lot and self._modules.empty()):
            module = self._modules.get()
            if module is None:
                return {}
            lot.update([module])
        return lot
