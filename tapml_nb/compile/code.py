"""What a unit looks like on its way to a kernel: Relax, TIR, generated source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

TEXT_LIMIT = 200_000
"""Characters of each text that are kept; an unrolled kernel's LLVM IR can be many megabytes."""


@dataclass(frozen=True)
class KernelCode:
    """One operator's code, as far as compilation came.

    Attributes:
        relax: the unit as the front end made it; empty for overrides.
        tir: its PrimFuncs after the target's pipeline.
        source: what code generation made of them (for NumPy overrides, the Python function).
        language: of ``source``: the target's kind (``"llvm"``: LLVM IR; ``"c"``), or ``"python"``.
        message: in one line, why a text is empty or the kernel does not exist; else empty.
    """

    relax: str
    tir: str
    source: str
    language: str
    message: str


@dataclass(frozen=True)
class UnitTexts:
    """A unit as text.

    Attributes:
        json: TVM's own.
        script: TVMScript; empty if TVM would not read it back as the same.
    """

    json: str
    script: str


def shortened(text: str) -> str:
    """The text in at most ``TEXT_LIMIT`` characters; its last line says how much was cut."""
    if len(text) <= TEXT_LIMIT:
        return text
    kept = TEXT_LIMIT - 60  # room for the note
    return f"{text[:kept]}\n… {len(text) - kept:,} more characters are not shown\n"


def read_code(path: Path) -> KernelCode | None:
    """The code that a worker left in a file; None if it came to nothing."""
    try:
        return KernelCode(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
