"""PrimFuncs with known behaviour that stand in for an element-wise operator of shape (3, 16)."""

from __future__ import annotations

from tvm.script import tirx as T

SHAPE = (3, 16)


@T.prim_func(s_tir=True)
def honest(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU, written straightforwardly."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@T.prim_func(s_tir=True)
def segfaults(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """Writes to address 8."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j]
    T.evaluate(T.call_extern("int64", "memset", T.reinterpret("handle", T.uint64(8)), 0, 64))


@T.prim_func(s_tir=True)
def aborts(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """Calls abort()."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j]
    T.evaluate(T.call_extern("int32", "abort"))


@T.prim_func(s_tir=True)
def loops(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """Never ends."""
    y[0, 0] = T.float32(0)
    while y[0, 0] < T.float32(1):
        y[0, 0] = x[0, 0] * T.float32(0)
        T.evaluate(T.call_extern("int32", "getpid"))


@T.prim_func(s_tir=True)
def spins(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """Never ends, and calls nothing that a GPU does not have."""
    y[0, 0] = T.float32(0)
    while y[0, 0] < T.float32(1):
        y[0, 0] = x[0, 0] * T.float32(0)


@T.prim_func(s_tir=True)
def wants_many_threads(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """A GPU's block of 8192 threads."""
    for t in T.thread_binding(8192, thread="threadIdx.x"):
        if t < 48:
            y[t // 16, t % 16] = x[t // 16, t % 16]


@T.prim_func(s_tir=True)
def right_once(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU in a process's first call (glibc's first rand()), twice that afterwards."""
    if T.call_extern("int32", "rand") == 1804289383:
        for i, j in T.grid(3, 16):
            y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
    else:
        for i, j in T.grid(3, 16):
            y[i, j] = T.float32(2) * x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@T.prim_func(s_tir=True)
def forgets_here_and_there(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """Writes nothing where the square of the index leaves a remainder of 3."""
    for i, j in T.grid(3, 16):
        if (i * 16 + j) * (i * 16 + j) % 11 != 3:
            y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@T.prim_func(s_tir=True)
def forgets_a_row(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU of all but the last row, which it does not write."""
    for i, j in T.grid(2, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@T.prim_func(s_tir=True)
def spoils_its_input(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU, but one element of the input is changed afterwards."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
    x[2, 15] = T.float32(0)


@T.prim_func(s_tir=True)
def returns_nan(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU with the logarithm of a negative number in one element."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
    y[1, 5] = T.log(T.float32(-1) - x[1, 5] * x[1, 5])


@T.prim_func(s_tir=True)
def unlinkable(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """Calls a function that no library has."""
    for i, j in T.grid(3, 16):
        y[i, j] = T.call_extern("float32", "tapml_there_is_no_such_function", x[i, j])


@T.prim_func(s_tir=True)
def sleeps(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU after three seconds."""
    T.evaluate(T.call_extern("int32", "sleep", 3))
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@T.prim_func(s_tir=True)
def spoils_the_heap(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU, and something else where the allocator keeps the size of the output's memory."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
    for j in range(2):
        y[0, j - T.call_extern("int32", "abs", 2)] = T.reinterpret("float32", T.uint32(7))


@T.prim_func(s_tir=True)
def crashes_on_its_second_call(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU in a process's first call; writes to address 8 afterwards."""
    if T.call_extern("int32", "rand") != 1804289383:
        T.evaluate(T.call_extern("int64", "memset", T.reinterpret("handle", T.uint64(8)), 0, 64))
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@T.prim_func(s_tir=True)
def honest_for_any_rows(a: T.handle, b: T.handle):
    """SiLU, for any number of rows."""
    n = T.int64()
    x = T.match_buffer(a, (n, 16), "float32")
    y = T.match_buffer(b, (n, 16), "float32")
    for i, j in T.grid(n, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@T.prim_func(s_tir=True)
def wrong_beyond_four_rows(a: T.handle, b: T.handle):
    """SiLU, for any number of rows; 1 % too large if they are more than four."""
    n = T.int64()
    x = T.match_buffer(a, (n, 16), "float32")
    y = T.match_buffer(b, (n, 16), "float32")
    for i, j in T.grid(n, 16):
        y[i, j] = (
            x[i, j]
            / (T.float32(1) + T.exp(-x[i, j]))
            * T.if_then_else(n > T.int64(4), T.float32(1.01), T.float32(1))
        )
