"""What every front end provides: a graph, a way to run it on the source, and units to compile.

The rest of tapml_nb knows models only through :class:`Program`.  Tensors inside a program are
the framework's own ("source tensors"); they become NumPy arrays only where they leave it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from tapml_nb.array_api import Array
from tapml_nb.graph import Graph, OpId, TensorSpec, ValueId

SourceTensor = Any
"""A tensor of the source framework (``torch.Tensor``)."""

_OPERATOR = re.compile(r"\b(?:ir|I|relax|R)\.Op\(")
_TOKEN = re.compile(r"""\bname=["'](?P<name>[^"']*)["']|"[^"]*"|'[^']*'|[()\[\]{}]""")
"""What tells where an operator that is written out has its name, and where it ends."""

_FORM = re.compile(r"(operator|fused|module)(?::([1-9]\d*))?")


class Unsupported(Exception):
    """The front end's importer has no rule for an operator; the message is its reason."""


class FrontendError(Exception):
    """The model as a whole cannot be imported, or its source cannot run it; the message says why
    and what to try.

    Example:
        >>> tapml.debug(branching, (x,))
        Traceback (most recent call last):
        tapml_nb.frontends.program.FrontendError: ...
    """


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, at most 300 characters."""
    return _line(error, 0)


def last_line(error: BaseException) -> str:
    """The last line of an error that says something: TVM puts its message below its trace."""
    return _line(error, -1)


def _line(error: BaseException, which: int) -> str:
    lines = [line.strip() for line in _by_name(str(error)).splitlines() if line.strip()]
    return (lines[which] if lines else type(error).__name__)[:300]


def _by_name(text: str) -> str:
    """A message in which TVM's operators have their names alone: it writes out all that they are,
    and the reason stands behind that."""
    parts, rest = list[str](), text
    while found := _OPERATOR.search(rest):
        parts.append(rest[: found.start()])
        name, rest = _operator(rest[found.end() :])
        parts.append(name)
    return "".join([*parts, rest])


def _operator(text: str) -> tuple[str, str]:
    """The name in an operator that is written out, and what stands behind its last parenthesis."""
    name, depth = "", 1
    for token in _TOKEN.finditer(text):
        word = token[0]
        if token["name"] is not None and depth == 1:
            name = token["name"]
        elif word in "([{":
            depth += 1
        elif word in ")]}":
            depth -= 1
        if not depth:
            return name or "an operator", text[token.end() :]
    return name or "an operator", ""  # TVM itself has cut it


@dataclass(frozen=True)
class WrittenModule:
    """A module as TVM's JSON, out of a file that anybody may have written.

    It stays text in this process, for TVM's reader is C++ that text can crash: the compile worker
    reads it.

    Attributes:
        text: what ``tvm.ir.save_json`` made.
        shapes: those of the tensors that it is for, where sizes that it leaves open are to be
            filled in.
        numbers: the sizes that no tensor tells, then.
    """

    text: str
    shapes: tuple[tuple[int, ...], ...] | None = None
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Unit:
    """One operator as a standalone Relax function, ready for a compiler.

    Attributes:
        module: ``tvm.IRModule`` with the function ``main``; its parameters are the operator's
            tensor inputs in order, its result the operator's output or a tuple of them.  Or a
            :class:`WrittenModule`.
        inputs: what it takes.
        outputs: what the source produces here, so what the kernel should.
        conversion: by what the operator was converted, in words, where not by the importer alone:
            by a rule of tapml_nb's, or with a workaround.
        is_open: whether it leaves sizes open; None where only who reads it knows.
        numbers: where ``main`` has one more parameter, a shape: its sizes here, which no input
            tells.
    """

    module: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    conversion: str = ""
    is_open: bool | None = False
    numbers: tuple[int, ...] = ()


def leaves_sizes_open(module: Any) -> bool:
    """Whether the ``main`` of an ``IRModule`` is for tensors of many shapes."""
    from tvm import relax

    if "main" not in {var.name_hint for var in module.functions}:
        return False  # a PrimFunc that stands for an operator
    return bool(relax.analysis.defined_symbolic_vars(module["main"]))


def with_sizes(module: Any, shapes: Sequence[Sequence[int]], numbers: Sequence[int]) -> Any:
    """The same for tensors of certain shapes alone.

    Behind the tensors, ``main`` may take a shape: ``numbers`` are the sizes in it, and there is no
    such parameter in the result.
    """
    import tvm
    from tvm import relax

    main = module["main"]
    tensors = list(main.params)[: len(shapes)]
    declared = [size for param in tensors for size in param.ty.shape]
    given = [int(n) for shape in shapes for n in shape]
    for param in list(main.params)[len(shapes) :]:
        declared += param.ty.values
        given += numbers
    sizes: dict[Any, int] = {}
    for size, number in zip(declared, given, strict=True):
        if isinstance(size, tvm.tirx.Var):
            sizes.setdefault(size, number)
    bound = main.bind_symbolic_vars(sizes)
    params = list(bound.params)[: len(shapes)]
    main = relax.Function(params, bound.body, bound.ret_ty, bound.is_pure, bound.attrs)
    return tvm.IRModule({**module.functions, module.get_global_var("main"): main})


@dataclass(frozen=True)
class Memory:
    """The memory that a source tensor lies in; others may lie in the same.

    Attributes:
        address: tells it from the memory of other tensors, while they exist.
        data: all its bytes (uint8), shared where possible: on a GPU if it is there.
        over: makes the tensor anew over such bytes, alike to the stride: what is computed from it
            is the same, bit for bit.
    """

    address: int
    data: Callable[[], Array]
    over: Callable[[Array], SourceTensor]


@dataclass(frozen=True)
class Mark:
    """What tells at little cost that a tensor which was given may be another now.

    Attributes:
        stamp: changes with every write that the framework notices; not with all there are.
        tensor: the tensor as its owner has it now; None if there is none in its place.
    """

    stamp: Hashable
    tensor: SourceTensor = field(compare=False)


@dataclass(frozen=True)
class Granularity:
    """What one operator is.

    Attributes:
        unit: ``"operator"``: one ATen call.  ``"fused"``: what becomes one kernel when TVM deploys
            the whole model.  ``"module"``: one module.
        depth: of ``"module"``: how many components the paths of these modules have; None for the
            innermost ones.
    """

    unit: Literal["operator", "fused", "module"]
    depth: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"operator"``, ``"fused"``, ``"module"`` or ``"module:3"``.

        Raises:
            ValueError: if it is none of these.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if not match or (match[2] and match[1] != "module"):
            raise ValueError(
                f"granularity: {text!r}; choose 'operator', 'fused', 'module' (the innermost "
                f"modules), or 'module:N' for those whose path has N components"
            )
        return cls(match[1], int(match[2]) if match[2] else None)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.unit}:{self.depth}" if self.depth else self.unit


@dataclass(frozen=True)
class Fusion:
    """What becomes of the calls of a whole model on a target, by their numbers.

    Attributes:
        kernels: for every kernel that is deployed the calls that it holds, or holds a part of.
        folded: calls whose results are constants of the deployed model.
    """

    kernels: tuple[tuple[int, ...], ...]
    folded: tuple[int, ...]


Decide = Callable[[Any], Fusion]
"""Lets a target decide what it fuses.

