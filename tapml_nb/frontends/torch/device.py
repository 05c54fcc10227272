"""A PyTorch model and its inputs on another device than they came on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree


def to_device(model: Any, inputs: Any, name: str) -> tuple[Any, Any]:
    """A copy of the model, and the inputs, on a device; the caller's stay where they are.

    Args:
        model: a module or an ``ExportedProgram``.
        inputs: as for :func:`~tapml_nb.frontends.torch.import_torch`.
        name: PyTorch's name of the device, e.g. ``"cuda"`` or ``"cuda:1"``.

    Raises:
        ValueError: if PyTorch knows no such device, or finds none here.
    """
    try:
        device = torch.empty(0, device=name).device  # with its number, as tensors there have it
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f"source: 'torch:{name}' cannot be used here: {why}; use source='torch'"
        ) from None
    if isinstance(model, ExportedProgram):
        from torch.export.passes import move_to_device_pass

        model = move_to_device_pass(model, device)
    elif isinstance(model, torch.nn.Module):
        model = copy.deepcopy(model).to(device)
    return model, pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), inputs)
