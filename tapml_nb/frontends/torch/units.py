"""One operator as a standalone Relax function, converted by TVM's own importer.

The importer's conversion rules are called node by node with the operator's inputs as function
parameters.  Whatever they produce is what will be judged: a wrong rule is a finding.  Our own
rules stand in where the importer cannot convert a call at all, and workarounds where the user
says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tapml_nb.frontends.program import Unsupported, first_line, last_line
from tapml_nb.frontends.torch.grouping import TorchOp, is_getitem
from tapml_nb.frontends.torch.rules import COMPLEX_RULES, LEGALIZED, RULES
from tapml_nb.frontends.torch.rules.call import apply
from tapml_nb.frontends.torch.rules.complex_numbers import concerns_complex
from tapml_nb.frontends.torch.sizes import OpenSizes, SeenSizes, decided_by_values, exported_size
from tapml_nb.frontends.torch.workarounds import Workaround


def build_module(
    op: TorchOp,
    env: Mapping[fx.Node, Any],
    workarounds: Sequence[Workaround],
    sizes: OpenSizes | None = None,
    seen: SeenSizes | None = None,
) -> tuple[Any, str]:
    """An ``IRModule`` whose ``main`` computes an operator, and in words by what it was converted,
    where not by the importer alone.

    Args:
        op: the operator.
        env: values of its inputs: tensors become parameters (shape and dtype), numbers and graph
            modules are baked in.
        workarounds: what is to stand in for rules of the importer's.
        sizes: sizes that are to stay open; those that no tensor tells are in a last parameter.
        seen: sizes that values decide, as the source's run has them.

    Raises:
        Unsupported: if neither the importer nor we can convert a node.
    """
    importer = ExportedProgramImporter()
    builder = importer.block_builder = relax.BlockBuilder()
    params: list[Any] = []
    for node in op.inputs:
        value = env[node]
        if isinstance(value, torch.Tensor):
            # p0, p1, …: call sites that differ in names alone must hash alike.
            shape = sizes.shape(node) if sizes else None
            value = relax.Var(f"p{len(params)}", tensor_type(value, shape))
            params.append(value)
        elif sizes and isinstance(node.meta.get("val"), torch.SymInt):
            value = sizes.of(node.meta["val"])
        importer.env[node] = value
    if sizes and sizes.numbers:
        told = [sizes.of(node.meta["val"]) for node in sizes.numbers]
        params.append(relax.Var("sizes", relax.ShapeType(told)))
    rules: dict[str, None] = {}
    used: dict[str, None] = {}
    with builder.function("main", params):
        with builder.dataflow():
            for node in op.nodes:
                if node.meta.get("val") is None:
                    continue  # an assertion computes nothing
                if sizes and isinstance(node.meta["val"], torch.SymInt):
                    importer.env[node] = sizes.of(node.meta["val"])
                    if importer.env[node] is not None:
                        continue
                if sizes and decided_by_values(node):
                    raise Unsupported("the values of what it reads decide how much it yields")
                if fixed := _worked_around(importer, node, workarounds):
                    name, importer.env[node] = fixed
                    used[name] = None
                    continue
                importer.env[node], ours = _convert(importer, node, seen)
                if ours:
                    rules[str(node.target)] = None
            results = [_expression(importer, node) for node in op.outputs]
            result = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        builder.emit_func_output(result)
    module = builder.get()
    if rules or used:  # a rule that failed may have left half of its work behind
        module = relax.transform.DeadCodeElimination()(module)
    words = [f"{', '.join(rules)} converted by rules of tapml_nb's"] if rules else []
    words += [f"workaround {', '.join(used)}"] if used else []
    return module, "; ".join(words)


def tensor_type(tensor: torch.Tensor, shape: Sequence[Any] | None = None) -> Any:
    """The Relax type of a tensor's dtype and shape, or of another shape; of a complex tensor that
    of its real and imaginary parts, on a last axis.

    Of an example value of the export, sizes are those of the export.

    Raises:
        Unsupported: if the importer does not know the dtype, or nobody the shape.
    """
    importer = ExportedProgramImporter()
    try:
        dtype = importer._convert_data_type(tensor.dtype.to_real())
    except Exception as error:
        raise Unsupported(f"dtype {tensor.dtype}: {first_line(error)}") from error
    if shape is None:
        shape = [exported_size(size) for size in tensor.shape]
    if None in shape:
        raise Unsupported("a size that values decide is not known before a run")
    return relax.TensorType([*shape, 2] if tensor.is_complex() else shape, dtype)


def _worked_around(
    importer: ExportedProgramImporter, node: fx.Node, workarounds: Sequence[Workaround]
) -> tuple[str, Any] | None:
    """The workaround for a call, by name, and what the call becomes; None where there is none."""
    for workaround in workarounds:
        rule = workaround.rules.get(str(node.target))
        if rule is None or concerns_complex(node):
            continue
        try:
            result = apply(rule, importer, node)
            if result is not NotImplemented:
                return workaround.name, result
        except Exception as error:
            raise Unsupported(
                f"the workaround {workaround.name} fails on {node.target}: {last_line(error)}"
            ) from error
    return None


def _convert(
    importer: ExportedProgramImporter, node: fx.Node, seen: SeenSizes | None
) -> tuple[Any, bool]:
    """What a call becomes, and whether by a rule of ours."""
    name = getattr(node.target, "__name__", str(node.target))
    rule, own = importer.convert_map.get(name), RULES.get(str(node.target))
    if concerns_complex(node) and not is_getitem(node):
        rule, own = None, COMPLEX_RULES.get(str(node.target))
    reason: Exception | None = None
    if rule is not None and own is not None and seen and decided_by_values(node):
        rule = None  # what it makes needs TVM's virtual machine, which a kernel has not
        reason = ValueError("it leaves a size that values decide to TVM's virtual machine")
    refused = ""
    theirs: Any = None
    if rule is not None:
        try:
            theirs = rule(node)
            if str(node.target) in LEGALIZED:
                _legalize(importer, theirs)
            return theirs, False
        except Exception as error:
            reason = error
    if own is not None:
        try:
            return apply(own, importer, node, seen), True
        except Exception as error:
            if reason is None or last_line(error) != last_line(reason):
                refused = f", and ours does not take this call: {last_line(error)}"
    if theirs is not None:
        return theirs, False
    if reason is None:
        raise Unsupported(f"TVM's PyTorch importer has no rule for {node.target}{refused}")
    raise Unsupported(
        f"TVM's PyTorch importer fails on {node.target}: {last_line(reason)}{refused}"
    ) from reason


def _legalize(importer: ExportedProgramImporter, result: relax.Var) -> None:
    """Do with a call of Relax's what TVM's ``LegalizeOps`` will do with it.

    Raises:
        Exception: what that raises.
    """
    call = importer.block_builder.lookup_binding(result)
    call.op.get_attr("FLegalize")(relax.BlockBuilder(), call)


def _expression(importer: ExportedProgramImporter, node: fx.Node) -> Any:
    value = importer.env[node]
    if not isinstance(value, relax.Expr):
        raise Unsupported(f"{node.target} yields a host value, not a tensor")
    return value
