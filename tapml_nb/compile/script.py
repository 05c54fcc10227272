"""TVMScript of modules that anybody may have written.

TVM reads its script by evaluating Python expressions, and prints the names of a module as they
are, whatever they are: text that says more than a module must not be read.
"""

from __future__ import annotations

import ast
from typing import Any

_CALLED = ("I", "R", "T", "cls", "range")
"""What calls in TVMScript begin with."""


def script_of(module: Any) -> str:
    """A module as TVMScript; empty where TVM would not read it back as the same, or where it would
    do more than read it."""
    import tvm
    import tvm_ffi

    script = str(module.script())
    if not all(var.name_hint.isidentifier() for var in module.functions):
        return ""
    if not is_one_module(script):
        return ""
    try:
        same = tvm_ffi.structural_equal(tvm.script.from_source(script), module)
    except Exception:  # what TVM prints, it does not always read
        same = False
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
