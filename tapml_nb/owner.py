"""Forks own nothing: what a process made, a copy of that process must not end.

A fork of the notebook's process (``os.fork``, a data loader's worker) holds copies of every
session, with the same sockets, folders and process numbers in them.  When it ends, or lets go of
its copies, the originals must not notice.  So whatever ends a process, shuts a socket down or
removes a folder asks first who made it, and what happens at an object's end is registered here.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any


class Owner:
    """The process that this was made in."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    @property
    def elsewhere(self) -> bool:
        """Whether the caller is a fork of that process."""
        return os.getpid() != self.pid


def finalize(subject: Any, work: Callable[..., Any], *arguments: Any) -> weakref.finalize[..., Any]:
    """``weakref.finalize`` that does nothing in a fork of this process.

    Args:
        subject: at whose end, or at the interpreter's, ``work`` is done.
        work: what to do; it must not hold ``subject``.
        arguments: what to do it with.
    """
    return weakref.finalize(subject, _unless_forked, Owner(), work, arguments)


def _unless_forked(owner: Owner, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not owner.elsewhere:
        work(*arguments)
