"""How long the calls of a run still take: an estimate where it holds, and nothing where it would
not.

A call takes as long as it took in the last run, times the pace of this one.  In a first run it
takes as long as those like it, of the same kind and shapes, have taken so far; what none is like is
guessed by its arithmetic, and where much of the time would be a guess, nothing is said.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from tapml_nb.execute.preparation import Call

_GUESSED = 0.1
"""Part of the whole, at most, that may be a guess."""

_TENTH = 0.1
"""Part of the whole that has to be over in a first run; in a later one it is taken to have gone by
as last time already, so that the first few calls alone do not set the pace."""

_CALL, _BYTE, _TERM = 3e-3, 1e-9, 1e-9
"""Seconds of a call, of a byte that it reads or writes, of a term that it sums, on some machine:
only how they relate matters."""


@dataclass(frozen=True)
class Size:
    """What is known of a call beforehand.

    Attributes:
        like: equal for calls that take equally long.
        work: a guess at that, in seconds of some machine.
    """

    like: Hashable
    work: float

    @classmethod
    def of(cls, like: Hashable, size: int, terms: int) -> Size:
        """Of a call that reads and writes so many bytes, and sums so many terms in all."""
        return cls(like, _CALL + _BYTE * size + _TERM * terms)


class Forecast:
    """What calls have taken, and what the others will."""

    def __init__(self, sizes: Mapping[Call, Size], before: Mapping[Call, float]) -> None:
        """``before``: seconds of calls in an earlier run, of all or of some."""
        self._sizes = sizes
        known = [call for call in sizes if call in before]
        work = sum(sizes[call].work for call in known)
        seconds = sum(before[call] for call in known)
        self._again = work >= (1 - _GUESSED) * sum(size.work for size in sizes.values()) > 0
        rate = seconds / work if work else 1.0
        self._expected = {c: before.get(c, size.work * rate) for c, size in sizes.items()}
        whole = sum(self._expected.values())
        self._spent = self._due = _TENTH * whole if self._again else 0.0
        """Seconds of the calls that are over, and what was expected of them."""
        self._left = whole
        self._coming = Counter(size.like for size in sizes.values())
        self._seen: Counter[Hashable] = Counter()
        self._seconds: defaultdict[Hashable, float] = defaultdict(float)
        self._work = {size.like: size.work for size in sizes.values()}

    def done(self, call: Call, seconds: float) -> None:
        """A call is over."""
        like = self._sizes[call].like
        self._coming[like] -= 1
        self._seen[like] += 1
        self._seconds[like] += seconds
        self._spent += seconds
        self._due += self._expected[call]
        self._left -= self._expected[call]

    def left(self) -> float | None:
        """Seconds that the others take, one after the other; None where nobody can tell."""
        pace = self._spent / self._due if self._due else 1.0
        if self._again:
            return max(self._left, 0.0) * pace
        told = guessed = 0.0
        for like, count in self._coming.items():
            if self._seen[like]:
                told += count * self._seconds[like] / self._seen[like]
            else:
                guessed += count * self._work[like] * pace
        whole = self._spent + told + guessed
        if self._spent < _TENTH * whole or guessed > _GUESSED * whole:
            return None
        return told + guessed
