"""What the records say, as Markdown: ``docs/suites.md``, and lists of what is to be mended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.suites.explanations import EXPLANATIONS
from benchmarks.suites.records import FAULTY, Judged, Record

_GOOD = ("PASS", "SKIPPED")
_FAULTS = ("FAIL", "NONFINITE", "NONDETERMINISTIC")
_NOT_JUDGED = ("UNSUPPORTED", "COMPILE_ERROR", "UNKNOWN")
"""Verdicts that no run and no comparison of values stands behind, as for the zoo."""

BEYOND = "passes, and differs beyond the source's own error"
DIFFERS = "passes, and differs by rounding"
AGREES = "fails, and is close"

_INTRODUCTION = """\
# Two peer suites

PyTorch's OpInfo and ModuleInfo are what its own tests call its operators and modules with; ONNX's
node tests are a model for every case of its standard. Both are taken through sessions on `llvm`,
one for each sample, and every verdict is held against `torch.testing.assert_close`, with the
tolerances that it has for the dtype:

    python -m benchmarks.suites opinfo
    python -m benchmarks.suites onnx

Of OpInfo those samples of an operator and a dtype are taken that differ in kind, two at most.
Results are kept in `build/suites-*.jsonl`; a command that was interrupted goes on where it was, and
what changed is measured again. `--summary` makes this page of what is there.

