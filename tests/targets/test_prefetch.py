"""What is sent ahead of need over a line: once, whole or not at all, and in nobody's way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from tapml_nb import Target
from tapml_nb.targets.client import prefetch
from tapml_nb.targets.client.prefetch import Prefetch
from tapml_nb.targets.client.right_of_way import RightOfWay
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.server.staging import Staging
from tapml_nb.targets.wire.errors import NoRoom, TargetError, TargetLost
from tests.conftest import wait_until
from tests.targets import kernels
from tests.targets.conftest import CONSTANT, X, fill
from tests.targets.proxy import Proxy
from tests.targets.serving import Serving, serving

MARK = 0xAB
"""A byte that is rare in all else that goes over a line."""

KB = 1 << 10


def weight(size: int = 1024 * KB) -> np.ndarray:
    return np.full(size, MARK, np.uint8)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "tapml-prefetch"]


class Meter:
    """Counts what goes to a target of weights, and may stop it there."""

    def __init__(self, proxy: Proxy) -> None:
        self.carried = 0
        self.at: int | None = None
        """When so many bytes have gone, ``then`` is done once to the bytes that go next."""

        self.then: Callable[[bytearray], None] = lambda data: None
        self.reached, self.gate = threading.Event(), threading.Event()
        proxy.on_bytes = self._on_bytes

    def _on_bytes(self, data: bytearray, way: str) -> None:
        count = data.count(MARK) if way == "up" else 0
        self.carried += count
        if count and self.at is not None and self.carried > self.at:
            self.at = None
            self.then(data)

    def times(self, array: np.ndarray) -> float:
        """How often a weight's bytes have gone; other bytes of this kind are few."""
        return round(self.carried / array.nbytes, 2)

    def hold(self, data: bytearray) -> None:
        self.reached.set()
        assert self.gate.wait(60)

    def damage(self, data: bytearray) -> None:
        data[data.index(MARK)] ^= 1

    def cut(self, data: bytearray) -> None:
        raise OSError("cut")


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    line = Proxy(server.port)
    yield line
    line.close()


@pytest.fixture
def session(no_threads_or_descriptors_left, proxy, server, library) -> Iterator[TargetSession]:
    yield from opened(proxy, server, library)


def opened(proxy, server, library, **options) -> Iterator[TargetSession]:
    target = Target("llvm", rpc=server.at(proxy.port), timeout=10, **options)
    with TargetSession(target) as made:
        made.load(library, list(kernels.PLANS.values()))
        fill(made)
        yield made
    proxy.close()


def plan(session: TargetSession, *keys: str, array: np.ndarray | None = None) -> np.ndarray:
    array = weight() if array is None else array
    for order, key in enumerate(keys):
        session.prefetch.add(order, key, array.nbytes, lambda: array)
    return array


def all_is_sent() -> bool:
    return wait_until(lambda: not threads(), 30)


def test_what_was_sent_ahead_is_not_sent_again(proxy, session):
    meter = Meter(proxy)
    array = plan(session, "w")
    assert all_is_sent()
    assert not session.resident("w")
    assert session.held() == X.nbytes + CONSTANT.nbytes
    assert meter.times(array) == 1
    before = session.bytes_sent
    assert session.put("w", array) == session.bytes_sent - before == array.nbytes
    assert meter.times(array) == 1
    assert np.array_equal(session.fetch("w"), array)
    assert session.put("w", array) == 0


def test_the_first_to_be_needed_goes_first(proxy, session):
    """Whatever the order in which that is found out."""
    meter, seen = Meter(proxy), list[str]()
    meter.at, meter.then = 100 * KB, meter.hold
    array = weight(200 * KB)

    def outgoing(key: str) -> np.ndarray:
        seen.append(key)
        return array

    for order, key in ((5, "begun"), (9, "last"), (7, "next"), (9, "next"), (6, "soon")):
        session.prefetch.add(order, key, array.nbytes, partial(outgoing, key))
        assert meter.reached.wait(60)
    meter.gate.set()
    assert all_is_sent()
    assert seen == ["begun", "soon", "next", "last"]


@pytest.mark.parametrize("at", [0, 500 * KB], ids=["begun", "half"])
def test_who_needs_what_is_under_way_sends_the_rest(proxy, session, at):
    meter = Meter(proxy)
    meter.at, meter.then = at, meter.hold
    array = plan(session, "w")
    assert meter.reached.wait(60)
    putting = threading.Thread(target=session.put, args=("w", array))
    putting.start()
    meter.gate.set()
    putting.join()
    assert all_is_sent()
    assert meter.times(array) == 1
    assert np.array_equal(session.fetch("w"), array)


