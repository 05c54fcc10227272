"""An operator's own kernel, as it is deployed, as one PrimFunc that can stand in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import s_tir, te, tirx, topi

from benchmarks.mutants.tir import is_buffer, kind, substituted, walk
from tapml_nb.compile.lowering import Lowered, lower
from tapml_nb.frontends.program import Unsupported
from tapml_nb.graph import OpId

_CONSTANTS = 64
"""Elements of a constant that are written out as stores."""


class NoKernel(Exception):
    """An operator's kernel is no PrimFunc that can be changed; the message says why."""


def deployed(session: Any, op: OpId) -> Any:
    """The PrimFunc, after the target's own passes: several launches are one after the other in it.

    Raises:
        NoKernel: if nothing is launched, or what is launched cannot be put into one function.
    """
    engine = session.engine
    try:
        module = engine.program.unit(op, engine.source.values(0)).module
    except Unsupported as reason:
        raise NoKernel(str(reason)) from None
    try:
        lowered = lower(module, engine.kernels.target, "0" * 16)
    except Exception as error:
        raise NoKernel(str(error)) from None
    if not lowered.kernel.launches:
        raise NoKernel("a view")
    return _Joined(lowered).function()


class _Joined:
    """Puts the launches of a kernel into one PrimFunc."""

    def __init__(self, lowered: Lowered) -> None:
        self._kernel = lowered.kernel
        self._functions = lowered.functions
        self._constants = lowered.constants
        self._buffers = [
            tirx.decl_buffer(spec.shape, spec.dtype, name=f"b{k}")
            for k, spec in enumerate(self._kernel.buffers)
        ]
        self._statements: list[Any] = []
        self._allocated: list[Any] = []
        self._views = dict(self._kernel.views)

    def function(self) -> Any:
        kernel = self._kernel
        if len(set(kernel.results)) < len(kernel.results) or any(
            result < kernel.params + len(kernel.constants) for result in kernel.results
        ):
            raise NoKernel("a result that is an input, a constant, or another result")
        self._write_constants()
        for launch in kernel.launches:
            if launch.sizes:
                raise NoKernel("open sizes")
            for number in launch.args:
                self._copy(number)
            self._add(self._functions[launch.function], [self._buffers[k] for k in launch.args])
        for number in kernel.results:
            self._copy(number)
        params = [self._buffers[k] for k in (*range(kernel.params), *kernel.results)]
        inner = [b for k, b in enumerate(self._buffers) if not any(b is p for p in params)]
        used = {n for s in self._statements for n, _, _ in walk(s) if kind(n) == "Var"}
        allocated = [*(b for b in inner if b in used), *self._allocated]
        body = self._statements[0] if len(self._statements) == 1 else tirx.SeqStmt(self._statements)
        root = s_tir.SBlock([], [], [], "root", body, alloc_buffers=allocated)
        return tirx.PrimFunc(params, s_tir.SBlockRealize([], True, root)).with_attr(
            {"global_symbol": "main", "tirx.noalias": True, "s_tir": True}
        )

    def _copy(self, number: int) -> None:
        """What is a view when deployed is a copy here, made before it is read."""
        if number in self._views:
            source = self._views.pop(number)
            self._copy(source)
            old, new = self._buffers[source], self._buffers[number]
            read = te.placeholder(old.shape, old.dtype)
            self._add(te.create_prim_func([read, topi.reshape(read, new.shape)]), [old, new])

    def _write_constants(self) -> None:
        first = self._kernel.params
        for number, digest in enumerate(self._kernel.constants, first):
            array, buffer = self._constants[digest], self._buffers[number]
            if array.size > _CONSTANTS:
                raise NoKernel("a large constant")
            for at in np.ndindex(array.shape):
                value = tirx.const(array[at].item(), str(buffer.dtype))
                self._statements.append(tirx.BufferStore(buffer, value, [*map(int, at)]))

    def _add(self, function: Any, buffers: list[Any]) -> None:
        if any(not is_buffer(p) for p in function.params):
            raise NoKernel("numbers among its parameters")
        body = substituted(_renamed(function), dict(zip(function.params, buffers, strict=True)))
        root = body.block if kind(body) == "SBlockRealize" else None
        if root is not None and not root.iter_vars:
            self._allocated += root.alloc_buffers
            body = root.body
        self._statements += body.seq if kind(body) == "SeqStmt" else [body]


def _renamed(function: Any) -> Any:
    """The body with variables of its own: a PrimFunc may be launched twice."""
    copy = tvm.ir.load_json(tvm.ir.save_json(function))
    return substituted(copy.body, dict(zip(copy.params, function.params, strict=True)))
