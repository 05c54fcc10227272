"""How a session's process ended, as it, its listener and the notebook say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tapml_nb.targets.wire.recorder import Record

DEVICE_LOST, DEVICE_GONE = 70, 71
"""Exit statuses of a process whose device is lost to a kernel, or was taken away."""

HUNG_UP, CLOSED = 72, 73
"""Exit statuses of a process whose client hung up, or said what makes no sense; and of one in which
something has closed the connection: only a kernel can have."""

GUARD_PAGE_HIT = "guard page: "
"""How the line of a dying process begins that names the buffer that a kernel left."""

SERVER_MARK = "TAPML_SERVER"
"""The variable that names a server's folder to everything that it starts."""


@dataclass(frozen=True)
class ExitReport:
    """The listener's word on how a session's process ended.

    Attributes:
        signal: the number of the signal that ended it; 0 if none did.
        code: its exit status, if it came to one.
        log: the last lines that it wrote.
        record: what it was at.
        maxrss_mb: the most memory that it had, in MB.
    """

    signal: int = 0
    code: int = 0
    log: str = ""
    record: Record = field(default_factory=Record)
    maxrss_mb: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """A report of its fields; what is missing or makes no sense there is empty here."""
        numbers = {name: data.get(name) for name in ("signal", "code", "maxrss_mb")}
        known = {name: number for name, number in numbers.items() if isinstance(number, int)}
        return cls(**known, log=str(data.get("log", "")), record=Record.of(data.get("record")))
