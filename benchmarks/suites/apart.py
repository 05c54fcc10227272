"""Groups of samples in a process of their own, which costs its start once; whatever a sample does
to the process costs that sample alone."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch

from benchmarks.isolated import Failed, isolated
from benchmarks.suites.measure import Judged, Raised, Record, measure
from benchmarks.suites.sample import Suite
from tapml_nb import api
from tapml_nb.compile.compiler import Compiler
from tapml_nb.targets.client.availability import resolve

ROOT = Path(__file__).resolve().parents[2]

SUITES = {"opinfo": "benchmarks.suites.opinfo", "onnx": "benchmarks.suites.onnx_nodes"}

SECONDS = 120
"""Without a word, after which a process is ended."""


def suite(name: str) -> Suite:
    """A suite by its name, or by that of a module."""
    return cast(Suite, importlib.import_module(SUITES.get(name, name)))


def apart(
    name: str, groups: Sequence[str], known: Collection[str] = (), seconds: float = SECONDS
) -> Iterator[Record]:
    """A record for each sample of some groups, but for those whose names are known.

    Where its process ends, the sample that it was at has a record that says so, and another
    process goes on behind it.
    """
    due, done = list(groups), set(known)
    while due:
        at = Record(due[0], due[0], 1, programs())
        try:
            for record in isolated(_work, name, due, done, seconds=seconds):
                due = due[due.index(record.group) :]
                if record.error == _BEGUN:
                    at = record
                else:
                    done.add(record.name)
                    yield record
            return
        except Failed as failed:
            done.add(at.name)
            yield replace(at, error=str(failed).splitlines()[0])


_BEGUN = "begun"
"""Of a record that only says what its process is at."""


def _work(name: str, groups: Sequence[str], done: Collection[str]) -> Iterator[Record]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made, key = suite(name), programs()
    with one_compiler():
        for group in groups:
            if group in done:
                continue
            nothing = Record(group, group, 0, key)
            yield replace(nothing, error=_BEGUN)
            try:
                found = made.samples(group)
            except Exception as error:
                yield replace(nothing, error=f"it cannot be made: {error!r}"[:400])
                continue
            for sample in found:
                if sample.name not in done:
                    yield Record(sample.name, group, len(found), key, _BEGUN)
                    yield measure(sample, group, len(found), key)
            if not found:
                yield nothing


@contextlib.contextmanager
def one_compiler() -> Iterator[None]:
    """While in force, all sessions have one compiler: its start takes longer than a sample."""
    compiler = Compiler(resolve("llvm")[1])
    close = compiler.close
    compiler.close = lambda: None  # type: ignore[method-assign]
    try:
        with mock.patch.object(api, "Compiler", return_value=compiler):
            yield
    finally:
        close()


def line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(asdict(record))


def read(text: str) -> Record:
    """A record from its line."""
    values: dict[str, Any] = json.loads(text)
    values["raised"] = tuple(Raised(**r) for r in values["raised"])
    values["ops"] = tuple(Judged(**o) for o in values["ops"])
    return Record(**values)


def newest(records: Iterable[Record]) -> dict[str, Record]:
    """The last record of each sample, where its group was not measured anew with other programs."""
    last = {record.name: record for record in records}
    keys = {record.group: record.key for record in last.values()}
    return {name: record for name, record in last.items() if record.key == keys[record.group]}


def complete(records: Iterable[Record]) -> set[str]:
    """Groups whose samples all have a record."""
    found = list(records)
    counts = Counter(record.group for record in found)
    return {record.group for record in found if counts[record.group] >= record.of}


@cache
def programs() -> str:
    """A key of what decides the result: our programs and the versions of others."""
    sources = [Path(__file__).parent / f"{n}.py" for n in ("opinfo", "onnx_nodes", "measure")]
    digest = hashlib.sha256()
    for file in [*sources, *sorted((ROOT / "tapml_nb").rglob("*.py"))]:
        digest.update(file.read_bytes())
    for package in ("torch", "onnx", "onnxruntime", "apache-tvm"):
        digest.update(version(package).encode())
    return digest.hexdigest()[:16]
