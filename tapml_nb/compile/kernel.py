"""What a compiled operator is: a straight line of PrimFunc launches over numbered buffers.

A kernel holds no compiler objects and no tensors, so a target server can keep it as JSON,
a carved bundle can store it, and a device that knows nothing of TVM can run it.  Buffers are
numbered: first the parameters (the operator's inputs, in the operator's own order), then the
constants that compilation left over, then every buffer the launches write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from tapml_nb.compile.sizes import Size, bind, evaluate, parse


@dataclass(frozen=True)
class BufferSpec:
    """Shape (elements per axis) and dtype (NumPy/TVM spelling, e.g. ``"bfloat16"``) of a buffer."""

    shape: tuple[Any, ...]
    """Numbers; in a kernel that leaves sizes open, sizes of any kind."""
    dtype: str


@dataclass(frozen=True)
class Launch:
    """One call of a compiled PrimFunc in destination-passing style.

    Attributes:
        function: its name.
        args: buffer numbers in the function's own parameter order (inputs, then outputs).
        sizes: the integers among its parameters, each with its position among all of them.
    """

    function: str
    args: tuple[int, ...]
    sizes: tuple[tuple[int, Size], ...] = ()


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
        numbers: the symbols that no parameter's shape tells: a number for each comes with a call.
    """

    key: str
    buffers: tuple[BufferSpec, ...]
    params: int
    constants: tuple[str, ...]
    launches: tuple[Launch, ...]
    views: tuple[tuple[int, int], ...]
    results: tuple[int, ...]
    numbers: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether sizes are known only when it is called."""
        return bool(self.numbers) or any(
            not isinstance(size, int) for spec in self.buffers[: self.params] for size in spec.shape
        )

    def root(self, buffer: int) -> int:
        """The buffer whose memory another one is: what it is a view of, or it itself."""
        views = dict(self.views)
        while buffer in views:
            buffer = views[buffer]
        return buffer

    def at(self, shapes: Sequence[Sequence[int]], numbers: Sequence[int] = ()) -> Self:
        """The same with all sizes known.

        Args:
            shapes: of the parameters.
            numbers: one for each of :attr:`numbers`.

        Raises:
            SizeMisfit: if the kernel is for other shapes.
        """
        if not self.is_open:
            return self
        declared = [spec.shape for spec in self.buffers[: self.params]]
        symbols = bind(declared, shapes, dict(zip(self.numbers, numbers, strict=True)))

        def known(sizes: Sequence[Size]) -> tuple[int, ...]:
            return tuple(evaluate(size, symbols) for size in sizes)

        return replace(
            self,
            buffers=tuple(replace(spec, shape=known(spec.shape)) for spec in self.buffers),
            launches=tuple(
                replace(x, sizes=tuple((place, evaluate(size, symbols)) for place, size in x.sizes))
                for x in self.launches
            ),
            numbers=(),
        )

    def to_json(self) -> dict[str, Any]:
        """The kernel as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_json`."""
        return cls(
            key=data["key"],
            buffers=tuple(BufferSpec(parse(b["shape"]), b["dtype"]) for b in data["buffers"]),
            params=data["params"],
            constants=tuple(data["constants"]),
            launches=tuple(
                Launch(x["function"], tuple(x["args"]), parse(x["sizes"])) for x in data["launches"]
            ),
            views=tuple((d, s) for d, s in data["views"]),
            results=tuple(data["results"]),
            numbers=tuple(data["numbers"]),
        )
