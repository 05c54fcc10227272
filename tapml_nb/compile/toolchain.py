"""The host's part of making a library: which compiler there is, compiling C, linking objects."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapml_nb.compile.process import CHECK_SECONDS, Stalled, Watch, clear_up, end
from tapml_nb.compile.trouble import CompilerInterrupted, CompilerTrouble, in_words, trouble_in

_SECONDS = 600.0
"""Deadline of a tool; one that links ten thousand objects takes a few."""


class ToolchainError(ValueError):
    """A tool of this machine rejects what it was given: it says so of the code, or of an object."""


class ToolMissing(ToolchainError):
    """Something that a target needs on this machine is missing; the message says what to do."""


Run = Callable[[list[str], Path], None]
"""Runs a command in a folder; raises as :func:`run_tool`."""


def machine_of(target: Any) -> str:
    """The machine that a CPU target's code is for, as ``platform.machine()`` calls it there."""
    triple = str(target.attrs.get("mtriple", ""))
    return triple.partition("-")[0] or platform.machine()


def c_compiler() -> list[str]:
    """The command of the C compiler for kernels of ``target="c"``; or ``ToolMissing``."""
    if path := _system_compiler():
        return [path]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise ToolMissing(
        "target: kernels need a C compiler (cc, gcc or clang) on PATH and none was found; install "
        "gcc or clang, or the Python package ziglang"
    )


def _system_compiler() -> str | None:
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def bare_linker(machine: str) -> list[str]:
    """The command of a linker for another machine, without a toolchain of that machine's own; or
    ``ToolMissing``."""
    for name in (f"{machine}-linux-gnu-ld", "ld.lld"):
        if path := shutil.which(name):
            return [path]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "ld.lld"]
    raise ToolMissing(
        f"target: linking for {machine} needs a linker and none was found; install "
        f"{machine}-linux-gnu-ld (Debian: binutils-{machine}-linux-gnu), lld, or the Python "
        f"package ziglang"
    )


def check_linker(target: Any) -> str:
    """The command that links a CPU target's kernels, for people; or ``ToolMissing``."""
    machine = machine_of(target)
    return " ".join(c_compiler() if machine == platform.machine() else bare_linker(machine))


def link_shared(
    objects: Sequence[Path], library: Path, machine: str, run: Run | None = None
) -> None:
    """Link object files to a shared library whose symbols all resolve when it is loaded.

    Kernels call nothing but the C library, which the process that loads them has; so for another
    machine a bare linker does.  ``-z now``: a missing symbol fails at load, with its name, and not
    in the middle of a call.  ``-z muldefs``: every object of TVM's C generator defines the same
    library context; kernels' own names are unique.  The objects are listed in a response file: a
    command line has no room for those of some ten thousand kernels.  ``machine`` is what they are
    for, by ``platform.machine()`` there; ``run`` runs the linker.

    Raises:
        ToolMissing: if there is no linker.
        ToolchainError: if it rejects the objects; with its message.
        CompilerTrouble: if it cannot work, or has no room for the library.
    """
    run, folder = run or run_tool, library.absolute().parent
    compiler = _system_compiler() if machine == platform.machine() else None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", suffix=".objects", dir=folder
        ) as listed:
            listed.writelines(f"{_quoted(path.absolute())}\n" for path in objects)
            listed.flush()
            files = ["-o", str(library.absolute()), f"@{listed.name}"]
            if compiler:
                run([compiler, "-shared", "-Wl,-z,now,-z,muldefs", *files, "-lm"], folder)
            else:
                run(
                    [*bare_linker(machine), "-shared", "-z", "now", "-z", "muldefs", *files], folder
                )
    except OSError as error:
        raise CompilerTrouble(f"kernels cannot be linked: {in_words(error, library)}") from None
    except ToolMissing:
        raise
    except ToolchainError as error:
        if any(str(path) in str(error) for path in objects):
            raise
        raise CompilerTrouble(str(error)) from None  # of something else than what it was given


def _quoted(path: Path) -> str:
    """A path as one argument in a response file; gcc, clang, GNU's linker and lld agree on it."""
    escaped = str(path).replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def compile_c(source: Path, output: Path) -> None:
    """Compile one C file to a position-independent object file; raises as :func:`run_tool`, and
    ``ToolMissing`` if there is no compiler."""
    import tvm
    from tvm_ffi import libinfo

    own = Path(tvm.__file__).parent / "include"
    paths = (own, libinfo.find_include_path(), libinfo.find_dlpack_include_path())
    command = [*c_compiler(), "-O2", "-fPIC", "-w", *(f"-I{path}" for path in paths)]
    # In the source's folder, so that messages name the file and not where it happens to lie.
    run_tool([*command, "-c", source.name, "-o", str(output.resolve())], source.parent)


# -- running them ----------------------------------------------------------------------------------

_COMPLAINT = re.compile(
    r"^\S[^\n]*?:\d+: (error|internal compiler error)\b|^\S*ld\S*: ", re.IGNORECASE | re.MULTILINE
)
"""What a compiler says of a line of code, an assembler of its, or a linker of an object."""


def run_tool(command: list[str], folder: Path) -> None:
    """Run a tool to its end, in this process's group; its temporary files are in the folder, too,
    where room is needed anyway.

    Raises:
        ToolchainError: if it rejects what it was given.
        CompilerTrouble: if it was killed, or the machine did not let it work.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=folder,
            env=_environment(folder),
        )
    except OSError as error:
        raise CompilerTrouble(f"{command[0]} cannot be run: {in_words(error)}") from None
    _check(command, done.returncode, done.stderr)


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(folder.absolute())}


def _check(command: list[str], status: int, output: str) -> None:
    if not status:
        return
    name = Path(command[0]).name
    if status < 0:
        raise CompilerTrouble(f"{name} was killed ({signal.Signals(-status).name})")
    message = f"{name} failed: {output.strip()[-2000:] or f'exit status {status}'}"
    if trouble_in(output) or not _COMPLAINT.search(output):
        raise CompilerTrouble(message)
    raise ToolchainError(message)


class Tool:
    """Runs tools one at a time, each in a process group that another thread may end."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._interrupted = False

    def run(self, command: list[str], folder: Path) -> None:
        """Run one to its end, as :func:`run_tool`, or raise ``CompilerInterrupted`` if
        :meth:`interrupt` ended it."""
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise CompilerTrouble(f"{command[0]} cannot be run: {in_words(error)}") from None
        with self._guard:
            self._process, self._interrupted = process, False
        try:
            output = self._output(command, process)
        finally:
            with self._guard:
                self._process = None
            clear_up(process)
        if self._interrupted:
            raise CompilerInterrupted
        _check(command, process.returncode, output)

    def interrupt(self) -> None:
        """End the one that runs, if any.  From any thread."""
        with self._guard:
            if self._process:
                self._interrupted = True
                end(self._process)

    def _output(self, command: list[str], process: subprocess.Popen[str]) -> str:
        """What it wrote on its standard error until it ended."""
        watch, deadline = Watch(process.pid), time.monotonic() + _SECONDS
        while True:
            try:
                return process.communicate(timeout=CHECK_SECONDS)[1]
            except subprocess.TimeoutExpired:
                if self._interrupted:
                    raise CompilerInterrupted from None
                name = Path(command[0]).name
                if time.monotonic() > deadline:
                    raise CompilerTrouble(f"{name} did not end in {_SECONDS:g} s") from None
                try:
                    watch.check()
                except Stalled as stalled:
                    raise CompilerTrouble(f"{name}: {stalled}") from None
