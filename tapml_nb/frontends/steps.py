"""Inputs as a user gives them: a tuple or a dict for one step, or a list of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def split_steps(
    inputs: Any, is_tensor: Callable[[Any], bool], *, named: str = "by name"
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


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f", … ({len(names)})" if len(names) > 8 else "")
