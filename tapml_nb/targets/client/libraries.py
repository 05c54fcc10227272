"""The libraries of kernels that were loaded on a target, which outlive it: the next process that
stands in its place gets them again when they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.sources import SOURCE_KINDS
from tapml_nb.owner import finalize
from tapml_nb.targets.client.connection import Connection
from tapml_nb.targets.client.residency import Footprints
from tapml_nb.targets.client.supervisor import CONTROL_SECONDS, SupervisedConnection
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.errors import (
    BeyondTarget,
    Rejected,
    TargetError,
    TargetEvent,
    TargetLost,
)

SLOWEST = 1e6
"""Bytes per second that a transfer may take, beside its deadline."""


class Library:
    """A library of kernels that outlives its file: temporary folders are swept."""

    def __init__(self, path: Path, kernels: Sequence[Kernel]) -> None:
        """Hold on to a file; FileNotFoundError if it is not there."""
        self.path = path
        self.kernels = list(kernels)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = finalize(self, os.close, self._file)

    def read(self) -> bytes:
        """Its content."""
        size = os.fstat(self._file).st_size
        return b"".join(os.pread(self._file, 1 << 24, start) for start in range(0, size, 1 << 24))

    def restore(self) -> None:
        """Put it back where it was, if it is gone; OSError if there is no room for it."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.write_bytes(self.read())


class LibraryConnection(SupervisedConnection):
    """A supervised connection with the libraries that were loaded over it.

    Attributes:
        bytes_sent: tensor and library bytes sent so far.
    """

    def __init__(
        self, target: Target, machine: str, on_event: Callable[[TargetEvent], None]
    ) -> None:
        """As :class:`SupervisedConnection`."""
        super().__init__(target, machine, on_event)
        self.bytes_sent = 0
        self._footprints = Footprints()
        self._libraries: dict[Path, Library] = {}
        self._library_of: dict[str, Library] = {}

    def close(self) -> None:
        """End the session, and the server if it is ours.  Idempotent; from any thread."""
        super().close()
        for library in list(self._libraries.values()):
            library.close()

    def load(self, library: Path, kernels: Sequence[Kernel]) -> None:
        """Load a library of kernels; after a restart it is loaded again when it is needed.

        Where the target fails for another reason than the library, this is done once more on a
        fresh connection.

        Raises:
            FileNotFoundError: if there is no such file.
            TargetError: if the target rejects it; with its reason.
            TargetLost: if loading kills it, or it cannot be done for another reason.
        """
        if library in self.connected().loaded:
            return
        known = self._libraries.get(library)
        loading = known or Library(library, kernels)
        try:
            self._load_with_patience(loading)
        except BaseException:
            if not known:
                loading.close()
            raise
        self._keep(loading)

    def know(self, library: Path, kernels: Sequence[Kernel]) -> None:
        """Take note of a library that another session has loaded (FileNotFoundError if it is not
        there); loaded when it is needed."""
        if library not in self._libraries:
            self._keep(Library(library, kernels))

    def _keep(self, library: Library) -> None:
        """Know a library from now on."""
        self._libraries[library.path] = library
        self._library_of.update((kernel.key, library) for kernel in library.kernels)
        self._footprints.know(library.kernels)

    def _reload(self, connection: Connection, kernel: str) -> None:
        """Load a kernel's library again if the target was lost since."""
        library = self._library_of.get(kernel)
        if library is not None and library.path not in connection.loaded:
            self._load(connection, library)

    def _load_with_patience(self, library: Library) -> None:
        """Load a library; once more where that failed for another reason than its code."""
        try:
            self._load(self.connected(), library)
            return
        except (BeyondTarget, Rejected):
            raise
        except TargetError:
            self.renew()
        except TargetLost as lost:  # a process that has run kernels may die of what they left
            if lost.reason in ("interrupted", "timeout"):
                raise
        try:
            self._load(self.connected(), library)
        except (BeyondTarget, Rejected):
            raise
        except TargetError as error:
            raise TargetLost(
                "machine",
                f"the machine at {self.address} cannot load {library.path.name}, twice: {error}; "
                "see to its disk and memory, and run again",
            ) from None

    def _load(self, connection: Connection, library: Library) -> None:
        name = str(library.path)
        if self.target.local:
            library.restore()
        else:
            content = library.read()
            name = f"{len(connection.loaded)}-{library.path.name}"
            self.run(
                CONTROL_SECONDS + len(content) / SLOWEST,
                lambda: connection.service.upload(name, content),
            )
            self.bytes_sent += len(content)
        # A driver that compiles for itself takes its time for each kernel.
        count = len(library.kernels) if self.target.kind in SOURCE_KINDS else 1
        self.run(CONTROL_SECONDS * count, lambda: connection.service.load(name, library.kernels))
        connection.loaded.add(library.path)
