"""From a PyTorch model and its inputs to a decomposed ``ExportedProgram``.

Everything that can be wrong with the model or the inputs is found here, before any other work,
and said in one line.
"""

from __future__ import annotations

import copy
import inspect
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.effects import with_effects
from torch.export import ExportedProgram
from torch.export._remove_effect_tokens_pass import _remove_effect_tokens
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from tapml_nb.frontends.arrays import split_steps
from tapml_nb.frontends.program import FrontendError, first_line
from tapml_nb.frontends.torch.argument_order import place_arguments
from tapml_nb.frontends.torch.attention import DECOMPOSITIONS, drop_alignment
from tapml_nb.frontends.torch.decomposition import run_decompositions
from tapml_nb.frontends.torch.grouping import is_tensor

StepInputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of one step."""

_PRODUCTS = {"addmm", "addmv", "addbmm", "baddbmm", "bmm", "convolution", "dot", "mm", "mv"}
"""ATen operators whose tensors are all of one dtype."""

_NORMS = {
    "_native_batch_norm_legit_no_training",
    "native_batch_norm",
    "native_group_norm",
    "native_layer_norm",
}
"""Those in which weights may be float32 where the input is narrower."""

_NARROW = (torch.float16, torch.bfloat16)


def _take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``take``: of an index without dimensions PyTorch's own decomposition would read the value."""
    flat = x.reshape(-1)
    return flat[index] if index.dim() else flat[index.reshape(1)].reshape(())


_DECOMPOSITIONS = {**DECOMPOSITIONS, torch.ops.aten.take.default: _take}
"""Ours, where PyTorch has none, or one that cannot be captured."""


def to_device(model: Any, inputs: Any, name: str) -> tuple[Any, Any]:
    """A copy of the model, and the inputs, on a device; the caller's stay where they are.

    Raises:
        ValueError: if PyTorch knows no such device, or finds none here.
    """
    try:
        device = torch.empty(0, device=name).device  # with its number, as tensors there have it
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"source: 'torch:{name}' cannot be used here: {first_line(error)}; use source='torch'"
        ) from None
    if isinstance(model, ExportedProgram):
        from torch.export.passes import move_to_device_pass

        model = move_to_device_pass(model, device)
    elif isinstance(model, torch.nn.Module):
        model = copy.deepcopy(model).to(device)
    return model, pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), inputs)


def step_arguments(inputs: Any) -> list[StepInputs]:
    """Positional and keyword inputs of every step.

    Raises:
        TypeError: if a step is neither a tensor, a tuple nor a dict of tensors.
        ValueError: if there is no step.
    """
    given = split_steps(inputs, is_tensor, named="of keyword inputs")
    return [(step, {}) if isinstance(step, tuple) else ((), dict(step)) for step in given]


def export(
    model: torch.nn.Module, steps: Sequence[StepInputs], dynamic_shapes: Any = None
) -> ExportedProgram:
    """Export a module on its first step's inputs and decompose it to core ATen.

    Raises:
        ValueError: if the model is in training mode or does not accept the inputs, their dtypes
            included.
        FrontendError: if ``torch.export`` cannot capture a model that itself runs.
    """
    if model.training:
        raise ValueError(
            "model: it is in training mode, where dropout and batch norm are not reproducible; "
            "call model.eval() first"
        )
    for index, (args, kwargs) in enumerate(steps):
        try:
            inspect.signature(model.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"inputs: step {index} does not fit {type(model).__name__}.forward: {error}"
            ) from None
    args, kwargs = steps[0]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
        except Exception as error:
            _reject_misfit(model, args, kwargs)
            raise FrontendError(
                f"torch.export cannot capture {type(model).__name__}: {first_line(error)}"
                f"{_where(error)}{_way_out(error)}"
            ) from error
    decomposed = decompose(program)
    _check_dtypes(decomposed)
    return decomposed


