"""The command: take configurations through a session, and write ``docs/scale.md``.

    python -m benchmarks.real [NAME ...] [--device cuda|cpu] [--dtype bfloat16|float16|float32]
        [--scale full|small] [--out FILE] [--seconds N] [--page]

Each configuration has a process of its own.  What is known of it after each stage is added to the
file, a line of JSON, of which the last counts; one that this version has measured to the end is not
measured again.  With ``--page`` nothing is measured: the page is written of what is there.  Ends
with 1 where one does not get to its end, or a planted fault is not the one that is named.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.real.apart import apart
from benchmarks.real.configurations import CONFIGURATIONS
from benchmarks.real.page import page
from benchmarks.real.records import Record, due, kept, key, line

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "real.jsonl"
PAGE = ROOT / "docs" / "scale.md"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _options(arguments)
    if options.page:
        PAGE.write_text(page(in_order(kept(options.out))))
        return 0
    version = key()
    wanted = [
        Record(name, options.device, options.dtype, options.scale, version)
        for name in options.names or CONFIGURATIONS
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for nothing in due(kept(options.out), wanted):
        with options.out.open("a") as lines:
            for record in apart(nothing, options.seconds):
                print(line(record), file=lines, flush=True)
        print(in_words(record), flush=True)
    ran = {record.run for record in wanted}
    return int(not all(good(record) for record in kept(options.out) if record.run in ran))


def good(record: Record) -> bool:
    """Whether all was measured, and every planted fault is found and nothing else accused."""
    return not record.error and all(one.found for one in record.planted)


def in_order(records: list[Record]) -> list[Record]:
    """In the order of the configurations; without those that are none any more."""
    places = {name: place for place, name in enumerate(CONFIGURATIONS)}
    return sorted((r for r in records if r.name in places), key=lambda r: places[r.name])


def in_words(record: Record) -> str:
    """A record in a line."""
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in record.verdicts.items())
    seconds = ", ".join(f"{stage} {taken:.3g} s" for stage, taken in record.seconds.items())
    ratio = record.ratio("second run")
    found = f"; {sum(p.found for p in record.planted)} of {len(record.planted)} faults found"
    return (
        f"{record.name}: {record.error or f'outputs {record.outputs}'}; {verdicts}; {seconds}"
        f"{f'; second run {ratio:.1f} plain passes' if ratio else ''}"
        f"{found if record.planted else ''}"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; default all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seconds", type=float, default=3600, help="for one stage at most")
    parser.add_argument("--page", action="store_true", help="write docs/scale.md of what is there")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(CONFIGURATIONS)
    if unknown:
        parser.error(
            f"no configuration is called {', '.join(sorted(unknown))}; "
            f"there are {', '.join(CONFIGURATIONS)}"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
