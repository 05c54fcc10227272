"""What a target answers; it travels as ``asdict`` of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from tapml_nb.targets.wire.envelope import Garbled
from tapml_nb.targets.wire.requests import with_tuples


@dataclass(frozen=True)
class CallResult:
    """What a kernel call answered.

    Attributes:
        ms: milliseconds per run.
        deterministic: per output, whether all runs agreed.
        identical: per output, whether it equals its reference (None: not compared).
        overwritten: inputs that the kernel wrote to, found when it runs more than once; the target
            has dropped them.
        stale: where runs differ, whether it is by what memory held before they began.
        overruns: what a guarded kernel wrote beyond its buffers, in words.
        notes: what it did beside its work that is no fault of its results, in words.
    """

    ms: tuple[float, ...]
    deterministic: tuple[bool, ...]
    identical: tuple[bool | None, ...]
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
            result = cls(**with_tuples({one.name: data[one.name] for one in fields(cls)}))
        except KeyError as missing:
            raise Garbled(f"an answer without {missing}") from None
        if not len(result.deterministic) == len(result.identical) == outputs:
            raise Garbled("an answer for another kernel")
        return result