- *operators*: those that compute a tensor with defined values.
- *judged*: those with a verdict that a run, or a comparison of values, stands behind.
- *with workarounds*: samples of PyTorch of which an operator fails or does not compile are taken
  once more with all [workarounds](importer.md#workarounds) in force; every operator counts once,
  all others as they were.
- *differs beyond the source's own error*: the target passes, is not close to the source, and is
  farther from the float64 result than the source is anywhere, by more than those tolerances.
- *differs by rounding*: it passes and is not close, but the source is as far from the float64
  result somewhere; that explains itself.
- *documented* exceptions are those that the documentation of `debug()` and `run()` names and that
  tapml_nb raises itself: refusals with a reason.
"""


def document(suites: Mapping[str, Sequence[Record]]) -> str:
    """The page."""
    parts = [_INTRODUCTION]
    for title, records in suites.items():
        parts += [f"## {title}\n", *figures(records), "", *_by_dtype(records)]
        for heading, lines in _lists(records):
            if lines:
                parts += [f"### {heading}\n", *lines, ""]
    return "\n".join(parts).rstrip() + "\n"


def figures(records: Sequence[Record]) -> list[str]:
    """What is to be shown, a line of Markdown each."""
    samples = [r for r in records if r.of]
    ops = [op for r in samples for op in r.ops if op.defined]
    judged = [op for op in ops if op.verdict not in _NOT_JUDGED]
    mended = [op for r in samples for op in r.with_workarounds if op.defined]
    raised = [e for r in samples for e in r.raised]
    undocumented = sum(not e.documented for e in raised)
    seconds = sum(r.seconds for r in samples)
    found = Counter(kind for r in samples for op in r.seen if (kind := disagreement(op)))
    unexplained = Counter(disagreement(op) for r in samples for op in r.seen if not explained(op))
    refused = sum(e.out_of == "debug" for e in raised)
    of_all = _percent(len(judged), len(ops) + refused)
    groups, keys = ({r.group for r in samples}, {r.key for r in samples})
    return [
        f"- {len(samples)} samples in {len(groups)} groups, of {len(keys)} version(s).",
        f"- {sum(bool(r.error) for r in records)} ended their process, or came to no end.",
        f"- {len(ops)} operators, {_judged(ops)}.",
        f"- {refused} samples are refused as a whole; as an operator each, {of_all} are judged.",
        *([f"- With workarounds {_judged(mended)}."] if any(r.mended for r in samples) else []),
        f"- Exceptions: {undocumented} not documented, {len(raised) - undocumented} documented.",
        *(
            f"- {kind.capitalize()}: {found[kind]}, {unexplained[kind]} of them not explained."
            for kind in (BEYOND, AGREES)
        ),
        f"- {DIFFERS.capitalize()}: {found[DIFFERS]}.",
        f"- {seconds / max(1, len(samples)):.2f} s a sample, {seconds / 60:.0f} minutes.",
    ]


def disagreement(op: Judged) -> str:
    """In what way an operator's verdict and ``assert_close`` disagree; empty if they do not."""
    if op.verdict in _GOOD and op.agrees is False:
        return BEYOND if op.beyond else DIFFERS
    if op.verdict in _FAULTS and op.agrees:
        return AGREES
    return ""


def failed(records: Iterable[Record]) -> bool:
    """Whether something is there that must not be."""
    return any(
        r.error or any(not e.documented for e in r.raised) or not all(map(explained, r.seen))
        for r in records
    )


def explained(op: Judged) -> bool:
    """Whether the two agree about an operator, or it is known why not."""
    return disagreement(op) in ("", DIFFERS) or any(e.explains(op) for e in EXPLANATIONS)


def _by_dtype(records: Sequence[Record]) -> Iterator[str]:
    """A table of what differs from dtype to dtype, if groups are by dtype."""
    dtypes = dict.fromkeys(r.group.rpartition("/")[2] for r in records if "/" in r.group)
    if not dtypes:
        return
    yield (
        "| dtype | samples | operators | judged | PASS, SKIPPED | FAIL "
        "| judged with workarounds | PASS, SKIPPED | FAIL | not documented |"
    )
    yield "| --- |" + 9 * " ---: |"
    for dtype in dtypes:
        some = [r for r in records if r.of and r.group.endswith(f"/{dtype}")]
        ops = [op for r in some for op in r.ops if op.defined]
        mended = [op for r in some for op in r.with_workarounds if op.defined]
        yield (
            f"| {dtype} | {len(some)} | {len(ops)} | {_columns(ops)} | {_columns(mended)} "
            f"| {sum(not e.documented for r in some for e in r.raised)} |"
        )
    yield ""


def _judged(ops: Sequence[Judged]) -> str:
    judged = sum(op.verdict not in _NOT_JUDGED for op in ops)
    verdicts = Counter(op.verdict for op in ops)
    return f"{_percent(judged, len(ops))} judged: " + ", ".join(
        f"{n} {verdict}" for verdict, n in verdicts.most_common()
    )


def _columns(ops: Sequence[Judged]) -> str:
    judged = sum(op.verdict not in _NOT_JUDGED for op in ops)
    good, bad = (sum(op.verdict in which for op in ops) for which in (_GOOD, _FAULTS))
    return f"{_percent(judged, len(ops))} | {good} | {bad}"


def _mended(record: Record) -> list[Judged]:
    """Operators that are faulty, and are not with workarounds."""
    return [
        op
        for op, mended in zip(record.ops, record.with_workarounds, strict=True)
        if op.verdict in FAULTY and mended.verdict in _GOOD
    ]


def _lists(records: Sequence[Record]) -> Iterator[tuple[str, list[str]]]:
    yield (
        "Processes that ended",
        _grouped(records, lambda r: [r.error] if r.error else [], lambda error: error),
    )
    for documented in (False, True):
        yield (
            f"Exceptions that are {'' if documented else 'not '}documented",
            _grouped(
                records,
                lambda r, documented=documented: [  # type: ignore[misc]
                    e for e in r.raised if e.documented is documented
                ],
                lambda e: f"`{e.type}` out of {e.out_of}() at {e.at}: {_outline(e.message)}",
            ),
        )
    for kind in (BEYOND, AGREES):
        for explanation in EXPLANATIONS:
            yield (
                f"{kind.capitalize()}: {explanation.title}",
                _disagreements(records, kind, explanation.explains, explanation.text),
            )
        yield (
            f"{kind.capitalize()}: not explained",
            _disagreements(records, kind, lambda op: not explained(op)),
        )
    yield DIFFERS.capitalize(), _disagreements(records, DIFFERS, explained)
    yield (
        "What fails or does not compile, and is right with workarounds",
        _grouped(records, _mended, _in_words),
    )
    for heading, verdicts in (
        ("What fails, in spite of all workarounds", (*_FAULTS, "CRASH", "TIMEOUT")),
        ("What is not judged, in spite of all workarounds", _NOT_JUDGED),
    ):
        yield (
            heading,
            _grouped(
                records,
                lambda r, verdicts=verdicts: [  # type: ignore[misc]
                    op for op in r.with_workarounds if op.verdict in verdicts
                ],
                _in_words,
            ),
        )


def _disagreements(
    records: Sequence[Record], kind: str, holds: Callable[[Judged], bool], text: str = ""
) -> list[str]:
    found = _grouped(
        records,
        lambda r: [op for op in r.seen if disagreement(op) == kind and holds(op)],
        _in_words,
    )
    return [text, "", *found] if found and text else found


def _in_words(op: Judged) -> str:
    looks = f", {op.pattern}" if op.pattern else ""
    return f"`{op.kind}` {op.verdict}{looks}: {_outline(op.message)}"


def _outline(message: str) -> str:
    """A message without what differs from sample to sample, at most 160 characters."""
    words = re.sub(r"\S*/site-packages/|(?<![\w/])/\S*/", "", " ".join(message.split()))
    return re.sub(r"(?<![\w.])-?\d+(\.\d+)?(e[+-]?\d+)?", "#", words)[:160]


def _grouped(
    records: Iterable[Record],
    what: Callable[[Record], Sequence[Any]],
    words: Callable[[Any], str],
) -> list[str]:
    """A line for what reads the same, with how often and the first sample; the most frequent
    first."""
    found: dict[str, list[str]] = {}
    for record in records:
        for one in what(record):
            found.setdefault(words(one), []).append(record.name)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [f"- {len(names)}x {_plain(text)} ({names[0]})" for text, names in ordered]


def _plain(text: str) -> str:
    return text.replace("<", "\\<").replace("*", "\\*")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
