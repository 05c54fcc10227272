"""What a suite is to the benchmark: named groups of small models with their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Sample:
    """One model and its inputs, as :func:`tapml_nb.debug` takes them."""

    name: str
    model: Any
    inputs: Any


class Suite(Protocol):
    """A module that makes samples, group by group; the same ones every time."""

    def groups(self) -> list[str]:
        """Names of all groups, in order."""

    def samples(self, group: str) -> Sequence[Sample]:
        """A group's samples."""
