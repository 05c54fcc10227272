"""Kernels that behave, and kernels that misbehave in every way a target session must survive."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import tvm
from tvm.script import tirx as T

from tapml_nb.compile.kernel import BufferSpec, Kernel, Launch
from tapml_nb.compile.toolchain import compile_c, link_shared

N = 8


@T.prim_func
def add_one(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    for i in range(8):
        b[i] = a[i] + T.float32(1)


@T.prim_func
def add(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32"), c: T.Buffer((8,), "float32")):
    for i in range(8):
        c[i] = a[i] + b[i]


@T.prim_func
def transpose(a: T.Buffer((2, 4), "float32"), b: T.Buffer((4, 2), "float32")):
    for i, j in T.grid(2, 4):
        b[j, i] = a[i, j]


@T.prim_func
def double_and_sign(
    a: T.Buffer((8,), "bfloat16"), b: T.Buffer((8,), "bfloat16"), c: T.Buffer((8,), "bool")
):
    for i in range(8):
        b[i] = a[i] + a[i]
        c[i] = a[i] < T.bfloat16(0)


@T.prim_func
def empty(a: T.Buffer((0, 4), "float32"), b: T.Buffer((0, 4), "float32")):
    for i, j in T.grid(0, 4):
        b[i, j] = a[i, j]


@T.prim_func
def segfault(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    T.evaluate(T.call_extern("int32", "wild_store", 1))
    for i in range(8):
        b[i] = a[i]


@T.prim_func
def abort(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    T.evaluate(T.call_extern("int32", "abort"))
    for i in range(8):
        b[i] = a[i]


@T.prim_func
def slow(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    T.evaluate(T.call_extern("int32", "nap", 400))
    for i in range(8):
        b[i] = a[i]


@T.prim_func
def erratic(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    """Right the first time, wrong the second."""
    for i in range(8):
        b[i] = a[i]
    b[3] = b[3] + T.cast(T.call_extern("int32", "count", 0), "float32")


@T.prim_func
def lazy(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    """Writes all but the last element."""
    for i in range(7):
        b[i] = a[i]


def misbehaves(helper: str, argument: int):
    """Calls a helper, then copies its input."""

    @T.prim_func
    def function(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
        T.evaluate(T.call_extern("int32", helper, argument))
        for i in range(8):
            b[i] = a[i]

    return function


leave = misbehaves("leave", 3)
endless = misbehaves("spin", 0)
forks = misbehaves("fork_and_return", 0)
"""Both processes come back."""

leaves_a_child = misbehaves("leave_child", 300)
"""The child does not come back, and ends by itself."""

leave_children = misbehaves("leave_children", 20)
leave_daemon = misbehaves("leave_daemon", 0)
leave_and_die = misbehaves("leave_and_die", 1)
leave_and_spin = misbehaves("leave_and_spin", 0)
spin_deaf = misbehaves("spin_deaf", 0)
stop_here = misbehaves("stop_here", 0)
end_listener = misbehaves("end_listener", 0)
stop_listener = misbehaves("stop_listener", 1)
close_all = misbehaves("close_all", 1024)
flush_to_zero = misbehaves("flush_to_zero", 0)
round_up = misbehaves("round_up", 0)
inexact = misbehaves("inexact", 0)


@T.prim_func
def flush_everywhere(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    """On all threads of TVM's pool."""
    for i in T.parallel(8):
        b[i] = a[i] + T.cast(T.call_extern("int32", "flush_to_zero", 0), "float32")


@T.prim_func
def halve(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
    """On all threads of TVM's pool."""
    for i in T.parallel(8):
        b[i] = a[i] * T.float32(0.5)


_FUNCTIONS = {name: f for name, f in list(globals().items()) if isinstance(f, tvm.tirx.PrimFunc)}


_OF_OTHER_SHAPES = ("add", "transpose", "double_and_sign", "empty")


def f32(*shape: int) -> BufferSpec:
    return BufferSpec(shape, "float32")


def unary(name: str, spec: BufferSpec | None = None) -> Kernel:
    """The plan of a kernel with one launch, one input and one output alike."""
    spec = spec or f32(N)
    return Kernel(name, (spec, spec), 1, (), (Launch(name, (0, 1)),), (), (1,))


PLANS: dict[str, Kernel] = {
    kernel.key: kernel
    for kernel in (
        *[unary(name) for name in _FUNCTIONS if name not in _OF_OTHER_SHAPES],
        unary("empty", f32(0, 4)),
        Kernel(
            key="views",  # (2, 4) as (8,), plus the constant, as (2, 4), transposed
            buffers=(f32(2, 4), f32(8), f32(8), f32(8), f32(2, 4), f32(4, 2)),
            params=1,
            constants=("constant",),
            launches=(Launch("add", (2, 1, 3)), Launch("transpose", (4, 5))),
            views=((2, 0), (4, 3)),
            results=(5, 3),
        ),
        Kernel(
            key="double_and_sign",
            buffers=(
                BufferSpec((N,), "bfloat16"),
                BufferSpec((N,), "bfloat16"),
                BufferSpec((N,), "bool"),
            ),
            params=1,
            constants=(),
            launches=(Launch("double_and_sign", (0, 1, 2)),),
            views=(),
            results=(1, 2),
        ),
        Kernel(
            key="nothing",  # its results are a view of its parameter, and its constant
            buffers=(f32(N), f32(N), f32(2, 4)),
            params=1,
            constants=("constant",),
            launches=(),
            views=((2, 0),),
            results=(2, 1),
        ),
    )
}


def build(folder: Path, names: Sequence[str] = tuple(_FUNCTIONS)) -> Path:
    """A shared library of the functions, linked with their helpers."""
    module = tvm.IRModule(
        {name: _FUNCTIONS[name].with_attr("global_symbol", name) for name in names}
    )
    tvm.tirx.build(module, tvm.target.Target("llvm")).write_to_file(str(folder / "kernels.o"))
    compile_c(Path(__file__).with_name("helpers.c"), folder / "helpers.o")
    library = folder / "kernels.so"
    link_shared([folder / "kernels.o", folder / "helpers.o"], library, platform.machine())
    return library
