"""Kernels by key: compiled, linked into libraries, and loaded on the target.

What cannot be loaded is no kernel.  One that is damaged wherever it is kept, or that the linker
does not take, is compiled anew, once.  Errors are those of :meth:`KernelTable.prepare
<tapml_nb.execute.kernels.KernelTable.prepare>`.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tapml_nb.compile.cache import Compiled, Failure
from tapml_nb.compile.compiler import Compiler, KernelsLost
from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.toolchain import ToolchainError
from tapml_nb.compile.trouble import CompilerInterrupted, CompilerTrouble, in_words
from tapml_nb.execute.source import Stopped
from tapml_nb.owner import Owner
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.errors import BeyondTarget, TargetError, TargetLost

_log = logging.getLogger(__name__)


class Loader:
    """Every kernel that a session has compiled, loaded on the first of its target sessions and
    known to the others."""

    def __init__(
        self,
        compiler: Compiler,
        sessions: Sequence[TargetSession],
        module_of: Callable[[str], Any | None],
    ) -> None:
        """``module_of`` gives what a kernel was compiled from, or None if nobody knows."""
        self._compiler = compiler
        self._sessions = sessions
        self._module_of = module_of
        self._known: dict[str, Compiled | Failure] = {}
        self._loaded: set[str] = set()
        self.renewed: set[str] = set()
        """Kernels that had to be compiled anew."""
        self._folders: list[Path] = []
        self._owner = Owner()

    def close(self) -> None:
        """Remove the libraries."""
        if self._owner.elsewhere:
            return
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def __getitem__(self, key: str) -> Compiled | Failure:
        """A kernel, or why it is none; :meth:`put` must have seen it."""
        return self._known[key]

    def known(self, key: str) -> Compiled | Failure | None:
        """The same; None if it was not compiled yet."""
        return self._known.get(key)

    def put(self, key: str, result: Compiled | Failure) -> None:
        """Take over what was compiled, to be loaded later."""
        self._known[key] = result

    def is_loaded(self, key: str) -> bool:
        """Whether a kernel was loaded."""
        return key in self._loaded

    def start(self) -> None:
        """Bring the target up if it is not; Stopped if that is broken off."""
        try:
            with self._unless_gone():
                self._sessions[0].start()
        except TargetLost as lost:
            if lost.reason == "interrupted":
                raise Stopped from None
            raise

    def load(self) -> None:
        """Link what is new into one library and load it; if that fails, one by one."""
        made = [key for key, kernel in self._known.items() if isinstance(kernel, Compiled)]
        fresh = [key for key in made if key not in self._loaded]
        if not fresh:
            return
        for attempt in (1, 2):
            try:
                self.start()  # a target that is none is no kernel's fault
                if self._refusal(fresh):
                    for key in fresh:
                        if refusal := self._refusal([key]):
                            self._known[key] = refusal
                self._loaded.update(fresh)
                return
            except TargetLost as lost:
                if lost.reason == "interrupted":
                    raise Stopped from None
                if lost.reason != "killed" or attempt == 2:
                    raise

    def _refusal(self, keys: Sequence[str]) -> Failure | None:
        """Load kernels as one library; returns why that cannot be, if it is of their doing."""
        try:
            self._load_library(keys)
        except BeyondTarget as limit:
            return Failure("unsupported", f"the target cannot run it: {limit}")
        except (TargetError, ToolchainError) as error:
            return Failure("error", f"cannot be loaded on the target: {error}")
        except TargetLost as lost:
            if lost.reason not in ("crash", "timeout"):
                raise
            return Failure("error", f"cannot be loaded on the target: {lost}")
        return None

    def _load_library(self, keys: Sequence[str]) -> None:
        running = [kernel.kernel.key for kernel in self._compiled(keys) if kernel.kernel.launches]
        if not running:
            return
        for again in (False, True):
            try:
                for file, inside in self._link(running):
                    with self._unless_gone():
                        self._sessions[0].load(file, inside)
                    for other in self._sessions[1:]:
                        other.know(file, inside)
                return
            except FileNotFoundError as error:  # somebody has swept in between
                if again:
                    raise CompilerTrouble(
                        f"{in_words(error)} is removed as soon as it is made"
                    ) from None

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """Where there are several devices, they go on without the first if it is gone for good."""
        try:
            yield
        except TargetLost as lost:
            if len(self._sessions) == 1 or lost.reason not in ("connection", "machine"):
                raise

    def _link(self, keys: Sequence[str]) -> list[tuple[Path, list[Kernel]]]:
        """Link kernels, where there is room; one that is damaged, or that the linker does not take,
        is compiled anew first."""
        elsewhere = False
        while True:
            try:
                with interruptible():
                    # a folder that nobody else sweeps, unless there is no room
                    self._folders.append(self._compiler.library_folder(elsewhere=elsewhere))
                    library = self._folders[-1] / f"kernels-{len(self._folders)}.so"
                    return self._compiler.link(self._compiled(keys), library)
            except KernelsLost as lost:
                self._renew(lost.keys)
            except ToolchainError:
                if len(keys) > 1 or keys[0] in self.renewed:
                    raise
                self._renew(keys)
            except CompilerTrouble:
                if elsewhere:
                    raise
                elsewhere = True

    def _compiled(self, keys: Sequence[str]) -> list[Compiled]:
        """Those among kernels that there are: fewer, perhaps, once they were compiled anew."""
        known = [self._known[key] for key in keys]
        return [kernel for kernel in known if isinstance(kernel, Compiled)]

    def _renew(self, keys: Sequence[str]) -> None:
        """Compile kernels anew, unless one was already, or nobody knows any more of what."""
        modules: dict[str, Any] = {}
        for key in keys:
            modules[key] = None if key in self.renewed else self._module_of(key)
            if modules[key] is None:
                raise CompilerTrouble(f"kernel {key[:12]} is damaged wherever it is kept")
            self._compiler.discard(key)
        _log.info("compiling anew: %s", ", ".join(keys))
        self.renewed.update(keys)
        with interruptible():
            self._known.update(self._compiler.compile(modules))


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """What is broken off in the compiler stops the run."""
    try:
        yield
    except CompilerInterrupted:
        raise Stopped from None
