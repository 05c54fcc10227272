"""A Jupyter server extension: pages reach a target server on the Jupyter server's machine.

A browser on another machine cannot connect to the loopback interface where the session's target
server listens.  ``tapml-nb/PORT/KEY/`` below the Jupyter server's base URL is the page that becomes
a target, from the package's own files; its websocket goes to that port, once Jupyter's own login
and origin check have let it in.

Other users of the machine listen on ports, too, and anybody may make such an address and send it.
So nothing is fetched from a port, and no websocket goes to one unless its listening socket is this
user's own and who answers there proves, before a message is passed on, to be a target server with
this key.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import url_path_join
from tornado.httpclient import HTTPRequest
from tornado.web import HTTPError as Refused
from tornado.web import authenticated
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketHandler,
    websocket_connect,
)

from tapml_nb.targets.server.pages import FILES, STATIC, file_headers
from tapml_nb.targets.wire.handshake import CHALLENGE, PROOF, proof

_PLACE = r"/tapml-nb/(\d{1,5})/([0-9a-f]{32})/"

_PATIENCE = 5.0
"""Seconds that a target server may take to answer."""

_LISTENS = "0A"
"""A listening socket's state in ``/proc/net/tcp``."""

_HERE = {"00000000", "0100007F", "0" * 32, "0000000000000000FFFF00000100007F"}
"""Addresses there at which a socket hears what is sent to 127.0.0.1, on a little-endian machine."""

_log = logging.getLogger(__name__)


class PageFile(JupyterHandler):
    """The page behind a session's link, and its script."""

    @authenticated
    async def get(self, port: str, key: str, name: str) -> None:
        """Give a file of the package's; whether a session is there, the page finds out."""
        for header, value in file_headers(name).items():
            self.set_header(header, value)
        self.finish((STATIC / FILES[name][0]).read_bytes())


class SocketRelay(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """A page's websocket."""

    _there: WebSocketClientConnection | None = None
    _early: list[str | bytes | None] | None = None
    """What was said before the page could hear it."""

    async def get(self, port: str, key: str) -> None:
        """Let in who is logged in, once there is a session's server of this user's."""
        if self.current_user is None:
            raise Refused(403)
        origin = self.request.headers.get("Origin")
        if origin is not None and not self.check_origin(origin):
            raise Refused(403)
        self._early = []
        there = await self._connect(int(port), key)
        if there is None:
            raise Refused(404, "no session of this user's is there; it may have ended")
        try:
            self._there = there
            await super().get(port, key)  # as long as the page is there
        finally:
            there.close()

    async def open(self, port: str, key: str) -> None:
        """What was said by now goes to the page."""
        super().open()
        early, self._early = self._early, None
        for message in early or ():
            self._pass_on(message)

    async def _connect(self, port: int, key: str) -> WebSocketClientConnection | None:
        """Connect to a target server; None if what is there is none of this user's."""
        if not is_own(port):
            return None
        challenge = secrets.token_hex(16)
        request = HTTPRequest(
            f"ws://127.0.0.1:{port}/{key}/device",
            headers={CHALLENGE: challenge},
            follow_redirects=False,
        )
        try:
            there = await asyncio.wait_for(
                websocket_connect(request, on_message_callback=self._pass_on), _PATIENCE
            )
        except Exception:  # of the many kinds that may come of what is no websocket server
            return None
        answer = there.headers.get(PROOF, "") if there.headers else ""
        if hmac.compare_digest(answer.encode(), proof(key, challenge).encode()):
            return there
        _log.warning("what listens on port %s is no target server with the key given", port)
        there.close()
        return None

    def _pass_on(self, message: str | bytes | None) -> None:
        if self._early is not None:
            self._early.append(message)
        elif message is None:
            self.close()
        elif self.ws_connection is not None:
            self.write_message(message, binary=isinstance(message, bytes))

    def on_message(self, message: str | bytes) -> None:
        """What the page says goes to the target server."""
        if self._there is not None:
            self._there.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        """The page is gone."""
        super().on_close()
        if self._there is not None:
            self._there.close()


def is_own(port: int, user: int | None = None) -> bool:
    """Whether all that listens on a port of the loopback interface is of one user.

    Args:
        port: the port.
        user: the user's number; default this process's own.

    Returns:
        False where nothing listens, and where the system does not say whose a socket is.
    """
    owner = os.getuid() if user is None else user
    owners = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for _, local, _, state, _, _, _, uid, *_ in map(str.split, lines):
            address, _, number = local.partition(":")
            if state == _LISTENS and int(number, 16) == port and address in _HERE:
                owners.append(int(uid))
    return bool(owners) and set(owners) == {owner}


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "tapml_nb.jupyter.relay"}]


def _load_jupyter_server_extension(server: Any) -> None:
    """What Jupyter calls when it starts."""
    base = url_path_join(server.web_app.settings["base_url"], "")
    place = base.rstrip("/") + _PLACE
    server.web_app.add_handlers(
        ".*$", [(place + "device", SocketRelay), (place + r"(page\.js|)", PageFile)]
    )
