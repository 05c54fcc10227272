"""The host's part of making a library: which compiler there is, compiling C, linking objects."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class ToolchainError(ValueError):
    """Something that a target needs on this machine is missing; the message says what to do."""


def machine_of(target: Any) -> str:
    """The machine that a CPU target's code is for, as ``platform.machine()`` calls it there."""
    triple = str(target.attrs.get("mtriple", ""))
    return triple.partition("-")[0] or platform.machine()


def c_compiler() -> list[str]:
    """The command of the C compiler that compiles kernels for ``target="c"``.

    Raises:
        ToolchainError: if there is none.
    """
    if path := _system_compiler():
        return [path]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise ToolchainError(
        "target: kernels need a C compiler (cc, gcc or clang) on PATH and none was found; install "
        "gcc or clang, or the Python package ziglang"
    )


def _system_compiler() -> str | None:
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def bare_linker(machine: str) -> list[str]:
    """The command of a linker for another machine, without a toolchain of that machine's own.

    Raises:
        ToolchainError: if there is none.
    """
    for name in (f"{machine}-linux-gnu-ld", "ld.lld"):
        if path := shutil.which(name):
            return [path]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "ld.lld"]
    raise ToolchainError(
        f"target: linking for {machine} needs a linker and none was found; install "
        f"{machine}-linux-gnu-ld (Debian: binutils-{machine}-linux-gnu), lld, or the Python "
        f"package ziglang"
    )


def check_linker(target: Any) -> str:
    """The command that links a CPU target's kernels, for people.

    Raises:
        ToolchainError: if there is none.
    """
    machine = machine_of(target)
    return " ".join(c_compiler() if machine == platform.machine() else bare_linker(machine))


def link_shared(objects: Sequence[Path], library: Path, machine: str) -> None:
    """Link object files to a shared library whose symbols all resolve when it is loaded.

    Kernels call nothing but the C library, which the process that loads them has; so for another
    machine a bare linker does.  ``-z now``: a missing symbol fails at load, with its name, and not
    in the middle of a call.  ``-z muldefs``: every object of TVM's C generator defines the same
    library context; kernels' own names are unique.  The objects are listed in a response file: a
    command line has no room for those of some ten thousand kernels.

    Raises:
        ToolchainError: if there is no linker, or it fails; with its message.
    """
    compiler = _system_compiler() if machine == platform.machine() else None
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".objects") as listed:
        listed.writelines(f"{_quoted(path)}\n" for path in objects)
        listed.flush()
        files = ["-o", str(library), f"@{listed.name}"]
        if compiler:
            _run([compiler, "-shared", "-Wl,-z,now,-z,muldefs", *files, "-lm"])
        else:
            _run([*bare_linker(machine), "-shared", "-z", "now", "-z", "muldefs", *files])


def _quoted(path: Path) -> str:
    """A path as one argument in a response file; gcc, clang, GNU's linker and lld agree on it."""
    escaped = str(path).replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def compile_c(source: Path, output: Path) -> None:
    """Compile one C file to a position-independent object file.

    Raises:
        ToolchainError: if there is no compiler, or it rejects the source; with its message.
    """
    headers = [f"-I{path}" for path in _tvm_headers()]
    command = [*c_compiler(), "-O2", "-fPIC", "-w", *headers]
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
