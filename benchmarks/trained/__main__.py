"""The command: take every trained file through a session and write ``docs/trained.md``.

    python -m benchmarks.trained [FILE ...] [--out FILE] [--jobs N]

Each file has a process of its own and ten minutes.  Results are kept in ``build/trained.jsonl``, a
line each; what was measured with the same file and versions is not measured again, unless it is
named.  Ends with 1 where a file does not load, or a finding has no explanation.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

from benchmarks.isolated import Failed, isolated
from benchmarks.trained.document import document, summary, unexplained
from benchmarks.trained.measure import Record, measure

ROOT = Path(__file__).resolve().parents[2]
FOLDER, KEPT = ROOT / "build" / "trained", ROOT / "build" / "trained.jsonl"

PACKAGES = ("silero-vad", "rapidocr-onnxruntime", "ddddocr")
"""What is installed: of all these only the .onnx files are used."""

SECONDS = 600
"""After which a file's process is ended."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trained", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="FILE", help="measure these anew, only")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "trained.md")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    options = parser.parse_args(arguments)
    install(FOLDER)
    files = found(FOLDER)
    if unknown := set(options.names) - set(files):
        parser.error(f"no file is called {', '.join(sorted(unknown))}; there are {list(files)}")
    records = take(files, options.names, options.jobs)
    options.out.write_text(document(records))
    print("\n".join(summary(records)))
    return int(any(record.error or any(unexplained(record)) for record in records))


def install(folder: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Install packages into a folder of their own, without what they depend on."""
    if not any(folder.rglob("*.onnx")):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "--no-deps", "--target", folder, *packages], check=True)


def found(folder: Path) -> dict[str, Path]:
    """The .onnx files of a folder by their paths in it."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.onnx"))}


def take(files: dict[str, Path], names: Iterable[str], jobs: int) -> list[Record]:
    """Measure these, or what is not known yet; returns all that is known, in the files' order."""
    keys = {name: key(path) for name, path in files.items()}
    current = valid(kept(KEPT), keys)
    due = list(names) or [name for name in files if name not in current]
    KEPT.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool, KEPT.open("a") as lines:
        for record in pool.map(lambda name: apart(files[name], name, keys[name]), due):
            current[record.name] = record
            print(record.line(), file=lines, flush=True)
            print(f"{record.name}: {in_words(record)}", file=sys.stderr, flush=True)
    return [current[name] for name in files if name in current]


def apart(path: Path, name: str, key: str, seconds: float = SECONDS) -> Record:
    """Measure a file in a process of its own; whatever happens to it, there is a record."""
    try:
        (record,) = isolated(measure, path, name, key, seconds=seconds)
    except Failed as failed:
        return Record(name, key, error=str(failed).splitlines()[0])
    return record


def kept(lines: Path) -> list[Record]:
    """What earlier runs have found."""
    return list(map(Record.read, lines.read_text().splitlines())) if lines.exists() else []


def valid(records: Iterable[Record], keys: dict[str, str]) -> dict[str, Record]:
    """The last record of each file that is as it was when it was measured."""
    last = {record.name: record for record in records}
    return {n: last[n] for n, key in keys.items() if n in last and last[n].key == key}


def key(path: Path) -> str:
    """Of a file and of the versions that matter to it."""
    versions = map(version, ("onnxruntime", "apache-tvm", "tapml_nb"))
    return hashlib.sha256(path.read_bytes() + " ".join(versions).encode()).hexdigest()[:16]


def in_words(record: Record) -> str:
    """A record in lines."""
    if record.error:
        return record.error
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in record.verdicts.items())
    counts = f"{record.operators} operators, {record.host} on the host, {record.ours} by our rules"
    lines = [f"{counts}: {verdicts}"]
    lines += [
        f"  {f.verdict} {f.kind}, {f.count}: {f.message} {f.diagnosis}" for f in record.findings
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
