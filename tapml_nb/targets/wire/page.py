"""What a browser's page, its relay and the target server agree on."""

from __future__ import annotations

import hashlib
import hmac

PAGE_SOCKET = "page"
"""Where, in a session's folder, it waits for a page's connection."""

CHALLENGE, PROOF = "Tapml-Challenge", "Tapml-Proof"
"""Headers of a websocket's request and of its answer."""


def page_key(token: str) -> str:
    """What pages must know of a server with this token."""
    return hmac.new(token.encode(), b"page", hashlib.sha256).hexdigest()[:32]


def proof(key: str, challenge: str) -> str:
    """What only who knows a page's key can answer to a challenge."""
    return hmac.new(key.encode(), challenge.encode(), hashlib.sha256).hexdigest()
