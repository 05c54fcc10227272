"""A bundle as a program: what was recorded stands in for the source.

Every part of a session that works on models works on bundles, too: the "source" of a carved
operator looks its outputs up, and its float64 results, and its unit was carved with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tapml_nb.carve.archive import Archive, unit_member
from tapml_nb.frontends.program import Mark, Unit, Unsupported, WrittenModule
from tapml_nb.graph import Graph, Member, Op, OpId, SourceLine, TensorSpec, Value, ValueId
from tapml_nb.numerics import is_float


class _StepValues(dict[ValueId, Any]):
    """The tensors of one step, which know the step."""

    step = 0


class CarvedProgram:
    """A :class:`~tapml_nb.frontends.program.Program` over the tests of a bundle."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._tests: dict[tuple[OpId, int], dict[str, Any]] = {
            (test["op"], test["step"]): test for test in archive.manifest["tests"]
        }
        self._by_step: dict[int, list[dict[str, Any]]] = {s: [] for s in range(self.steps)}
        for (_, step), test in self._tests.items():
            self._by_step[step].append(test)
        self.graph = self._build_graph(archive.manifest["name"])

    @property
    def steps(self) -> int:
        """How many steps were carved."""
        return 1 + max((step for _, step in self._tests), default=0)

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """Every recorded tensor of a step."""
        values = _StepValues(
            (entry["value"], self._archive.tensor(entry["tensor"]))
            for test in self._by_step[step]
            for entry in (*test["inputs"], *test["outputs"])
        )
        values.update(
            (entry["value"], entry["number"])
            for test in self._by_step[step]
            for entry in test.get("scalars", ())
        )
        values.step = step
        return values

    @property
    def mutations(self) -> dict[ValueId, ValueId]:
        """None: every step carries its own inputs."""
        return {}

    def marks(self) -> dict[tuple[ValueId, int], Mark]:
        """None: nobody else has these tensors."""
        return {}

    def may_be_random(self, op: OpId) -> bool:
        """No: what was recorded stays."""
        return False

    def repeatable(self, op: OpId) -> None:
        """None: no operator here draws random numbers."""

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
        return Unit(
            module,
            tuple(self.graph.values[v].spec for v in tensors),
            tuple(self.graph.values[v].spec for v in operator.outputs),
            test.get("conversion", ""),
            is_open,
            numbers,
        )

    def to_numpy(self, tensor: np.ndarray) -> np.ndarray:
        """The array itself."""
        return tensor

    def from_numpy(self, array: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def memory(self, tensor: np.ndarray) -> None:
        """None: every tensor is the bundle's, and nothing is made here."""

    def _test(self, op: OpId, values: Mapping[ValueId, Any]) -> dict[str, Any]:
        assert isinstance(values, _StepValues), "a carved operator runs on recorded values alone"
        return self._tests[op, values.step]

    def _build_graph(self, name: str) -> Graph:
        values: dict[ValueId, Value] = {}
        ops: dict[OpId, Op] = {}
        for test in self._archive.manifest["tests"]:
            for entry in test["inputs"]:
                spec = self._spec(entry["tensor"])
                values.setdefault(
                    entry["value"], Value(entry["value"], "input", spec, entry["value"])
                )
            for entry in test.get("scalars", ()):
                value = entry["value"]
                values[value] = Value(value, "input", TensorSpec((), "host"), value, host=True)
            for k, entry in enumerate(test["outputs"]):
                label = f"{test['op']}#{k}" if k else test["op"]
                spec = self._spec(entry["tensor"])
                values[entry["value"]] = Value(entry["value"], "operator", spec, label, test["op"])
            ops.setdefault(
                test["op"],
                Op(
                    id=test["op"],
                    kind=test["kind"],
                    scope=test["scope"],
                    module=test["module"],
                    layer=test["layer"],
                    inputs=tuple(
                        entry["value"] for entry in (*test["inputs"], *test.get("scalars", ()))
                    ),
                    outputs=tuple(entry["value"] for entry in test["outputs"]),
                    source=_line(test["source"]),
                    primitives=tuple(test["primitives"]),
                    host=test["host"],
                    constants=test["constants"],
                    members=tuple(_member(member) for member in test.get("members", ())),
                ),
            )
        return Graph(name, tuple(ops.values()), values, (), ())

    def _spec(self, digest: str) -> TensorSpec:
        array = self._archive.tensor(digest)
        return TensorSpec(tuple(array.shape), array.dtype.name)


def _line(data: dict[str, Any] | None) -> SourceLine | None:
    return SourceLine(data["file"], data["line"], data["text"]) if data else None


def _member(data: dict[str, Any]) -> Member:
    inputs, outputs = (
        tuple(TensorSpec(tuple(spec["shape"]), spec["dtype"]) for spec in data[ends])
        for ends in ("inputs", "outputs")
    )
    return Member(data["op"], tuple(data["primitives"]), inputs, outputs)
