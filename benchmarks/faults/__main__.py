"""The command: play every plant, print a table and a summary.

    python -m benchmarks.faults [--only NAME ...] [--json FILE]

Ends with 1 where a goal is missed: recall 0.995, first place 0.97, no false alarm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import (
    arithmetic,
    attention,
    composition,
    controls,
    convolution,
    exactness,
    layout,
    memory,
    scales,
)
from benchmarks.faults.suite import PLANTS, Plant, Score, Stage, limit

SOURCES = (
    arithmetic,
    attention,
    composition,
    controls,
    convolution,
    exactness,
    layout,
    memory,
    scales,
)
"""The modules that register the plants."""


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.faults")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    unknown = set(options.only) - {plant.name for plant in PLANTS}
    if unknown:
        parser.error(f"--only: no plant is called {', '.join(sorted(unknown))}")
    plants = [p for p in PLANTS if not options.only or p.name in options.only]
    begin = time.perf_counter()
    scores = play(plants)
    print(table(scores))
    print()
    print(summary(scores, time.perf_counter() - begin))
    if options.json:
        options.json.write_text(json.dumps([record(s) for s in scores], indent=1))
    idle = [s.plant.name for s in scores if not s.effective and not s.plant.benign]
    if idle:
        print(f"no fault at all on these inputs: {', '.join(idle)}")
    faults = [s for s in scores if not s.plant.benign]
    recall = share([s.seen for s in faults])
    first = share([s.first for s in faults])
    alarms = sum(s.seen for s in scores if s.plant.benign)
    return int(bool(idle) or recall < 0.995 or first < 0.97 or alarms > 0)


def play(plants: Sequence[Plant]) -> list[Score]:
    """Play plants, model by model."""
    scores: list[Score] = []
    for model in dict.fromkeys(plant.model for plant in plants):
        stage = Stage(model)
        try:
            for plant in plants:
                if plant.model == model:
                    scores.append(stage.play(plant))
                    print(f"{plant.name}: {scores[-1].verdict}", file=sys.stderr, flush=True)
        finally:
            stage.close()
    return scores


def table(scores: Sequence[Score]) -> str:
    """One line per plant."""
    marks = {True: "yes", False: "NO", None: "-"}
    head = f"{'plant':46}{'model':14}{'verdict':18}{'seen':7}{'first':7}{'diagnosis':32}"
    lines = [f"{head}{'runs':>5}{'s':>7}  LibCompare"]
    for s in sorted(scores, key=lambda s: s.plant.benign):
        named = s.pattern if s.diagnosed is not False else f"{s.pattern or 'none'} (WRONG)"
        seen = marks[s.seen] if not s.plant.benign else ("ALARM" if s.seen else "quiet")
        first = marks[None if s.plant.benign else s.first]
        peer = "/".join("raises" if p else "quiet" for p in s.peer)
        lines.append(
            f"{s.plant.name:46}{s.plant.model:14}{s.verdict!s:18}{seen:7}{first:7}{named:32}"
            f"{s.runs:>5}{s.seconds:>7.2f}  {peer}"
        )
    return "\n".join(lines)


def summary(scores: Sequence[Score], seconds: float) -> str:
    """How many were seen, named first and diagnosed, beside LibCompare's figures."""
    faults = [s for s in scores if not s.plant.benign]
    controls = [s for s in scores if s.plant.benign]
    single = [s for s in faults if len(s.plant.ops) == 1]
    several = [s for s in faults if len(s.plant.ops) > 1]
    asked = [s for s in single if s.diagnosed is not None]
    models = {s.plant.model for s in scores}
    lines = [
        f"{len(faults)} faults and {len(controls)} controls in {len(models)} models",
        f"{'':34}{'tapml_nb':>10}{'LibCompare':>12}{'at mlc-llm':>12}",
    ]

    def row(name: str, *cells: str) -> None:
        lines.append(f"{name:34}{cells[0]:>10}" + "".join(f"{c:>12}" for c in cells[1:]))

    def peers(of: Sequence[Score]) -> list[int]:
        return [sum(s.peer[k] for s in of) for k in (0, 1)]

    row(
        "faults seen",
        _of(sum(s.seen for s in faults), len(faults)),
        *(_of(n, len(faults)) for n in peers(faults)),
    )
    row("named first", _of(sum(s.first for s in faults), len(faults)), "-", "-")
    row("diagnosis true", _of(sum(bool(s.diagnosed) for s in asked), len(asked)), "-", "-")
    row(
        "false alarms on controls",
        _of(sum(s.seen for s in controls), len(controls)),
        *(_of(n, len(controls)) for n in peers(controls)),
    )
    if single:
        runs = [s.runs for s in single]
        row("hybrid runs to localize one", f"{statistics.median(runs):g}/{max(runs)}", "-", "-")
    if several:
        runs = [s.runs for s in several]
        bound = min(limit(s) for s in several)
        row(f"  two together (at most {bound:.0f})", f"{max(runs)}", "-", "-")
    row("seconds in all", f"{seconds:.0f}", "-", "-")
    return "\n".join(lines)


def record(score: Score) -> dict[str, object]:
    """A score as a line of ``--json`` holds it."""
    return {
        "name": score.plant.name,
        "model": score.plant.model,
        "benign": score.plant.benign,
        "verdict": str(score.verdict),
        "seen": score.seen,
        "first": score.first,
        "pattern": score.pattern,
        "diagnosed": score.diagnosed,
        "runs": score.runs,
        "seconds": score.seconds,
        "libcompare": score.peer,
        "message": score.message,
    }


def share(answers: Sequence[bool]) -> float:
    """How many are true; 1 where nothing was asked."""
    return sum(answers) / len(answers) if answers else 1.0


def _of(some: int, of: int) -> str:
    return f"{some}/{of}"


if __name__ == "__main__":
    raise SystemExit(main())
