"""What one operator is: one ATen call, what the target fuses into one kernel, or one module."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

_FORM = re.compile(r"(operator|fused|module)(?::([1-9]\d*))?")


@dataclass(frozen=True)
class Granularity:
    """What one operator is.

    Attributes:
        unit: ``"operator"``: one ATen call.  ``"fused"``: what becomes one kernel when TVM deploys
            the whole model.  ``"module"``: one module.
        depth: of ``"module"``: how many components the paths of these modules have; None for the
            innermost ones.
    """

    unit: Literal["operator", "fused", "module"]
    depth: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"operator"``, ``"fused"``, ``"module"`` or ``"module:3"``.

        Raises:
            ValueError: if it is none of these.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if not match or (match[2] and match[1] != "module"):
            raise ValueError(
                f"granularity: {text!r}; choose 'operator', 'fused', 'module' (the innermost "
                f"modules), or 'module:N' for those whose path has N components"
            )
        return cls(match[1], int(match[2]) if match[2] else None)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.unit}:{self.depth}" if self.depth else self.unit


@dataclass(frozen=True)
class Fusion:
    """What becomes of the calls of a whole model on a target, by their numbers.

    Attributes:
        kernels: for every kernel that is deployed the calls that it holds, or holds a part of.
        folded: calls whose results are constants of the deployed model.
    """

    kernels: tuple[tuple[int, ...], ...]
    folded: tuple[int, ...]


Decide = Callable[[Any], Fusion]
"""Lets a target decide what it fuses.

Takes an ``IRModule`` whose function ``main`` calls the others; each of its bindings is one call, or
the item of a tuple.  The calls are numbered in order.
"""
