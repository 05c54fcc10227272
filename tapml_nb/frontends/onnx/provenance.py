"""Where an ONNX node comes from: scope, module class and line, as exporters leave them."""

from __future__ import annotations

import ast
from typing import Any

from tapml_nb.frontends.trace import user_line
from tapml_nb.graph import SourceLine


def scope_and_class(node: Any) -> tuple[str, str]:
    """Dotted path and class name of the innermost module a node ran in.

    ``torch.onnx.export(dynamo=True)`` writes them into the node's metadata; older exporters, and
    those of other frameworks, into its name, with slashes.
    """
    scopes = _property(node, "pkg.torch.onnx.name_scopes")
    if scopes:
        classes = _property(node, "pkg.torch.onnx.class_hierarchy")
        # The last one is the call itself.
        module = classes[-2].rpartition(".")[2] if len(classes) > 1 else ""
        return scopes[-2] if len(scopes) > 1 else "", module
    path = node.name.strip("/").rpartition("/")[0]
    return path.replace("/", "."), ""


def label(node: Any) -> str:
    """What the node is called in its scope: by its operation, or by a name people gave it."""
    if _property(node, "pkg.torch.onnx.name_scopes") or not node.name:
        return str(node.op_type)
    return str(node.name.strip("/").rpartition("/")[2]) or str(node.op_type)


def source_line(node: Any) -> SourceLine | None:
    """The user's line that the node was exported from, where that is known."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.stack_trace":
            return user_line(entry.value)
    return None


def _property(node: Any, key: str) -> list[str]:
    """A list of texts from a node's metadata; empty if it is not there, or damaged."""
    for entry in node.metadata_props:
        if entry.key == key:
            try:
                value = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):
                return []
            return [str(part) for part in value] if isinstance(value, list) else []
    return []
