"""The most memory that a session takes, of the host and of the GPU."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Self

import psutil
import torch

_EVERY = 0.2  # seconds


class PeakMemory:
    """Watches this process, those that it started, and the GPU.

    Of the GPU's memory all counts that is in use, for the target has its own process there.  Pages
    that processes share count once.

    Attributes:
        host_mb: the most so far that these processes had resident.
        gpu_mb: the most that was in use on the GPU.
    """

    def __init__(self) -> None:
        self.host_mb = 0.0
        self.gpu_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self.host_mb = max(self.host_mb, _host() / 1e6)
            if torch.cuda.is_initialized():
                free, total = torch.cuda.mem_get_info()
                self.gpu_mb = max(self.gpu_mb, (total - free) / 1e6)


def _host() -> int:
    me = psutil.Process()
    resident = me.memory_info().rss
    for child in me.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            info = child.memory_info()
            resident += info.rss - info.shared
    return int(resident)
