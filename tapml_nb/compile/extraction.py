"""Scheduled PrimFuncs → a :class:`~tapml_nb.compile.sources.SourcePackage`.

TVM's own pipeline makes both halves.  Its host half is read where it is TIR, right after
``SplitHostDevice``, and carried out with numbers in place of variables; its device half goes
through the target's code generator, which needs no device.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.build import split_host_device_mods

from tapml_nb.array_api import np_dtype
from tapml_nb.compile.kernel import OPERATIONS, Kernel
from tapml_nb.compile.primfunc import TIR_OPERATIONS
from tapml_nb.compile.sources import (
    Argument,
    DeviceFunction,
    DeviceLaunch,
    HostFunction,
    SourcePackage,
)

_INT32 = (-(1 << 31), (1 << 31) - 1)


class NotStraight(Exception):
    """The host half does more than allocate and launch; the message says what."""


def extract(functions: Any, kernel: Kernel, target: Any) -> SourcePackage:
    """Build scheduled PrimFuncs (an ``IRModule``, with global symbols) for a target with a host,
    whose driver compiles source text.  The kernel says how they are launched, and at which shapes.

    Raises:
        NotStraight: if a PrimFunc's host half is no mere sequence of launches.
        tvm.error.TVMError: whatever the pipeline raises.
    """
    if target.kind.name == "webgpu":
        functions = narrowed(functions)
    split: list[Any] = []

    @tvm.ir.instrument.pass_instrument
    class _Capture:
        def run_after_pass(self, module: Any, info: Any) -> None:
            if info.name == "tirx.SplitHostDevice":
                split.append(module)

    pipeline, _, finalize_device = tirx.get_default_tir_pipeline(target)
    with tvm.transform.PassContext(opt_level=3, instruments=[_Capture()]):
        whole = pipeline(tirx.transform.BindTarget(target)(functions))
    _, modules = split_host_device_mods(whole)
    device: dict[str, DeviceFunction] = {}
    for kind, module in modules.items():
        device |= _generate(finalize_device()(module), kind)
    hosts = {var.name_hint: function for var, function in split[-1].functions.items()}
    found: dict[str, HostFunction] = {}
    for launch in kernel.launches:
        if launch.sizes:
            raise NotStraight(f"{launch.function} takes sizes as numbers")
        shapes = [kernel.buffers[number].shape for number in launch.args]
        host = _Host(hosts[launch.function], shapes).run()
        if found.setdefault(launch.function, host) != host:
            raise NotStraight(f"{launch.function} is launched with different shapes")
    return SourcePackage(found, device)


def _generate(module: Any, target: Any) -> dict[str, DeviceFunction]:
    build = tvm.get_global_func(f"target.build.{target.kind.name}")
    found = {}
    for var, function in module.functions.items():
        built = build(tvm.IRModule({var: function}, attrs=module.attrs), target)
        name = str(function.attrs["global_symbol"])
        found[name] = DeviceFunction(built.inspect_source(), _arguments(function, built, name))
    return found


def _arguments(function: Any, built: Any, name: str) -> tuple[Argument, ...]:
    """The parameters; which buffers are written is known where the generator says so (WebGPU)."""
    writes: list[bool] = []
    info = built.inspect_source("func_info")
    if info:
        for tag in json.loads(info)[name]["launch_param_tags"]:
            if tag.startswith("paramWriteAccess:"):
                writes = [bool(flag) for flag in json.loads(tag.partition(":")[2])]
    found: list[Argument] = []
    for param in function.params:
        if type(param.ty).__name__ == "PointerType":
            number = sum(argument.buffer for argument in found)
            written = writes[number] if writes else True
            found.append(Argument(str(param.ty.element_type.dtype), True, written))
        else:
            found.append(Argument(str(param.ty.dtype), False))
    return tuple(found)


def narrowed(module: Any) -> Any:
    """A module in which every int64, of data and of indices, is an int32: for targets without
    64-bit integers.  Constants beyond int32 become its limits."""
    graph = json.loads(tvm.ir.save_json(module))
    nodes = graph["nodes"]
    narrow = {"int64": "int32", "uint64": "uint32"}
    wide = {
        number
        for number, node in enumerate(nodes)
        if node.get("type") == "ir.PrimType" and node["data"].get("dtype") in narrow
    }
    limits: dict[int, int] = {}
    for node in list(nodes):
        if node.get("type") == "ir.IntImm" and node["data"]["ty"] in wide:
            value = nodes[node["data"]["value"]]
            bound = min(max(value["data"], _INT32[0]), _INT32[1])
            if value.get("type") == "int" and bound != value["data"]:
                if bound not in limits:
                    limits[bound] = len(nodes)
                    nodes.append({"type": "int", "data": bound})
                node["data"]["value"] = limits[bound]
    for number in wide:
        nodes[number]["data"]["dtype"] = narrow[nodes[number]["data"]["dtype"]]
    return tvm.ir.load_json(json.dumps(graph))


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    **{kind: OPERATIONS[name] for kind, name in TIR_OPERATIONS.items()},
    "Div": lambda a, b: int(a / b) if isinstance(a, int) and isinstance(b, int) else a / b,
    "Mod": math.fmod,
    "LShift": operator.lshift,
    "RShift": operator.rshift,
    "BitwiseAnd": operator.and_,
    "GT": operator.gt,
    "GE": operator.ge,
}

_CALLS: dict[str, Callable[..., Any]] = {
    "tirx.if_then_else": lambda condition, a, b: a if condition else b,
    "tirx.shift_left": operator.lshift,
    "tirx.shift_right": operator.rshift,
    "tirx.bitwise_and": operator.and_,
}


class _Host:
    """Carries out a host function: every number is known, every buffer is a number."""

    def __init__(self, function: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        self._function = function
        self._numbers: dict[Any, Any] = {}
        self._buffers: dict[Any, int] = {}
        self._workspaces: list[int] = []
        self._launches: list[DeviceLaunch] = []
        for number, param in enumerate(function.params):
            if type(param.ty).__name__ != "BufferType":
                raise NotStraight(f"parameter {param} is no buffer")
            self._buffers[param] = number
            known = zip((param.ty.elem_offset, *param.ty.shape), (0, *shapes[number]), strict=True)
            self._numbers |= {var: value for var, value in known if isinstance(var, tirx.Var)}
        self._parameters = len(function.params)

    def run(self) -> HostFunction:
        self._do(self._function.body)
        return HostFunction(self._parameters, tuple(self._workspaces), tuple(self._launches))

    def _do(self, statement: Any) -> None:
        kind = type(statement).__name__
        if kind == "SeqStmt":
            for inner in statement.seq:
                self._do(inner)
        elif kind == "Bind":
            self._numbers[statement.var] = self._value(statement.value)
        elif kind == "AllocBuffer":
            buffer = statement.buffer
            elements = math.prod(int(self._value(n)) for n in buffer.ty.shape)
            self._buffers[buffer] = self._parameters + len(self._workspaces)
            self._workspaces.append(elements * np_dtype(str(buffer.dtype)).itemsize)
        elif kind == "DeclBuffer":
            offset = statement.buffer.ty.elem_offset
            if offset is not None and self._value(offset):
                raise NotStraight("a buffer begins in the middle of another")
            _, self._buffers[statement.buffer] = self._value(statement.data)
        elif kind == "For":
            begin = self._value(statement.min)
            for number in range(begin, begin + self._value(statement.extent)):
                self._numbers[statement.loop_var] = number
                self._do(statement.body)
        elif kind == "IfThenElse":
            if self._value(statement.condition):
                self._do(statement.then_case)
            elif statement.else_case is not None:
                self._do(statement.else_case)
        elif kind == "AttrStmt":
            self._do(statement.body)
        elif kind == "Evaluate":
            self._evaluate(statement.value)
        elif kind == "BufferStore":
            raise NotStraight(
                "the host would write into the device's memory: TVM's schedules have bound the "
                "kernel's loops to no threads of the device"
            )
        elif kind != "AssertStmt":
            raise NotStraight(f"its host code has a {kind}")

    def _evaluate(self, value: Any) -> None:
        if type(value).__name__ == "IntImm":
            return
        name = getattr(getattr(value, "op", None), "name", "")
        if name != "tirx.call_ffi_kernel":
            raise NotStraight(f"its host code calls {name or value}")
        tags = [str(tag) for tag in value.attrs.launch_params]
        sized = [t for t in tags if not t.startswith("tirx.use_") or "dyn_shared" in t]
        function, *arguments = value.args
        first = len(arguments) - len(sized)
        sizes = dict(zip(sized, (int(self._value(a)) for a in arguments[first:]), strict=True))
        self._launches.append(
            DeviceLaunch(
                function.value,
                tuple(self._value(argument) for argument in arguments[:first]),
                _three(sizes, "blockIdx"),
                _three(sizes, "threadIdx"),
            )
        )

    def _value(self, expr: Any) -> Any:
        kind = type(expr).__name__
        if isinstance(expr, int | float | bool):
            return expr
        if kind in ("IntImm", "FloatImm", "StringImm"):
            return expr.value
        if kind == "Var":
            return self._numbers[expr]
        if kind in _BINARY:
            return _BINARY[kind](self._value(expr.a), self._value(expr.b))
        if kind == "Not":
            return not self._value(expr.a)
        if kind == "Cast":
            number = self._value(expr.value)
            return int(number) if "int" in str(expr.ty.dtype) else float(number)
        if kind == "Select":
            branch = expr.true_value if self._value(expr.condition) else expr.false_value
            return self._value(branch)
        name = getattr(getattr(expr, "op", None), "name", "")
        if name == "tirx.buffer_data":
            return ("buffer", self._buffers[expr.args[0]])
        if name in _CALLS:
            return _CALLS[name](*[self._value(argument) for argument in expr.args])
        raise NotStraight(f"its host code computes {name or kind}")


def _three(sizes: dict[str, int], what: str) -> tuple[int, int, int]:
    x, y, z = (sizes.get(f"{what}.{axis}", 1) for axis in "xyz")
    return x, y, z
