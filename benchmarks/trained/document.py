"""What trained models say, as Markdown: ``docs/trained.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from benchmarks.trained.explanations import EXPLANATIONS
from benchmarks.trained.measure import NOT_JUDGED, Finding, Record

_INTRODUCTION = """\
# Trained models

Files with trained weights that PyPI packages ship, each as it is: voice detection (`silero-vad`),
text in pictures (`rapidocr-onnxruntime`, `ddddocr`). One command makes this page:

    python -m benchmarks.trained

It installs the packages into `build/trained/`, without what they depend on, and takes every `.onnx`
file in them, in a process of its own, through a session on `llvm` with inputs like those it was
trained for: a sound like speech, pictures of text. What it finds is kept in `build/trained.jsonl`;
only what changed is measured again.

- *operators*: those that compute tensors; *on the host* are those that compute shapes and numbers.
- *by our rules*: those that TVM's importer has no rule for that works ([importer.md](importer.md)).
- *judged*: those with a verdict that a run, or a comparison of values, stands behind.
"""


def document(records: Sequence[Record]) -> str:
    """The page."""
    parts = [
        _INTRODUCTION,
        *summary(records),
        "",
        "| file | operators | on the host | by our rules | judged | verdicts | s |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: |",
        *map(_row, records),
        "",
        "## What is not judged\n",
        *_table(records, [str(verdict) for verdict in NOT_JUDGED]),
        "",
        "## What does not pass\n",
        *_faults(records),
    ]
    return "\n".join(parts).rstrip() + "\n"


def summary(records: Sequence[Record]) -> list[str]:
    """The figures of all files, a line of Markdown each."""
    ended = [record for record in records if not record.error]
    operators, judged = (sum(r.operators for r in ended), sum(r.judged for r in ended))
    faults = sum(len(list(unexplained(record))) for record in ended)
    return [
        f"- {len(ended)} of {len(records)} files load and run.",
        f"- {operators} operators, {judged} judged.",
        f"- {faults} findings lack an explanation.",
    ]


def unexplained(record: Record) -> Iterator[Finding]:
    """Faults that no explanation covers, and operators without a verdict for which there is no
    reason."""
    for finding in record.findings:
        if not any(explanation.explains(finding) for explanation in EXPLANATIONS):
            yield finding


def _row(record: Record) -> str:
    if record.error:
        return f"| `{record.name}` | | | | | {cell(record.error)} | |"
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in record.verdicts.items())
    return (
        f"| `{record.name}` | {record.operators} | {record.host} | {record.ours} "
        f"| {record.judged} | {verdicts} | {record.seconds:.0f} |"
    )


def _table(records: Sequence[Record], verdicts: Sequence[str]) -> Iterator[str]:
    found = [(r, f) for r in records for f in r.findings if f.verdict in verdicts]
    if not found:
        yield "Nothing."
        return
    yield "| operator | count | verdict | reason | file |"
    yield "| --- | ---: | --- | --- | --- |"
    for record, finding in found:
        yield (
            f"| `{finding.kind}` | {finding.count} | {finding.verdict} | {cell(finding.message)} "
            f"| `{record.name}` |"
        )


def _faults(records: Sequence[Record]) -> Iterator[str]:
    without = [str(verdict) for verdict in NOT_JUDGED]
    faults = [(r, f) for r in records for f in r.findings if f.verdict not in without]
    for explanation in EXPLANATIONS:
        those = [(r, f) for r, f in faults if explanation.explains(f)]
        if those:
            yield f"### {explanation.title}\n"
            yield explanation.text + "\n"
            yield from map(_item, those)
            yield ""
    rest = [(r, f) for r, f in faults if not any(e.explains(f) for e in EXPLANATIONS)]
    if rest:
        yield "### Not explained\n"
        yield from map(_item, rest)
    if not faults:
        yield "Nothing."


def _item(found: tuple[Record, Finding]) -> str:
    record, finding = found
    looks = f" ({cell(finding.diagnosis)})" if finding.diagnosis else ""
    return (
        f"- `{finding.kind}` {finding.verdict}, {finding.count} in `{record.name}`; for instance "
        f"`{finding.op}`: {cell(finding.message)}{looks}"
    )


def cell(text: str) -> str:
    """Text that breaks neither a table nor the page, at most 400 characters, without folders."""
    words = re.sub(r"(?<![\w/])/\S*/", "", " ".join(text.split()))[:400]
    return words.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")
