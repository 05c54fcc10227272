"""A memory budget: what a session with large values takes with and without one.

    python benchmarks/memory.py [--megabytes 8] [--operators 40] [--max-memory "50 MB"]

A row of operators, each of which makes a tensor of so many megabytes, is judged and then run on the
target; each budget in a process of its own.  Printed: the most memory that this process had
resident above what it had when the model was imported, the seconds, and whether what was found is
the same.  The target's process is not counted: what it holds is not bounded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
import torch
from torch import nn

import tapml_nb as tapml


class Row(nn.Module):
    """Operators in a row, every other one a view of the one before."""

    def __init__(self, operators: int) -> None:
        super().__init__()
        self.operators = operators

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for k in range(self.operators // 2):
            x = (torch.sin(x) if k % 2 else x * 1.25).transpose(0, 1)
        return x


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--operators", type=int, default=40)
    parser.add_argument("--max-memory", default="50 MB")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.megabytes, options.operators, options.max_memory)))
        return
    sizes = ["--megabytes", str(options.megabytes), "--operators", str(options.operators)]
    results = {}
    for budget in ("none", options.max_memory):
        command = [sys.executable, __file__, "--one", *sizes, "--max-memory", budget]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        results[budget] = json.loads(done.stdout)
    print("| max_memory | resident | seconds |\n| --- | ---: | ---: |")
    for budget, found in results.items():
        print(f"| {budget} | {found['resident']:,.0f} MB | {found['seconds']:.1f} |")
    same = len({found["frame"] for found in results.values()}) == 1
    print("what was found is the same" if same else "WHAT WAS FOUND DIFFERS")
    raise SystemExit(not same)


def measure(megabytes: int, operators: int, max_memory: str) -> dict[str, Any]:
    """Peak MB above the start, seconds, and a digest of all that was found but times."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    side = int((megabytes * 1e6 / 4) ** 0.5)
    model, inputs = Row(operators).eval(), (torch.randn(side, side),)
    budget = None if max_memory == "none" else max_memory
    with tapml.debug(model, inputs, target="llvm", max_memory=budget) as session:
        start = psutil.Process().memory_info().rss
        peak, ended = start, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.01):
                peak = max(peak, psutil.Process().memory_info().rss)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        begin = time.perf_counter()
        session.run()
        session.offload(lambda op: True)
        frame = session.hybrid().frame().drop(columns=["source_ms", "target_ms"])
        seconds = time.perf_counter() - begin
        ended.set()
        watcher.join()
    digest = hashlib.sha256(frame.to_csv().encode()).hexdigest()
    return {"resident": (peak - start) / 1e6, "seconds": seconds, "frame": digest}


if __name__ == "__main__":
    main()