def test_who_needs_what_has_not_begun_sends_it(proxy, session):
    array = weight()
    looking, look = threading.Event(), threading.Event()

    def outgoing() -> np.ndarray:
        looking.set()
        assert look.wait(60)
        return array

    meter = Meter(proxy)
    session.prefetch.add(0, "w", array.nbytes, outgoing)
    assert looking.wait(60)
    session.put("w", array)
    look.set()
    assert all_is_sent()
    assert meter.times(array) == 1
    assert np.array_equal(session.fetch("w"), array)


def test_what_was_damaged_on_the_line_is_not_taken_for_whole(proxy, session):
    meter = Meter(proxy)
    meter.at, meter.then = 500 * KB, meter.damage
    array = plan(session, "w", "other")
    assert all_is_sent()
    assert meter.at is None
    session.put("w", array)
    session.put("other", array)
    assert meter.times(array) == 3
    assert np.array_equal(session.fetch("w"), array)
    assert session.restarts == 0


def test_a_cut_line_takes_what_was_sent_ahead_with_it(proxy, session):
    meter = Meter(proxy)
    meter.at, meter.then = 500 * KB, meter.cut
    array = plan(session, "w", "other")
    assert all_is_sent()
    assert not session.resident("w")
    with pytest.raises(TargetLost) as caught:
        session.put("w", array)
    assert caught.value.reason == "connection"
    session.put("w", array)
    assert np.array_equal(session.fetch("w"), array)
    assert all_is_sent()
    before = meter.times(array)
    session.put("other", array)  # it went over the new line while nobody needed it
    assert meter.times(array) == before
    assert np.array_equal(session.fetch("other"), array)


def test_a_kernel_that_crashes_meanwhile_is_named_and_all_is_sent_again(proxy, session):
    meter = Meter(proxy)
    meter.at, meter.then = 500 * KB, meter.hold
    array = plan(session, "w")
    assert meter.reached.wait(60)
    with pytest.raises(TargetLost) as caught:
        session.call("segfault", ["x"], ["y"])
    assert (caught.value.reason, caught.value.running) == ("crash", "segfault")
    meter.gate.set()
    fill(session)
    assert all_is_sent()
    before = meter.times(array)
    session.put("w", array)
    assert meter.times(array) == before
    assert np.array_equal(session.fetch("w"), array)
    assert session.restarts == 1


def test_what_nobody_needs_any_more_goes(proxy, session):
    """The half of it that is there, what has not begun, and what is whole."""
    meter = Meter(proxy)
    meter.at, meter.then = 5000 * KB, meter.hold
    array = plan(session, "whole", "half", "none", array=weight(4096 * KB))
    assert meter.reached.wait(60)
    session.prefetch.end()
    meter.gate.set()
    assert all_is_sent()
    assert 1 < meter.times(array) < 2
    line = session.connected().line
    for key in ("whole", "half", "none"):
        with pytest.raises(TargetError, match="pieces of what has not begun"):
            line.piece(key, 100 * KB, array.nbytes, memoryview(array)[: 100 * KB])
    session.put("half", array)
    assert np.array_equal(session.fetch("half"), array)


def test_a_session_that_closes_meanwhile_leaves_nothing(proxy, session):
    """(The fixture sees threads and descriptors.)"""
    meter = Meter(proxy)
    meter.at, meter.then = 500 * KB, meter.hold
    plan(session, "w")
    assert meter.reached.wait(60)
    session.close()
    assert all_is_sent()
    meter.gate.set()


def test_a_call_that_is_broken_off_meanwhile(proxy, session):
    meter = Meter(proxy)
    meter.at, meter.then = 500 * KB, meter.hold
    array = plan(session, "w")
    assert meter.reached.wait(60)
    stopper = threading.Thread(target=wait_until, args=(lambda: session._busy,))
    stopper.start()
    interrupting = threading.Timer(0, lambda: (stopper.join(), session.interrupt()))
    interrupting.start()
    with pytest.raises(TargetLost) as caught:
        session.put("w", array)
    interrupting.join()
    assert caught.value.reason == "interrupted"
    meter.gate.set()
    session.put("w", array)
    assert np.array_equal(session.fetch("w"), array)


def test_who_cannot_give_a_tensor_leaves_it_to_its_user(proxy, session):
    def outgoing() -> np.ndarray:
        raise ValueError("it is another one now")

    meter, array = Meter(proxy), weight()
    session.prefetch.add(0, "w", array.nbytes, outgoing)
    plan(session, "other")
    assert all_is_sent()
    assert meter.times(array) == 1
    session.put("w", array)
    assert np.array_equal(session.fetch("w"), array)


