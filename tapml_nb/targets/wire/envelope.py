"""What goes over the control line: numbered, with a checksum, and errors by their kind.

TVM's RPC carries text there and back.  It has no checksum, and an answer that comes twice, or for
another request, looks like any other.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from tapml_nb.targets.wire.errors import (
    BeyondTarget,
    KernelRaised,
    NoRoom,
    NoTensor,
    Rejected,
    TargetError,
)

_LIMIT = 2000
"""Characters of an error's message."""

_KINDS: dict[str, type[TargetError]] = {
    "beyond": BeyondTarget,
    "raised": KernelRaised,
    "rejected": Rejected,
    "missing": NoTensor,
}


class Garbled(ConnectionError):
    """What came over the line is not what was sent, or no answer to what was asked."""


def seal(content: Any) -> str:
    """Content that is JSON, as text with its checksum."""
    text = json.dumps(content)
    return f"{zlib.crc32(text.encode()):08x}{text}"


def unseal(sealed: Any) -> Any:
    """The content; Garbled if it is not what was sealed."""
    text = str(sealed)
    try:
        if int(text[:8], 16) == zlib.crc32(text[8:].encode()):
            return json.loads(text[8:])
    except ValueError:
        pass
    raise Garbled("a message was damaged on its way")


def failure(error: Exception) -> dict[str, Any]:
    """An error, to be sent."""
    words = " ".join(str(error).split())[:_LIMIT]
    if isinstance(error, NoRoom):
        return {"error": "room", "size": error.size, "capacity": error.capacity}
    for kind, known in _KINDS.items():
        if isinstance(error, known):
            return {"error": kind, "message": words}
    return {"error": "other", "message": f"{type(error).__name__}: {words}"}


def error_of(answer: Mapping[str, Any]) -> TargetError | None:
    """The error that an answer tells of, if it does."""
    if "error" not in answer:
        return None
    if answer["error"] == "room":
        return NoRoom(answer["size"], answer["capacity"])
    return _KINDS.get(answer["error"], TargetError)(answer.get("message", ""))
