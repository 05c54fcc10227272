"""A bundle as a program: what was recorded stands in for the source.

Every part of a session that works on models works on bundles, too: the "source" of a carved
operator looks its outputs up, and its float64 results, and its unit was carved with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tapml_nb.carve.archive import Archive
from tapml_nb.carve.manifest import unit_member
from tapml_nb.frontends.arrays import ArrayProgram, spec_of
from tapml_nb.frontends.builder import GraphBuilder
from tapml_nb.frontends.program import Unit, Unsupported, WrittenModule
from tapml_nb.graph import Graph, Member, OpId, SourceLine, TensorSpec, ValueId
from tapml_nb.numerics import is_float


class _StepValues(dict[ValueId, Any]):
    """The tensors of one step, which know the step."""

    step = 0


class CarvedProgram(ArrayProgram):
    """A :class:`~tapml_nb.frontends.program.Program` over the tests of a bundle."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._tests: dict[tuple[OpId, int], dict[str, Any]] = {
            (test["op"], test["step"]): test for test in archive.manifest["tests"]
        }
        self.graph = self._build_graph(archive.manifest["name"])

    @property
    def steps(self) -> int:
        """How many steps were carved."""
        return 1 + max((step for _, step in self._tests), default=0)

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """Every recorded tensor of a step."""
        tests = [test for (_, at), test in self._tests.items() if at == step]
        values = _StepValues()
        values.step = step
        for test in tests:
            for entry in (*test["inputs"], *test["outputs"]):
                values[entry["value"]] = self._archive.tensor(entry["tensor"])
        for test in tests:
            for entry in test.get("scalars", ()):
                values[entry["value"]] = entry["number"]
        return values

    def draws(self, op: OpId, values: Mapping[ValueId, Any]) -> bool:
        """No: what was recorded stays."""
        return False

    def run(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        """What the source computed when the operator was carved."""
        return [values[value] for value in self.graph[op].outputs]

    def run_exact(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any] | None:
        """The recorded float64 results; None if an output has none though its dtype could."""
        test = self._test(op, values)
        results: list[np.ndarray] = []
        for entry in test["outputs"]:
            exact = self._archive.exact(entry)
            if exact is None:
                exact = self._archive.tensor(entry["tensor"])
                if is_float(exact.dtype) and exact.dtype != np.float64:
                    return None
            results.append(exact)
        return results

    def scales(self, op: OpId, values: Mapping[ValueId, Any]) -> list[np.ndarray | None]:
        """The recorded scales (None for integers, and in bundles of earlier versions)."""
        keys = [entry.get("beside") for entry in self._test(op, values)["outputs"]]
        return [None if key is None else self._archive.tensor(key) for key in keys]

    def unit(self, op: OpId, values: Mapping[ValueId, Any], *, symbolic: bool = False) -> Unit:
        """The unit that was carved with the operator; its open sizes filled in unless ``symbolic``.

        It stays text: whoever carved it may have been anybody, and TVM's reader is C++.

        Raises:
            Unsupported: if there was none, with the reason recorded.
        """
        operator, test = self.graph[op], self._test(op, values)
        if test["unit"] is None:
            raise Unsupported(test["unsupported"])
        text = self._archive.text(unit_member(test["unit"]))
        tensors = self.graph.tensor_inputs(operator)
        numbers = tuple(test.get("numbers", ()))
        module, is_open = WrittenModule(text), None
        if not symbolic:
            shapes = tuple(tuple(int(n) for n in values[v].shape) for v in tensors)
            module, numbers, is_open = WrittenModule(text, shapes, numbers), (), False
        inputs, outputs = (
            tuple(self.graph.values[v].spec for v in ends) for ends in (tensors, operator.outputs)
        )
        return Unit(module, inputs, outputs, test.get("conversion", ""), is_open, numbers)

    def memory(self, tensor: Any) -> None:
        """None: every tensor is the bundle's, and nothing is made here."""

    def _test(self, op: OpId, values: Mapping[ValueId, Any]) -> dict[str, Any]:
        assert isinstance(values, _StepValues), "a carved operator runs on recorded values alone"
        return self._tests[op, values.step]

    def _build_graph(self, name: str) -> Graph:
        tests = self._archive.manifest["tests"]
        last = {test["op"]: test for test in tests}
        builder = GraphBuilder()
        known: set[OpId] = set()
        for test in tests:
            scalars = test.get("scalars", ())
            for entry in test["inputs"]:
                if entry["value"] not in builder:
                    builder.add_value(entry["value"], "input", self._spec(entry))
            for entry in scalars:
                builder.add_value(entry["value"], "input", None)
            if test["op"] in known:
                continue
            known.add(test["op"])
            builder.add_op(
                test["op"],
                kind=test["kind"],
                scope=test["scope"],
                module=test["module"],
                beyond=test["unsupported"] or "" if test["host"] else "",
                inputs=[entry["value"] for entry in (*test["inputs"], *scalars)],
                outputs={e["value"]: self._spec(e) for e in last[test["op"]]["outputs"]},
                source=_line(test["source"]),
                primitives=test["primitives"],
                constants=test["constants"],
                members=[_member(member) for member in test.get("members", ())],
            )
        return builder.build(name, inputs=(), outputs=())

    def _spec(self, entry: Mapping[str, Any]) -> TensorSpec:
        return spec_of(self._archive.tensor(entry["tensor"]))


def _line(data: dict[str, Any] | None) -> SourceLine | None:
    return SourceLine(data["file"], data["line"], data["text"]) if data else None


def _member(data: dict[str, Any]) -> Member:
    inputs, outputs = (
        tuple(TensorSpec(tuple(spec["shape"]), spec["dtype"]) for spec in data[ends])
        for ends in ("inputs", "outputs")
    )
    return Member(data["op"], tuple(data["primitives"]), inputs, outputs)
