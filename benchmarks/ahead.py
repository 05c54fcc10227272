"""Weights that go ahead of need: first runs over a slow line, with it and without.

    python -m benchmarks.ahead [--rate 20] [--runs 3] [--layers 4] [--hidden 512] [--tokens 16]

A Qwen3 of random weights in float32 on ``tapml serve``, behind a line of ``--rate`` MB/s each way
(:mod:`benchmarks.line`, in a process of its own).  Its kernels are compiled before.  Runs take
turns: over the line without weights ahead of need, over the line with them, and with a server that
shares this machine's memory, which is what all that is not the line's takes.  Medians.  Ends with 1
if verdicts, or what was sent for an operator, differ.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import tapml_nb as tapml
from benchmarks.line import MB, slow_line
from benchmarks.stream import WORKAROUNDS, decoder, options
from tapml_nb.execute.weights import WeightsAhead

WAYS = ("as needed", "ahead of need", "no line")


def main() -> int:
    """Measure and print a table."""
    parser = options(__doc__ or "")
    parser.add_argument("--rate", type=float, default=20.0, help="MB/s")
    parser.add_argument("--runs", type=int, default=3)
    parser.set_defaults(layers=4, hidden=512)
    sizes = parser.parse_args()
    model, inputs = decoder(sizes)
    weights = sum(one.nbytes for one in model.parameters())
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found: dict[str, Any] = {}
    sent = 0
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TAPML_CACHE"] = cache
        _run(model, inputs, None)
        with serving() as (port, key), slow_line(port, sizes.rate) as line:
            for _ in range(sizes.runs):
                for way in WAYS:
                    rpc = None if way == "no line" else f"127.0.0.1:{line}/{key}"
                    with _ahead(way != "as needed"):
                        took, report = _run(model, inputs, rpc)
                    sent = report.info.sent_bytes if rpc else sent
                    seconds[way].append(took)
                    found[way] = {
                        call: (result.verdict, result.sent_bytes)
                        for call, result in report.introduced.items()
                    }
                    print(f"{way}: {took:.2f} s", file=sys.stderr, flush=True)
    middle = {way: statistics.median(took) for way, took in seconds.items()}
    base = middle["as needed"]
    alone = sent / MB / sizes.rate
    print(
        f"{sent / MB:.0f} MB go to the target, {weights / MB:.0f} MB of them weights: {alone:.1f} s"
    )
    print(f"on a line of {sizes.rate:g} MB/s\n")
    print("| weights go | seconds | of as needed |\n| --- | ---: | ---: |")
    for way in WAYS:
        print(f"| {way} | {middle[way]:.2f} | {middle[way] / base:.2f} |")
    same = found["as needed"] == found["ahead of need"]
    print(f"\nverdicts and bytes sent per operator: {'the same' if same else 'DIFFERENT'}")
    return 0 if same else 1


@contextlib.contextmanager
def serving() -> Iterator[tuple[int, str]]:
    """``tapml serve`` while the block runs: its port and key."""
    command = [sys.executable, "-m", "tapml_nb.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        address = process.stdout.readline().partition("rpc='")[2].partition("'")[0]
        port, _, key = address.rpartition(":")[2].partition("/")
        try:
            yield int(port), key
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def _ahead(wanted: bool) -> Iterator[None]:
    """Whether weights are sent ahead of need while the block runs."""
    announce = WeightsAhead.of
    if not wanted:
        WeightsAhead.of = lambda self, calls: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        WeightsAhead.of = announce  # type: ignore[method-assign]


def _run(model: Any, inputs: Any, rpc: str | None) -> tuple[float, tapml.Report]:
    """Seconds of a session's first run, and its report."""
    target = tapml.Target("llvm", rpc=rpc)
    with tapml.debug(model, inputs, target=target, workarounds=WORKAROUNDS) as session:
        begin = time.perf_counter()
        report = session.run()
        return time.perf_counter() - begin, report


if __name__ == "__main__":
    sys.exit(main())
