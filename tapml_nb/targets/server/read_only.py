"""Tensors that kernels may only read, in pages that nobody may write to.

A kernel that does so all the same is heard of in that moment: the page's address says whose it is.
If it is one of its own inputs, it is let through, in memory that is this process's alone, so that
what else the kernel does wrong shows as well; any other ends the process, with a line in its log.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from tapml_nb.targets.server.faults import Faults
from tapml_nb.targets.wire.pages import READ_ONLY, READ_WRITE, Pages
from tapml_nb.targets.wire.recorder import READ_ONLY_HIT

_MOST = 1000
"""More threads do not hit the same pages before the first has opened them; but code that jumps into
them hits them for ever."""


class ReadOnly:
    """Those of one process, by where they begin.  A tensor has ``data_ptr``."""

    def __init__(self) -> None:
        self._pages: WeakValueDictionary[int, Pages] = WeakValueDictionary()
        self._hits: Counter[int] = Counter()
        self._open_to: list[Pages] = []
        self._faults = Faults(self._heed)

    def lock(self, pages: Pages) -> None:
        """Nobody writes to these from now on."""
        if pages.protect(READ_ONLY):
            self._pages[pages.address] = pages

    def __contains__(self, tensor: Any) -> bool:
        return bool(self._pages) and tensor.data_ptr() in self._pages

    def write(self, tensor: Any) -> None:
        """Allow a tensor to be written to, and count it as written, if it is one of these."""
        if tensor in self:
            self._let(self._pages[tensor.data_ptr()])

    @contextmanager
    def watching(self, inputs: Sequence[Any]) -> Iterator[None]:
        """Run a kernel inside that has these for inputs."""
        if not self._pages:
            yield
            return
        self._open_to = [self._pages[one.data_ptr()] for one in inputs if one in self]
        try:
            with self._faults:
                yield
        finally:
            self._open_to = []  # else they were kept

    def written(self) -> frozenset[int]:
        """Where those begin that were written to; they are not watched any more."""
        written = frozenset(self._hits)
        for address in written:
            self._pages.pop(address, None)
        self._hits.clear()
        return written

    def _heed(self, address: int) -> bool:
        for pages in self._open_to:
            if address in pages and self._hits[pages.address] < _MOST:
                return self._let(pages)
        if any(address in pages for pages in list(self._pages.values())):
            words = f"{READ_ONLY_HIT}it writes into a tensor that is none of its own"
            os.write(2, f"\n{words}\n".encode())
        return False

    def _let(self, pages: Pages) -> bool:
        self._hits[pages.address] += 1
        return pages.protect(READ_WRITE)
