"""A configuration measured in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.isolated import Failed, isolated, preload
from benchmarks.real.measure import measure
from benchmarks.real.records import Record


def apart(nothing: Record, seconds: float) -> Iterator[Record]:
    """What is known after each stage, of which none may take longer than so many seconds;
    whatever happens to the process, what was known is kept."""
    preload()  # nothing: a process that is forked from one that has seen a GPU cannot use it
    last = nothing
    try:
        for last in isolated(measure, nothing, seconds=seconds):
            yield last
    except Failed as failed:
        stage = f"after {list(last.seconds)[-1]}: " if last.seconds else ""
        yield replace(last, error=f"{stage}{str(failed).splitlines()[0]}")
