"""What a session's process is at, written where its end does not reach, and how it ended.

A process that died, or does not answer, says nothing of what it was doing, and a line that breaks
looks the same as a crash.  So a session's process writes into a small mapped file, before and
after, that it launches a kernel, loads a library or opens a device, and when it has to be done.
Its listener makes the file and shares the memory: it looks there while a client asks, when the
process has ended, and for whether it is late.  (Who blocks the process's own alarm, or is stopped,
does not hear it, and on another machine nobody else would end it.)
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

DEVICE_LOST, DEVICE_GONE = 70, 71
"""Exit statuses of a process whose device is lost to a kernel, or was taken away."""

HUNG_UP, CLOSED = 72, 73
"""Exit statuses of a process whose client hung up, or said what makes no sense; and of one in which
something has closed the connection: only a kernel can have."""

GUARD_PAGE_HIT = "guard page: "
"""How the line of a dying process begins that names the buffer that a kernel left."""

READ_ONLY_HIT = "read-only: "
"""The same of one that writes to what is nobody's to write to."""

SERVER_MARK = "TAPML_SERVER"
"""The variable that names a server's folder to everything that it starts."""

Doing = Literal["", "launch", "load", "device"]

_DOING: tuple[Doing, ...] = ("", "launch", "load", "device")
_HEAD = struct.Struct("<BBd")
"""What is open (an index of ``_DOING``), whether a copy of the process came back from a kernel, and
since when (``time.monotonic``, the same clock in all processes of a machine)."""

_END, _END_PLACE = struct.Struct("<d"), 16
"""When it has to be done (the same clock; 0: no such time), and where that stands."""

_NAME_PLACE, _NAME_LIMIT = 24, 512
_SIZE = mmap.PAGESIZE


@dataclass(frozen=True)
class Record:
    """What a process is, or was, at."""

    doing: Doing = ""  # what is open: a launch, a library's loading, a device's opening
    seconds: float = 0.0  # for how long
    kernel: str = ""  # the key of the kernel that is launched, or was launched last

    @property
    def running(self) -> str:
        """The kernel whose launch is open; "" if none is."""
        return self.kernel if self.doing == "launch" else ""

    @classmethod
    def of(cls, data: Any) -> Record:
        """A record as another process wrote it down; an empty one where it makes no sense."""
        if not isinstance(data, dict) or data.get("doing") not in _DOING:
            return cls()
        return cls(data["doing"], float(data.get("seconds", 0)), str(data.get("kernel", "")))


@dataclass(frozen=True)
class ExitReport:
    """The listener's word on how a session's process ended."""

    signal: int = 0  # the number of the signal that ended it; 0 if none did
    code: int = 0  # its exit status, if it came to one
    log: str = ""  # the last lines that it wrote
    record: Record = field(default_factory=Record)  # what it was at
    maxrss_mb: int = 0  # the most memory that it had, in MB

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """A report of its fields; what is missing or makes no sense there is empty here."""
        numbers = {name: data.get(name) for name in ("signal", "code", "maxrss_mb")}
        known = {name: number for name, number in numbers.items() if isinstance(number, int)}
        return cls(**known, log=str(data.get("log", "")), record=Record.of(data.get("record")))


class Recorder:
    """Where it is written: by the process, and by whoever forked it then."""

    def __init__(self, path: Path | None = None) -> None:
        """Make the file (OSError if there is no room); without a path the record is this process's
        alone."""
        if path is None:
            self._memory = mmap.mmap(-1, _SIZE)
            return
        with path.open("w+b", buffering=0) as file:
            file.write(bytes(_SIZE))  # a hole would end the process when the disk is full
            self._memory = mmap.mmap(file.fileno(), _SIZE)

    @contextmanager
    def during(self, doing: Doing, kernel: str = "") -> Iterator[None]:
        """While the block runs, this is open; it stays so if the line to where it runs breaks."""
        if doing == "launch":
            name = kernel.encode()[: _NAME_LIMIT - 1]
            self._memory[_NAME_PLACE : _NAME_PLACE + len(name) + 1] = name + b"\0"
        _HEAD.pack_into(self._memory, 0, _DOING.index(doing), 0, time.monotonic())
        try:
            yield
        except ConnectionError:
            raise
        except BaseException:
            self._memory[0] = 0
            raise
        self._memory[0] = 0

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """The block has to be done after so many seconds."""
        _END.pack_into(self._memory, _END_PLACE, time.monotonic() + seconds)
        try:
            yield
        finally:
            _END.pack_into(self._memory, _END_PLACE, 0.0)

    def late(self, grace: float) -> bool:
        """Whether the process should have been done ``grace`` seconds ago."""
        end: float = _END.unpack_from(self._memory, _END_PLACE)[0]
        return 0 < end < time.monotonic() - grace

    def note_copy(self) -> None:
        """Said by a copy of the process that has come back from a kernel."""
        self._memory[1] = 1

    @property
    def copied(self) -> bool:
        """Whether a copy has come back since the last launch began."""
        return bool(self._memory[1])

    def read(self) -> Record:
        """What is written there."""
        return _parse(self._memory)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


def path_of(workroot: Path, session: int) -> Path:
    """Where the process of the session of this number writes."""
    return workroot / f"record-{session}"


def read_record(path: Path) -> Record:
    """What a process has written; an empty record if it never came to it."""
    try:
        data = path.read_bytes()
    except OSError:
        return Record()
    return _parse(data) if len(data) == _SIZE else Record()


def _parse(data: Any) -> Record:
    doing, _, since = _HEAD.unpack_from(data)
    name = bytes(data[_NAME_PLACE : _NAME_PLACE + _NAME_LIMIT]).partition(b"\0")[0]
    if not doing or doing >= len(_DOING):  # a kernel may have written here
        return Record(kernel=name.decode(errors="replace"))
    seconds = max(0.0, time.monotonic() - since)
    return Record(_DOING[doing], seconds, name.decode(errors="replace"))
