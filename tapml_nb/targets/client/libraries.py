"""Libraries of kernels that a session has loaded, for as long as it may need them again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tapml_nb.compile.kernel import Kernel
from tapml_nb.owner import finalize


class Library:
    """A library of kernels that outlives its file: temporary folders are swept."""

    def __init__(self, path: Path, kernels: Sequence[Kernel]) -> None:
        """Hold on to a file.

        Raises:
            FileNotFoundError: if it is not there.
        """
        self.path = path
        self.kernels = list(kernels)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = finalize(self, os.close, self._file)

    def read(self) -> bytes:
        """Its content."""
        size = os.fstat(self._file).st_size
        return b"".join(os.pread(self._file, 1 << 24, start) for start in range(0, size, 1 << 24))

    def restore(self) -> None:
        """Put it back where it was, if it is gone.

        Raises:
            OSError: if there is no room for it.
        """
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.write_bytes(self.read())


class Libraries:
    """All of a session's, by their files and by the kernels in them."""

    def __init__(self) -> None:
        self._by_path: dict[Path, Library] = {}
        self._by_kernel: dict[str, Library] = {}

    def get(self, path: Path) -> Library | None:
        """The library of a file, if it is known."""
        return self._by_path.get(path)

    def of(self, kernel: str) -> Library | None:
        """The library that has a kernel."""
        return self._by_kernel.get(kernel)

    def keep(self, library: Library) -> None:
        """Know a library from now on."""
        self._by_path[library.path] = library
        self._by_kernel.update((kernel.key, library) for kernel in library.kernels)

    def close(self) -> None:
        """Let go of the files."""
        for library in self._by_path.values():
            library.close()
