"""Accesses to memory that is not allowed, heard of before the process ends of them."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable

from tapml_nb.targets.wire.pages import libc

_SA_SIGINFO = 4
_SI_ADDR = 16
"""Offset of ``si_addr`` in Linux's ``siginfo_t`` on 64-bit machines."""


class _Action(ctypes.Structure):
    """``struct sigaction`` of glibc on 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Faults:
    """While it is entered, ``heed`` is told of every address that may not be accessed as it was.

    It runs on the thread that made the access, in the middle of it, and says whether it has
    allowed that: then the instruction is carried out.  If not, the former action comes back, and
    the process ends as it would have without.
    """

    def __init__(self, heed: Callable[[int], bool]) -> None:
        self._heed = heed
        self._former = _Action()
        self._handler = _Handler(self._on_fault)
        pointer = ctypes.cast(self._handler, ctypes.c_void_p).value
        self._action = _Action(handler=pointer, flags=_SA_SIGINFO)

    def __enter__(self) -> None:
        libc.sigaction(int(signal.SIGSEGV), ctypes.byref(self._action), ctypes.byref(self._former))

    def __exit__(self, *_: object) -> None:
        self._put_back()

    def _put_back(self) -> None:
        libc.sigaction(int(signal.SIGSEGV), ctypes.byref(self._former), None)

    def _on_fault(self, _number: int, info: int, _context: int) -> None:
        if not self._heed(ctypes.c_uint64.from_address(info + _SI_ADDR).value):
            self._put_back()