def _way_out(error: BaseException) -> str:
    """What the user can do, where the reason is one that there is a way around."""
    if "data-dependent" in str(error):
        return (
            "; what happens there depends on a tensor's values: pass its result in as an input, "
            "debug the modules before and after it, or state bounds with torch._check"
        )
    if "NoneType" in str(error):
        return (
            "; a model that runs without an optional input, such as attention_mask, may need it to "
            "be captured: pass those that are used there"
        )
    return ""


def _where(error: BaseException) -> str:
    """The innermost line outside PyTorch that an error came from."""
    inside = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not f.filename.startswith((inside, "<")) and f.line]
    last = outside[-1] if outside else None
    if last is None or last.filename == __file__:
        return ""
    return f" (at {last.filename}:{last.lineno}, {last.line})"


def _reject_misfit(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tell a model that cannot be exported from inputs that it cannot even run on."""
    try:
        model(*args, **kwargs)
    except Exception as error:
        raise ValueError(
            f"inputs: {type(model).__name__} itself fails on them: {first_line(error)}"
            f"{_unlike_weights(model, args, kwargs)}"
        ) from error


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Functionalise and decompose to core ATen, as TVM's importer expects it."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = {**torch.export.default_decompositions(), **_DECOMPOSITIONS}
            decomposed = run_decompositions(program, table)
            drop_alignment(decomposed)
            _drop_tokens(decomposed)
            place_arguments(program, decomposed)
            return decomposed
        except Exception as error:
            raise FrontendError(
                f"the exported program cannot be decomposed to core ATen: {first_line(error)}"
            ) from error


def _drop_tokens(program: ExportedProgram) -> None:
    """Take out the tokens that keep what has effects in order, such as the check of a solve for
    singular matrices; in place.  They are no tensors, and the graph's own order is the same."""
    if any(node.target is with_effects for node in program.graph.nodes):
        _remove_effect_tokens(program)


def _check_dtypes(program: ExportedProgram) -> None:
    """Refuse an input that meets another dtype where both have to be one.

    ``torch.export`` captures such a product, which PyTorch then refuses to compute.
    """
    signature = program.graph_signature
    users = {s.arg.name for s in signature.input_specs if s.kind is InputKind.USER_INPUT}
    for node in program.graph.nodes:
        for found, expected in _conflicts(node):
            given = _origin(found, users)
            if given is not None and _origin(expected, users) is None:
                ours, theirs = (str(n.meta["val"].dtype)[6:] for n in (given, expected))
                raise ValueError(
                    f"inputs: {given.name} is {ours}, and meets {theirs} in {node.target}, which "
                    f"takes one dtype; give {given.name}.to(torch.{theirs})"
                )


def _unlike_weights(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Which inputs have no dtype of the model's weights, as a clause; "" if all do, or none can."""
    dtypes = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    odd = [
        f"{name} is {str(value.dtype)[6:]}"
        for name, value in given.items()
        if isinstance(value, torch.Tensor) and value.dtype not in dtypes
    ]
    if not dtypes or not odd:
        return ""
    return f" ({', '.join(odd)}; the weights are {', '.join(sorted(str(d)[6:] for d in dtypes))})"


def _conflicts(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pairs of a node's tensors of which the one's dtype is not the other's, both ways."""
    packet = getattr(node.target, "_opname", "")
    if packet not in _PRODUCTS | _NORMS:
        return
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    if packet in _NORMS and tensors and tensors[0].meta["val"].dtype in _NARROW:
        return
    for one, other in permutations(tensors, 2):
        if one.meta["val"].dtype != other.meta["val"].dtype:
            yield one, other


def _origin(node: fx.Node, users: set[str]) -> fx.Node | None:
    """The input that a tensor comes from without a change of dtype, if it does."""
    dtype, seen, waiting = node.meta["val"].dtype, {node}, [node]
    while waiting:
        node = waiting.pop()
        if node.name in users:
            return node
        for before in node.all_input_nodes:
            value = before.meta.get("val")
            if isinstance(value, torch.Tensor) and value.dtype == dtype and before not in seen:
                seen.add(before)
                waiting.append(before)
    return None