def test_nothing_is_sent_ahead_where_there_is_no_line(open_session):
    session = open_session()
    array = plan(session, "w")
    assert not threads()
    session.put("w", array)
    assert np.array_equal(session.fetch("w"), array)


# -- memory ----------------------------------------------------------------------------------------


@pytest.fixture
def bounded(no_threads_or_descriptors_left, proxy, server, library) -> Iterator[TargetSession]:
    """A session whose target may take 3 MB."""
    yield from opened(proxy, server, library, max_memory=3 * 1024 * KB)


def test_nothing_is_sent_ahead_beyond_the_bound(proxy, bounded):
    meter, keys = Meter(proxy), [f"w{n}" for n in range(6)]
    bounded.put("kept", np.zeros(900 * KB, np.uint8))
    array = plan(bounded, *keys)
    assert all_is_sent()
    assert meter.times(array) == 1  # for two there is no room beside what a call may take
    assert bounded.resident("kept")
    for key in keys:
        bounded.put(key, array)
        assert all_is_sent()
        assert np.array_equal(bounded.fetch(key), array)
    assert meter.times(array) == len(keys)
    assert bounded.peak_bytes <= 3 * 1024 * KB


def test_no_more_waits_at_the_target_than_it_may(proxy, session, monkeypatch):
    """One that is larger than that goes when nothing else waits there."""
    monkeypatch.setattr(prefetch, "_MOST_AHEAD", 900 * KB)
    meter = Meter(proxy)
    array = plan(session, "w", "other")
    for key, times in (("w", 1), ("other", 2)):
        assert all_is_sent()
        assert meter.times(array) == times
        session.put(key, array)
        assert np.array_equal(session.fetch(key), array)
    assert meter.times(array) == 2


def test_what_is_needed_goes_before_what_was_sent_ahead(proxy, bounded):
    """There would be no room for both."""
    array = plan(bounded, "w", "other")
    assert all_is_sent()
    large = np.zeros(2600 * KB, np.uint8)
    bounded.put("large", large)
    assert np.array_equal(bounded.fetch("large"), large)
    assert all_is_sent()
    bounded.put("w", array)
    assert np.array_equal(bounded.fetch("w"), array)
    assert bounded.peak_bytes <= 3 * 1024 * KB


def test_a_full_target_lets_go_of_what_was_sent_ahead(session):
    plan(session, "w", "other")
    assert all_is_sent()
    session.drop_all_but(["w", "x"])
    assert session.prefetch.bytes_beside((), 0) == weight().nbytes
    assert session.prefetch.take("w") is not None
    assert session.prefetch.take("other") is None


# -- parts -----------------------------------------------------------------------------------------


def test_who_waits_goes_before_who_sends_ahead():
    way, order = RightOfWay(), list[str]()

    def wait() -> None:
        with way.at_once():
            order.append("waits")

    with way.between():
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert wait_until(lambda: way._waiting)
        order.append("ahead")
    with way.between():
        order.append("ahead")
    waiting.join()
    assert order == ["ahead", "waits", "ahead"]


def test_pieces_that_do_not_fit_together():
    staging = Staging(lambda size: np.zeros(size, np.uint8))
    for place in (("w", 8, 4, 4), ("w", 8, 0, 9), ("w", 8, -1, 4)):
        with pytest.raises(ValueError, match=r"bytes|begun"):
            staging.place(*place)
    staging.place("w", 8, 0, 4)[:] = 1
    with pytest.raises(ValueError, match="for 8"):
        staging.place("w", 9, 4, 4)
    staging.place("w", 8, 4, 4)[:] = 2
    assert staging.take("w", 0) is None
    assert staging.take("w", 0) is None


def test_a_target_without_room_for_pieces():
    """It says so, the line is in step, and who needs the tensor sends it."""
    changes = """
def full(self, size):
    raise channel.NoRoom(size, None)

channel.TensorMemory.room = full
"""
    with serving(changes) as other:
        target = Target("llvm", rpc=other.at(other.port), timeout=10)
        with TargetSession(target) as session:
            session.start()
            array = plan(session, "w", "other")
            assert all_is_sent()
            with pytest.raises(NoRoom):
                session.connected().line.piece("w", 0, 4, memoryview(b"1234"))
            session.put("w", array)
            assert np.array_equal(session.fetch("w"), array)
            assert session.restarts == 0


def test_a_prefetch_that_was_never_connected_has_no_thread():
    nowhere = Prefetch(None)
    nowhere.add(0, "w", 100, lambda: weight())
    nowhere.end()
    nowhere.close()
    nowhere.close()
    assert nowhere.take("w") is None
