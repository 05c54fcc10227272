"""Inputs as a user gives them, and programs whose tensors are NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tapml_nb.array_api import np_dtype
from tapml_nb.frontends.program import Mark, Memory
from tapml_nb.graph import Graph, OpId, TensorSpec, ValueId
from tapml_nb.numerics import is_float


class ArrayProgram:
    """What such programs have in common as a :class:`~tapml_nb.frontends.program.Program`."""

    graph: Graph
    _steps: Sequence[Mapping[ValueId, Any]]

    @property
    def steps(self) -> int:
        """How many steps of inputs were given."""
        return len(self._steps)

    @property
    def mutations(self) -> Mapping[ValueId, ValueId]:
        """None: there is no state."""
        return {}

    def marks(self) -> Mapping[tuple[ValueId, int], Mark]:
        """None: NumPy does not notice writes."""
        return {}

    def repeatable(self, op: OpId) -> None:
        """None: nobody can set back the generators that an operator draws from."""

    def to_numpy(self, tensor: np.ndarray) -> np.ndarray:
        """The array itself, contiguous."""
        return np.asarray(tensor, order="C")

    def array_of(self, tensor: np.ndarray) -> np.ndarray:
        """The same."""
        return self.to_numpy(tensor)

    def from_array(self, array: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The array itself."""
        return np.asarray(array)

    def memory(self, tensor: Any) -> Memory | None:
        """A contiguous array's memory; views of one array count as several."""
        if not isinstance(tensor, np.ndarray) or tensor.dtype.hasobject:
            return None
        if not tensor.flags.c_contiguous:
            return None
        dtype, shape = tensor.dtype, tensor.shape
        return Memory(
            tensor.ctypes.data,
            lambda: tensor.reshape(-1).view(np.uint8),
            lambda data: data.view(dtype).reshape(shape),
        )

    def all_float64(self, op: OpId, results: Sequence[Any]) -> bool:
        """Whether an operator's results are in float64 where the graph has floating-point
        numbers."""
        for key, result in zip(self.graph[op].outputs, results, strict=True):
            value = self.graph.values[key]
            if value.host or not isinstance(result, np.ndarray):
                continue
            if is_float(np_dtype(value.spec.dtype)) and result.dtype != np.float64:
                return False
        return True


def is_tensor(value: Any) -> bool:
    """Whether :func:`to_array` takes a value: arrays and tensors of NumPy, PyTorch and TVM."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def split_steps(
    inputs: Any, is_tensor: Callable[[Any], bool] = is_tensor, *, named: str = "by name"
) -> list[Any]:
    """One tuple or dict of inputs per step; a single tensor stands for a tuple of one.

    Messages say ``named`` of a dict.

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
                f"inputs or a dict {named} (a list means several steps)"
            )
    return [(step,) if is_tensor(step) else step for step in steps]


def by_name(step: Any, names: Sequence[str], index: int) -> dict[str, Any]:
    """The inputs of a step, a tuple or dict, by the names of what the model takes, in order.

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


def to_array(value: Any, name: str) -> np.ndarray:
    """The values of a NumPy array or scalar, PyTorch tensor or TVM tensor as a contiguous array on
    the host; bfloat16 as ml_dtypes'.

    Raises:
        TypeError: if it is none of these; the message calls it ``name``.
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


def spec_of(array: np.ndarray) -> TensorSpec:
    """Shape and dtype of an array."""
    return TensorSpec(tuple(array.shape), array.dtype.name)


def widened(value: Any) -> Any:
    """A floating-point array in float64; all else as it is."""
    floating = isinstance(value, np.ndarray) and is_float(value.dtype)
    return value.astype(np.float64) if floating else value


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f", … ({len(names)})" if len(names) > 8 else "")
