"""Target sessions that clear up after themselves, and proof that they did."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.errors import TargetEvent
from tests.conftest import wait_until
from tests.targets import kernels


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of :mod:`tests.targets.kernels` in one shared library."""
    return kernels.build(tmp_path_factory.mktemp("library"))


@pytest.fixture
def no_threads_or_descriptors_left(nothing_left: Path) -> Iterator[None]:
    """Beside processes, listeners and files, no thread and no descriptor is left."""
    threads = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    assert wait_until(lambda: set(threading.enumerate()) <= threads)
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


Open = Callable[..., TargetSession]


@pytest.fixture
def events() -> list[TargetEvent]:
    """What the session told."""
    return []


@pytest.fixture
def open_session(
    no_threads_or_descriptors_left: None, library: Path, events: list[TargetEvent]
) -> Iterator[Open]:
    """Makes sessions that hold the kernels, the tensor ``x`` and the tensor ``constant``."""
    # Imported, not first by the session: TVM's import opens descriptors for good.
    import tvm.rpc  # noqa: F401

    made: list[TargetSession] = []

    def make(target: Target | None = None) -> TargetSession:
        session = TargetSession(target or Target("llvm", timeout=10), on_event=events.append)
        made.append(session)
        session.load(library, list(kernels.PLANS.values()))
        fill(session)
        return session

    yield make
    for session in made:
        session.close()


@pytest.fixture
def session(open_session: Open) -> TargetSession:
    """A session on a server of its own."""
    return open_session()


X = np.arange(kernels.N, dtype=np.float32)
CONSTANT = 10 * np.ones(kernels.N, np.float32)


def fill(session: TargetSession) -> None:
    """Send what every kernel needs."""
    session.put("x", X)
    session.put("constant", CONSTANT)


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; one that its parent has not asked about yet has."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
