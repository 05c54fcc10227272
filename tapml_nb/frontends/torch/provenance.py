"""Where an FX node comes from: module path and class, ATen call, the user's line."""

from __future__ import annotations

import torch
from torch import fx

from tapml_nb.frontends.trace import user_line
from tapml_nb.graph import SourceLine
from tapml_nb.graph.model import Constant

_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""What ``torch.export`` writes where it adds nodes of its own, such as sizes of inputs."""


def scope_and_class(node: fx.Node) -> tuple[str, str]:
    """Dotted path and class name of the innermost module a node ran in."""
    stack = node.meta.get("nn_module_stack")
    if not stack or _NO_MODULE in stack:
        return "", ""
    path, cls = list(stack.values())[-1]
    name = cls if isinstance(cls, str) else cls.__name__
    return str(path), name.rpartition(".")[2]


def module_calls(node: fx.Node) -> list[tuple[str, str]]:
    """The calls of modules a node ran in, outermost first: a name for the call, and the path."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(call, str(path)) for call, (path, _) in stack.items()]


def class_of(node: fx.Node, scope: str) -> str:
    """The class of the module at a path that a node ran in, e.g. ``nn.Linear`` or ``LlamaMLP``.

    Empty where no such module was called: a list of modules never is.
    """
    for path, cls in (node.meta.get("nn_module_stack") or {}).values():
        if str(path) == scope:
            name = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__name__}"
            short = name.rpartition(".")[2]
            return f"nn.{short}" if name.startswith("torch.nn.") else short
    return ""


def kind(node: fx.Node) -> str:
    """The ATen overload packet of the user's call, e.g. ``aten.linear``."""
    history = node.meta.get("from_node")
    return _packet(node, str(history[-1].target) if history else str(node.target))


def packet(node: fx.Node) -> str:
    """The ATen overload packet that a node itself calls, e.g. ``aten.mm``."""
    return _packet(node, str(node.target))


def _packet(node: fx.Node, target: str) -> str:
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
    return user_line(trace) if trace else None
