"""What a session was told to do its work by; it never changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tapml_nb.execute.storage import parse_budget
from tapml_nb.judge.verdict import LIMIT
from tapml_nb.targets.spec import Target


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`tapml_nb.debug` that are about the work, not about the model.

    Attributes:
        target: what the operators run on.
        tolerance: how many noise floors a target may be off.
        workarounds: those for faults of TVM's importer that are in force.
        max_memory: bytes of memory that kept tensors may take; None for no limit.
    """

    target: Target
    tolerance: float = LIMIT
    workarounds: tuple[str, ...] = ()
    max_memory: int | None = None

    @classmethod
    def of(
        cls,
        target: Target,
        tolerance: float | None = None,
        workarounds: Sequence[str] = (),
        max_memory: int | str | None = None,
    ) -> Self:
        """Settings as users give them.

        Raises:
            ValueError: if one does not fit.
        """
        if tolerance is None:
            tolerance = LIMIT
        elif not tolerance > 0:
            raise ValueError(f"tolerance: {tolerance!r}; give a positive number of noise floors")
        return cls(target, tolerance, tuple(workarounds), parse_budget(max_memory))

    @property
    def target_in_words(self) -> str:
        """The target's kind, and whether memory is guarded there."""
        return self.target.kind + (" (guarded)" if self.target.guard else "")
