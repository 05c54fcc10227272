"""From a session's runs to a bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb import tensorfile
from tapml_nb.carve.archive import tensor_member, unit_member, write_archive
from tapml_nb.carve.bundle import Bundle
from tapml_nb.execute.given import ModelChanged
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Op, OpId, ValueId
from tapml_nb.judge.references import References
from tapml_nb.judge.results import OpResult
from tapml_nb.numerics import digest


def check_writable(path: Path, example: str = "model.tapml") -> None:
    """Find out before any work that a file cannot be written there.

    Raises:
        ValueError: with the reason.
    """
    folder = path.parent
    if path.is_dir():
        raise ValueError(f"path: {path} is a folder; name a file such as {path / example}")
    if not folder.is_dir():
        raise ValueError(f"path: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"path: the folder {folder} cannot be written")


def write(
    path: Path,
    source: SourceRun,
    kernels: KernelTable,
    references: References,
    results: Mapping[tuple[OpId, int], OpResult],
    ops: Sequence[OpId],
) -> Bundle:
    """Carve operators of every step into a bundle and open it."""
    carver = _Carver(source, kernels, references, results)
    tests = [
        carver.test(source.program.graph[op], step)
        for step in range(source.program.steps)
        for op in ops
    ]
    manifest = {"name": source.program.graph.name, "tests": tests}
    write_archive(path, manifest, carver.members())
    return Bundle.open(path)


class _Carver:
    """Collects tests, and the tensors and units they need, each once.

    Tensors are only noted down: all of them together may be more than memory holds.
    """

    def __init__(
        self,
        source: SourceRun,
        kernels: KernelTable,
        references: References,
        results: Mapping[tuple[OpId, int], OpResult],
    ) -> None:
        self._source = source
        self._graph = source.program.graph
        self._kernels = kernels
        self._references = references
        self._results = results
        self._tensors: dict[str, Callable[[], np.ndarray]] = {}
        self._units: dict[str, str] = {}

    def test(self, op: Op, step: int) -> dict[str, Any]:
        """One carved test as the manifest holds it."""
        result = self._results.get((op.id, step))
        test: dict[str, Any] = {
            "op": op.id,
            "kind": op.kind,
            "scope": op.scope,
            "module": op.module,
            "layer": op.layer,
            "source": asdict(op.source) if op.source else None,
            "primitives": list(op.primitives),
            "host": op.host,
            "constants": dict(op.constants),
            "members": [asdict(member) for member in op.members],
            "step": step,
            "inputs": [],
            "scalars": [],
            "outputs": [],
            "unit": None,
            "numbers": [],
            "conversion": self._kernels.conversions.get(op.id, ""),
            "unsupported": None,
            "verdict": str(result.verdict) if result else None,
            "message": result.message if result else "",
        }
        if op.host:
            return test
        for value in op.inputs:
            if not self._graph.values[value].host:
                test["inputs"].append({"value": value, "tensor": self._keep(value, step)})
            elif isinstance(number := self._source.values(step)[value], int | float):
                test["scalars"].append({"value": value, "number": number})
        for k, reference in enumerate(self._references.local(op, step)):
            value = op.outputs[k]
            entry: dict[str, str | None] = {"value": value, "tensor": self._keep(value, step)}
            for part in ("delta", "beside"):
                entry[part] = self._keep_part(op, step, k, part, getattr(reference, part))
            test["outputs"].append(entry)
        unit = self._kernels.unit_key(op.id, step)
        if isinstance(unit, tuple):
            key, numbers = unit
            if key not in self._units:
                self._units[key] = self._kernels.unit_text(op.id, step)
            test |= {"unit": key, "numbers": list(numbers)}
        else:
            test["unsupported"] = unit.message
        return test

    def members(self) -> Iterator[tuple[str, bytes]]:
        """Every member but the manifest."""
        for key, text in self._units.items():
            yield unit_member(key), text.encode()
        for key, array in self._tensors.items():
            data = array()
            if digest(data) != key:  # a write that was noticed by nobody before
                self._source.vouch_for_all()
                raise ModelChanged("a tensor changed while it was carved; carve again")
            yield tensor_member(key), tensorfile.dump({"data": data})

    def _keep(self, value: ValueId, step: int) -> str:
        """Have a tensor of the source written; returns its key."""
        key = self._source.key(value, step)
        self._tensors.setdefault(key, lambda: self._source.array(value, step))
        return key

    def _keep_part(
        self, op: Op, step: int, k: int, part: str, array: np.ndarray | None
    ) -> str | None:
        """Have a tensor of a reference written; returns its key, if there is one."""
        if array is None:
            return None
        key = digest(array)
        self._tensors.setdefault(key, lambda: getattr(self._references.local(op, step)[k], part))
        return key
