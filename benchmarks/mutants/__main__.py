"""The command: change kernels, judge them, and compare with the arbiter.

    python -m benchmarks.mutants [--seed N] [--mutants N] [--rewrites N] [--whole N] [MODEL ...]

Two models at a time, each in a process of its own.  Results are kept in ``build/mutants.jsonl``, a
line for each run; a command that was interrupted goes on where it was, as long as no program has
changed.  Ends with 1 where less than 99.5 % of the clear faults are seen, where an equivalent or a
rewritten kernel is reported, or where a model does not get to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from benchmarks.mutants.apart import Batch, Quota, batches, line, programs, read
from benchmarks.mutants.models import MODELS
from benchmarks.mutants.results import alarms, missed, recall, report

BUILD = Path(__file__).resolve().parents[2] / "build"
KEPT = BUILD / "mutants.jsonl"
RECALL = 0.995


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutants", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutants", type=int, default=2600, help="of all models together")
    parser.add_argument("--rewrites", type=int, default=700, help="of all models together")
    parser.add_argument("--whole", type=int, default=84, help="runs of whole models")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    options = parser.parse_args(arguments)
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"no model is called {', '.join(sorted(unknown))}; {', '.join(MODELS)} are")
    models = options.models or list(MODELS)
    quota = Quota(
        *(-(-n // len(MODELS)) for n in (options.mutants, options.rewrites, options.whole))
    )
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TAPML_CACHE", str(BUILD / "mutants-kernels"))  # thousands, for one use
    begin = time.perf_counter()
    found, errors = take(models, options.seed, quota, options.jobs)
    records = [r for batch in found for r in batch.records]
    print(report(records))
    print(f"{time.perf_counter() - begin:.0f} s")
    print("\n".join(errors))
    failed = recall(records) < RECALL or alarms(records) or errors
    return int(bool(failed))


def take(
    models: Sequence[str], seed: int, quota: Quota, jobs: int
) -> tuple[list[Batch], list[str]]:
    """All batches that are due, and what kept models from their end."""
    key = f"{programs()} {seed}"
    kept = lines(key)
    known = {batch.place for batch in kept}
    found: list[Batch] = []
    errors: list[str] = []
    lock = Lock()
    KEPT.parent.mkdir(exist_ok=True)

    def one(model: str) -> None:
        try:
            for batch in batches(model, seed, quota, kept, key):
                with lock:
                    found.append(batch)
                    if batch.place not in known:
                        print(f"\n{line(batch)}", file=file, flush=True)
                        print(in_words(batch), file=sys.stderr, flush=True)
        except RuntimeError as error:
            errors.append(str(error))

    with KEPT.open("a") as file, ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, models))
    return found, errors


def lines(key: str) -> list[Batch]:
    """What earlier runs with these programs have found; others may have written other records."""
    found: list[Batch] = []
    for text in KEPT.read_text().splitlines() if KEPT.exists() else []:
        try:
            mine = json.loads(text)["key"] == key
        except ValueError:  # the last line of a run that was killed
            continue
        if mine:
            found.append(read(text))
    return found


def in_words(batch: Batch) -> str:
    """A batch in a line."""

    def count(holds: Callable[..., bool]) -> int:
        return sum(map(holds, batch.records))

    clear = count(lambda r: r.truth == "clear")
    return (
        f"{batch.model}: {len(batch.records)} {batch.part}, {clear} clear, "
        f"{len(missed(batch.records))} missed, {len(alarms(batch.records))} false alarms"
    )


if __name__ == "__main__":
    raise SystemExit(main())
