"""What a compiled operator is: a straight line of PrimFunc launches over numbered buffers.

A kernel holds no compiler objects and no tensors, so a target server can keep it as JSON,
a carved bundle can store it, and a device that knows nothing of TVM can run it.  Buffers are
numbered: first the parameters (the operator's inputs, in the operator's own order), then the
constants that compilation left over, then every buffer the launches write.

Sizes that are known only when it is called are plain data, too: a number, the name of a symbol, or
an operation on sizes, ``("+", "n0", 1)``.  Beside it stands its code, as people read it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, TypeAlias

from tapml_nb.array_api import np_dtype

Size: TypeAlias = "int | str | tuple[Any, ...]"
"""A number, a symbol's name, or an operation's name with its operands."""

OPERATIONS: dict[str, Callable[..., int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": min,
    "max": max,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": operator.not_,
    "select": lambda condition, yes, no: yes if condition else no,
}
"""What can be done with sizes; truth is a number, too."""


class SizeMisfit(ValueError):
    """Shapes are not those that a kernel is for; the message says where."""


def evaluate(size: Size, symbols: Mapping[str, int]) -> int:
    """The number that a size is (``KeyError`` if it holds another symbol)."""
    if isinstance(size, int):
        return size
    if isinstance(size, str):
        return symbols[size]
    name, *operands = size
    return int(OPERATIONS[name](*[evaluate(operand, symbols) for operand in operands]))


def bind(
    declared: Sequence[Sequence[Size]], given: Sequence[Sequence[int]], known: Mapping[str, int]
) -> dict[str, int]:
    """What symbols are, by the shapes of tensors, declared with them and given as numbers: each is
    known by the first axis that it alone is, or is among ``known``.

    Raises:
        SizeMisfit: if the shapes contradict each other or what is declared.
    """
    symbols = dict(known)
    for ours, theirs in zip(declared, given, strict=True):
        if len(ours) != len(theirs):
            raise SizeMisfit(f"{len(theirs)} axes {list(theirs)}, it takes {len(ours)}")
        for size, number in zip(ours, theirs, strict=True):
            if isinstance(size, str):
                symbols.setdefault(size, number)
    for ours, theirs in zip(declared, given, strict=True):
        for axis, (size, number) in enumerate(zip(ours, theirs, strict=True)):
            if (wanted := evaluate(size, symbols)) != number:
                raise SizeMisfit(f"axis {axis} of {list(theirs)} is to be {wanted}")
    return symbols


def parse(data: Any) -> Any:
    """Sizes as JSON has them, whose lists were tuples."""
    return tuple(map(parse, data)) if isinstance(data, list | tuple) else data


@dataclass(frozen=True)
class BufferSpec:
    """Shape (elements per axis) and dtype (NumPy/TVM spelling, e.g. ``"bfloat16"``) of a buffer."""

    shape: tuple[Any, ...]
    """Numbers; in a kernel that leaves sizes open, sizes of any kind."""
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one whose sizes are known; 0 where nobody has such a dtype."""
        try:
            return int(math.prod(self.shape)) * np_dtype(self.dtype).itemsize
        except TypeError:
            return 0


@dataclass(frozen=True)
class Launch:
    """One call of a compiled PrimFunc in destination-passing style."""

    function: str
    args: tuple[int, ...]
    """Buffer numbers in the function's own parameter order (inputs, then outputs)."""
    sizes: tuple[tuple[int, Size], ...] = ()
    """The integers among its parameters, each with its position among all of them."""


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
        """The same with all sizes known, by the parameters' shapes and one for each of
        :attr:`numbers`.

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


TEXT_LIMIT = 200_000
"""Characters of each text that are kept; an unrolled kernel's LLVM IR can be many megabytes."""


@dataclass(frozen=True)
class KernelCode:
    """One operator's code, as far as compilation came.

    Attributes:
        relax: the unit as the front end made it; empty for overrides.
        tir: its PrimFuncs after the target's pipeline.
        source: what code generation made of them (for NumPy overrides, the Python function).
        language: of ``source``: the target's kind (``"llvm"``: LLVM IR; ``"c"``), or ``"python"``.
        message: in one line, why a text is empty or the kernel does not exist; else empty.
    """

    relax: str
    tir: str
    source: str
    language: str
    message: str


def shortened(text: str) -> str:
    """The text in at most ``TEXT_LIMIT`` characters; its last line says how much was cut."""
    if len(text) <= TEXT_LIMIT:
        return text
    kept = TEXT_LIMIT - 60  # room for the note
    return f"{text[:kept]}\n… {len(text) - kept:,} more characters are not shown\n"
