"""Of what a framework says at length the line that tells: in a stack trace, or an error."""

from __future__ import annotations

import linecache
import re
from importlib.util import find_spec
from pathlib import Path

from tapml_nb.graph import SourceLine

_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in ', re.MULTILINE)


def user_line(trace: str) -> SourceLine | None:
    """The innermost frame outside PyTorch itself, with the line's text."""
    frames = [(m["file"], int(m["line"])) for m in _FRAME.finditer(trace)]
    for file, line in reversed(frames):
        if not file.startswith((_TORCH, "<")) or file.startswith("<ipython"):
            return SourceLine(file, line, linecache.getline(file, line).strip())
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, at most 300 characters."""
    return _line(error, 0)


def last_line(error: BaseException) -> str:
    """The last line of an error that says something: TVM puts its message below its trace."""
    return _line(error, -1)


def _line(error: BaseException, which: int) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[which] if lines else type(error).__name__)[:300]


def _folder(package: str) -> str:
    spec = find_spec(package)
    return str(Path(spec.origin).parent) if spec and spec.origin else "\0"


_TORCH = _folder("torch")
