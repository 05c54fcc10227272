"""The kernel cache on disk: one folder per kernel, named by its key.

An entry is complete or absent: it is written aside and renamed.  A failure that the compiler
reported is an entry too (``error.json``), so a kernel that cannot be compiled is not tried
again; one that crashed or hung the compiler is not kept.  The code of a kernel, made on demand,
is a file beside its folder (``<key>.code.json``): there may be one before there is a kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from tapml_nb import tensorfile
from tapml_nb.compile.code import KernelCode, read_code
from tapml_nb.compile.kernel import Kernel

KERNEL, OBJECT, LIBRARY, SOURCES, CONSTANTS, ERROR, UNIT, CODE, FUSION = (
    "kernel.json",
    "kernel.o",
    "kernel.so",
    "sources.json",
    "constants.safetensors",
    "error.json",
    "unit.json",
    "code.json",
    "fusion.json",
)


@dataclass(frozen=True)
class Failure:
    """Why a kernel does not exist.

    ``reason`` is ``"unsupported"`` (no rule), ``"error"`` (the compiler said no), ``"crash"`` or
    ``"timeout"`` (of the compiler itself); ``message`` is the compiler's, shortened.
    """

    reason: Literal["unsupported", "error", "crash", "timeout"]
    message: str


@dataclass(frozen=True)
class Compiled:
    """A kernel on disk: its plan, and its code unless it launches nothing.

    ``numbers`` are sizes that come with each call, where the plan is one for certain shapes.
    """

    kernel: Kernel
    folder: Path
    numbers: tuple[int, ...] = ()

    def at(self, shapes: Sequence[Sequence[int]], numbers: Sequence[int]) -> Compiled:
        """The same kernel for inputs of these shapes.

        Raises:
            SizeMisfit: if it is for others.
        """
        if not self.kernel.is_open:
            return self
        return Compiled(self.kernel.at(shapes, numbers), self.folder, tuple(numbers))

    @property
    def code(self) -> Path | None:
        """The kernel's functions, None when nothing is launched: an object file (CPUs), a library
        (CUDA), or a :class:`~tapml_nb.compile.sources.SourcePackage` (OpenCL, WebGPU)."""
        if not self.kernel.launches:
            return None
        return next(p for name in (OBJECT, LIBRARY, SOURCES) if (p := self.folder / name).exists())

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """The constants by digest."""
        path = self.folder / CONSTANTS
        return tensorfile.parse(path.read_bytes()) if path.exists() else {}


class KernelCache:
    """Kernels by key in a folder shared by all sessions of a user."""

    def __init__(self, root: Path | None = None) -> None:
        """Use ``root``, or ``$TAPML_CACHE``, or the user's cache folder.

        Raises:
            ValueError: if the folder cannot be written.
        """
        self.root = root or default_root()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise ValueError(
                f"the kernel cache {self.root} cannot be written ({error.strerror}); "
                f"set TAPML_CACHE to a folder that can"
            ) from None

    def folder(self, key: str) -> Path:
        """Where the kernel of this key is or would be."""
        return self.root / key[:2] / key

    def get(self, key: str) -> Compiled | Failure | None:
        """What is known of a kernel; None if it was never compiled."""
        folder = self.folder(key)
        try:
            return Compiled(Kernel.from_json(json.loads((folder / KERNEL).read_text())), folder)
        except FileNotFoundError:
            pass
        try:
            return Failure(**json.loads((folder / ERROR).read_text()))
        except FileNotFoundError:
            return None

    def code(self, key: str) -> KernelCode | None:
        """The code of a kernel; None if nobody asked for it yet."""
        return read_code(self._code_file(key))

    def keep_code(self, key: str, scratch: Path) -> None:
        """Move the code out of a filled folder to where :meth:`code` finds it."""
        target = self._code_file(key)
        target.parent.mkdir(exist_ok=True)
        os.replace(scratch / CODE, target)

    def _code_file(self, key: str) -> Path:
        return self.folder(key).with_name(f"{key}.{CODE}")

    def scratch(self) -> Path:
        """A new folder beside the entries, to be filled and then given to :meth:`commit`."""
        return Path(tempfile.mkdtemp(prefix="tmp-", dir=self.root))

    def commit(self, key: str, scratch: Path) -> None:
        """Make a filled folder the entry of a key; a concurrent equal one wins silently."""
        target = self.folder(key)
        target.parent.mkdir(exist_ok=True)
        try:
            os.replace(scratch, target)
        except OSError:
            shutil.rmtree(scratch, ignore_errors=True)
            if not target.exists():
                raise


def write_failure(folder: Path, failure: Failure) -> None:
    """Record a failure in an entry's folder."""
    (folder / ERROR).write_text(json.dumps(asdict(failure)))


def default_root() -> Path:
    """``$TAPML_CACHE``, else ``tapml_nb/kernels`` in the user's cache folder (XDG)."""
    if "TAPML_CACHE" in os.environ:
        return Path(os.environ["TAPML_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tapml_nb" / "kernels"
