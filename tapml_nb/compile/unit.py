"""A unit as text: its key, the folder from which the compile worker reads it, and TVMScript.

Anybody may have written it.  TVM reads its script by evaluating Python expressions, and prints the
names of a module as they are, whatever they are: text that says more than a module must not be
read.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from tapml_nb.compile.cache import SIZES, UNIT, write_file
from tapml_nb.compile.lowering import PIPELINE
from tapml_nb.frontends.program import WrittenModule, leaves_sizes_open, with_sizes

STAGE = "stage"
"""A file beside a unit that says how far it came, should TVM die of it: it is being read, and
then, whether it leaves sizes open."""

READING, OPEN, CLOSED = "reading", "open", "closed"


def salt_of(target: Any) -> str:
    """What a unit's key depends on beside the unit: the target, this pipeline, TVM's version."""
    salt = f"{target}|{PIPELINE}|{version('apache-tvm')}|{version('apache-tvm-ffi')}"
    if target.kind.name == "cuda" and os.environ.get("TVM_CUDA_NVCC_NO_FAST_MATH"):
        salt += "|without fast-math"  # TVM's own switch; it changes every kernel
    return salt


def key_of(module: Any, salt: str) -> str:
    """The SHA-256 of a unit's text and a salt, in hexadecimal digits."""
    text = "|".join(filter(None, texts_of(module)))
    return hashlib.sha256(f"{salt}|{text}".encode()).hexdigest()


def texts_of(module: Any) -> tuple[str, str]:
    """TVM's JSON, and the sizes to fill in, if any."""
    if not isinstance(module, WrittenModule):
        return str(tvm.ir.save_json(_readable(module))), ""
    if module.shapes is None:
        return module.text, ""
    return module.text, json.dumps([module.shapes, module.numbers])


def _readable(module: Any) -> Any:
    """A module that TVM's reader takes: constants without elements, which it refuses, are made by
    an operation."""
    empty: list[Any] = []

    def note(expr: Any) -> None:
        if _is_empty(expr):
            empty.append(expr)

    functions = {v: f for v, f in module.functions.items() if isinstance(f, relax.Function)}
    for function in functions.values():
        relax.analysis.post_order_visit(function, note)
    if not empty:
        return module
    made = _MadeEmpty()
    changed = {v: made.visit_expr(f) for v, f in functions.items()}
    return tvm.IRModule({**module.functions, **changed}, module.attrs)


@relax.expr_functor.mutator
class _MadeEmpty(relax.PyExprMutator):  # type: ignore[misc]
    def visit_generic_const_(self, op: Any) -> Any:
        if not _is_empty(op):
            return super().visit_generic_const_(op)
        return relax.op.zeros(tuple(op.value.shape), str(op.value.dtype))


def _is_empty(expr: Any) -> bool:
    constant = isinstance(expr, tvm.ir.GenericConst)
    return constant and isinstance(expr.value, tvm.runtime.Tensor) and 0 in expr.value.shape


def write_unit(module: Any, folder: Path) -> None:
    """Put a unit where :func:`read_unit` finds it."""
    text, sizes = texts_of(module)
    write_file(folder / UNIT, text.encode())
    if sizes:
        write_file(folder / SIZES, sizes.encode())


def read_unit(folder: Path) -> Any:
    """The ``IRModule`` of a folder, with its sizes filled in where they are given.  In a worker's
    child only: text that anybody may have written can crash TVM's reader."""
    (folder / STAGE).write_text(READING)
    module = tvm.ir.load_json((folder / UNIT).read_text())
    if not isinstance(module, tvm.IRModule):
        raise ValueError(f"it is a {type(module).__name__} and no module")
    if (folder / SIZES).exists() and leaves_sizes_open(module):
        module = with_sizes(module, *json.loads((folder / SIZES).read_text()))
    (folder / STAGE).write_text(OPEN if leaves_sizes_open(module) else CLOSED)
    return module


def stage_of(folder: Path) -> str:
    """How far the unit of a folder came; "" if nobody has read it yet."""
    try:
        return (folder / STAGE).read_text()
    except OSError:
        return ""


# -- as people read it ----------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitTexts:
    """A unit as TVM's JSON, and as TVMScript: empty if TVM would not read it back as the same."""

    json: str
    script: str


_CALLED = ("I", "R", "T", "cls", "range")
"""What calls in TVMScript begin with."""


def script_of(module: Any) -> str:
    """A module as TVMScript; empty where TVM would not read it back as the same, or where it would
    do more than read it."""
    script = str(module.script())
    named = all(var.name_hint.isidentifier() for var in module.functions)
    if not (named and is_one_module(script)):
        return ""
    try:
        same = tvm_ffi.structural_equal(tvm.script.from_source(script), module)
    except Exception:  # what TVM prints, it does not always read
        return ""
    return script if same else ""


def is_one_module(text: str) -> bool:
    """Whether printed TVMScript is a class of functions that calls nothing but TVM's own words."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):  # ValueError: null bytes
        return False
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.ClassDef) or not text.isascii():
        return False
    called = list(tree.body[0].decorator_list)
    for part in ast.walk(tree):
        if isinstance(part, ast.FunctionDef):
            called += part.decorator_list
        elif isinstance(part, ast.Call):
            called.append(part.func)
        elif isinstance(part, ast.Attribute) and part.attr.startswith("_"):
            return False
    return all(isinstance(member, ast.FunctionDef) for member in tree.body[0].body) and all(
        _root(call) in _CALLED for call in called
    )


def _root(expression: ast.expr) -> str:
    """The name that an expression such as ``T.prim_func(...)`` begins with."""
    while isinstance(expression, ast.Attribute | ast.Call):
        expression = expression.value if isinstance(expression, ast.Attribute) else expression.func
    return expression.id if isinstance(expression, ast.Name) else ""
