"""The command: take a suite through sessions, and compare verdicts with ``assert_close``.

    python -m benchmarks.suites opinfo|onnx [NAME ...] [--jobs N] [--out FILE] [--summary]

A name is that of a group or a pattern (``'nn.functional.*/bfloat16'``); default all.  Results are
kept in ``build/suites-opinfo.jsonl`` and ``build/suites-onnx.jsonl``, a line for each sample; what
was measured with the same programs is not measured again.  At the end, or with ``--summary``
at once, the figures are printed and ``docs/suites.md`` is written.  Ends with 1 where a process
ended, an exception is not documented, or a disagreement has no explanation.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock

# The source is the CPU, also where there is a GPU, which a forked process could not use anyway.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from benchmarks import isolated
from benchmarks.suites.apart import ROOT, apart, programs
from benchmarks.suites.records import Record, line, newest
from benchmarks.suites.records import read as read_record
from benchmarks.suites.results import disagreement, document, failed, figures

BUILD = ROOT / "build"

SUITES = {"opinfo": "benchmarks.suites.opinfo", "onnx": "benchmarks.suites.onnx_nodes"}
TITLES = {"opinfo": "OpInfo and ModuleInfo", "onnx": "ONNX's node tests"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suites", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("names", nargs="*", metavar="NAME", help="groups, or patterns of them")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "suites.md")
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TAPML_CACHE", str(BUILD / "suites-kernels"))  # thousands, for one use
    if not options.summary:
        # PyTorch's tests look for a GPU as they are imported, and a forked process must not.
        isolated.preload("benchmarks.suites.preloaded", SUITES[options.suite])
        try:
            take(options.suite, options.names or ["*"], options.jobs)
        except RuntimeError as error:
            parser.error(str(error))
    found = {name: list(newest(kept(name)).values()) for name in SUITES}
    options.out.write_text(document({TITLES[n]: r for n, r in found.items() if r}))
    print("\n".join(figures(found[options.suite])))
    return int(failed(found[options.suite]))


def take(name: str, patterns: Sequence[str], jobs: int) -> None:
    """Measure what is not known yet of some groups.

    Raises:
        RuntimeError: if there are none.
    """
    current = newest(record for record in kept(name) if record.key == programs())
    known = list(current.values())
    lock, stopped = Lock(), Event()

    def one(part: int) -> None:
        for record in apart(SUITES[name], patterns, known, (part, jobs)):
            if record.error and stopped.wait(1):
                return  # Ctrl-C reached its process, too
            with lock:
                print(f"\n{line(record)}", file=file, flush=True)  # after what a kill cut off
                print(f"{record.name}: {in_words(record)}", file=sys.stderr, flush=True)
            if stopped.is_set():
                return

    BUILD.mkdir(exist_ok=True)
    with file_of(name).open("a") as file, ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(one, range(jobs)))
        finally:
            stopped.set()  # for Ctrl-C reaches this thread alone


def kept(name: str) -> list[Record]:
    """What earlier runs have found; others may have written other records."""
    found: list[Record] = []
    for text in file_of(name).read_text().splitlines() if file_of(name).exists() else []:
        try:
            found.append(read_record(text))
        except (ValueError, TypeError, KeyError):  # of a run that was killed, or another version
            continue
    return found


def file_of(name: str) -> Path:
    """Where a suite's records are."""
    return BUILD / f"suites-{name}.jsonl"


def in_words(record: Record) -> str:
    """A record in a line."""
    if record.error:
        return record.error
    raised = [f"{e.type} out of {e.out_of}()" for e in record.raised]
    verdicts = [
        f"{op.kind} {op.verdict}"
        + (f", {mended.verdict} with workarounds" if mended.verdict != op.verdict else "")
        + (f" ({kind})" if (kind := disagreement(op) or disagreement(mended)) else "")
        for op, mended in zip(record.ops, record.with_workarounds, strict=True)
    ]
    return f"{', '.join(raised + verdicts) or 'nothing'}; {record.seconds:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
