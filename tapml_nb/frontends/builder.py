"""A graph as front ends put it together, and what the first step's run tells of its values."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from tapml_nb.frontends.program import FrontendError, SourceTensor
from tapml_nb.graph import Graph, Member, Op, OpId, SourceLine, TensorSpec, Value, ValueId
from tapml_nb.graph.model import Constant, Role, layer_of

Known = TypeVar("Known")
Ends = tuple[tuple[ValueId, ...], tuple[ValueId, ...]]
"""What an operator reads, and what it yields."""

_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in ', re.MULTILINE)
_TORCH = find_spec("torch")
_PYTORCH = str(Path(_TORCH.origin).parent) if _TORCH and _TORCH.origin else "\0"


class GraphBuilder:
    """Takes values and operators one by one, what an operator reads before itself.

    A value whose spec is None is no tensor: it stays on the host.
    """

    def __init__(self) -> None:
        self._values: dict[ValueId, Value] = {}
        self._ops: list[Op] = []
        self._ids: set[OpId] = set()
        self._used: dict[str, int] = {}

    def __contains__(self, value: object) -> bool:
        return value in self._values

    def new_id(self, base: str, own: str) -> OpId:
        """An id that no operator has yet: ``base``, numbered from the second time on, and with
        ``own`` behind it where even that is another operator's."""
        count = self._used[base] = self._used.get(base, -1) + 1
        op = f"{base}_{count}" if count else base
        op = f"{op}/{own}" if op in self._ids else op
        self._ids.add(op)
        return op

    def add_value(
        self, key: ValueId, role: Role, spec: TensorSpec | None, name: str | None = None
    ) -> None:
        """Add what no operator yields; its name is its id unless it has another."""
        self._values[key] = _value(key, role, spec, name or key, None)

    def add_op(
        self,
        op: OpId,
        *,
        kind: str,
        scope: str,
        inputs: Iterable[ValueId],
        outputs: Mapping[ValueId, TensorSpec | None],
        source: SourceLine | None,
        primitives: Iterable[str],
        module: str = "",
        beyond: str = "",
        constants: Mapping[str, Constant] | None = None,
        members: Iterable[Member] = (),
    ) -> None:
        """Add an operator with the values that it yields; one that yields no tensor is the host's.

        Arguments are those of :class:`~tapml_nb.graph.Op`, but for ``outputs``, which come with
        their specs.
        """
        for k, (key, spec) in enumerate(outputs.items()):
            self._values[key] = _value(key, "operator", spec, f"{op}#{k}" if k else op, op)
        self._ops.append(
            Op(
                id=op,
                kind=kind,
                scope=scope,
                module=module,
                layer=layer_of(scope),
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                source=source,
                primitives=tuple(primitives),
                host=all(spec is None for spec in outputs.values()),
                beyond=beyond,
                constants=constants or {},
                members=tuple(members),
            )
        )

    def build(self, name: str, *, inputs: Iterable[ValueId], outputs: Iterable[ValueId]) -> Graph:
        """The graph; of ``outputs`` those that are tensors of it."""
        known = self._values
        tensors = tuple(key for key in outputs if key in known and not known[key].host)
        return Graph(name, tuple(self._ops), known, tuple(inputs), tensors)


def trace_first_step(
    ops: Mapping[OpId, Ends],
    values: dict[ValueId, SourceTensor],
    run: Callable[[OpId, Mapping[ValueId, SourceTensor]], list[SourceTensor]],
    *,
    tell: Callable[[SourceTensor], Known],
    failure: Callable[[OpId, Exception], str],
) -> dict[ValueId, Known]:
    """Run the first step, for what only a run tells of values: shapes, dtypes, numbers.

    It starts from ``values``, which those leave that nobody reads any more.  What is to be known of
    each, ``tell`` says; what to say when an operator raises something, ``failure``.

    Raises:
        FrontendError: if an operator cannot be run.
    """
    told = {key: tell(value) for key, value in values.items()}
    last = {key: op for op, (inputs, _) in ops.items() for key in inputs}
    for op, (inputs, outputs) in ops.items():
        try:
            results = run(op, values)
        except Exception as error:
            raise FrontendError(failure(op, error)) from error
        for key, result in zip(outputs, results, strict=True):
            values[key], told[key] = result, tell(result)
        for key in inputs:
            if last[key] == op:
                values.pop(key, None)
    return told


def under(scope: str, label: str) -> str:
    """What an operator in a scope is called; the model itself has the scope ``""``."""
    return f"{scope}/{label}" if scope else label


def user_line(trace: str) -> SourceLine | None:
    """The innermost frame of a stack trace outside PyTorch itself."""
    for frame in reversed(list(_FRAME.finditer(trace))):
        file = frame["file"]
        if not file.startswith((_PYTORCH, "<")) or file.startswith("<ipython"):
            return line_of(file, int(frame["line"]))
    return None


def line_of(file: str, line: int) -> SourceLine:
    """A line of a file, with its text as far as that can be read."""
    return SourceLine(file, line, linecache.getline(file, line).strip())


def _value(
    key: ValueId, role: Role, spec: TensorSpec | None, name: str, producer: OpId | None
) -> Value:
    return Value(key, role, spec or TensorSpec((), "host"), name, producer, spec is None)
