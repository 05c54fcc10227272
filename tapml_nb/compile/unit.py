"""A unit as text: its key, and the folder from which the compile worker reads it."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm

from tapml_nb.compile.cache import SIZES, UNIT, write_file
from tapml_nb.compile.lowering import PIPELINE
from tapml_nb.frontends.program import WrittenModule, leaves_sizes_open, with_sizes

STAGE = "stage"
"""A file beside a unit that says how far it came, should TVM die of it: it is being read, and
then, whether it leaves sizes open."""

_READING, _OPEN, _CLOSED = "reading", "open", "closed"


def salt_of(target: Any) -> str:
    """What a unit's key depends on beside the unit: the target, this pipeline, TVM's version."""
    salt = f"{target}|{PIPELINE}|{version('apache-tvm')}|{version('apache-tvm-ffi')}"
    if target.kind.name == "cuda" and os.environ.get("TVM_CUDA_NVCC_NO_FAST_MATH"):
        salt += "|without fast-math"  # TVM's own switch; it changes every kernel
    return salt


def key_of(module: Any, salt: str) -> str:
    """The SHA-256 of a unit's text and a salt, in hexadecimal digits."""
    text = "|".join(filter(None, _texts_of(module)))
    return hashlib.sha256(f"{salt}|{text}".encode()).hexdigest()


def _texts_of(module: Any) -> tuple[str, str]:
    """TVM's JSON, and the sizes to fill in, if any."""
    if not isinstance(module, WrittenModule):
        return str(tvm.ir.save_json(module)), ""
    if module.shapes is None:
        return module.text, ""
    return module.text, json.dumps([module.shapes, module.numbers])


def write_unit(module: Any, folder: Path) -> None:
    """Put a unit where :func:`read_unit` finds it.

    Raises:
        OSError: if the disk does not take it.
    """
    text, sizes = _texts_of(module)
    write_file(folder / UNIT, text.encode())
    if sizes:
        write_file(folder / SIZES, sizes.encode())


def read_unit(folder: Path) -> Any:
    """The ``IRModule`` of a folder, with its sizes filled in where they are given.

    In a worker's child only: text that anybody may have written can crash TVM's reader.
    """
    (folder / STAGE).write_text(_READING)
    module = tvm.ir.load_json((folder / UNIT).read_text())
    if not isinstance(module, tvm.IRModule):
        raise ValueError(f"it is a {type(module).__name__} and no module")
    if (folder / SIZES).exists() and leaves_sizes_open(module):
        module = with_sizes(module, *json.loads((folder / SIZES).read_text()))
    (folder / STAGE).write_text(_OPEN if leaves_sizes_open(module) else _CLOSED)
    return module


def is_open(folder: Path) -> bool:
    """Whether the unit of a folder leaves sizes open, as far as it was read."""
    return _stage(folder) == _OPEN


def was_reading(folder: Path) -> bool:
    """Whether the unit of a folder was just being read."""
    return _stage(folder) == _READING


def _stage(folder: Path) -> str:
    try:
        return (folder / STAGE).read_text()
    except OSError:
        return ""
