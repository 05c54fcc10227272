"""What the zoo says, as Markdown: ``docs/models.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from benchmarks.zoo.explanations import EXPLANATIONS
from benchmarks.zoo.measure import Finding, Record
from tapml_nb.frontends.torch.workarounds import WORKAROUNDS

DTYPES = ("float32", "bfloat16", "float16")

_INTRODUCTION = """\
# Models

Which models does tapml_nb take? This is the zoo: {count} architectures, each small (two layers,
64 channels), structurally true (grouped-query attention, routed experts, sliding windows, rotary
and relative positions, state spaces, …) and with random weights at which activations have a scale
near one. One command makes this page:

    python -m benchmarks.zoo

It takes every architecture, in a process of its own, through a session on `llvm`: exported,
imported operator by operator, every operator judged on real inputs, and then the model run with all
operators on the target that pass. What it finds is kept in `build/zoo.jsonl`; only what changed is
measured again.

- *operators*: those that compute a tensor with defined values.
- *converted*: those that become Relax; *by our rules* where TVM's importer has no rule that works
  ([importer.md](importer.md)).
- *judged*: those with a verdict that a run, or a comparison of values, stands behind.
- *verdicts*: `SKIPPED` is a view or a constant, whose values were compared.
- *hybrid*: operators on the target in the last run, and whether the model's outputs are then within
  the noise floor of the model as a whole; "the same" is said of a second, unobserved run.
"""

_NARROW_INTRODUCTION = """\
# Models in {dtype}

{count} language and vision models of everyday use, with weights and inputs in {dtype}:

    python -m benchmarks.zoo --dtype {dtype}

TVM's importer is wrong about narrow dtypes so often that little else would be seen: here all
workarounds ([importer.md](importer.md)) are in force. All else is as above.
"""

_FAULTS = """\
## What does not pass, and why

Every cause has a line that shows it with TVM alone; `check` is in
[stock.py](../benchmarks/zoo/stock.py): it exports a function, imports and compiles it with TVM, and
compares with PyTorch.

    import torch
    from benchmarks.zoo.stock import check
"""

_NOT_JUDGED = ("UNSUPPORTED", "COMPILE_ERROR", "UNKNOWN")


def document(records: Sequence[Record], missing: Sequence[str] = (), dtype: str = "float32") -> str:
    """The page's part on one dtype; ``missing`` are architectures without a record."""
    ended = [record for record in records if record.ended]
    introduction = _INTRODUCTION if dtype == "float32" else _NARROW_INTRODUCTION
    parts = [
        introduction.format(count=len(records) + len(missing), dtype=dtype),
        "## In short\n",
        *summary(records),
        *([f"- Not measured yet: {', '.join(missing)}."] if missing else []),
        "",
        *_table(records),
        "",
        *_worked_around(ended),
        "## What has no kernel\n",
        *_missing(ended),
        "",
        _FAULTS,
        *_faults(ended),
    ]
    return "\n".join(parts).rstrip() + "\n"


def replaced(page: str, part: str) -> str:
    """A page with one of its parts, each of which has a first-level heading, replaced or added."""
    parts = {text.partition("\n")[0]: text for text in re.split(r"(?m)^(?=# )", page) if text}
    parts[part.partition("\n")[0]] = part
    return "\n".join(text.rstrip() + "\n" for text in parts.values())


def summary(records: Sequence[Record]) -> list[str]:
    """The figures of all architectures, a line of Markdown each."""
    ended = [record for record in records if record.ended]
    operators = sum(record.operators for record in ended)
    judged = _percent(sum(record.judged for record in ended), operators)
    nearly_all = sum(record.share >= 0.99 for record in ended)
    right = sum(record.outputs == "PASS" for record in ended)
    minutes = sum(record.seconds for record in ended) / 60
    return [
        f"- {len(ended)} of {len(records)} architectures run from end to end.",
        f"- {operators} operators, {judged} judged; in {nearly_all} architectures at least 99 %.",
        f"- {right} are right with all operators on the target that pass.",
        f"- {sum(len(list(unexplained(r))) for r in ended)} findings lack an explanation.",
        f"- {minutes:.0f} minutes of sessions, of which two run at a time.",
    ]


def unexplained(record: Record) -> Iterator[Finding]:
    """Faults that no explanation covers."""
    for finding in record.findings:
        if finding.verdict != "UNSUPPORTED" and not any(e.explains(finding) for e in EXPLANATIONS):
            yield finding


