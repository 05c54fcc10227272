"""One connection to a target: TVM's RPC session, and what is asked for over it.

A connection that broke is dropped whole and replaced.

A fork of this process would say goodbye to the target when it frees TVM's session.  So its copies
of the sockets are replaced, at once when it is forked, by one that leads nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import weakref
from pathlib import Path
from select import select
from typing import Any

from tapml_nb.owner import Owner
from tapml_nb.targets.client.dial import (
    ask,
    ask_for_the_end,
    connect_rpc,
    hang_up,
    reach,
    refuse_other,
)
from tapml_nb.targets.client.residency import Residency
from tapml_nb.targets.client.service import ChannelClient, LineService
from tapml_nb.targets.client.stock_rpc import StockService
from tapml_nb.targets.server.leftovers import is_stopped
from tapml_nb.targets.wire.envelope import Garbled
from tapml_nb.targets.wire.recorder import Record

_open: weakref.WeakSet[Connection] = weakref.WeakSet()
"""Connections that a fork would inherit."""


class Connection:
    """An RPC session with what belongs to it, and nothing that outlives it.

    Attributes:
        pid: the session's process, and
        session: its number at the listener, once :meth:`handshake` has been there.
        platform: what the server says of itself, then.
        resident: the tensors there.
        loaded: libraries that are loaded there.
    """

    def __init__(
        self, host: str, port: int, key: str, *, local: bool, ours: bool, scheme: str = ""
    ) -> None:
        """Connect to a server.

        Args:
            host, port, key: where it listens, and what it wants to hear.
            local: whether this process has started it.
            ours: whether it is a server of ours, and not of TVM's.
            scheme: ``"tracker"`` or ``"proxy"``: it is behind one.

        Raises:
            TargetLost: if nobody answers in time, or the key is refused.
            TargetError: if it speaks another protocol, or TVM takes no more sessions.
        """
        self._owner = Owner()
        self._place = (host, port)
        self._local = local
        self._credentials: dict[str, Any] = {}
        self._hello: Any = None
        self._process: int | None = None
        self._line: LineService | None = None
        self._stock: StockService | None = None
        self._lock = threading.Lock()
        self.pid = self.session = 0
        self.platform: dict[str, Any] = {}
        self.resident = Residency()
        self.loaded: set[Path] = set()
        self._ours = ours
        if not local and ours:  # who is there is asked first: TVM's client leaves sockets open
            refuse_other(host, port, ask(host, port, key).get("protocol"))
        elif not local and scheme != "tracker":
            reach(host, port).close()
        self._rpc, self._sockets, self._descriptors = connect_rpc(host, port, key, scheme)
        _open.add(self)

    def handshake(self, kind: str, device: int) -> None:
        """Get to know the server; TargetError if it is of another version, or TVM's own without
        such a device."""
        hello = self._say_hello() or self._say_hello()  # a damaged name is no server of TVM's own
        if hello is None and not self._ours:
            self._stock = StockService(self._rpc, kind, device)
            self.platform = {"machine": "", "stock": True}
            return
        try:
            self.platform = json.loads(hello or "{}")
            refuse_other(*self._place, self.platform.get("protocol"))
            self.pid, self.session = int(self.platform["pid"]), int(self.platform["session"])
            self._line = LineService(self._rpc.get_function("tapml.do"))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise Garbled("a handshake that makes no sense") from None
        if self._local:
            with contextlib.suppress(OSError):  # it is dead already, or the kernel is old
                self._process = os.pidfd_open(self.pid)

    def open_service(self, kind: str, device: int, seconds: float, bound: int | None) -> None:
        """Choose the server's device (TargetError if it has none) and what it may hold, in bytes,
        and open the tensor channel."""
        line = self._line
        if line is None:
            return
        # It shall be the first to give up.
        self.platform["device"] = line.use(kind, device, seconds - 1, bound)
        self._credentials = line.credentials()
        line.channel = ChannelClient(self._place, self._credentials, checked=not self._local)
        line.channel.connection.settimeout(seconds)
        if self._local:
            line.channel.share(self.pid, str(self.platform["device"].get("uuid", "")))

    def _say_hello(self) -> Any:
        """What our server says of itself; None if it has no word for it."""
        try:
            if self._hello is None:  # kept: freeing it is a round trip of its own
                self._hello = self._rpc.get_function("tapml.hello")
            return self._hello()
        except AttributeError:
            return None

    @property
    def service(self) -> LineService | StockService:
        """What the target does, once :meth:`open_service` has been there; ConnectionError if the
        connection was closed meanwhile."""
        service = self._line or self._stock
        if service is None:
            raise ConnectionError("it was closed")
        return service

    @property
    def line(self) -> ChannelClient | None:
        """The tensor channel, where tensors go over a line to one of our servers, that is, share no
        memory with it."""
        return self._line.channel if self._line and not self._local else None

    @property
    def peak(self) -> int:
        """The most bytes that the target's device ever held; 0 if it has no pool of memory."""
        return self._line.peak if self._line else 0

    @property
    def pooled(self) -> bool:
        """Whether the target's memory comes in blocks, which take more than their tensors."""
        return bool(self.platform.get("device", {}).get("pooled"))

    @property
    def stock(self) -> bool:
        """Whether this is TVM's own server."""
        return self._stock is not None

    @property
    def stopped(self) -> bool:
        """Whether the session's process, on this machine, was stopped (``SIGSTOP``)."""
        return self._local and is_stopped(self.pid)

    @property
    def ended(self) -> bool:
        """Whether the session's process, on this machine, has ended."""
        with self._lock:
            return self._process is not None and bool(select([self._process], [], [], 0)[0])

    @property
    def record(self) -> Record | None:
        """What TVM's own server is at, which this side knows; None if it is ours."""
        return self._stock.record() if self._stock else None

    def sever(self) -> None:
        """End the session's process, and cut the line to it; from any thread.  What waits for the
        target returns at once, with an error, also where processes that a kernel has left hold the
        other end of the line."""
        if self._owner.elsewhere:
            return
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process, signal.SIGKILL)
            for connection in self._all_sockets():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._end_session()

    def close(self) -> None:
        """Drop everything: at most 32 RPC sessions fit into a client process.

        The sockets first: freeing a remote function is a round trip on a line that still stands,
        without a time limit and with the interpreter's lock held, so that no watchdog could act.
        """
        if self._owner.elsewhere:
            return
        with self._lock:
            for connection in self._all_sockets():
                hang_up(connection)
            self._end_session()
            if self._process is not None:
                os.close(self._process)
            service = self._line or self._stock
            self._process = self._line = self._stock = None
            self._sockets = []
            self._descriptors = set()
        if service:
            service.close()
        self._hello = self._rpc = None

    def _end_session(self) -> None:
        """Have a listener elsewhere end the session's process, which may not hear that the line is
        gone: it runs a kernel, or was stopped.  (The one of this machine does so by itself.)"""
        if self._credentials and not self._local:
            where = (self._place, self._credentials)
            threading.Thread(
                target=ask_for_the_end, args=where, name="tapml-end", daemon=True
            ).start()
        self._credentials = {}

    def lead_nowhere(self, dead: socket.socket) -> None:
        """In a fork: have no part in the line.  TVM's own descriptor is among them."""
        for number in [*self._descriptors, *(one.fileno() for one in self._all_sockets())]:
            if number >= 0:
                os.dup2(dead.fileno(), number)

    def _all_sockets(self) -> list[socket.socket]:
        channel = self._line.channel if self._line else None
        return [*self._sockets, *([channel.connection] if channel else [])]


def _cut_off_fork() -> None:
    """In a fork, before anything else: no line to any target."""
    here, there = socket.socketpair()
    there.close()
    with here:
        for connection in list(_open):
            connection.lead_nowhere(here)


os.register_at_fork(after_in_child=_cut_off_fork)
