"""An architecture measured in a process of its own, with a limit of time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version

from benchmarks.isolated import Failed, isolated
from benchmarks.zoo.architectures import ARCHITECTURES
from benchmarks.zoo.measure import Finding, Record, measure

SECONDS = 300
"""After which an architecture's process is ended."""


def apart(name: str, dtype: str = "float32", *, seconds: float = SECONDS) -> Record:
    """Measure one in a process of its own; whatever happens to it, there is a record."""
    nothing = Record(name, ARCHITECTURES[name].group, key(name, dtype), dtype)
    try:
        (record,) = isolated(_measure, name, dtype, seconds=seconds)
    except Failed as failed:
        return replace(nothing, error=str(failed).splitlines()[0])
    return record


def _measure(name: str, dtype: str) -> Iterator[Record]:
    yield measure(ARCHITECTURES[name], dtype, key(name, dtype))


def line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(asdict(record))


def read(line: str) -> Record:
    """A record from its line."""
    values = json.loads(line)
    return Record(**{**values, "findings": tuple(Finding(**f) for f in values["findings"])})


def key(name: str, dtype: str) -> str:
    """Of a model in a dtype, and of the versions that matter to it."""
    packages = ("torch", "transformers", "apache-tvm", "tapml_nb")
    text = " ".join([ARCHITECTURES[name].digest, dtype, *map(version, packages)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