def _table(records: Sequence[Record]) -> Iterator[str]:
    for group in dict.fromkeys(record.group for record in records):
        yield f"## {group.capitalize()}\n"
        yield (
            "| architecture | operators | converted | by our rules | judged | verdicts | hybrid "
            "| s | MB |"
        )
        yield "| --- | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: |"
        yield from (_row(record) for record in records if record.group == group)
        yield ""


def _row(record: Record) -> str:
    if not record.ended:
        return f"| {record.name} | | | | | {_cell(essence(record.error))} | | | |"
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in record.verdicts.items())
    unobserved = f", unobserved {record.unobserved}" if record.unobserved else ""
    return (
        f"| {record.name} | {record.operators} | {record.converted} | {record.ours} "
        f"| {_percent(record.judged, record.operators)} | {verdicts} "
        f"| {record.moved}: {record.outputs}{unobserved} | {record.seconds:.0f} "
        f"| {record.megabytes} |"
    )


def _worked_around(records: Sequence[Record]) -> Iterator[str]:
    """What TVM does wrong here and workarounds do right; nothing where none is in force."""
    counted = [(w, sum(r.workarounds.get(w.name, 0) for r in records)) for w in WORKAROUNDS]
    if not any(count for _, count in counted):
        return
    yield "## What workarounds do right\n"
    yield "| workaround | operators | what TVM does without it |"
    yield "| --- | ---: | --- |"
    for workaround, count in counted:
        if count:
            yield f"| `{workaround.name}` | {count} | {_cell(workaround.fault)} |"
    yield ""


def _missing(records: Sequence[Record]) -> Iterator[str]:
    rows: dict[tuple[str, str], list[tuple[Record, Finding]]] = {}
    for record in records:
        for finding in record.findings:
            if finding.verdict in _NOT_JUDGED:
                slot = (finding.kind, essence(finding.message))
                rows.setdefault(slot, []).append((record, finding))
    yield "| operator | operators | reason | for instance | architectures |"
    yield "| --- | ---: | --- | --- | --- |"
    ordered = sorted(rows.items(), key=lambda row: -len(row[1]))
    for (kind, reason), found in ordered:
        names = ", ".join(dict.fromkeys(record.name for record, _ in found))
        count = sum(finding.count for _, finding in found)
        yield f"| `{kind}` | {count} | {_cell(reason)} | {found[0][1].inputs} | {names} |"


def _faults(records: Sequence[Record]) -> Iterator[str]:
    faults = [
        (record, finding)
        for record in records
        for finding in record.findings
        if finding.verdict != "UNSUPPORTED"
    ]
    for explanation in EXPLANATIONS:
        found = [(r, f) for r, f in faults if explanation.explains(f)]
        if found:
            yield f"### {explanation.title}\n"
            yield explanation.text + "\n"
            yield f"    {explanation.repro}\n"
            yield from _listed(found)
            yield ""
    rest = [(r, f) for r, f in faults if not any(e.explains(f) for e in EXPLANATIONS)]
    if rest:
        yield "### Not explained\n"
        yield from _listed(rest)


def _listed(found: Sequence[tuple[Record, Finding]]) -> Iterator[str]:
    rows: dict[tuple[str, str, str], list[tuple[Record, Finding]]] = {}
    for record, finding in found:
        slot = (finding.kind, finding.verdict, finding.pattern)
        rows.setdefault(slot, []).append((record, finding))
    for (kind, verdict, pattern), those in rows.items():
        looks = f", {pattern}" if pattern else ""
        names = ", ".join(dict.fromkeys(record.name for record, _ in those))
        count = sum(finding.count for _, finding in those)
        first = those[0][1]
        yield (
            f"- `{kind}` {verdict}{looks}, {count} operator{'s' * (count > 1)} in {names}; for "
            f"instance `{first.op}` of {first.inputs or 'nothing'}: "
            f"{_cell(essence(first.message))}"
        )


def essence(message: str) -> str:
    """A message without what differs from kernel to kernel, at most 400 characters."""
    words = " ".join(message.split())
    words = re.sub(r"k[0-9a-f]{16}_|_\d+\b|\S*/site-packages/", "", words)
    words = re.sub(r"\S*/tempfile\S*|(?<![\w/])/\S*/", "", words)
    return words[:400]


def _cell(text: str) -> str:
    """Text that breaks neither a table nor the page."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


def _percent(part: int, whole: int) -> str:
    if part == whole:
        return "100 %"
    return f"{min(99.9, 100 * part / whole):.1f} %" if whole else "-"
