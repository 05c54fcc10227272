"""A Jupyter server extension: pages reach a target server on the Jupyter server's machine.

A browser on another machine cannot connect to the loopback interface where the session's target
server listens.  What it sends to ``tapml-nb/PORT/KEY/`` below the Jupyter server's base URL goes
there, and nowhere else, once Jupyter's own login and origin check have let it in.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import url_path_join
from tornado.httpclient import AsyncHTTPClient, HTTPError
from tornado.web import HTTPError as Refused
from tornado.web import authenticated
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketHandler,
    websocket_connect,
)

_PLACE = r"/tapml-nb/(\d{1,5})/([0-9a-f]{32})/"


class PageRelay(JupyterHandler):
    """The page behind a session's link, and its script."""

    @authenticated
    async def get(self, port: str, key: str, name: str) -> None:
        """Fetch a file of the target server's."""
        try:
            answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/{key}/{name}")
        except (HTTPError, OSError):
            raise Refused(404, "no session is there; it may have ended") from None
        self.set_header("Content-Type", answer.headers["Content-Type"])
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(answer.body)


class SocketRelay(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """A page's websocket."""

    _there: WebSocketClientConnection | None = None

    async def get(self, *arguments: Any, **names: Any) -> None:
        """Let in who is logged in."""
        if self.current_user is None:
            raise Refused(403)
        await super().get(*arguments, **names)

    async def open(self, port: str, key: str) -> None:
        """Connect to the target server; what it says goes to the page."""
        super().open()
        try:
            self._there = await websocket_connect(
                f"ws://127.0.0.1:{port}/{key}/device", on_message_callback=self._pass_on
            )
        except (HTTPError, OSError):
            self.close(1011, "no session is there")

    def _pass_on(self, message: str | bytes | None) -> None:
        if message is None:
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


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "tapml_nb.relay"}]


def _load_jupyter_server_extension(server: Any) -> None:
    """What Jupyter calls when it starts."""
    base = url_path_join(server.web_app.settings["base_url"], "")
    place = base.rstrip("/") + _PLACE
    server.web_app.add_handlers(
        ".*$", [(place + "device", SocketRelay), (place + r"(page\.js|)", PageRelay)]
    )
