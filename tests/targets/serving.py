"""``tapml serve`` in another process, as it is or as another version of it would be."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Serving:
    """A server that runs."""

    pid: int
    port: int
    key: str

    def at(self, port: int) -> str:
        """Its address for a notebook, behind a port of this machine."""
        return f"127.0.0.1:{port}/{self.key}"


@contextlib.contextmanager
def serving(changes: str = "") -> Iterator[Serving]:
    """A server of its own for as long as the block runs.

    Args:
        changes: Python that is run in it first.
    """
    code = f"""
from tapml_nb.targets.devices import tvm_runtime as devices
from tapml_nb.targets.server import listener as server, memory as channel, service
{changes}
server.serve_standalone("127.0.0.1", 0)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    address = process.stdout.readline().partition("rpc='")[2].partition("'")[0]
    port, _, key = address.rpartition(":")[2].partition("/")
    try:
        yield Serving(process.pid, int(port), key)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
