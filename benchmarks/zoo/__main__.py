"""The command: take every architecture through a session and write ``docs/models.md``.

    python -m benchmarks.zoo [NAME ...] [--out FILE] [--jobs N]

Each architecture has a process of its own and five minutes.  Results are kept in ``build/zoo.jsonl``,
a line each; what was measured with the same model and versions is not measured again, unless it is
named.  Ends with 1 where one does not get to its end, or a fault has no explanation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.zoo.architectures import ARCHITECTURES
from benchmarks.zoo.document import document, summary, unexplained
from benchmarks.zoo.measure import Finding, Record, measure

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "zoo.jsonl"
SECONDS = 300
"""After which an architecture's process is ended."""


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measure these anew, only")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "models.md")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = {*options.names, *([options.one] if options.one else [])} - set(ARCHITECTURES)
    if unknown:
        parser.error(f"no architecture is called {', '.join(sorted(unknown))}")
    if options.one:
        print(json.dumps(asdict(measure(ARCHITECTURES[options.one], key(options.one)))))
        return 0
    records = take(options.names, options.jobs)
    options.out.write_text(document(records))
    print("\n".join(summary(records)))
    failed = [r for r in records if not r.ended or any(unexplained(r)) or r.outputs != "PASS"]
    return int(bool(failed))


def take(names: Iterable[str], jobs: int) -> list[Record]:
    """Measure these, or what is not known yet; returns all that is known, in the zoo's order."""
    known = {record.name: record for record in kept()}
    current = {name: one for name, one in known.items() if one.key == key(name)}
    due = list(names) or [name for name in ARCHITECTURES if name not in current]
    KEPT.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool, KEPT.open("a") as lines:
        for record in pool.map(apart, due):
            current[record.name] = record
            print(json.dumps(asdict(record)), file=lines, flush=True)
            print(f"{record.name}: {said(record)}", file=sys.stderr, flush=True)
    return [current[name] for name in ARCHITECTURES if name in current]


def apart(name: str) -> Record:
    """Measure one in a process of its own; whatever happens to it, there is a record."""
    nothing = Record(name, ARCHITECTURES[name].group, key(name))
    command = [sys.executable, "-m", "benchmarks.zoo", "--one", name]
    try:
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return replace(nothing, error=f"not at its end after {SECONDS} seconds")
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        return replace(nothing, error=lines[-1] if lines else f"exit status {ended.returncode}")
    return read(ended.stdout.splitlines()[-1])


def kept() -> list[Record]:
    """What earlier runs have found."""
    return [read(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []


def read(line: str) -> Record:
    """A record from its line."""
    values = json.loads(line)
    return Record(**{**values, "findings": tuple(Finding(**f) for f in values["findings"])})


def key(name: str) -> str:
    """Of a model and of the versions that matter to it."""
    packages = ("torch", "transformers", "apache-tvm", "tapml_nb")
    text = " ".join([ARCHITECTURES[name].digest, *map(version, packages)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def said(record: Record) -> str:
    """A record in a line."""
    if not record.ended:
        return record.error
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in record.verdicts.items())
    return f"{record.operators} operators, {verdicts}; outputs {record.outputs}"


if __name__ == "__main__":
    sys.exit(main())
