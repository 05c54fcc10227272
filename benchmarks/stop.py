"""Stop at random moments: how long until the session is idle.

    python -m benchmarks.stop [--layers 2] [--hidden 256] … [--presses 30] [--within 20] [--seed 0]

The model of ``benchmarks/stream.py``, of whatever size, is imported once; each press is in a
session of its own over it, with an empty kernel cache, at a moment of a first run that is drawn at
random.  Printed: a line for each press with where the session's thread was then, and after half a
second if it still went on; then the distribution of the seconds.  The exit status says whether all
were below one.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import tapml_nb as tapml
from benchmarks.stream import WORKAROUNDS, decoder, options
from tapml_nb.api import open_session
from tapml_nb.frontends.program import Program

_LATE = 0.5
"""Seconds after which it is of interest what a run is still at."""


def main() -> None:
    """Press, and print what came of it."""
    parser = options(__doc__ or "")
    parser.add_argument("--presses", type=int, default=30)
    parser.add_argument("--within", type=float, default=20, help="seconds of a run's beginning")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    moments = random.Random(asked.seed)
    with tapml.debug(*decoder(asked), workarounds=WORKAROUNDS) as session:
        program = session.engine.program
    found = [press(program, moments.uniform(0, asked.within)) for _ in range(asked.presses)]
    parts = (0, 50, 90, 100)
    values = np.percentile(found, parts)
    print(", ".join(f"{p} %: {v:.2f} s" for p, v in zip(parts, values, strict=True)))
    raise SystemExit(max(found) >= 1)


def press(program: Program, moment: float) -> float:
    """Stop a run at a moment; how many seconds that took."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TAPML_CACHE"] = cache
        with open_session(program, "llvm") as session:
            session.run(wait=False)
            time.sleep(moment)
            at, late = _place(), list[str]()
            timer = threading.Timer(_LATE, lambda: late.append(_place()))
            timer.start()
            begin = time.perf_counter()
            session.stop()
            seconds = time.perf_counter() - begin
            timer.cancel()
            print(f"{moment:6.2f} s: {seconds:.2f} s", at, *late, sep=" | ", flush=True)
            assert not session.engine.jobs.busy
    return seconds


def _place() -> str:
    """What the session's thread is at, innermost last."""
    thread = next(t for t in threading.enumerate() if t.name == "tapml-session" and t.is_alive())
    frame = sys._current_frames().get(thread.ident or 0)
    names: list[str] = []
    while frame is not None:
        names.append(f"{Path(frame.f_code.co_filename).stem}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names[:4])


if __name__ == "__main__":
    main()
