"""From a session's runs to a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb import tensorfile
from tapml_nb.carve.archive import check_writable, write_archive
from tapml_nb.carve.bundle import Bundle
from tapml_nb.carve.manifest import tensor_member, unit_member
from tapml_nb.engine.engine import Engine
from tapml_nb.execute.given import ModelChanged
from tapml_nb.graph import Op, OpId, Selector, ValueId, select
from tapml_nb.numerics import digest


def carve(engine: Engine, path: Path, ops: Selector | None) -> Bundle:
    """Carve operators of every step into a bundle; see :meth:`Session.carve
    <tapml_nb.session.Session.carve>`.  From any thread."""
    chosen = select(engine.graph, ops)
    if ops is None:
        chosen = [op for op in chosen if (op, 0) in engine.ledger.introduced]
        if not chosen:
            raise ValueError("ops: nothing was judged yet; call run() first or name operators")
    check_writable(path)
    return engine.do(_write, path, chosen)


def _write(engine: Engine, path: Path, ops: Sequence[OpId]) -> Bundle:
    engine.prepare(ops)
    carver = _Carver(engine)
    tests = [carver.test(engine.graph[op], step) for step in engine.steps for op in ops]
    write_archive(path, {"name": engine.graph.name, "tests": tests}, carver.members())
    return Bundle.open(path)


class _Carver:
    """Collects tests, and the tensors and units they need, each once.

    Tensors are only noted down: all of them together may be more than memory holds.
    """

    def __init__(self, engine: Engine) -> None:
        self._source = engine.source
        self._kernels = engine.kernels
        self._references = engine.references
        self._results = engine.ledger.introduced
        self._conversions = engine.kernels.conversions
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
            "conversion": self._conversions.get(op.id, ""),
            "unsupported": op.beyond or None,
            "verdict": str(result.verdict) if result else None,
            "message": result.message if result else "",
        }
        if op.host:
            return test
        for value in op.inputs:
            if not self._source.program.graph.values[value].host:
                test["inputs"].append({"value": value, "tensor": self._keep(value, step)})
            elif isinstance(number := self._source.values(step)[value], int | float):
                test["scalars"].append({"value": value, "number": number})
        for k, there in enumerate(self._references.local(op, step)):
            value, reference = op.outputs[k], there.on_host()
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
        there = self._source.array_there(value, step)
        on_host = isinstance(there, np.ndarray)
        key = self._source.key(value, step) if on_host else digest(self._source.array(value, step))
        self._tensors.setdefault(key, lambda: self._source.array(value, step))
        return key

    def _keep_part(
        self, op: Op, step: int, k: int, part: str, array: np.ndarray | None
    ) -> str | None:
        """Have a tensor of a reference written; returns its key, if there is one."""
        if array is None:
            return None
        key = digest(array)
        self._tensors.setdefault(
            key, lambda: getattr(self._references.local(op, step)[k].on_host(), part)
        )
        return key
