"""Whole pages of memory, and how two processes of one machine have a tensor in common.

The notebook writes it into a file without a name, and a target maps that: one copy, and none that
waits for the other side.  Nothing is left of a file when neither holds it, however they end.  It is
written to, never mapped, before it is full: a write says that there is no room, where a page that
cannot be had would end the process.  What a target has made, the notebook reads where it lies.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from typing import Any, Self

import numpy as np

LEAST = 1 << 16
"""Bytes below which pages of a tensor's own are not worth their while."""

READ_ONLY, READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE

_POPULATE_READ = 22
"""``MADV_POPULATE_READ``, which Linux has since 5.14 and older ones refuse."""

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_readv = getattr(libc, "process_vm_readv", None)
if _readv:
    _readv.restype = ctypes.c_ssize_t
_ONE, _NO_FLAGS = ctypes.c_ulong(1), ctypes.c_ulong(0)


class _Range(ctypes.Structure):
    """``struct iovec``"""

    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


class NamelessFile:
    """A file that holds a tensor's bytes, for another process to map."""

    def __init__(self, data: memoryview) -> None:
        """Make it; OSError if there is no room, or no such thing on this machine."""
        if not hasattr(os, "memfd_create"):
            raise OSError("no files without names")
        self._descriptor = os.memfd_create("tapml-tensor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals)  # nobody changes it any more
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """Where another process of this user finds it, as long as it is not closed."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def close(self) -> None:
        """Let go of it; who has mapped it keeps it."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pages:
    """Memory of whole pages; given back when no array over it is left (``numpy.asarray``).

    Attributes:
        address: where it begins.
        size: its bytes.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        """Memory for so many bytes, above 0; or those of a file, which what is written does not
        change.  OSError if there is no room for it."""
        flags = mmap.MAP_PRIVATE | (mmap.MAP_ANONYMOUS if descriptor is None else 0)
        file = -1 if descriptor is None else descriptor
        address = libc.mmap(None, size, READ_WRITE, flags, file, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.address, self.size = int(address), size
        if descriptor is not None:  # now, and not in the time of the kernel that reads it first
            libc.madvise(self.address, size, _POPULATE_READ)
        self.__array_interface__: dict[str, Any] = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (self.address, False),
            "version": 3,
        }

    def protect(self, access: int) -> bool:
        """Allow nothing but this from now on; whether that could be done."""
        return not libc.mprotect(self.address, self.size, access)

    def __contains__(self, address: int) -> bool:
        return self.address <= address < self.address + self.size

    def __del__(self) -> None:
        if hasattr(self, "address"):
            libc.munmap(self.address, self.size)


def fill_from(descriptor: int, data: memoryview) -> None:
    """Fill a buffer with what a file holds; OSError if it holds less."""
    done = 0
    while done < len(data):
        count = os.preadv(descriptor, [data[done:]], done)
        if not count:
            raise OSError("the file has ended")
        done += count


def read_memory(process: int, address: int, data: np.ndarray) -> bool:
    """Fill an array of bytes with what another process has there; whether the machine allows that,
    and it has so much there."""
    if not _readv:
        return False
    done = 0
    while done < data.size:
        ranges = (_Range(at + done, data.size - done) for at in (data.ctypes.data, address))
        here, there = map(ctypes.byref, ranges)
        count = _readv(process, here, _ONE, there, _ONE, _NO_FLAGS)
        if count <= 0:
            return False
        done += count
    return True
