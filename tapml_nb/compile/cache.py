"""The kernel cache on disk: one folder per kernel, named by its key.

An entry is complete or absent: it is written aside, sealed with the SHA-256 of its files and its
key, and renamed.  What does not match its seal, does not parse, or is another's is no entry: it is
compiled again.  A failure that the compiler reported is an entry too (``error.json``), so a kernel
that cannot be compiled is not tried again; one that crashed or hung the compiler is not kept, and
trouble of the machine never.  The code of a kernel, made on demand, is a file beside its folder
(``<key>.code.json``): there may be one before there is a kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tapml_nb import tensorfile
from tapml_nb.compile.kernel import Kernel, KernelCode

KERNEL, OBJECT, LIBRARY, SOURCES = "kernel.json", "kernel.o", "kernel.so", "sources.json"
CONSTANTS, ERROR, UNIT, SIZES = "constants.safetensors", "error.json", "unit.json", "sizes.json"
CODE, FUSION, TEXTS, SEAL = "code.json", "fusion.json", "texts.json", "seal.json"

_log = logging.getLogger(__name__)

_FORMAT = 1
"""Version of an entry; one of another is compiled again."""


@dataclass(frozen=True)
class Failure:
    """Why a kernel does not exist.

    ``reason`` is ``"unsupported"`` (no rule), ``"error"`` (the compiler said no), ``"crash"`` or
    ``"timeout"`` (of the compiler itself); ``message`` is the compiler's, shortened; ``is_open``
    tells whether the unit leaves sizes open, so that one for certain sizes may yet be compiled.
    """

    reason: Literal["unsupported", "error", "crash", "timeout"]
    message: str
    is_open: bool = False


@dataclass(frozen=True)
class Compiled:
    """A kernel on disk: its plan, and its code unless it launches nothing."""

    kernel: Kernel
    folder: Path
    code: Path | None = None
    """An object file (CPUs), a library (CUDA), or a
    :class:`~tapml_nb.compile.sources.SourcePackage` (OpenCL, WebGPU)."""
    constants: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    """By digest."""
    numbers: tuple[int, ...] = ()
    """Sizes that come with each call, where the plan is one for certain shapes."""

    def at(self, shapes: Sequence[Sequence[int]], numbers: Sequence[int]) -> Compiled:
        """The same kernel for inputs of these shapes.

        Raises:
            SizeMisfit: if it is for others.
        """
        if not self.kernel.is_open:
            return self
        return replace(self, kernel=self.kernel.at(shapes, numbers), numbers=tuple(numbers))


class KernelCache:
    """Kernels by key in a folder shared by all sessions of a user, and of no one else."""

    def __init__(self, root: Path | None = None) -> None:
        """Use ``root``, or ``$TAPML_CACHE``, or the user's cache folder (XDG).

        Raises:
            ValueError: if the folder cannot be written, or others may write to it: what is in it
                is loaded and run.
        """
        self.root = (root or _default_root()).absolute()
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_others()
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise ValueError(
                f"the kernel cache {self.root} cannot be written ({error.strerror}); "
                f"set TAPML_CACHE to a folder that can"
            ) from None

    def _refuse_others(self) -> None:
        found = self.root.stat()
        if found.st_uid != os.geteuid():
            raise ValueError(
                f"the kernel cache {self.root} belongs to another user (uid {found.st_uid}), whose "
                f"kernels would be run as yours; set TAPML_CACHE to a folder of your own"
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(
                f"the kernel cache {self.root} can be written by others (mode "
                f"{stat.S_IMODE(found.st_mode):04o}), whose kernels would be run as yours; remove "
                f"it, or set TAPML_CACHE to a folder that is yours alone (chmod 700)"
            )
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            with contextlib.suppress(OSError):
                self.root.chmod(0o700)

    def folder(self, key: str) -> Path:
        """Where the kernel of this key is or would be."""
        return self.root / key[:2] / key

    def get(self, key: str) -> Compiled | Failure | None:
        """What is known of a kernel; None if it was never compiled, or nothing whole is left."""
        folder = self.folder(key)
        if not os.path.lexists(folder):
            _log.debug("the cache has no kernel %s", key)
            return None
        found = read_entry(folder, key)
        if found is None:
            self.discard(key)
        return found

    def discard(self, key: str) -> None:
        """Remove an entry, as far as that can be done."""
        folder = self.folder(key)
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.lexists(folder):  # no folder at all
            with contextlib.suppress(OSError):
                folder.unlink()

    def code(self, key: str) -> KernelCode | None:
        """The code of a kernel; None if nobody asked for it yet."""
        path = self._code_file(key)
        try:
            kept = json.loads(path.read_text())
            text = json.dumps(kept["code"])
            if (kept["key"], kept["sha256"]) == (key, _sha256(text.encode())):
                return KernelCode(**kept["code"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            pass
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def keep_code(self, key: str, code: KernelCode, scratch: Path) -> None:
        """Put code where :meth:`code` finds it, if the disk takes it; written in ``scratch``."""
        text = json.dumps(asdict(code))
        kept = {"key": key, "sha256": _sha256(text.encode()), "code": json.loads(text)}
        target, aside = self._code_file(key), scratch / f"kept-{CODE}"
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps(kept))
            target.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(aside, target)

    def _code_file(self, key: str) -> Path:
        return self.folder(key).with_name(f"{key}.{CODE}")

    def commit(self, key: str, scratch: Path) -> None:
        """Make a filled and sealed folder the entry of a key; an equal one that came first stays.

        Raises:
            OSError: if it cannot be moved there; ``scratch`` stays as it is.
        """
        target = self.folder(key)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.rename(scratch, target)
        except OSError:
            if not os.path.lexists(target):
                raise
            if read_entry(target, key) is None:
                self.discard(key)
                os.rename(scratch, target)
            else:
                shutil.rmtree(scratch, ignore_errors=True)


def seal(folder: Path, key: str) -> None:
    """Complete an entry's folder: from now on it is one, as long as nothing in it changes."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    digests = {path.name: _sha256(path.read_bytes()) for path in files}
    write_json(folder / SEAL, {"format": _FORMAT, "key": key, "files": digests})


