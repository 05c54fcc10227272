"""A Relax function taken apart: one operator per binding, and the values between them.

Tuples dissolve into their members, shapes and numbers that are written out into the operators
that use them.  A symbolic size is a value, too, where an operator needs it and cannot read it off
its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.sym import Analyzer

from tapml_nb.frontends.program import FrontendError
from tapml_nb.graph import OpId, ValueId
from tapml_nb.graph.model import Constant

Ids = tuple[ValueId, ...]
Tree = Any
"""The id of a value, an expression without variables of its own, or a list of trees."""

_REDUCED = re.compile(r"T\.axis\.(reduce\(|remap\(\"[SO]*R)")
_PURE = ("relax.call_dps_packed", "relax.call_pure_packed")
_PACKED = (*_PURE, "relax.call_inplace_packed")


@dataclass(frozen=True)
class RelaxOp:
    """A binding on its own.

    Attributes:
        id: kind and number; the scope is put before it where it is known.
        kind: the operation, or the function it calls.
        expr: what is bound; its free variables are those of ``inputs``.
        inputs: the values it reads, symbolic sizes last.
        outputs: the leaves of its result.
        ty: the result's type.
        primitives: the operations inside it.
        constants: its plain attributes.
        sizes: for a match of shapes, which computes sizes and no tensor: the type to match.
    """

    id: OpId
    kind: str
    expr: Any
    inputs: Ids
    outputs: Ids
    ty: Any
    primitives: tuple[str, ...]
    constants: Mapping[str, Constant]
    sizes: Any = None

    @property
    def calls_packed(self) -> bool:
        """Whether it is a call of a function from outside TVM that is said to be pure."""
        op = getattr(self.expr, "op", None)
        return isinstance(op, tvm.ir.Op) and op.name in _PURE


@dataclass
class Bindings:
    """A function's operators and values.

    Attributes:
        params: the leaves of its parameters, in order, each with the parameter it belongs to.
        labels: what people call these leaves.
        ops: in order.
        variables: the Relax variable of every value; a symbolic size is its own.
        outputs: the leaves of what it returns.
    """

    params: dict[ValueId, str] = field(default_factory=dict)
    labels: dict[ValueId, str] = field(default_factory=dict)
    ops: list[RelaxOp] = field(default_factory=list)
    variables: dict[ValueId, Any] = field(default_factory=dict)
    outputs: Ids = ()

    @cached_property
    def dtypes(self) -> dict[ValueId, str]:
        """Of its tensors, as the function has them."""
        types = ((key, var.ty) for key, var in self.variables.items())
        return {key: str(ty.dtype) for key, ty in types if is_tensor(ty)}


def read_bindings(module: Any, name: str) -> Bindings:
    """The operators and values of a function.

    Raises:
        FrontendError: if it branches, or calls functions that it makes itself.
    """
    return _Walk(relax.transform.Normalize()(module), name).walk()


class _Walk:
    def __init__(self, module: Any, name: str) -> None:
        self._module = module
        self._function = module[name]
        self._found = Bindings()
        self._env: dict[Any, Tree] = {}
        self._ids: dict[Any, ValueId] = {}
        self._used: dict[str, int] = {}

    def walk(self) -> Bindings:
        found = self._found
        for param in self._function.params:
            self._env[param] = tree = self._leaves(param)
            found.params.update(dict.fromkeys(_flat(tree), param.name))
            found.labels.update({key: key for key in _flat(tree)})
        for leaf in found.params:
            for size in sizes_in(found.variables[leaf].ty):
                if isinstance(size, tvm.ir.Var) and size not in self._ids:
                    self._value(size)
        body = self._function.body
        if not isinstance(body, relax.SeqExpr):
            raise FrontendError("the Relax function has no bindings")
        for block in body.blocks:
            for binding in block.bindings:
                if isinstance(binding, relax.MatchCast):
                    self._match(binding)
                else:
                    self._env[binding.var] = self._bound(binding)
        found.outputs = tuple(_flat(self._resolve(body.body)))
        return found

    def _bound(self, binding: Any) -> Tree:
        value = binding.value
        if isinstance(value, relax.Tuple | relax.TupleGetItem | tvm.ir.Var):
            tree = self._resolve(value)
            if isinstance(tree, str) and tree in self._found.params:  # taken out of a tuple
                self._found.labels[tree] = binding.var.name
            return tree
        if isinstance(value, relax.ShapeExpr | tvm.ir.GenericConst) or tvm.ir.is_prim_expr(value):
            return value
        if not isinstance(value, relax.Call) or isinstance(value.op, tvm.ir.Var):
            what = (
                "branches (R.If)" if isinstance(value, relax.If) else "makes functions of its own"
            )
            raise FrontendError(
                f"the Relax function {what} in {binding.var.name!r}; it can only be taken apart "
                f"where it is straight"
            )
        kind = self._kind(value)
        tree = self._leaves(binding.var)
        expr, inputs = self._closed(value, binding.var.ty)
        self._add(kind, expr, inputs, tuple(_flat(tree)), binding.var.ty)
        return tree

    def _match(self, binding: Any) -> None:
        """A match renames a tensor, and computes the sizes in its type that are new."""
        self._env[binding.var] = tree = self._resolve(binding.value)
        sizes = [size for size in sizes_in(binding.ty) if isinstance(size, tvm.ir.Var)]
        new = dict.fromkeys(size for size in sizes if size not in self._ids)
        if new and isinstance(tree, str):
            outputs = tuple(self._value(size) for size in new)
            self._add("relax.match_cast", None, (tree,), outputs, None, binding.ty)

    def _add(
        self, kind: str, expr: Any, inputs: Ids, outputs: Ids, ty: Any, sizes: Any = None
    ) -> None:
        name = self._name(kind.rpartition(".")[2], "op ")
        primitives = dict.fromkeys((kind, *(self._operations_in(expr) if expr is not None else ())))
        constants = _constants(expr) if expr is not None else {}
        self._found.ops.append(
            RelaxOp(name, kind, expr, inputs, outputs, ty, tuple(primitives), constants, sizes)
        )

    def _closed(self, expr: Any, ty: Any) -> tuple[Any, Ids]:
        """An expression over the variables of values alone, and these values."""
        free = list(relax.analysis.free_vars(expr))
        outer = [var for var in free if not is_size(var)]
        mapping = {var: self._expression(self._env[var]) for var in outer}
        expr = substitute(expr, ty, mapping)
        used = [var for var in relax.analysis.free_vars(expr) if var in self._ids]
        tensors = [self._ids[var] for var in used if not is_size(var)]
        return expr, (*tensors, *(self._ids[var] for var in used if is_size(var)))

    def _expression(self, tree: Tree) -> Any:
        if isinstance(tree, list):
            return relax.Tuple([self._expression(member) for member in tree])
        return self._found.variables[tree] if isinstance(tree, str) else tree

    def _resolve(self, expr: Any) -> Tree:
        if isinstance(expr, relax.Tuple):
            return [self._resolve(member) for member in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self._resolve(expr.tuple_value)[expr.index]
        return self._env[expr] if isinstance(expr, tvm.ir.Var) and expr in self._env else expr

    def _leaves(self, var: Any) -> Tree:
        """The values that a variable stands for."""
        if isinstance(var.ty, relax.TupleType):
            members = enumerate(var.ty.fields)
            return [self._leaves(relax.Var(f"{var.name}.{k}", ty)) for k, ty in members]
        return self._value(var)

    def _value(self, var: Any) -> ValueId:
        key = self._name(var.name)
        self._found.variables[key] = var
        self._ids[var] = key
        return key

    def _name(self, name: str, space: str = "") -> str:
        count = self._used[space + name] = self._used.get(space + name, -1) + 1
        if not count:
            return name
        return self._name(f"{name}_{count}", space)

    def _kind(self, call: Any) -> str:
        if isinstance(call.op, tvm.ir.GlobalVar):
            return f"function.{call.op.name_hint}"
        if isinstance(call.op, relax.ExternFunc):
            return f"packed.{call.op.global_symbol}"
        name = str(call.op.name)
        if name in ("relax.call_tir", "relax.call_tir_inplace"):
            return f"tir.{call.args[0].name_hint}"
        if name in _PACKED:
            return f"packed.{call.args[0].global_symbol}"
        return name

    def _operations_in(self, expr: Any) -> Iterator[str]:
        """The operations in the functions that an expression calls."""
        for function in called(self._module, expr).values():
            if isinstance(function, relax.Function):
                yield from _operations(function)
            elif _REDUCED.search(function.script()):  # a PrimFunc with an axis to reduce over
                yield "relax.sum"


def substitute(expr: Any, ty: Any, mapping: Mapping[Any, Any]) -> Any:
    """An expression of a type with other expressions, and numbers for sizes, for its variables.

    Sizes in the types of what is replaced are replaced by those of what stands there then.
    """
    sizes = {var: new for var, new in mapping.items() if is_size(var)}
    bound = {var: new for var, new in mapping.items() if not is_size(var)}
    if sizes:  # TVM reads them off a shape that is bound
        bound[relax.Var("sizes", relax.ShapeType(list(sizes)))] = relax.ShapeExpr(
            list(sizes.values())
        )
    result = relax.Var("r", ty)
    block = relax.BindingBlock([relax.VarBinding(result, expr)])
    function = relax.Function(list(bound), relax.SeqExpr([block], result), ty, is_pure=False)
    (binding,) = function.bind_params(bound).body.blocks[0].bindings
    return binding.value


def called(module: Any, expr: Any) -> dict[Any, Any]:
    """The module's functions that an expression calls, and those that they call."""
    found: dict[Any, Any] = {}
    waiting = [expr]
    while waiting:

        def visit(node: Any) -> None:
            if isinstance(node, tvm.ir.GlobalVar) and node not in found:
                found[node] = module[node]
                if isinstance(module[node], relax.Function):
                    waiting.append(module[node])

        relax.analysis.post_order_visit(waiting.pop(), visit)
    return found


