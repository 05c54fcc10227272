"""Inputs given as arrays: for models of frameworks whose tensors are NumPy's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tapml_nb.frontends.program import Memory
from tapml_nb.numerics import np_dtype


def split_steps(inputs: Any) -> list[Any]:
    """One tuple or dict of inputs per step; a single tensor stands for a tuple of one.

    Raises:
        TypeError: if a step is neither a tensor, a tuple nor a dict.
        ValueError: if there is no step.
    """
    steps = inputs if isinstance(inputs, list) else [inputs]
    if not steps:
        raise ValueError("inputs: the list of steps is empty; give at least one step's inputs")
    for index, step in enumerate(steps):
        if not isinstance(step, tuple | Mapping) and not is_tensor(step):
            raise TypeError(
                f"inputs: step {index} is a {type(step).__name__}; give a tuple of positional "
                f"inputs or a dict by name (a list means several steps)"
            )
    return [(step,) if is_tensor(step) else step for step in steps]


def by_name(step: Any, names: Sequence[str], index: int) -> dict[str, Any]:
    """A step's inputs by name, whether they were given so or in order.

    Args:
        step: a tuple or dict.
        names: what the model takes, in order.
        index: the step's number, for messages.

    Raises:
        ValueError: if it holds other inputs than the model takes.
    """
    if isinstance(step, Mapping):
        if set(step) != set(names):
            raise ValueError(
                f"inputs: step {index} has {_listed(step)}, the model takes {_listed(names)}"
            )
        return {name: step[name] for name in names}
    if len(step) != len(names):
        raise ValueError(
            f"inputs: step {index} holds {len(step)} tensors, the model takes {len(names)}: "
            f"{_listed(names)}"
        )
    return dict(zip(names, step, strict=True))


def is_tensor(value: Any) -> bool:
    """Whether :func:`to_array` takes a value: arrays and tensors of NumPy, PyTorch and TVM."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def to_array(value: Any, name: str) -> np.ndarray:
    """A tensor's values as a contiguous array on the host; bfloat16 as ml_dtypes'.

    Args:
        value: a NumPy array or scalar, a PyTorch tensor or a TVM tensor.
        name: what the value is, for messages.

    Raises:
        TypeError: if it is none of these.
    """
    if not is_tensor(value):
        raise TypeError(
            f"inputs: {name} is a {type(value).__name__}; give a NumPy array or a torch.Tensor"
        )
    if hasattr(value, "detach"):
        value = value.detach().cpu().contiguous()
        if str(value.dtype) == "torch.bfloat16":
            import torch

            return np.asarray(value.view(torch.int16).numpy().view(np_dtype("bfloat16")))
    array = value if isinstance(value, np.ndarray | np.generic) else value.numpy()
    return np.asarray(array, order="C")


def memory_of(array: np.ndarray) -> Memory | None:
    """A contiguous array's memory; views of one array count as several."""
    if not array.flags.c_contiguous or array.dtype.hasobject:
        return None
    return Memory(
        array.ctypes.data,
        lambda: array.reshape(-1).view(np.uint8),
        partial(_over, array.dtype, array.shape),
    )


def _over(dtype: np.dtype, shape: tuple[int, ...], data: np.ndarray) -> np.ndarray:
    return data.view(dtype).reshape(shape)


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f", … ({len(names)})" if len(names) > 8 else "")
