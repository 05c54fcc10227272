"""Samples in a process of their own, which costs its start once; whatever a sample does to the
process costs that sample alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.isolated import Failed, isolated
from benchmarks.suites.records import BEGUN, Record, complete

ROOT = Path(__file__).resolve().parents[2]

SECONDS = 300
"""Without a word, after which a process is ended."""

MOST = 200
"""Groups that one process takes: it grows by what PyTorch's tracing leaves behind."""


def apart(
    module: str,
    patterns: Sequence[str] = ("*",),
    known: Iterable[Record] = (),
    share: tuple[int, int] = (0, 1),
) -> Iterator[Record]:
    """A record for each sample of some groups that has none yet.

    Where its process ends, the sample that it was at has a record that says so, and another
    process goes on behind it.

    Args:
        module: the suite's.
        patterns: of groups.
        known: records that there are.
        share: which part of the groups, of how many.

    Raises:
        RuntimeError: if no sample can be made at all, with why.
    """
    found = list(known)
    while True:
        done = complete(found) | {record.name for record in found}
        before = len(found)
        at: Record | None = None
        try:
            for record in isolated(
                _work, module, patterns, share, done, MOST, programs(), seconds=SECONDS
            ):
                at = record if record.error == BEGUN else None
                if at is None:
                    found.append(record)
                    yield record
        except Failed as failed:
            if at is not None:
                found.append(replace(at, error=str(failed).splitlines()[0]))
                yield found[-1]
            elif len(found) == before:
                raise RuntimeError(str(failed)) from None
        if len(found) == before:
            return


def _work(*arguments: Any) -> Iterator[Record]:
    from benchmarks.suites.work import work  # which takes seconds, here and not there

    yield from work(*arguments)


@cache
def programs() -> str:
    """A key of what decides the result: our programs and the versions of others."""
    here = Path(__file__).parent
    sources = [here / f"{n}.py" for n in ("opinfo", "onnx_nodes", "measure", "ties", "work")]
    digest = hashlib.sha256()
    for file in [*sources, *sorted((ROOT / "tapml_nb").rglob("*.py"))]:
        digest.update(file.read_bytes())
    for package in ("torch", "onnx", "onnxruntime", "apache-tvm"):
        digest.update(version(package).encode())
    return digest.hexdigest()[:16]
