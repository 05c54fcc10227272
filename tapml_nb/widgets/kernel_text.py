"""Kernels written as text: what the inspector's editor holds."""

from __future__ import annotations

import itertools
import linecache
from types import FunctionType
from typing import Any

_numbers = itertools.count(1)


def kernel_from_text(text: str) -> Any:
    """A NumPy function or a TIR PrimFunc out of a text.

    The text is run in this process, with the rights of whoever wrote it: it comes from the
    notebook's own page, as its cells do.

    Args:
        text: Python with one function (the last one counts), or TVMScript with one PrimFunc.

    Raises:
        ValueError: if there is no such function, or the text is no Python or TVMScript.
    """
    if "prim_func" in text:
        return _primfunc(text)
    name = f"<kernel {next(_numbers)}>"
    # Lets tracebacks and the code view show the text.
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": name}
    try:
        exec(compile(text, name, "exec"), namespace)
    except Exception as error:
        raise ValueError(f"the text cannot be run: {type(error).__name__}: {error}") from error
    functions = [
        f for f in namespace.values() if isinstance(f, FunctionType) and f.__module__ == name
    ]
    if not functions:
        raise ValueError("the text defines no function; define one of NumPy arrays")
    return functions[-1]


def _primfunc(text: str) -> Any:
    import tvm
    from tvm.script import from_source

    try:
        parsed = from_source(text)
    except BaseException as error:  # TVM's parser raises whatever it likes
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        lines = str(error).strip().splitlines()
        raise ValueError(f"no TVMScript: {lines[-1] if lines else type(error).__name__}") from None
    if not isinstance(parsed, tvm.IRModule):
        return parsed
    functions = [f for f in parsed.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    if len(functions) != 1:
        raise ValueError(f"the text has {len(functions)} PrimFuncs; give one")
    return functions[0]


def primfunc_text(tir: str) -> str:
    """A kernel's TIR as a text to edit.

    Raises:
        ValueError: if the kernel is not one PrimFunc.
    """
    count = tir.count(".prim_func")
    if count != 1:
        raise ValueError(
            f"its kernel is {count} PrimFuncs; an override is one, from its inputs to its outputs"
        )
    return tir
