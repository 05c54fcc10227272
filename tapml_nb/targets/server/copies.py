"""Copies of a session's process that a kernel makes (``fork``) and that come back from it.

They would go on as the session does: read its requests and answer them a second time.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from tapml_nb.targets.wire.recorder import Recorder

_PATIENCE = 0.2
"""How long to wait for the word of a child that a kernel has left, in seconds."""


class Copies:
    """What the process in which this is made knows of its children."""

    def __init__(self) -> None:
        self._me = os.getpid()
        self._known: set[int] = set()

    def end_if_copy(self, recorder: Recorder) -> None:
        """In a copy: leave word, and end."""
        if os.getpid() != self._me:
            recorder.note_copy()
            os._exit(0)

    def came_back(self, recorder: Recorder) -> bool:
        """Whether a child that the last launch has left is a copy that came back from it."""
        children = _children()
        left = children - self._known
        self._known = children
        deadline = time.monotonic() + _PATIENCE
        while left and not recorder.copied and time.monotonic() < deadline:
            time.sleep(0.002)
        return bool(left) and recorder.copied


def _children() -> set[int]:
    """Children of this process, ended ones that nobody has asked about among them."""
    try:  # to ask this costs next to nothing, and mostly there is none
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found