def _operations(function: Any) -> list[str]:
    names: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and isinstance(node.op, tvm.ir.Op):
            names.append(str(node.op.name))

    relax.analysis.post_order_visit(function, visit)
    return names


def _constants(call: Any) -> dict[str, Constant]:
    """A call's plain attributes by name."""
    found: dict[str, Constant] = {}
    info = getattr(type(call.attrs), "__tvm_ffi_type_info__", None)
    for attribute in info.fields if info else ():
        value = getattr(call.attrs, attribute.name)
        if value is None or isinstance(value, bool | int | float):
            found[attribute.name] = value
        elif isinstance(value, str):
            found[attribute.name] = str(value)  # TVM's dtypes are strings, too
    return found


def _flat(tree: Tree) -> Iterator[ValueId]:
    if isinstance(tree, list):
        for member in tree:
            yield from _flat(member)
    elif isinstance(tree, str):
        yield tree


def is_tensor(ty: Any) -> bool:
    """Whether a value of this type is a tensor."""
    return isinstance(ty, relax.TensorType)


def is_size(var: Any) -> bool:
    """Whether a variable stands for a number."""
    return isinstance(var.ty, tvm.ir.PrimType)


def sizes_in(ty: Any) -> list[Any]:
    """What a tensor's or shape's type says of each axis: an expression of sizes."""
    shape = ty.shape if isinstance(ty, relax.TensorType) else ty
    if isinstance(shape, relax.ShapeExpr | relax.ShapeType) and shape.values is not None:
        return list(shape.values)
    return []


def match(dims: Sequence[Any], shape: Sequence[int], sizes: dict[Any, int]) -> bool:
    """Whether a shape fits; sizes that are new are noted."""
    if len(dims) != len(shape):
        return False
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, tvm.ir.Var):
            sizes.setdefault(dim, size)
    found = [evaluated(dim, sizes) for dim in dims]
    return all(have is None or have == size for have, size in zip(found, shape, strict=True))


def evaluated(dim: Any, sizes: Mapping[Any, int]) -> int | None:
    """An expression of sizes as a number; None where one is not known."""
    if isinstance(dim, tirx.IntImm):
        return int(dim.value)
    if isinstance(dim, int):
        return dim
    analyzer = Analyzer()
    for var, size in sizes.items():
        analyzer.bind(var, tirx.IntImm(str(var.ty.dtype), size))
    result = analyzer.simplify(dim)
    return int(result.value) if isinstance(result, tirx.IntImm) else None
