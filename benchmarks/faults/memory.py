"""Faults of memory and of processes.  All are kernels that run on the target."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.script import tirx as T

from benchmarks.faults.suite import Site, fault
from tapml_nb.judge.diagnosis import Pattern

_PRODUCT = "model.layers.2.mlp/mul"


@fault("llama", _PRODUCT, patterns=[])
def segfault(site: Site) -> Any:
    """The kernel writes to an address that is not its own (apache/tvm#17364)."""

    @T.prim_func(s_tir=True)
    def kernel(
        a: T.Buffer((2, 21, 172), "float32"),
        b: T.Buffer((2, 21, 172), "float32"),
        y: T.Buffer((2, 21, 172), "float32"),
    ) -> None:
        for n, i, j in T.grid(2, 21, 172):
            y[n, i, j] = a[n, i, j] * b[n, i, j]
        T.evaluate(T.call_extern("int64", "memset", T.reinterpret("handle", T.uint64(8)), 0, 64))

    return kernel


@fault("llama", _PRODUCT, patterns=[])
def hang(site: Site) -> Any:
    """The kernel never ends (ggml-org/llama.cpp#20531)."""

    @T.prim_func(s_tir=True)
    def kernel(
        a: T.Buffer((2, 21, 172), "float32"),
        b: T.Buffer((2, 21, 172), "float32"),
        y: T.Buffer((2, 21, 172), "float32"),
    ) -> None:
        y[0, 0, 0] = a[0, 0, 0] * T.float32(0) + b[0, 0, 0] * T.float32(0)
        while y[0, 0, 0] < T.float32(1):
            y[0, 0, 0] = a[0, 0, 0] * T.float32(0)
            T.evaluate(T.call_extern("int32", "getpid"))

    return kernel


@fault("llama", _PRODUCT, patterns=[])
def does_not_compile(site: Site) -> Any:
    """The code generator meets what it cannot do, or the linker does (apache/tvm#19551)."""

    @T.prim_func(s_tir=True)
    def kernel(
        a: T.Buffer((2, 21, 172), "float32"),
        b: T.Buffer((2, 21, 172), "float32"),
        y: T.Buffer((2, 21, 172), "float32"),
    ) -> None:
        for n, i, j in T.grid(2, 21, 172):
            y[n, i, j] = T.call_extern(
                "float32", "a_function_that_no_library_has", a[n, i, j], b[n, i, j]
            )

    return kernel


@fault("llama", _PRODUCT, patterns=[Pattern.NEVER_WRITTEN, Pattern.TAIL])
def tail_never_written(site: Site) -> Any:
    """The grid is too small for the last columns, which keep what was in memory
    (NVIDIA/cuda-samples#411, openvinotoolkit/openvino#38208)."""

    @T.prim_func(s_tir=True)
    def kernel(
        a: T.Buffer((2, 21, 172), "float32"),
        b: T.Buffer((2, 21, 172), "float32"),
        y: T.Buffer((2, 21, 172), "float32"),
    ) -> None:
        for n, i, j in T.grid(2, 21, 160):
            y[n, i, j] = a[n, i, j] * b[n, i, j]

    return kernel


@fault("llama", _PRODUCT, patterns=[])
def writes_its_input(site: Site) -> Any:
    """The operator is made in place although others still read the tensor
    (pytorch/pytorch#101950)."""

    @T.prim_func(s_tir=True)
    def kernel(
        a: T.Buffer((2, 21, 172), "float32"),
        b: T.Buffer((2, 21, 172), "float32"),
        y: T.Buffer((2, 21, 172), "float32"),
    ) -> None:
        for n, i, j in T.grid(2, 21, 172):
            y[n, i, j] = a[n, i, j] * b[n, i, j]
            a[n, i, j] = y[n, i, j]

    return kernel


@fault("llama", _PRODUCT, patterns=[])
def race(site: Site) -> Any:
    """What comes out depends on who is first (triton-lang/triton#9871): here on the bytes of a
    random number."""

    @T.prim_func(s_tir=True)
    def kernel(
        a: T.Buffer((2, 21, 172), "float32"),
        b: T.Buffer((2, 21, 172), "float32"),
        y: T.Buffer((2, 21, 172), "float32"),
    ) -> None:
        for n, i, j in T.grid(2, 21, 172):
            y[n, i, j] = a[n, i, j] * b[n, i, j] + T.Cast(
                "float32", T.call_extern("int32", "rand") % 2
            )

    return kernel


@fault("llama", _PRODUCT, patterns=[Pattern.STALE_COPY])
def handed_on_unchanged(site: Site) -> Any:
    """The operator was optimised away: its first input comes out (apache/tvm#711 drops the second
    of two operations)."""

    @T.prim_func(s_tir=True)
    def kernel(
        a: T.Buffer((2, 21, 172), "float32"),
        b: T.Buffer((2, 21, 172), "float32"),
        y: T.Buffer((2, 21, 172), "float32"),
    ) -> None:
        for n, i, j in T.grid(2, 21, 172):
            y[n, i, j] = a[n, i, j] + T.float32(0) * b[n, i, j]

    return kernel


@fault("llama", _PRODUCT, patterns=[Pattern.STALE_COPY])
def result_of_another_call(site: Site) -> Any:
    """The buffer still holds what the layer before has computed: memory was handed out again too
    early (microsoft/onnxruntime#32342)."""
    stale = site.session.tensor("model.layers.1.mlp/mul")
    return lambda a, b: stale.copy()


@fault("llama", _PRODUCT, patterns=[Pattern.TAIL, Pattern.PERMUTED])
def index_wraps(site: Site) -> Any:
    """An index overflows its type: from row 16 on the first rows are read again
    (ROCm/triton#944)."""

    @T.prim_func(s_tir=True)
    def kernel(
        a: T.Buffer((2, 21, 172), "float32"),
        b: T.Buffer((2, 21, 172), "float32"),
        y: T.Buffer((2, 21, 172), "float32"),
    ) -> None:
        for n, i, j in T.grid(2, 21, 172):
            y[n, i, j] = a[n, i % 16, j] * b[n, i % 16, j]

    return kernel


@fault("llama", _PRODUCT, patterns=[Pattern.ONE_VALUE])
def one_value_everywhere(site: Site) -> Any:
    """Every thread reads the same element (PSAL-POSTECH/ONNXim#34: every head reads head 0)."""
    return lambda a, b: np.full_like(a, a[0, 0, 0] * b[0, 0, 0])
