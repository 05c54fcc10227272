"""The graph of a model as plain immutable data, independent of PyTorch and TVM.

An operator is one call site.  Operators stand in an executable order (every input is produced
earlier), and each carries what people need to find it in their own code: module path, module
class, file and line, ATen op.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from tapml_nb.extras import may_need_extras

if TYPE_CHECKING:
    import pandas as pd

OpId = str
ValueId = str
Constant = int | float | bool | str | None
Role = Literal["input", "parameter", "buffer", "constant", "operator"]


@dataclass(frozen=True)
class TensorSpec:
    """Shape (elements per axis) and dtype name (``"float32"``, ``"bool"``, …) of a tensor.

    A size that depends on values, so that only a run tells it, is -1.  Of a ``complex`` tensor the
    last axis, of two, holds real and imaginary parts, and the dtype is theirs.
    """

    shape: tuple[int, ...]
    dtype: str
    complex: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if n < 0 else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class SourceLine:
    """Where in the user's code an operator was called: file, 1-based line, the line's text."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """The file's name and the line; a notebook's cell has a file that has only a number.

        >>> SourceLine("/tmp/ipykernel_12/690394628.py", 18, "return x").place
        'cell:18'
        """
        path = PurePath(self.file)
        is_cell = path.parent.name.startswith("ipykernel_")
        return f"{'cell' if is_cell else path.name}:{self.line}"


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: a model input, a parameter, buffer or constant, or a result.

    ``name`` is what people call it: the qualified parameter name, the input's name, or the
    producing operator's id (with ``#k`` for its k-th result, from the second on).  A ``host``
    value is no tensor but a Python number (a size, ``.item()``) and never leaves the host.
    """

    id: ValueId
    role: Role
    spec: TensorSpec
    name: str
    producer: OpId | None = None
    host: bool = False


@dataclass(frozen=True)
class Member:
    """One ATen call inside an operator that holds several, or the part of it that is inside.

    Attributes:
        op: its id at operator granularity.
        primitives: the core ATen overloads of it that are inside, in order.
        inputs: shapes and dtypes of the tensors that these read.
        outputs: of those that others read of them.
    """

    op: OpId
    primitives: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Op:
    """One operator: a call site of the model, or several that are one at a coarser granularity.

    Attributes:
        id: module path and operation, e.g. ``model.layers.0.mlp.gate_proj/linear``.
        kind: ATen overload packet, e.g. ``aten.linear``; of several calls their packets joined
            by ``+``; of a whole module its class, e.g. ``nn.Linear``.
        scope: dotted module path; empty for the model itself.
        module: class name of the innermost module.
        layer: the module path up to its first index (``model.layers.0``), or the scope's first
            component where there is none.
        inputs: tensors it reads, without repetition, in the order of the call that people wrote
            (of several calls, one call after the other).
        outputs: tensors it defines.
        source: the user's line, where known.
        primitives: the core ATen overloads it decomposes into, in order.
        host: computes no tensor (shape arithmetic, assertions) and always runs on the host.
        constants: numbers among the arguments of its last primitive, by parameter name
            (``{"dim": -1, "keepdim": True}``).
        beyond: why no kernel could ever do it, if it is the host's because of what it reads or
            yields (a sequence, text); empty for all others.
        members: the ATen calls it holds, in order; empty at operator granularity.

    Example:
        >>> op = session.graph["pool/avg_pool2d"]
        >>> op.kind, op.scope, op.constants["divisor_override"]
        ('aten.avg_pool2d', 'pool', 3)
    """

    id: OpId
    kind: str
    scope: str
    module: str
    layer: str
    inputs: tuple[ValueId, ...]
    outputs: tuple[ValueId, ...]
    source: SourceLine | None
    primitives: tuple[str, ...]
    host: bool = False
    beyond: str = ""
    constants: Mapping[str, Constant] = field(default_factory=dict)
    members: tuple[Member, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Operators in executable order and the values between them.  ``graph[op]`` is the one with an
    id; without such a one a KeyError.

    Attributes:
        name: what the model is called in reports.
        ops: every operator, each after all its producers.
        values: every tensor by id.
        inputs: the model's user inputs, in call order.
        outputs: the values the model returns, flattened.

    Example:
        >>> [op.id for op in session.graph.ops], len(session.graph.downstream(["act/gelu"]))
        (['fc/linear', 'act/gelu', 'pool/avg_pool2d'], 2)
    """

    name: str
    ops: tuple[Op, ...]
    values: Mapping[ValueId, Value]
    inputs: tuple[ValueId, ...]
    outputs: tuple[ValueId, ...]
    _by_id: dict[OpId, Op] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {op.id: op for op in self.ops})

    def __getitem__(self, op: OpId) -> Op:
        return self._by_id[op]

    def __contains__(self, op: object) -> bool:
        return op in self._by_id

    def __len__(self) -> int:
        return len(self.ops)

    def tensors(self, values: Iterable[ValueId]) -> list[ValueId]:
        """Those among some values that are tensors, and no host numbers, in order."""
        return [v for v in values if not self.values[v].host]

    def tensor_inputs(self, op: Op) -> list[ValueId]:
        """The operator's inputs that are tensors: its kernel's parameters, in order."""
        return self.tensors(op.inputs)

    @cached_property
    def consumers(self) -> Mapping[ValueId, tuple[OpId, ...]]:
        """The operators that read each value, in order; values nobody reads are absent."""
        readers: dict[ValueId, list[OpId]] = {}
        for op in self.ops:
            for value in op.inputs:
                readers.setdefault(value, []).append(op.id)
        return {value: tuple(ops) for value, ops in readers.items()}

    @cached_property
    def scopes(self) -> Mapping[str, tuple[OpId, ...]]:
        """Every scope (the root is ``""``) with all operators in and below it, in order."""
        tree: dict[str, list[OpId]] = {"": []}
        for op in self.ops:
            tree[""].append(op.id)
            parts = op.scope.split(".") if op.scope else []
            for depth in range(1, len(parts) + 1):
                tree.setdefault(".".join(parts[:depth]), []).append(op.id)
        return {scope: tuple(ops) for scope, ops in tree.items()}

    def downstream(self, ops: Iterable[OpId]) -> frozenset[OpId]:
        """The cone of ``ops``: they and every operator that depends on one of them."""
        cone = set(ops)
        tainted = {v for op in cone for v in self[op].outputs}
        for op in self.ops:
            if op.id in cone or not tainted.isdisjoint(op.inputs):
                cone.add(op.id)
                tainted.update(op.outputs)
        return frozenset(cone)

    @may_need_extras()
    def frame(self) -> pd.DataFrame:
        """One row per operator: ``op, kind, scope, layer, inputs, outputs, file, line``."""
        import pandas as pd

        def specs(values: Iterable[ValueId]) -> str:
            return ", ".join(str(self.values[v].spec) for v in values)

        rows = [
            {
                "op": op.id,
                "kind": op.kind,
                "scope": op.scope,
                "layer": op.layer,
                "inputs": specs(op.inputs),
                "outputs": specs(op.outputs),
                "file": op.source.file if op.source else None,
                "line": op.source.line if op.source else None,
            }
            for op in self.ops
        ]
        columns = ["op", "kind", "scope", "layer", "inputs", "outputs", "file", "line"]
        return pd.DataFrame(rows, columns=columns).astype({"line": "Int64"})


def layer_of(scope: str) -> str:
    """The module path up to and including its first index; else its first component.

    >>> layer_of("model.layers.3.mlp.act_fn"), layer_of("lm_head"), layer_of("")
    ('model.layers.3', 'lm_head', '')
    """
    parts = scope.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return parts[0]
