"""The workbench in a bare page, beside a real session in this process: no Jupyter between them.

Playwright's pages belong to one thread, and a feed sends from its own; so messages wait in a queue
until the test, which is the thread, passes them on.
"""

from __future__ import annotations

import base64
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Route

from tapml_nb.widgets import Workbench
from tapml_nb.widgets.feed import Feed

STATIC = Path(__file__).parents[2] / "tapml_nb" / "widgets" / "static"
ORIGIN = "http://tapml.test"

_MOUNT = """async ([views, key, more]) => {
  const decode = (text) => {
    const binary = atob(text);
    return new DataView(Uint8Array.from(binary, (c) => c.charCodeAt(0)).buffer);
  };
  const state = { _views: views, _key: key, height: 0, ...more };
  if (state._against) state._against.values = decode(state._against.values);
  const handlers = new Map();
  const model = {
    get: (name) => state[name],
    send: (message) => window.tapmlSend(message),
    on: (name, call) => handlers.set(name, [...(handlers.get(name) ?? []), call]),
    off: () => {},
  };
  window.tapmlReceive = (message, buffers) => {
    const views = buffers.map(decode);
    for (const call of handlers.get("msg:custom") ?? []) call(message, views);
  };
  const { default: widget } = await import("/workbench.js");
  window.tapmlEnd = [await widget.initialize({ model })];
  for (const host of document.querySelectorAll(".host")) {
    window.tapmlEnd.push(await widget.render({ model, el: host }));
  }
}"""

LIGHT = "--jp-layout-color1: #fff; --jp-ui-font-color1: #1b1b1b"
DARK = "--jp-layout-color1: #111; --jp-layout-color2: #2b2b2b; --jp-ui-font-color1: #eee"


class BarePage:
    """One widget in one page: something that a feed can send to."""

    def __init__(
        self,
        page: Page,
        feed: Feed,
        shows: Sequence[str] = Workbench.shows,
        *,
        times: int = 1,
        style: str = LIGHT,
        body: str = "",
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """``body`` is what stands in the page, with the widget in what is of the class "host";
        ``state`` what else of the widget is synchronized, where bytes are base64."""
        self.page = page
        self._feed = feed
        self._outbox: queue.SimpleQueue[tuple[dict[str, Any], list[bytes]]] = queue.SimpleQueue()
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._refuse)
        page.route(f"{ORIGIN}/**", self._serve)
        page.expose_function("tapmlSend", lambda message: feed.receive(self, message))
        page.goto(f"{ORIGIN}/page.html")
        body = body or '<div class="host"></div>' * times
        page.set_content(
            '<!doctype html><html lang="en"><title>bare</title>'
            f'<link rel="stylesheet" href="/style.css"><body style="margin: 8px; {style}">{body}'
        )
        feed.attach(self)
        page.evaluate(_MOUNT, [list(shows), f"{id(self):x}", dict(state or {})])
        hosts = page.locator(".host").count()
        self.until(lambda: page.locator(".tapml-whole").count() == hosts)

    def send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        """What the feed calls, on its own thread."""
        self._outbox.put((content, buffers or []))

    def until(self, condition: Callable[[], Any], seconds: float = 15) -> None:
        """Pass messages on until a condition holds.

        Raises:
            AssertionError: if it does not in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.deliver()
            if condition():
                return
            assert time.monotonic() < deadline, "it did not come true in time"
            self.page.wait_for_timeout(20)

    def deliver(self) -> None:
        """Pass on what waits."""
        while not self._outbox.empty():
            content, buffers = self._outbox.get()
            texts = [base64.b64encode(buffer).decode() for buffer in buffers]
            self.page.evaluate("([m, b]) => window.tapmlReceive(m, b)", [content, texts])

    def __getitem__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def press(self, selector: str, key: str, times: int = 1) -> None:
        """Press a key many times at once, which by the keyboard itself takes a while."""
        self.page.locator(selector).evaluate(
            """(e, [key, times]) => {
              for (let k = 0; k < times; k++)
                e.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
            }""",
            [key, times],
        )

    def text(self, selector: str) -> str:
        """The text of what is there now: locators that wait would keep messages from coming."""
        return "\n".join(self.page.locator(selector).all_text_contents())

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def _refuse(self, dialog: Any) -> None:
        self.errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _serve(self, route: Route) -> None:
        name = route.request.url.removeprefix(ORIGIN).lstrip("/")
        if name == "page.html":
            route.fulfill(content_type="text/html", body="<!doctype html><title>bare</title>")
        elif (STATIC / name).is_file():
            kind = "text/javascript" if name.endswith(".js") else "text/css"
            route.fulfill(content_type=kind, path=STATIC / name)
        else:
            route.fulfill(status=404, body="")
