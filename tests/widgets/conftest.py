"""A session that was judged once, and a page that keeps what it is sent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

import tapml_nb as tapml
from tapml_nb import Session, Target
from tapml_nb.widgets.feed import Feed, feed_of
from tests.conftest import wait_until
from tests.models import two_layers


class RecordingPage:
    """What a browser would get, and a way to ask as one does."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.messages: list[dict[str, Any]] = []
        self.buffers: list[list[bytes]] = []
        self._ids = itertools.count()
        feed.attach(self)

    def send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self.buffers.append(buffers or [])
        self.messages.append(content)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in list(self.messages) if m["kind"] == kind]

    def ready(self) -> dict[str, Any]:
        before = len(self.of("snapshot"))
        self.feed.receive(self, {"kind": "ready"})
        assert wait_until(lambda: len(self.of("snapshot")) > before)
        return self.of("snapshot")[-1]

    def ask(self, name: str, **args: Any) -> dict[str, Any]:
        """Ask and wait for the reply."""
        number = next(self._ids)
        self.feed.receive(self, {"kind": "command", "id": number, "name": name, "args": args})
        assert wait_until(lambda: any(r["id"] == number for r in self.of("reply")), 60)
        return next(r for r in self.of("reply") if r["id"] == number)

    def value(self, name: str, **args: Any) -> Any:
        reply = self.ask(name, **args)
        assert reply["ok"], reply["error"]
        return reply["value"]

    def error(self, name: str, **args: Any) -> str:
        reply = self.ask(name, **args)
        assert not reply["ok"]
        return reply["error"]

    def last_buffers(self, kind: str) -> list[bytes]:
        pairs = list(zip(self.messages, self.buffers, strict=False))  # one may be on its way
        return next(buffers for message, buffers in reversed(pairs) if message["kind"] == kind)


@pytest.fixture
def session() -> Iterator[Session]:
    with tapml.debug(*two_layers(), target=Target("llvm", timeout=5.0)) as session:
        yield session


@pytest.fixture
def page(session: Session) -> RecordingPage:
    return RecordingPage(feed_of(session))
