"""Where a session finds kernels and makes new ones: the cache, and folders of the session's own.

What is made lies in such a folder on the cache's disk, so that it can be moved there when it is
whole; or, if that disk is full, among the temporary files.  These folders go with their owner.  One
that is killed leaves them behind; whoever uses the cache next sees by a lock, which the system
frees with the process, that nobody holds them any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from tapml_nb.compile.cache import Compiled, Failure, KernelCache, read_entry
from tapml_nb.compile.trouble import REMEDY, CompilerTrouble, in_words
from tapml_nb.owner import finalize

_LOCK = "lock"

_UNLOCKED_SECONDS = 600.0
"""Age from which a folder without a lock has no owner that is just making it."""


class KernelStore:
    """The cache, and this session's folders."""

    def __init__(self, cache: KernelCache) -> None:
        """Nothing is made before the first use; what sessions that were killed have left goes."""
        self.cache = cache
        self.spaces = (
            Workspace(cache.root, "session-"),
            Workspace(Path(tempfile.gettempdir()), "tapml-session-"),
        )
        self._uncached: dict[str, Path] = {}
        """Kernels that the cache could not take, in folders of this session's."""
        for space in self.spaces:
            space.sweep()

    def get(self, key: str) -> Compiled | Failure | None:
        """A kernel that is there already."""
        found = self.cache.get(key)
        if found is None and key in self._uncached:
            found = read_entry(self._uncached[key], key)
        return found

    def keep(self, key: str, folder: Path, found: Compiled | Failure) -> Compiled | Failure:
        """Move what was compiled into the cache, and return it as it is from now on; where that
        cannot be, it stays in its folder."""
        try:
            self.cache.commit(key, folder)
        except OSError as error:
            if not self._uncached:
                warnings.warn(
                    f"the kernel cache {self.cache.root} cannot be written any more "
                    f"({error.strerror}); this session goes on without it",
                    stacklevel=2,
                )
            self._uncached[key] = folder
            return found
        return self.cache.get(key) or found

    def discard(self, key: str) -> None:
        """Forget a kernel, so that it is compiled anew."""
        self._uncached.pop(key, None)
        self.cache.discard(key)

    def new_folder(
        self, name: str, elsewhere: bool, fill: Callable[[Path], None] = lambda folder: None
    ) -> Path:
        """A folder whose name begins so, filled, on the cache's disk; or where that fails, or
        ``elsewhere`` says so, among the temporary files.

        Raises:
            CompilerTrouble: if neither takes it.
        """
        troubles: list[str] = []
        for space in reversed(self.spaces) if elsewhere else self.spaces:
            folder = None
            try:
                folder = space.new(name)
                fill(folder)
                return folder
            except OSError as error:
                troubles.append(in_words(error, space.root))
                if folder:
                    shutil.rmtree(folder, ignore_errors=True)
        raise CompilerTrouble(f"no disk takes kernels ({'; '.join(troubles)}). {REMEDY}")

    def remove(self, folder: Path) -> None:
        """Remove a folder, unless a kernel lives there now."""
        if folder not in self._uncached.values():
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove this session's folders.  Idempotent."""
        for space in self.spaces:
            space.close()


class Workspace:
    """Makes folders in a folder of this process's own, which it makes in ``root``, by a name that
    begins with ``prefix``.  All methods may be called by any thread."""

    def __init__(self, root: Path, prefix: str) -> None:
        self.root, self._prefix = root, prefix
        self._folder: Path | None = None
        self._end: Callable[[], object] | None = None
        self._guard = threading.Lock()

    def new(self, name: str) -> Path:
        """A new empty folder, whose name begins so."""
        with self._guard:
            if self._folder is None or not (self._folder / _LOCK).exists():  # or somebody took it
                self._folder = self._make()
            return Path(tempfile.mkdtemp(prefix=name, dir=self._folder))

    def close(self) -> None:
        """Remove it with all that is in it; a later use makes another.  Idempotent."""
        with self._guard:
            self._folder = None
            if self._end:
                self._end()

    def sweep(self) -> None:
        """Remove those of others whose owners are gone."""
        with contextlib.suppress(OSError):
            for folder in self.root.glob(f"{self._prefix}*"):
                with contextlib.suppress(OSError):
                    if _ownerless(folder):
                        shutil.rmtree(folder, ignore_errors=True)

    def _make(self) -> Path:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self.root))
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if self._end:
            self._end()
        self._end = finalize(self, _remove, folder, lock)
        return folder


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _ownerless(folder: Path) -> bool:
    found = folder.lstat()
    if found.st_uid != os.geteuid():
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - found.st_mtime > _UNLOCKED_SECONDS
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system where nobody can tell
        return False
    finally:
        os.close(lock)
    return True
