"""Browsers at the target server's port: the page that becomes a target, and its websocket.

Runs in the child that the listener forks for a browser that knows the key (:func:`knows_key`);
others hear :func:`refusal` from the listener itself.  A page's websocket is kept here until a
session waits for one, and then handed over to it.

Pages are let in by a key of their own, made from the server's: it does not open TVM's RPC.  Both
the page and the address it was called by must be of the loopback interface, so that no other
site's script gets here by a name it made point here (DNS rebinding).

Who relays a page's websocket (:mod:`tapml_nb.jupyter.relay`) sends a challenge along, and learns
from the answer that it is one of our servers that is here, and not some other of this user's.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import re
import select
import socket
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from tapml_nb.targets.wire.handshake import CHALLENGE, PAGE_SOCKET, PROOF, hand_over, proof

STATIC = Path(__file__).parent / "static"

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_POLL_SECONDS = 0.05
_HAND_OVER_SECONDS = 5.0

FILES = {"": ("page.html", "text/html; charset=utf-8"), "page.js": ("page.js", "text/javascript")}
"""Name below the page's address → file in :data:`STATIC` and its kind."""


@cache
def file_headers(name: str) -> dict[str, str]:
    """The headers that go with one of :data:`FILES`."""
    return {
        "Content-Type": FILES[name][1],
        "Content-Security-Policy": _policy(),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",  # the address has the key in it
        "X-Content-Type-Options": "nosniff",
    }


def _policy() -> str:
    """What the page may do: run its own script and the few lines that call it, and connect back."""
    text = (STATIC / FILES[""][0]).read_text(encoding="utf-8")

    def own(tag: str) -> str:
        parts = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", text, re.DOTALL)
        digests = [hashlib.sha256(part.encode()).digest() for part in parts]
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src 'self' {own('script')}; style-src {own('style')}; "
        f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


WRONG_KEY = "wrong key: the session may be another one by now"


def knows_key(head: bytes, key: str) -> bool:
    """Whether the path of a browser's request begins with the key; ``head``: the whole request."""
    path = head.split(b" ", 2)[1].partition(b"?")[0]
    return hmac.compare_digest((path + b"/").split(b"/")[1], key.encode())


def refusal() -> bytes:
    """What a browser without the key hears."""
    text = f"{WRONG_KEY}\n".encode()
    return (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
    )


def answer(connection: socket.socket, head: bytes, workroot: Path) -> str:
    """Answer the request of a browser that knows the key, of which ``head`` is the whole head;
    returns why it was refused, or "".  ``workroot``: the folder with the sessions' folders."""
    from websockets.datastructures import Headers
    from websockets.http11 import Request, Response
    from websockets.server import ServerProtocol

    protocol = ServerProtocol()
    protocol.receive_data(head)
    request = next(iter(protocol.events_received()), None)

    def send(response: Response) -> str:
        protocol.send_response(response)
        connection.sendall(b"".join(protocol.data_to_send()))
        return "" if response.status_code < 400 else str(response.body, "utf-8").strip()

    if not isinstance(request, Request):
        return str(protocol.handshake_exc or "no HTTP request")
    where = [request.headers.get("Host", ""), request.headers.get("Origin", "//localhost")]
    names = [urlsplit(place if "//" in place else f"//{place}").hostname for place in where]
    if not set(names) <= set(_LOOPBACK):
        return send(protocol.reject(403, f"no page of {names} is let in here\n"))
    _, key, *rest = f"{request.path.partition('?')[0]}/".split("/")
    name = "/".join(rest).removesuffix("/")
    if name == "device":
        response = protocol.accept(request)
        if CHALLENGE in request.headers:
            response.headers[PROOF] = proof(key, request.headers[CHALLENGE])
        why = send(response)
        if not why:
            _wait_for_session(connection, workroot)
        return why
    if name not in FILES or not rest:
        return send(protocol.reject(404, "there is nothing here\n"))
    body = (STATIC / FILES[name][0]).read_bytes()
    headers = Headers(file_headers(name))
    headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    return send(Response(200, "OK", headers, body))


def _wait_for_session(connection: socket.socket, workroot: Path) -> None:
    """Keep a page until a session wants it, or it goes."""
    connection.settimeout(None)
    while True:
        for waiting in sorted(workroot.glob(f"session-*/{PAGE_SOCKET}")):
            with contextlib.suppress(OSError):  # another page was faster
                hand_over(waiting.parent, PAGE_SOCKET, b"page", connection, _HAND_OVER_SECONDS)
                return
        readable, _, _ = select.select([connection], [], [], _POLL_SECONDS)
        if readable and not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            return
        if readable:  # a ping of a server in between; the session answers it
            select.select([], [], [], _POLL_SECONDS)
