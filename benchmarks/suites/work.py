"""The work of a process: samples one after the other, with one compiler for all of them."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import cast
from unittest import mock

import torch

from benchmarks.suites.measure import measure
from benchmarks.suites.records import BEGUN, Record
from benchmarks.suites.sample import Suite
from tapml_nb import api
from tapml_nb.compile.compiler import Compiler
from tapml_nb.targets.client.availability import resolve


def work(
    module: str,
    patterns: Sequence[str],
    share: tuple[int, int],
    done: Collection[str],
    most: int,
    key: str,
) -> Iterator[Record]:
    """A record for each sample that is due, each announced by one that says ``BEGUN``.

    Args:
        module: the suite's.
        patterns: of groups.
        share: which part of these groups, of how many.
        done: groups that are done, and samples of others.
        most: groups to take at most.
        key: see :class:`~benchmarks.suites.records.Record`.

    Raises:
        LookupError: if there is no such group.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    suite = cast(Suite, importlib.import_module(module))
    groups = [g for g in suite.groups() if any(fnmatchcase(g, p) for p in patterns)]
    if not groups:
        raise LookupError(f"no group is called {', '.join(patterns)}")
    due = [group for group in groups[share[0] :: share[1]] if group not in done][:most]
    with one_compiler():
        for group in due:
            nothing = Record(group, group, 0, key)
            yield replace(nothing, error=BEGUN)
            try:
                found = suite.samples(group)
            except Exception as error:
                yield replace(nothing, error=f"it cannot be made: {error!r}"[:400])
                continue
            for sample in found:
                if sample.name not in done:
                    yield Record(sample.name, group, len(found), key, BEGUN)
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
