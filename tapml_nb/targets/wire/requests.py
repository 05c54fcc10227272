"""What the notebook asks a target to run; it travels as ``asdict`` of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class CallRequest:
    """One call of a loaded kernel on resident tensors.

    Attributes:
        kernel: its key.
        inputs: the key of a tensor for each parameter.
        outputs: a key for each result.
        references: for each output the key of a tensor to compare it with, or None.
        timeout: seconds for all launches together.
        repeats: how often to run it.
        numbers: sizes that it cannot read off its inputs.
        guard: whether every buffer lies between guard pages.
    """

    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    references: tuple[str | None, ...]
    timeout: float
    repeats: int = 2
    numbers: tuple[int, ...] = ()
    guard: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """A request of its fields.

        Raises:
            TypeError: if there is a field that is not known here: it would mean something else.
        """
        return cls(**with_tuples(data))


@dataclass(frozen=True)
class ChainCall:
    """One kernel of a chain, by the keys of its inputs and outputs; ``numbers`` as for a call.

    Without a ``kernel`` it is a view: the output is the input's memory with this shape and dtype.
    """

    kernel: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True)
class ChainRequest:
    """Kernels one after the other; ``keep``: outputs that stay; ``timeout``: seconds for each."""

    calls: tuple[ChainCall, ...]
    keep: tuple[str, ...]
    timeout: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """As :meth:`CallRequest.from_json`."""
        calls = tuple(ChainCall(**with_tuples(call)) for call in data["calls"])
        return cls(**with_tuples({**data, "calls": calls}))


def with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as they were before JSON made lists of tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
