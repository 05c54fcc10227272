"""Settings every test shares: few threads, no network, a kernel cache of the tests' own."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

# A shell that runs the tests in its background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TVM_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")


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
