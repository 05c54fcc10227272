"""Where a session finds kernels and makes new ones: the cache, and folders of the session's own.

What is made lies in such a folder on the cache's disk, so that it can be moved there when it is
whole; or, if that disk is full, among the temporary files.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from tapml_nb.compile.cache import Compiled, Failure, KernelCache, read_entry
from tapml_nb.compile.trouble import REMEDY, CompilerTrouble, in_words


class KernelStore:
    """The cache, and this session's folders."""

    def __init__(self, cache: KernelCache) -> None:
        self.cache, self._spaces = cache, cache.workspaces()
        self._uncached: dict[str, Path] = {}
        """Kernels that the cache could not take, in folders of this session's."""

    def get(self, key: str) -> Compiled | Failure | None:
        """A kernel that is there already."""
        found = self.cache.get(key)
        if found is None and key in self._uncached:
            found = read_entry(self._uncached[key], key)
        return found

    def keep(self, key: str, folder: Path, found: Compiled | Failure) -> Compiled | Failure:
        """Move what was compiled into the cache; where that cannot be, it stays in its folder.

        Returns:
            The same as it is from now on.
        """
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
        for space in reversed(self._spaces) if elsewhere else self._spaces:
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
        for space in self._spaces:
            space.close()
