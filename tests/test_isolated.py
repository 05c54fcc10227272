"""Benchmarks' work in processes of its own: its results, and what becomes of it otherwise."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from typing import Any

import psutil
import pytest

from benchmarks.isolated import _PROCESSES, PRELOADED, Failed, isolated
from tests.conftest import wait_until

SERVER: Any = forkserver._forkserver
"""Of which `multiprocessing` shows nothing."""


@pytest.fixture(scope="module", autouse=True)
def _a_server_that_imports_nothing():
    SERVER._stop()
    _PROCESSES.set_forkserver_preload([])
    yield
    SERVER._stop()
    _PROCESSES.set_forkserver_preload(PRELOADED)


def work(*what: str) -> Iterator[object]:
    yield from what
    if "hang" in what:
        yield os.getpid()
        time.sleep(100)
    if "die" in what:
        os.kill(os.getpid(), signal.SIGKILL)
    if "raise" in what:
        raise ValueError("on purpose")


def test_what_it_yields_arrives_in_order():
    assert list(isolated(work, "a", "b", seconds=60)) == ["a", "b"]


@pytest.mark.parametrize(
    ("how", "words"),
    [("die", "its process ended with status -9"), ("raise", "ValueError: on purpose")],
)
def test_it_does_not_come_to_its_end(how, words):
    results = isolated(work, how, seconds=60)
    assert next(results) == how
    with pytest.raises(Failed, match=words):
        next(results)


def test_it_outlives_the_server_it_was_forked_from_and_is_ended():
    results: Any = isolated(work, "hang", seconds=60)
    assert next(results) == "hang"
    process = psutil.Process(next(results))
    os.kill(SERVER._forkserver_pid, signal.SIGKILL)
    assert list(isolated(work, "of another server", seconds=60)) == ["of another server"]
    assert process.is_running()
    results.close()
    assert wait_until(lambda: not process.is_running())
