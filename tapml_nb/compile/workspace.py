"""A folder of one session's own, for what is no kernel of the cache yet and for what is linked.

It goes with its owner.  An owner that is killed leaves it behind; whoever uses the cache next
sees by a lock, which the system frees with the process, that nobody holds it any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tapml_nb.owner import finalize

_LOCK = "lock"

_UNLOCKED_SECONDS = 600.0
"""Age from which a folder without a lock has no owner that is just making it."""


class Workspace:
    """Makes folders in a folder of this process's own.  All methods may be called by any thread.

    Attributes:
        root: where that is made.
    """

    def __init__(self, root: Path, prefix: str) -> None:
        """Nothing is made before the first use.

        Args:
            root: where to make it; made, too, if it is gone.
            prefix: what its name begins with.
        """
        self.root, self._prefix = root, prefix
        self._folder: Path | None = None
        self._end: Callable[[], object] | None = None
        self._guard = threading.Lock()

    def new(self, name: str) -> Path:
        """A new empty folder.

        Args:
            name: what its name begins with.

        Raises:
            OSError: if none can be made.
        """
        with self._guard:
            if self._folder is None or not (self._folder / _LOCK).exists():  # or somebody took it
                self._make()
            assert self._folder
            return Path(tempfile.mkdtemp(prefix=name, dir=self._folder))

    def close(self) -> None:
        """Remove it with all that is in it; a later use makes another.  Idempotent."""
        with self._guard:
            self._folder = None
            if self._end:
                self._end()

    def _make(self) -> None:
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
        self._folder = folder
        self._end = finalize(self, _remove, folder, lock)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def sweep(root: Path, prefix: str) -> None:
    """Remove workspaces whose owners are gone."""
    with contextlib.suppress(OSError):
        for folder in root.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):
                if _ownerless(folder):
                    shutil.rmtree(folder, ignore_errors=True)


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
