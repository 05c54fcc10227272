"""Amounts of memory as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?b?\s*", re.IGNORECASE)


def parse_budget(max_memory: int | str | None) -> int | None:
    """Bytes of a ``max_memory`` argument: a number of them, text such as ``"2 GB"``, or None.

    Raises:
        ValueError: if it is nothing of that, or not positive.
    """
    size: object = max_memory
    if size is None:
        return None
    if isinstance(size, str) and (found := _SIZE.fullmatch(size)):
        number, unit, binary = found.groups()
        units = _BINARY_UNITS if binary else _UNITS
        size = int(Fraction(number) * units[(unit or "").lower()])
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise ValueError(
            f"max_memory: {max_memory!r}; give a positive number of bytes, text such as '2 GB' or "
            f"'512 MiB', or None for no limit"
        )
    return size
