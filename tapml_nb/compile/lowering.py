"""A Relax function → PrimFuncs and a straight-line launch plan, by the target's own pipeline.

Runs in a compile worker, never in the notebook: lowering folds constants by running code, and a
compiler under bring-up may crash.  The passes are those that TVM deploys for the target
(dispatch, legalize, fuse, schedule); what follows them in deployment (memory planning, VM
bytecode) does not change a kernel and is replaced by the plan.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, s_tir, tirx
from tvm.relax import pipeline
from tvm.relax.backend import cpu_generic, gpu_generic
from tvm.s_tir import dlight
from tvm.sym import Analyzer

from tapml_nb.array_api import np_dtype
from tapml_nb.compile.kernel import BufferSpec, Kernel, Launch, Size
from tapml_nb.compile.primfunc import SizeNames, UnknownSize, buffer_specs
from tapml_nb.numerics import digest

PIPELINE = "relax-default/5"
"""Version of this lowering; part of every cache key."""

_GPUS = ("cuda", "opencl", "webgpu")

_OWN_PIPELINES = {"c": cpu_generic, "opencl": gpu_generic, "webgpu": gpu_generic}


class UnsupportedLowering(Exception):
    """The target's pipeline leaves something no kernel can be made of; the message says what.

    ``module`` is the ``IRModule`` that the pipeline left, if it came that far.
    """

    module: Any = None


@dataclass(frozen=True)
class Lowered:
    """What lowering makes of a unit: the plan, its PrimFuncs under global names, its constants."""

    kernel: Kernel
    functions: Any
    constants: dict[str, np.ndarray]


def lower(module: Any, target: Any, key: str) -> Lowered:
    """Lower ``main`` of a Relax module, or the one PrimFunc of an override, for a target; names of
    functions are made of the kernel's key.

    Raises:
        UnsupportedLowering: if an operation has no legalization or needs the VM at run time.
        tvm.error.TVMError: whatever the pipeline raises.
    """
    if not is_relax(module):
        return _lower_primfunc(module, target, key)
    with target:
        lowered = tvm.transform.Sequential(relax_passes(target))(module)
    try:
        return _Planner(lowered, key).plan()
    except UnsupportedLowering as error:
        error.module = lowered
        raise


def is_relax(module: Any) -> bool:
    """Whether a unit is a Relax function ``main``; else it is the PrimFunc of an override."""
    return "main" in {gv.name_hint for gv in module.functions}


def relax_passes(target: Any) -> list[Any]:
    """The passes over a whole module that TVM deploys for a target, up to scheduled PrimFuncs."""
    own = _OWN_PIPELINES.get(target.kind.name)
    if own:  # TVM finds none for these kinds by itself
        return [*own.library_dispatch_passes(target), *own.legalize_passes(target)]
    return [*pipeline.library_dispatch_passes(target), *pipeline.legalize_passes(target)]


def function_name(key: str, name: str) -> str:
    """The global symbol of a PrimFunc: unique across all kernels of a library."""
    return f"k{key[:16]}_{re.sub(r'[^0-9A-Za-z_]', '_', name)}"


def _lower_primfunc(module: Any, target: Any, key: str) -> Lowered:
    ((var, function),) = module.functions.items()
    outputs = int(function.attrs["tapml.outputs"])
    specs = buffer_specs(function, outputs)
    name = function_name(key, var.name_hint)
    first = len(specs) - outputs
    kernel = Kernel(
        key=key,
        buffers=tuple(specs),
        params=first,
        constants=(),
        launches=(Launch(name, tuple(range(len(specs)))),),
        views=(),
        results=tuple(range(first, len(specs))),
    )
    function = function.without_attr("tapml.outputs").with_attr("global_symbol", name)
    functions = tvm.IRModule({name: function})
    if target.kind.name in _GPUS:  # one that binds no threads gets the schedule of last resort
        with target:
            functions = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(functions)
        if not _binds_threads(functions[name].body):
            functions = tvm.IRModule({name: _by_one_thread(functions[name])})
    return Lowered(kernel, functions, {})


def _binds_threads(statement: Any) -> bool:
    """Whether a statement binds a loop to the threads of a GPU."""
    if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.THREAD_BINDING:
        return True
    inner = [getattr(statement, name, None) for name in ("body", "block", "then_case", "else_case")]
    return any(_binds_threads(s) for s in (*inner, *getattr(statement, "seq", ())) if s is not None)


def _by_one_thread(function: Any) -> Any:
    """A PrimFunc that is no schedulable loop nest, as a single thread of a GPU: slow, and right."""
    root = function.body.block if isinstance(function.body, s_tir.SBlockRealize) else None
    body = root.body if root else function.body
    for axis in ("threadIdx.x", "blockIdx.x"):
        var = tirx.Var(axis.replace(".", "_"), "int32")
        thread = tirx.IterVar(tvm.ir.Range(0, 1), var, tirx.IterVar.ThreadIndex, axis)
        body = tirx.For(var, 0, 1, tirx.ForKind.THREAD_BINDING, body, thread_binding=thread)
    if root:
        kept = (root.init, root.alloc_buffers, root.match_buffers, root.annotations)
        block = s_tir.SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, body, *kept)
        body = s_tir.SBlockRealize(function.body.iter_values, function.body.predicate, block)
    return function.with_body(body)


class _Planner:
    """Walks the bindings of a lowered ``main`` and numbers the buffers."""

    def __init__(self, module: Any, key: str) -> None:
        self.module = module
        self.key = key
        self.main = module["main"]
        self.sizes = SizeNames()
        self.buffers: list[BufferSpec] = []
        self.elements: list[Any] = []
        self.constants: dict[int, np.ndarray] = {}
        self.launches: list[tuple[str, list[int], list[tuple[int, Size]]]] = []
        self.views: list[tuple[int, int]] = []
        self.used: dict[str, Any] = {}
        self.env: dict[Any, Any] = {}

    def plan(self) -> Lowered:
        tensors = [p for p in self.main.params if not isinstance(p.ty, relax.ShapeType)]
        numbers = [n for p in self.main.params[len(tensors) :] for n in p.ty.values]
        self.sizes.declare([p.ty.shape for p in tensors if isinstance(p.ty, relax.TensorType)])
        given = tuple(self.sizes.name(number) for number in numbers)
        for param in tensors:
            self.env[param] = self._new_buffer(param.ty)
        params = len(self.buffers)
        body = self.main.body
        for block in body.blocks:
            for binding in block.bindings:
                self.env[binding.var] = self._bind(binding)
        results = self._flat(self._value(body.body))
        self._turn(params, results)
        return self._numbered(params, results, given)

    def _turn(self, params: int, results: list[int]) -> None:
        """Give the PrimFunc of a kernel that is one the unit's parameters and results in the
        unit's order: that of an override, which it can then be."""
        wanted = [*range(params), *results]
        if len(self.launches) != 1:
            return
        ((name, args, sizes),) = self.launches
        if sizes or sorted(args) != sorted(wanted):
            return
        function = self.used[name]
        turned = [function.params[args.index(buffer)] for buffer in wanted]
        self.used[name] = tirx.PrimFunc(
            turned, function.body, function.ret_type, function.attrs, function.span
        )
        self.launches = [(name, wanted, sizes)]

    def _numbered(self, params: int, results: list[int], numbers: tuple[str, ...]) -> Lowered:
        """Move the constants behind the parameters, where :class:`Kernel` wants them."""
        old = [*range(params), *self.constants]
        old += [i for i in range(len(self.buffers)) if i >= params and i not in self.constants]
        new = {o: n for n, o in enumerate(old)}
        digests = {i: digest(array) for i, array in self.constants.items()}
        symbols = {name: function_name(self.key, name) for name in self.used}
        kernel = Kernel(
            key=self.key,
            buffers=tuple(self.buffers[o] for o in old),
            params=params,
            constants=tuple(digests[i] for i in self.constants),
            launches=tuple(
                Launch(symbols[name], tuple(new[a] for a in args), tuple(sizes))
                for name, args, sizes in self.launches
            ),
            views=tuple((new[d], new[s]) for d, s in self.views),
            results=tuple(new[r] for r in results),
            numbers=numbers,
        )
        functions = {
            symbols[name]: function.with_attr("global_symbol", symbols[name])
            for name, function in self.used.items()
        }
        constants = {digests[i]: array for i, array in self.constants.items()}
        return Lowered(kernel, tvm.IRModule(functions), constants)

    def _bind(self, binding: Any) -> Any:
        value = binding.value
        if not isinstance(value, relax.Call):
            return self._value(value)
        name = value.op.name if isinstance(value.op, tvm.ir.Op) else str(value.op)
        if name == "relax.call_tir":
            return self._call_tir(value, binding.var.ty)
        if name in ("relax.reshape", "relax.memory.view"):
            return self._view(self._value(value.args[0]), binding.var.ty)
        if name == "relax.call_pure_packed" and _callee(value) == "vm.builtin.reshape":
            return self._view(self._value(value.args[1]), binding.var.ty)
        if name in ("relax.call_pure_packed", "relax.call_dps_packed", "relax.call_packed"):
            raise UnsupportedLowering(
                f"needs {_callee(value)} of TVM's virtual machine at run time"
            )
        raise UnsupportedLowering(f"the target's pipeline has no legalization for {name}")

    def _call_tir(self, call: Any, ty: Any) -> Any:
        callee, arguments = call.args[0], list(call.args[1])
        function = self.module[callee]
        sizes = [(k, self._size(a)) for k, a in enumerate(arguments) if tvm.ir.is_prim_expr(a)]
        inputs = [self._value(a) for a in arguments if not tvm.ir.is_prim_expr(a)]
        if len(inputs) == 1 and isinstance(ty, relax.TensorType):
            before, after = self.elements[inputs[0]], _elements(ty)
            # As deployment does (RewriteDataflowReshape).  TVM's analysis compares flat indices
            # alone: a slice of the first elements has the pattern, too.
            alike = Analyzer().can_prove_equal(before, after)
            if alike and relax.analysis.has_reshape_pattern(function):
                return self._view(inputs[0], ty)
        outputs = self._new_tuple(ty)
        self.used[callee.name_hint] = function
        self.launches.append((callee.name_hint, [*inputs, *self._flat(outputs)], sizes))
        return outputs

    def _view(self, source: int, ty: Any) -> int:
        spec = self._spec(ty)
        if spec == self.buffers[source]:
            return source
        view = self._new_buffer(ty)
        self.views.append((view, source))
        return view

    def _value(self, expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return self.env[expr]
        if isinstance(expr, relax.Tuple):
            return [self._value(e) for e in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value)[expr.index]
        if isinstance(expr, tvm.ir.GenericConst):
            return self._constant(expr)
        raise UnsupportedLowering(f"the lowered unit holds a {type(expr).__name__}")

    def _constant(self, expr: Any) -> int:
        number = self._new_buffer(expr.ty)
        spec = self.buffers[number]
        array = expr.value.numpy()
        self.constants[number] = np.ascontiguousarray(
            array if array.dtype == np_dtype(spec.dtype) else array.view(np_dtype(spec.dtype))
        ).reshape(spec.shape)
        return number

    def _new_buffer(self, ty: Any) -> int:
        self.buffers.append(self._spec(ty))
        self.elements.append(_elements(ty))
        return len(self.buffers) - 1

    def _spec(self, ty: Any) -> BufferSpec:
        if not isinstance(ty, relax.TensorType) or ty.shape is None:
            raise UnsupportedLowering(f"a value of type {ty} has no shape that is known")
        return BufferSpec(tuple(map(self._size, ty.shape)), str(ty.dtype))

    def _size(self, expr: Any) -> Size:
        try:
            return self.sizes.size(expr)
        except UnknownSize as reason:
            raise UnsupportedLowering(f"size {expr} is known only at run time: {reason}") from None

    def _new_tuple(self, ty: Any) -> Any:
        if isinstance(ty, relax.TupleType):
            return [self._new_tuple(field) for field in ty.fields]
        return self._new_buffer(ty)

    def _flat(self, value: Any) -> list[int]:
        if isinstance(value, list):
            return [i for member in value for i in self._flat(member)]
        return [value]


def _callee(call: Any) -> str:
    """The name of the packed function that a call names first."""
    first = call.args[0]
    name = getattr(first, "value", None) or getattr(first, "global_symbol", "a packed function")
    return str(name)


def _elements(ty: Any) -> Any:
    """How many elements a tensor has, as TVM's arithmetic has it."""
    count: Any = tirx.IntImm("int64", 1)
    for size in ty.shape:
        count = count * size
    return count
