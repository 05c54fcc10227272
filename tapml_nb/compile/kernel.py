"""What a compiled operator is: a straight line of PrimFunc launches over numbered buffers.

A kernel holds no compiler objects and no tensors, so a target server can keep it as JSON,
a carved bundle can store it, and a device that knows nothing of TVM can run it.  Buffers are
numbered: first the parameters (the operator's inputs, in the operator's own order), then the
constants that compilation left over, then every buffer the launches write.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class BufferSpec:
    """Shape (elements per axis) and dtype (NumPy/TVM spelling, e.g. ``"bfloat16"``) of a buffer."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Launch:
    """One call of a compiled PrimFunc in destination-passing style.

    ``args`` are buffer numbers in the function's own parameter order (inputs, then outputs).
    """

    function: str
    args: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """The compiled form of one operator, shared by every call site of the same structure.

    Attributes:
        key: hash of structure, target, pipeline and versions; also the prefix of its functions.
        buffers: every buffer, in number order.
        params: how many of them are parameters (numbers ``0 .. params-1``).
        constants: digests of the constant buffers (numbers ``params .. params+len(constants)-1``).
        launches: executed in order.
        views: ``(destination, source)`` pairs: the destination buffer is the source's memory under
            another shape (TVM's ``vm.builtin.reshape``); resolved before any launch.
        results: the buffers that hold the operator's outputs, in the operator's output order.
    """

    key: str
    buffers: tuple[BufferSpec, ...]
    params: int
    constants: tuple[str, ...]
    launches: tuple[Launch, ...]
    views: tuple[tuple[int, int], ...]
    results: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The kernel as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_json`."""
        return cls(
            key=data["key"],
            buffers=tuple(BufferSpec(tuple(b["shape"]), b["dtype"]) for b in data["buffers"]),
            params=data["params"],
            constants=tuple(data["constants"]),
            launches=tuple(Launch(x["function"], tuple(x["args"])) for x in data["launches"]),
            views=tuple((d, s) for d, s in data["views"]),
            results=tuple(data["results"]),
        )
