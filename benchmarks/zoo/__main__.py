"""The command: take every architecture through a session and write ``docs/models.md``.

    python -m benchmarks.zoo [NAME ...] [--dtype DTYPE] [--kept] [--out FILE] [--jobs N]

In bfloat16 and float16, the language and vision models of everyday use are taken, and each dtype
has a part of the page.  Each architecture has a process of its own and five minutes.  Results are
kept in ``build/zoo.jsonl``, a line each; what was measured with the same model and versions is not
measured again, unless it is named.  Ends with 1 where one does not get to its end, a fault has no
explanation, or the model is wrong with what passes on the target.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# The source is the CPU, also where there is a GPU, which a forked process could not use anyway.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from benchmarks.zoo.apart import apart, key, line, read
from benchmarks.zoo.architectures import ARCHITECTURES, EVERYDAY
from benchmarks.zoo.document import DTYPES, document, replaced, summary, unexplained
from benchmarks.zoo.measure import Record

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "zoo.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measure these anew, only")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--kept", action="store_true", help="measure nothing, write what is kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "models.md")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(ARCHITECTURES)
    if unknown:
        parser.error(f"no architecture is called {', '.join(sorted(unknown))}")
    names = () if options.kept else options.names or due(options.dtype)
    records = take(names, options.dtype, options.jobs)
    missing = set(measured(options.dtype)) - {record.name for record in records}
    page = options.out.read_text() if options.out.exists() else ""
    part = document(records, sorted(missing), options.dtype)
    options.out.write_text(replaced(page, part))
    print("\n".join(summary(records)))
    failed = [r for r in records if not r.ended or any(unexplained(r)) or r.outputs != "PASS"]
    return int(bool(failed))


def measured(dtype: str) -> Iterable[str]:
    """The architectures that are measured in a dtype."""
    return ARCHITECTURES if dtype == "float32" else EVERYDAY


def due(dtype: str) -> list[str]:
    """Those of which nothing is known yet."""
    current = valid(kept(), dtype)
    return [name for name in measured(dtype) if name not in current]


def take(names: Iterable[str], dtype: str, jobs: int) -> list[Record]:
    """Measure these; returns all that is known, in the zoo's order."""
    current = valid(kept(), dtype)
    KEPT.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool, KEPT.open("a") as lines:
        for record in pool.map(partial(apart, dtype=dtype), names):
            current[record.name] = record
            print(line(record), file=lines, flush=True)
            print(f"{record.name}: {in_words(record)}", file=sys.stderr, flush=True)
    return [current[name] for name in ARCHITECTURES if name in current]


def valid(records: Iterable[Record], dtype: str) -> dict[str, Record]:
    """The last record in a dtype of each architecture that is as it was when it was measured."""
    last = {record.name: record for record in records if record.dtype == dtype}
    return {
        name: last[name]
        for name in ARCHITECTURES
        if name in last and last[name].key == key(name, dtype)
    }


def kept() -> list[Record]:
    """What earlier runs have found."""
    return [read(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []


def in_words(record: Record) -> str:
    """A record in a line."""
    if not record.ended:
        return record.error
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in record.verdicts.items())
    return f"{record.operators} operators, {verdicts}; outputs {record.outputs}"


if __name__ == "__main__":
    sys.exit(main())
