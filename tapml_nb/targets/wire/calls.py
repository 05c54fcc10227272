"""What the notebook asks a target to run, and what it answers; it travels as :func:`to_json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from tapml_nb.targets.wire.envelope import Garbled

PATTERNS = (0xFF, 0x5A)
"""Bytes that fill a kernel's outputs before its first and second run (0xFF… is a NaN).

A kernel that leaves an element alone cannot be right in both, and the patterns say that it is this
and not chance."""


def unwritten(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which elements still hold the poison of the first run and of the second, respectively."""

    def holds(array: np.ndarray, pattern: int) -> np.ndarray:
        size = array.dtype.itemsize
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, size)
        held: np.ndarray = (data == pattern).all(axis=1).reshape(array.shape)
        return held

    result: np.ndarray = holds(first, PATTERNS[0]) & holds(second, PATTERNS[1])
    return result


def to_json(content: Any) -> dict[str, Any]:
    """The fields of a request or a result.  (``asdict`` would copy each tuple, which takes longer
    than a kernel.)"""
    fields_: dict[str, Any] = vars(content)
    if isinstance(content, ChainRequest):
        return {**fields_, "calls": list(map(vars, content.calls))}
    return fields_


@dataclass(frozen=True)
class CallRequest:
    """One call of a loaded kernel on resident tensors.

    Attributes:
        kernel: its key.
        inputs: the key of a tensor for each parameter.
        outputs: a key for each result.
        references: for each output the keys of tensors to compare it with, in this order.
        timeout: seconds for all launches together.
        repeats: how often to run it.
        numbers: sizes that it cannot read off its inputs.
        guard: whether every buffer lies between guard pages.
    """

    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    timeout: float
    repeats: int = 2
    numbers: tuple[int, ...] = ()
    guard: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """A request of its fields; TypeError for one that is not known here: it would mean
        something else."""
        references = tuple(map(tuple, data["references"]))
        return cls(**_with_tuples({**data, "references": references}))


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
    """Kernels one after the other.

    Attributes:
        calls: they.
        keep: outputs that stay.
        timeout: seconds for each kernel.
        observed: whether memory is poisoned before each, and all that it reads is watched, as in a
            call.
        references: as of a call, for each output that stays.
    """

    calls: tuple[ChainCall, ...]
    keep: tuple[str, ...]
    timeout: float
    observed: bool
    references: tuple[tuple[str, ...], ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """As :meth:`CallRequest.from_json`."""
        calls = tuple(ChainCall(**_with_tuples(call)) for call in data["calls"])
        references = tuple(map(tuple, data["references"]))
        return cls(**_with_tuples({**data, "calls": calls, "references": references}))


@dataclass(frozen=True)
class ChainResult:
    """What a chain answered.

    Attributes:
        overwritten: inputs that kernels wrote to; those that were there before it, the target has
            dropped.
        equals: as of a call, for each output that stays.
    """

    overwritten: tuple[str, ...]
    equals: tuple[int, ...]

    @classmethod
    def from_json(cls, data: Any, outputs: int) -> Self:
        """As :meth:`CallResult.from_json`, of a chain of which so many outputs stay."""
        if not isinstance(data, dict) or not data.keys() >= {"overwritten", "equals"}:
            raise Garbled(f"an unexpected answer: {data!r:.80}")
        result = cls(tuple(map(str, data["overwritten"])), tuple(map(int, data["equals"])))
        if len(result.equals) != outputs:
            raise Garbled("an answer for another chain")
        return result


@dataclass(frozen=True)
class CallResult:
    """What a kernel call answered.

    Attributes:
        ms: milliseconds per run.
        deterministic: per output, whether all runs agreed.
        equals: per output, the place of the first of its references that it equals bit for bit;
            -1 if it equals none, or was not compared.
        overwritten: inputs that the kernel wrote to, found when it runs more than once; the target
            has dropped them.
        stale: where runs differ, whether it is by what memory held before they began.
        overruns: what a guarded kernel wrote beyond its buffers, in words.
        notes: what it did beside its work that is no fault of its results, in words.
    """

    ms: tuple[float, ...]
    deterministic: tuple[bool, ...]
    equals: tuple[int, ...]
    overwritten: tuple[str, ...]
    stale: bool = False
    overruns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Any, outputs: int) -> Self:
        """A result of its fields; those that are not known here are passed over.

        Raises:
            Garbled: if it is no result of a kernel with so many outputs.
        """
        if not isinstance(data, dict):
            raise Garbled(f"an unexpected answer: {data!r:.80}")
        try:
            result = cls(**_with_tuples({one.name: data[one.name] for one in fields(cls)}))
        except KeyError as missing:
            raise Garbled(f"an answer without {missing}") from None
        if not len(result.deterministic) == len(result.equals) == outputs:
            raise Garbled("an answer for another kernel")
        return result


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as they were before JSON made lists of tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