Takes an ``IRModule`` whose function ``main`` calls the others; each of its bindings is one call, or
the item of a tuple.  The calls are numbered in order.
"""


class Program(Protocol):
    """A model of some framework, operator by operator.

    Values are source tensors of the shapes and dtypes that ``graph`` says (a size of -1 is any), or
    Python numbers and the framework's objects where a value is of the host.  What is given is
    never written to.
    """

    graph: Graph

    @property
    def steps(self) -> int:
        """How many steps of inputs were given, at least 1."""

    def bind(self, step: int, state: Mapping[ValueId, SourceTensor]) -> dict[ValueId, SourceTensor]:
        """The values a step starts from: inputs, parameters, constants, and buffers.

        Args:
            step: from 0 on; another step's inputs may differ in sizes that are open.
            state: the buffers that earlier steps have changed.
        """

    @property
    def mutations(self) -> Mapping[ValueId, ValueId]:
        """The buffers that a step changes, each with the value that it then holds."""

    def marks(self) -> Mapping[tuple[ValueId, int], Mark]:
        """Marks of the tensors that were given, by value and step (0 for what all steps share);
        none where the framework notices no writes."""

    def run(self, op: OpId, values: Mapping[ValueId, SourceTensor]) -> list[SourceTensor]:
        """Run one operator on the source and return its outputs in graph order.

        Raises:
            Exception: whatever the framework says of these ``values``.
        """

    def draws(self, op: OpId, values: Mapping[ValueId, SourceTensor]) -> bool | None:
        """Whether what an operator makes of these values depends on random numbers that it draws;
        None where nobody but its outputs can tell."""

    def repeatable(
        self, op: OpId
    ) -> Callable[[Mapping[ValueId, SourceTensor]], list[SourceTensor]] | None:
        """What runs an operator, as often as one wishes, with the random numbers that it would
        draw now; None if the source cannot."""

    def run_exact(
        self, op: OpId, values: Mapping[ValueId, SourceTensor]
    ) -> list[SourceTensor] | None:
        """The same in float64 (complex128), whatever of it is floating-point; other dtypes stay.

        None where the operator cannot be run so, or would compute in a narrower dtype.
        """

    def unit(
        self, op: OpId, values: Mapping[ValueId, SourceTensor], *, symbolic: bool = False
    ) -> Unit:
        """The operator as a Relax function for these inputs' shapes and dtypes.

        Args:
            op: the operator.
            values: its inputs and outputs.
            symbolic: whether sizes that the model leaves open are to be left open here, so that
                one function is for all of them.

        Raises:
            Unsupported: if the importer has no rule for it.
        """

    def to_numpy(self, tensor: SourceTensor) -> np.ndarray:
        """The tensor's values on the host, contiguous, sharing memory where possible.

        Its shape and dtype are the tensor's; bfloat16 and float8 are those of ml_dtypes.
        """

    def array_of(self, tensor: SourceTensor) -> Array:
        """The same where they are: an array of the framework's where that is not the host."""

    def from_array(self, array: Array, like: SourceTensor) -> SourceTensor:
        """A source tensor of the array's shape, dtype and values, on the device of ``like``."""

    def memory(self, tensor: SourceTensor) -> Memory | None:
        """The memory that a tensor lies in; None if it cannot be made anew over other memory."""


