"""From a PyTorch model and its inputs to a decomposed ``ExportedProgram``.

Everything that can be wrong with the model or the inputs is found here, before any other work,
and said in one line.
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from tapml_nb.frontends.program import FrontendError
from tapml_nb.frontends.steps import split_steps
from tapml_nb.frontends.torch.attention import DECOMPOSITIONS
from tapml_nb.frontends.torch.dtypes import check_dtypes, unlike_weights
from tapml_nb.frontends.torch.grouping import is_tensor
from tapml_nb.frontends.trace import first_line

StepInputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of one step."""


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
    check_dtypes(decomposed)
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
            f"{unlike_weights(model, args, kwargs)}"
        ) from error


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Functionalise and decompose to core ATen, as TVM's importer expects it."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = torch.export.default_decompositions()
            table.update(DECOMPOSITIONS)
            decomposed: ExportedProgram = program.run_decompositions(table)
            return decomposed
        except Exception as error:
            raise FrontendError(
                f"the exported program cannot be decomposed to core ATen: {first_line(error)}"
            ) from error