def read_entry(folder: Path, key: str) -> Compiled | Failure | None:
    """What an entry's folder holds; None if it is not, to the last bit, what was sealed for the
    key by this user."""
    try:
        return _read(folder, key)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        _log.info("%s is no entry for kernel %s: %s", folder, key, error)
        return None


def _read(folder: Path, key: str) -> Compiled | Failure:
    if folder.lstat().st_uid != os.geteuid():
        raise ValueError("another user's")
    sealed = json.loads((folder / SEAL).read_text())
    if (sealed["format"], sealed["key"]) != (_FORMAT, key):
        raise ValueError("another kernel's")
    files: dict[str, bytes] = {}
    for name, digest in sealed["files"].items():
        with (folder / name).open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                raise ValueError("another user's")
            files[name] = file.read()
        if _sha256(files[name]) != digest:
            raise ValueError("changed")
    if ERROR in files:
        return Failure(**json.loads(files[ERROR]))
    kernel = Kernel.from_json(json.loads(files[KERNEL]))
    code = next((folder / name for name in (OBJECT, LIBRARY, SOURCES) if name in files), None)
    if kernel.launches and code is None:
        raise ValueError("incomplete")
    constants = tensorfile.parse(files[CONSTANTS]) if CONSTANTS in files else {}
    return Compiled(kernel, folder, code if kernel.launches else None, constants)


def write_json(path: Path, content: Any) -> None:
    """:func:`write_file` of plain data."""
    write_file(path, json.dumps(content).encode())


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is complete whenever it is there: its writer may be killed any time.  Its
    path is in an ``OSError``, where a full disk does not tell it."""
    aside = path.with_name(f".{path.name}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _default_root() -> Path:
    if "TAPML_CACHE" in os.environ:
        return Path(os.environ["TAPML_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tapml_nb" / "kernels"
