"""A Relax function binding by binding: graph, source run on TVM itself, float64 run, units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import RLock
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.sym import Analyzer

from tapml_nb.frontends.arrays import by_name, memory_of, split_steps, to_array
from tapml_nb.frontends.arrays import is_tensor as is_array
from tapml_nb.frontends.program import FrontendError, Mark, Memory, Unit, Unsupported
from tapml_nb.frontends.relax.bindings import (
    Anatomy,
    RelaxOp,
    is_size,
    is_tensor,
    sizes_in,
    take_apart,
)
from tapml_nb.frontends.relax.machine import HeldObject, Machine
from tapml_nb.frontends.relax.provenance import scopes, source_line
from tapml_nb.frontends.relax.units import (
    build_module,
    build_open_module,
    last_line,
    only_tensors,
    specialized,
)
from tapml_nb.graph import Graph, Op, OpId, TensorSpec, Value, ValueId
from tapml_nb.graph.model import layer_of
from tapml_nb.graph.select import short_kind
from tapml_nb.numerics import is_float, np_dtype

_EFFECTS = "_initialize_effect"
"""The function in which ``relax.frontend.nn`` makes the objects that its methods change."""


def import_relax(
    module: Any, inputs: Any, *, source: str = "tvm:llvm", name: str | None = None
) -> RelaxProgram:
    """Import a Relax module with the inputs to debug it on.

    Args:
        module: an ``IRModule`` with a function ``main``, or with one public Relax function.
        inputs: a tuple (in the order of the function's parameters) or dict (by name) of arrays
            for one step, or a list of them for several.  A shape is a tuple of sizes, a tuple
            parameter a tuple; for an object of the virtual machine give a function without
            arguments that makes it.  Weights that the function's attribute ``params`` holds,
            and objects that the module itself initializes, may be left out.
        source: ``"tvm:llvm"`` or ``"tvm:cuda"``.
        name: what to call the model; default the function's name.

    Raises:
        TypeError, ValueError: if the inputs do not fit the function.
        FrontendError: if it cannot be taken apart, or TVM cannot run it.
    """
    function = _chosen(module)
    machine = Machine(source.removeprefix("tvm:"))
    return RelaxProgram(module, function, split_steps(inputs), machine, name or function)


class RelaxProgram:
    """A Relax function as a :class:`~tapml_nb.frontends.program.Program`.

    Tensors are NumPy arrays.  Shapes, sizes and objects of the virtual machine are host values:
    the former are written out into units; an operator that takes or gives an object runs on the
    source alone.
    """

    def __init__(
        self, module: Any, function: str, steps: Sequence[Any], machine: Machine, name: str
    ) -> None:
        self._module = module
        self._function = module[function]
        self._machine = machine
        self._anatomy: Anatomy = take_apart(module, function)
        self._units: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self._open_units: dict[str, tuple[Any, list[Any]] | None] = {}
        self._prepared: set[bool] = set()
        self._building = RLock()  # TVM's builders know one scope for all threads
        self._effects = self._made_objects()
        self._steps = [self._bound(step, index) for index, step in enumerate(steps)]
        self._check_weights()
        where = scopes(self._anatomy.ops, self._weights())
        self._ops = self._named(where)
        self.graph = self._build_graph(name, where, self._first_run())

    # -- Program -----------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many steps of inputs were given."""
        return len(self._steps)

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """Inputs, weights, sizes and objects of a step."""
        values = dict(self._steps[step])
        for key, value in values.items():
            if callable(value):
                values[key] = HeldObject(value)
        return values | dict(state)

    @property
    def mutations(self) -> dict[ValueId, ValueId]:
        """The objects that the module itself makes, each with what a step leaves of it."""
        made = [key for key in self._anatomy.params if key in self._effects]
        results = [key for key in self._anatomy.outputs if self._is_object(key)]
        return dict(zip(made, results, strict=False))

    def marks(self) -> dict[tuple[ValueId, int], Mark]:
        """None: NumPy does not notice writes."""
        return {}

    def may_be_random(self, op: OpId) -> bool:
        """Whether it calls a function that TVM knows nothing of, and that may be called again;
        none of Relax's own operators draws random numbers."""
        program = self._ops[op]
        ends = (*program.inputs, *program.outputs)
        return program.calls_packed and not any(map(self._is_object, ends))

    def repeatable(self, op: OpId) -> None:
        """None: nobody knows where such a function has its numbers from."""

    def run(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        """Run one operator on TVM's virtual machine; outputs in graph order."""
        program = self._ops[op]
        if program.sizes is not None:
            (array,) = (values[key] for key in program.inputs)
            return self._matched(program, array.shape)
        key, unit = self._unit(program, self._seen(program, values))
        self._machine.compile({key: unit})
        inputs = {name: values[name] for name in program.inputs}
        results = self._machine.call(key, _arguments(program, inputs))
        return [
            self._held(op, inputs, position, result) if _is_object(result) else result
            for position, result in enumerate(results)
        ]

    def run_exact(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any] | None:
        """Run one operator in float64: its unit with every floating-point dtype widened."""
        program = self._ops[op]
        if program.sizes is not None:
            return None
        key, unit = self._unit(program, self._seen(program, values), exact=True)
        if unit is None or not only_tensors(unit):
            return None
        self._compile_all(exact=True)
        self._machine.compile({key: unit}, wide=True)
        given = (values[name] for name in program.inputs)
        arrays = [_widened(value) for value in given if isinstance(value, np.ndarray)]
        try:
            results = self._machine.call(key, arrays)
        except Exception:  # it cannot be compiled in float64, or not be run
            return None
        for value, result in zip(self.graph[op].outputs, results, strict=True):
            wanted = np_dtype(self.graph.values[value].spec.dtype)
            if is_float(wanted) and result.dtype != np.float64:
                return None
        return results

    def unit(self, op: OpId, values: Mapping[ValueId, Any], *, symbolic: bool = False) -> Unit:
        """The operator as a Relax function (see :class:`~tapml_nb.frontends.program.Program`)."""
        program = self._ops[op]
        seen = self._seen(program, values)
        if symbolic and (opened := self._open_unit(program, seen)):
            return opened
        _, unit = self._unit(program, seen)
        if not only_tensors(unit):
            raise Unsupported(
                f"{program.kind} takes or gives an object of TVM's virtual machine (such as a KV "
                f"cache), which is on the source alone"
            )
        with self._building:
            module = specialized(unit)
        return Unit(
            module,
            tuple(look for look in seen.values() if isinstance(look, TensorSpec)),
            tuple(_spec(values[name]) for name in program.outputs),
        )

    def to_numpy(self, tensor: np.ndarray) -> np.ndarray:
        """The array itself, contiguous."""
        return np.asarray(tensor, order="C")

    def from_numpy(self, array: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def memory(self, tensor: Any) -> Memory | None:
        """The array's own (see :class:`~tapml_nb.frontends.program.Program`)."""
        return memory_of(tensor) if isinstance(tensor, np.ndarray) else None

    # -- running -----------------------------------------------------------------------------

    def _seen(self, program: RelaxOp, values: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """What an operator's unit is built for: the looks of tensors, sizes as they are.

        The dtypes are those of the model, also where float64 values stand in for its own.
        """
        seen: dict[ValueId, Any] = {}
        for key in program.inputs:
            value = values[key]
            if isinstance(value, np.ndarray):
                seen[key] = TensorSpec(tuple(value.shape), self._dtypes[key])
            else:
                seen[key] = None if isinstance(value, HeldObject) else value
        return seen

    def _unit(
        self, program: RelaxOp, seen: Mapping[ValueId, Any], *, exact: bool = False
    ) -> tuple[str, Any]:
        """Key and module of an operator's unit; the module is None if there is no exact one."""
        slot = (program.id, exact, *seen.values())
        with self._building:
            if slot not in self._units:
                variables = self._anatomy.variables
                unit = build_module(self._module, program, variables, seen, exact=exact)
                text = tvm.ir.save_json(unit) if unit is not None else ""
                self._units[slot] = (f"{'float64' if exact else 'as it is'}|{text}", unit)
            return self._units[slot]

    def _open_unit(self, program: RelaxOp, seen: Mapping[ValueId, Any]) -> Unit | None:
        """An operator's unit for all sizes; None if there are no open ones, or these are others."""
        sizes: dict[Any, int] = {}
        for key, look in seen.items():
            var = self._anatomy.variables[key]
            if isinstance(look, TensorSpec):
                if not _match(sizes_in(var.ty), look.shape, sizes):
                    return None
            elif not is_size(var) or sizes.setdefault(var, look) != look:
                return None
        if not sizes:
            return None
        with self._building:
            if program.id not in self._open_units:
                variables = self._anatomy.variables
                self._open_units[program.id] = build_open_module(self._module, program, variables)
        built = self._open_units[program.id]
        if built is None or not only_tensors(built[0]):
            return None
        module, numbers = built
        inputs = tuple(look for look in seen.values() if isinstance(look, TensorSpec))
        return Unit(module, inputs, (), "", True, tuple(sizes[size] for size in numbers))

    def _compile_all(self, *, exact: bool) -> None:
        """Compile what all operators need for what is known of the first step, at once."""
        if exact in self._prepared:
            return
        self._prepared.add(exact)
        units: dict[str, Any] = {}
        for program in self._ops.values():
            if program.sizes is None and all(key in self._looks for key in program.inputs):
                seen = {key: self._looks[key] for key in program.inputs}
                key, unit = self._unit(program, seen, exact=exact)
                if unit is not None and only_tensors(unit):
                    units[key] = unit
        self._machine.compile(units, wide=exact)

    def _held(
        self, op: OpId, inputs: Mapping[ValueId, Any], position: int, live: Any
    ) -> HeldObject:
        def again() -> Any:
            return self.run(op, inputs)[position].take()

        return HeldObject(again, live)

    def _matched(self, program: RelaxOp, shape: Sequence[int]) -> list[Any]:
        sizes: dict[Any, int] = {}
        _match(sizes_in(program.sizes), shape, sizes)
        return [sizes[self._anatomy.variables[name]] for name in program.outputs]

    # -- import ------------------------------------------------------------------------------

    def _made_objects(self) -> dict[ValueId, Callable[[], Any]]:
        """How the module makes the objects among its function's parameters."""
        if _EFFECTS not in {var.name_hint for var in self._module.get_global_vars()}:
            return {}
        maker = tvm.IRModule({"main": self._module[_EFFECTS]})
        self._machine.compile({_EFFECTS: maker})
        objects = [key for key in self._anatomy.params if self._is_object(key)]
        return {key: partial(self._made_object, position) for position, key in enumerate(objects)}

    def _made_object(self, position: int) -> Any:
        return self._machine.call(_EFFECTS, [])[position]

    def _is_object(self, key: ValueId) -> bool:
        ty = self._anatomy.variables[key].ty
        return not isinstance(ty, relax.TensorType | relax.ShapeType | tvm.ir.PrimType)

    def _bound(self, step: Any, index: int) -> dict[ValueId, Any]:
        """One step's leaves, checked against the function's types; with symbolic sizes."""
        given = self._by_parameter(step, index)
        values: dict[ValueId, Any] = {}
        sizes: dict[Any, int] = {}
        leaves = iter(self._anatomy.params)
        for param in self._function.params:
            for value, ty in _members(given[param.name], param.ty, f"step {index}: {param.name}"):
                key = next(leaves)
                values[key] = _checked(value, ty, f"step {index}: {key}", sizes)
        for key, var in self._anatomy.variables.items():
            if is_size(var) and var in sizes:
                values[key] = sizes[var]
        return values

    def _by_parameter(self, step: Any, index: int) -> dict[str, Any]:
        names = [param.name for param in self._function.params]
        weights = list((self._function.attrs or {}).get("params", ()))
        known = dict(zip(names[len(names) - len(weights) :], weights, strict=True))
        known |= {self._anatomy.params[key]: make for key, make in self._effects.items()}
        if isinstance(step, Mapping):
            return by_name({**known, **step}, names, index)
        if len(step) == len(names):
            return dict(zip(names, step, strict=True))
        asked = [name for name in names if name not in known]
        return by_name({**known, **by_name(step, asked, index)}, names, index)

    def _parameters(self) -> set[ValueId]:
        """The leaves that are weights: parameters of the function behind its inputs."""
        params = self._function.params
        inputs = int((self._function.attrs or {}).get("num_input", len(params)))
        weights = {param.name for param in params[inputs:]}
        return {key for key, name in self._anatomy.params.items() if name in weights}

    def _check_weights(self) -> None:
        first = self._steps[0]
        for index, step in enumerate(self._steps[1:], 1):
            for key in self._parameters():
                if step[key] is not first[key] and not np.array_equal(step[key], first[key]):
                    raise ValueError(
                        f"inputs: step {index}: {key} differs from step 0's; weights must not "
                        f"change between steps"
                    )

    def _weights(self) -> dict[ValueId, str]:
        """The leaves whose names say which module they belong to."""
        labels = self._anatomy.labels
        return {key: label for key, label in labels.items() if "." in label}

    def _named(self, where: Mapping[OpId, str]) -> dict[OpId, RelaxOp]:
        ops: dict[OpId, RelaxOp] = {}
        used: dict[str, int] = {}
        for program in self._anatomy.ops:
            scope = where[program.id]
            base = f"{scope}/{short_kind(program.kind)}" if scope else short_kind(program.kind)
            count = used[base] = used.get(base, -1) + 1
            op = f"{base}_{count}" if count else base
            ops[op if op not in ops else f"{op}/{program.id}"] = program
        return ops

    def _first_run(self) -> dict[ValueId, Any]:
        """Run the first step: what every value looks like, None for objects."""
        values = self.bind(0, {})
        self._looks = self._static(values)
        self._dtypes = {
            key: str(var.ty.dtype)
            for key, var in self._anatomy.variables.items()
            if is_tensor(var.ty)
        }
        self._compile_all(exact=False)
        looks = {key: _look(value) for key, value in values.items()}
        last = {key: op for op, program in self._ops.items() for key in program.inputs}
        for op, program in self._ops.items():
            try:
                outputs = self.run(op, values)
            except Exception as error:
                raise FrontendError(
                    f"the source cannot run {op} on the first step's inputs: {last_line(error)}"
                ) from error
            for key, output in zip(program.outputs, outputs, strict=True):
                values[key], looks[key] = output, _look(output)
            for key in program.inputs:
                if last[key] == op:
                    values.pop(key, None)
        return looks

    def _static(self, values: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """What can be told of values before anything runs."""
        looks = {key: _look(value) for key, value in values.items()}
        variables = self._anatomy.variables
        sizes = {variables[k]: v for k, v in values.items() if is_size(variables[k])}
        for key, var in variables.items():
            if key not in looks and is_tensor(var.ty) and var.ty.shape is not None:
                shape = [_evaluated(size, sizes) for size in sizes_in(var.ty)]
                known = tuple(size for size in shape if size is not None)
                if len(known) == len(shape):
                    looks[key] = TensorSpec(known, str(var.ty.dtype))
        return looks

    def _build_graph(
        self, name: str, where: Mapping[OpId, str], looks: Mapping[ValueId, Any]
    ) -> Graph:
        self._looks = dict(looks)
        weights = self._parameters()

        def value(key: ValueId, role: Any, text: str, producer: OpId | None = None) -> Value:
            spec, host = looks[key], not isinstance(looks[key], TensorSpec)
            return Value(key, role, TensorSpec((), "host") if host else spec, text, producer, host)

        values: dict[ValueId, Value] = {}
        for key in self._steps[0]:
            role = "parameter" if key in weights else "input"
            role = "buffer" if key in self._effects else role
            values[key] = value(key, role, self._anatomy.labels.get(key, key))
        ops: list[Op] = []
        for op, program in self._ops.items():
            for k, key in enumerate(program.outputs):
                values[key] = value(key, "operator", f"{op}#{k}" if k else op, op)
            scope = where[program.id]
            ops.append(
                Op(
                    id=op,
                    kind=program.kind,
                    scope=scope,
                    module="",
                    layer=layer_of(scope),
                    inputs=program.inputs,
                    outputs=program.outputs,
                    source=source_line(program.expr.span) if program.expr is not None else None,
                    primitives=program.primitives,
                    host=all(values[key].host for key in program.outputs),
                    constants=program.constants,
                )
            )
        users = tuple(key for key in self._anatomy.params if values[key].role == "input")
        outputs = tuple(key for key in self._anatomy.outputs if not values[key].host)
        return Graph(name, tuple(ops), values, users, outputs)


def _chosen(module: Any) -> str:
    """The function to debug: ``main``, or the only public Relax function."""
    public = [
        var.name_hint
        for var, function in module.functions.items()
        if isinstance(function, relax.Function)
        and function.attrs is not None
        and "global_symbol" in function.attrs
        and var.name_hint != _EFFECTS
    ]
    if "main" in public:
        return "main"
    if len(public) != 1:
        found = ", ".join(sorted(public)) or "none"
        raise ValueError(
            f"model: the module has the public Relax functions {found}; give one with a function "
            f"'main', or with one alone"
        )
    return str(public[0])


def _members(value: Any, ty: Any, where: str) -> list[tuple[Any, Any]]:
    """A parameter's leaves with their types."""
    if not isinstance(ty, relax.TupleType):
        return [(value, ty)]
    if not isinstance(value, tuple | list) or len(value) != len(ty.fields):
        raise ValueError(f"inputs: {where} is a tuple of {len(ty.fields)} tensors; give these")
    pairs = zip(value, ty.fields, strict=True)
    return [leaf for member, field in pairs for leaf in _members(member, field, where)]


def _checked(value: Any, ty: Any, where: str, sizes: dict[Any, int]) -> Any:
    """A leaf as the program holds it; what its shape says of symbolic sizes is added to them."""
    if isinstance(ty, relax.TensorType):
        array = to_array(value, where)
        dims = sizes_in(ty) if ty.shape is not None else list(array.shape)
        if array.dtype.name != str(ty.dtype) or not _match(dims, array.shape, sizes):
            raise ValueError(f"inputs: {where} is {_spec(array)}, the function takes {ty}")
        return array
    if isinstance(ty, relax.ShapeType):
        shape = tuple(map(int, value if isinstance(value, tuple | list) else (value,)))
        if not _match(sizes_in(ty) or list(shape), shape, sizes):
            raise ValueError(f"inputs: {where} is {shape}, the function takes {ty}")
        return shape
    if isinstance(ty, tvm.ir.PrimType):
        return value.item() if is_array(value) else value
    if not callable(value):
        raise TypeError(
            f"inputs: {where} is an object of TVM's virtual machine; give a function without "
            f"arguments that makes it anew"
        )
    return value


def _match(dims: Sequence[Any], shape: Sequence[int], sizes: dict[Any, int]) -> bool:
    """Whether a shape fits; sizes that are new are noted."""
    if len(dims) != len(shape):
        return False
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, tvm.ir.Var):
            sizes.setdefault(dim, size)
    found = [_evaluated(dim, sizes) for dim in dims]
    return all(have is None or have == size for have, size in zip(found, shape, strict=True))


def _evaluated(dim: Any, sizes: Mapping[Any, int]) -> int | None:
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


def _arguments(program: RelaxOp, inputs: Mapping[ValueId, Any]) -> list[Any]:
    in_place = isinstance(program.expr.op, tvm.ir.Op) and "inplace" in program.expr.op.name
    arguments: list[Any] = []
    for value in inputs.values():
        if isinstance(value, HeldObject):
            arguments.append(value.take() if in_place else value.borrow())
        elif isinstance(value, np.ndarray):
            arguments.append(value)
    return arguments


def _is_object(value: Any) -> bool:
    return not isinstance(value, np.ndarray | tuple | int | float | bool)


def _look(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _spec(value)
    return None if _is_object(value) else value


def _spec(array: np.ndarray) -> TensorSpec:
    return TensorSpec(tuple(array.shape), array.dtype.name)


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if is_float(array.dtype) else array
