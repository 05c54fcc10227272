"""The host's part of making a library: which compiler there is, compiling C, linking objects."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


class ToolchainError(ValueError):
    """Something that a target needs on this machine is missing; the message says what to do."""


def c_compiler() -> str:
    """The path of the C compiler that links kernels (and compiles them for ``target="c"``).

    Raises:
        ToolchainError: if there is none.
    """
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return path
    raise ToolchainError(
        "target: linking kernels needs a C compiler (cc, gcc or clang) on PATH and none was "
        "found; install gcc or clang"
    )


def link_shared(objects: Sequence[Path], library: Path) -> None:
    """Link object files to a shared library whose symbols all resolve when it is loaded.

    ``-z now``: a missing symbol fails at load, with its name, and not in the middle of a call.
    ``-z muldefs``: every object of TVM's C generator defines the same library context; kernels'
    own names are unique.

    Raises:
        ToolchainError: if there is no linker, or it fails; with its message.
    """
    _run(
        [
            c_compiler(),
            "-shared",
            "-Wl,-z,now,-z,muldefs",
            "-o",
            str(library),
            *map(str, objects),
            "-lm",
        ]
    )


def compile_c(source: Path, output: Path) -> None:
    """Compile one C file to a position-independent object file.

    Raises:
        ToolchainError: if there is no compiler, or it rejects the source; with its message.
    """
    headers = [f"-I{path}" for path in _tvm_headers()]
    command = [c_compiler(), "-O2", "-fPIC", "-w", *headers]
    # In the source's folder, so that messages name the file and not where it happens to lie.
    _run([*command, "-c", source.name, "-o", str(output.resolve())], source.parent)


def _tvm_headers() -> list[str]:
    import tvm
    from tvm_ffi import libinfo

    own = Path(tvm.__file__).parent / "include"
    return [str(own), libinfo.find_include_path(), libinfo.find_dlpack_include_path()]


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        message = done.stderr.strip() or f"exit status {done.returncode}"
        raise ToolchainError(f"{Path(command[0]).name} failed: {message[-2000:]}")
