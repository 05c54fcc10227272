"""The user's line in a stack trace that a framework recorded as text."""

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


def _folder(package: str) -> str:
    spec = find_spec(package)
    return str(Path(spec.origin).parent) if spec and spec.origin else "\0"


_TORCH = _folder("torch")