@runtime_checkable
class RecordedProgram(Program, Protocol):
    """A program whose operators ran elsewhere, and cannot be run on other inputs."""

    def scales(self, op: OpId, values: Mapping[ValueId, SourceTensor]) -> list[np.ndarray | None]:
        """What stood beside the elements of each output
        (:func:`tapml_nb.judge.scale.beside`), as it was recorded."""


@runtime_checkable
class SquaringProgram(Program, Protocol):
    """A program that need not hold the squares of all inputs at a time to compute with them."""

    def run_squared(
        self, op: OpId, values: Mapping[ValueId, SourceTensor]
    ) -> list[SourceTensor] | None:
        """As :meth:`run_exact`, of the squares of all inputs that are real floating-point
        numbers."""


@runtime_checkable
class CoarseProgram(Program, Protocol):
    """A program whose operators may hold several calls (:class:`~tapml_nb.graph.Member`)."""

    def at(self, granularity: Granularity, decide: Decide) -> Program:
        """The same model with other operators.

        Args:
            granularity: what one operator is to be.
            decide: lets the target decide what it fuses; asked where the granularity needs it.

        Raises:
            ValueError: if no module is as deep as the granularity says.
        """

    def operators(self) -> Program:
        """The same model at operator granularity, with the same names for values."""
