"""Where an FX node comes from: module path and class, ATen call, the user's line."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

import torch
from torch import fx

from tapml_nb.graph import SourceLine
from tapml_nb.graph.model import Constant

_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in ', re.MULTILINE)
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""What ``torch.export`` writes where it adds nodes of its own, such as sizes of inputs."""

_TORCH = str(Path(torch.__file__).parent)


def scope_and_class(node: fx.Node) -> tuple[str, str]:
    """Dotted path and class name of the innermost module a node ran in."""
    stack = node.meta.get("nn_module_stack")
    if not stack or _NO_MODULE in stack:
        return "", ""
    path, cls = list(stack.values())[-1]
    name = cls if isinstance(cls, str) else cls.__name__
    return str(path), name.rpartition(".")[2]


def kind(node: fx.Node) -> str:
    """The ATen overload packet of the user's call, e.g. ``aten.linear``."""
    history = node.meta.get("from_node")
    target = str(history[-1].target) if history else str(node.target)
    if isinstance(node.target, torch._ops.OpOverload) and not history:
        target = str(node.target)
    parts = target.split(".")
    if len(parts) >= 3:
        return ".".join(parts[:2])
    return target if len(parts) == 2 else f"python.{getattr(node.target, '__name__', target)}"


def constants(node: fx.Node) -> dict[str, Constant]:
    """The plain numbers among a call's arguments by parameter name, defaults included."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    found: dict[str, Constant] = {}
    for position, parameter in enumerate(node.target._schema.arguments):
        given = node.args[position] if position < len(node.args) else None
        if position >= len(node.args):
            given = node.kwargs.get(parameter.name, parameter.default_value)
        if given is None or isinstance(given, bool | int | float | str):
            found[parameter.name] = given
    return found


def source_line(node: fx.Node) -> SourceLine | None:
    """The innermost frame outside PyTorch itself, with the line's text."""
    trace = node.meta.get("stack_trace")
    if not trace:
        return None
    frames = [(m["file"], int(m["line"])) for m in _FRAME.finditer(trace)]
    for file, line in reversed(frames):
        if not file.startswith((_TORCH, "<")) or file.startswith("<ipython"):
            return SourceLine(file, line, linecache.getline(file, line).strip())
    return None
