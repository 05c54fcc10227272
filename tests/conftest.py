"""Settings every test shares: few threads, no network, a kernel cache of the tests' own; and which
tests run beside each other."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# A shell that runs the tests in its background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TVM_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")


# The same examples in every run, few enough that all together take a minute.
settings.register_profile(
    "tests",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

WAITING = ("browser", "targets", "jupyter", "widgets", "engine")
COMPUTING = ("frontends", "judge", "test_dtypes.py", "test_notebooks.py", "test_zoo.py")
"""Rooms whose tests wait for processes much of the time, and those that compute meanwhile."""


class FromBothEnds(LoadFileScheduling):
    """Every file goes to one worker as a whole, with the fixtures that its tests share.  The first
    worker begins with those that wait, the second with those that compute, until they meet."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        if _computes(node.gateway.id):
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def _computes(worker: str) -> bool:
    return worker[2:].isdigit() and int(worker[2:]) % 2 == 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FromBothEnds:
    config.option.loadscopereorder = False
    return FromBothEnds(config, log)


def pytest_configure() -> None:
    if _computes(os.environ.get("PYTEST_XDIST_WORKER", "")):
        os.nice(10)  # the others' deadlines are short


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        return (room not in WAITING) + (room in COMPUTING)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel cache that starts empty and is shared by all tests of a run."""
    folder = tmp_path_factory.mktemp("kernels")
    os.environ["TAPML_CACHE"] = str(folder)
    return folder


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """After the test no process, no socket and no temporary file that it made is left."""
    import tempfile

    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    me = psutil.Process()
    children = descendants()
    sockets = {c.laddr for c in me.net_connections("inet")}
    yield folder
    wait_until(lambda: descendants() <= children)
    assert descendants() <= children
    assert wait_until(lambda: {c.laddr for c in me.net_connections("inet")} <= sockets)
    left = [path.name for path in folder.iterdir() if path.name.startswith("tapml")]
    assert left == []


def descendants() -> set[int]:
    """This process's, but for those of a browser, which come and go as it likes."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "chromium" not in process.name():
                found.add(process.pid)
    return found


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    """Poll until a condition holds, or the time is over; returns whether it held."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
