"""An architecture measured in a process of its own, with a limit of time."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from dataclasses import asdict, replace
from importlib.metadata import version
from multiprocessing.connection import Connection

from benchmarks.zoo.architectures import ARCHITECTURES
from benchmarks.zoo.measure import Finding, Record, measure

SECONDS = 300
"""After which an architecture's process is ended."""

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.zoo.preloaded"])


def apart(name: str, seconds: float = SECONDS) -> Record:
    """Measure one in a process of its own; whatever happens to it, there is a record."""
    nothing = Record(name, ARCHITECTURES[name].group, key(name))
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_measure, args=(name, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return replace(nothing, error=f"not at its end after {seconds} seconds")
        return read(receiver.recv_bytes().decode())
    except EOFError:
        process.join()
        return replace(nothing, error=f"its process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _measure(name: str, sender: Connection) -> None:
    """What that process does."""
    try:
        record = measure(ARCHITECTURES[name], key(name))
    except Exception as error:
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        record = Record(name, ARCHITECTURES[name].group, key(name), error=words)
    sender.send_bytes(line(record).encode())


def line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(asdict(record))


def read(line: str) -> Record:
    """A record from its line."""
    values = json.loads(line)
    return Record(**{**values, "findings": tuple(Finding(**f) for f in values["findings"])})


def key(name: str) -> str:
    """Of a model and of the versions that matter to it."""
    packages = ("torch", "transformers", "apache-tvm", "tapml_nb")
    text = " ".join([ARCHITECTURES[name].digest, *map(version, packages)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
