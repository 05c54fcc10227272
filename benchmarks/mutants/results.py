"""What the records say, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.mutants.trial import Record

_TRUTHS = ("equivalent", "benign", "unclear", "clear", "crash", "timeout", "not compiled")


def mutants(records: Iterable[Record]) -> list[Record]:
    """Those with a fault put in, each once."""
    return [r for r in records if not r.honest and r.first is None]


def rewrites(records: Iterable[Record]) -> list[Record]:
    """Those written in another way."""
    return [r for r in records if r.honest]


def missed(records: Iterable[Record]) -> list[Record]:
    """Clear faults, crashes and hangs that the judge does not report."""
    wrong = ("clear", "crash", "timeout")
    return [r for r in mutants(records) if r.truth in wrong and not r.seen]


def alarms(records: Iterable[Record]) -> list[Record]:
    """Kernels reported that give the same bits, or are right in another way."""
    return [
        r
        for r in records
        if r.first is None and r.seen and _ran(r) and (r.honest or r.truth == "equivalent")
    ]


def recall(records: Sequence[Record]) -> float:
    """The share of clear faults that are seen; 1 where there are none."""
    wrong = [r for r in mutants(records) if r.truth == "clear"]
    return sum(r.seen for r in wrong) / len(wrong) if wrong else 1.0


def report(records: Sequence[Record]) -> str:
    """All tables and lists."""
    faults, honest = mutants(records), rewrites(records)
    whole = [r for r in records if r.first is not None]
    parts = [
        _table("mutation", faults, lambda r: r.change),
        _table("operator", faults, lambda r: r.kind),
        _table("model", faults, lambda r: r.model),
        _controls(honest),
        *_listed("missed", missed(records)),
        *_listed("false alarms", alarms(records)),
        *_listed("not first", [r for r in whole if not r.first]),
        _summary(records, faults, honest, whole),
    ]
    return "\n\n".join(parts)


def _summary(
    records: Sequence[Record],
    faults: Sequence[Record],
    honest: Sequence[Record],
    whole: Sequence[Record],
) -> str:
    models = {r.model for r in records}
    clear = [r for r in faults if r.truth == "clear"]
    same = [r for r in faults if r.truth == "equivalent"]
    ran = [r for r in honest if _ran(r)]
    return "\n".join(
        (
            f"{sum(map(_ran, faults))} mutants, {len(ran)} rewritten kernels, {len(models)} models",
            f"clear faults seen: {sum(r.seen for r in clear)}/{len(clear)} ({recall(faults):.4f})",
            f"false alarms on equivalent mutants: {sum(r.seen for r in same)}/{len(same)}",
            f"false alarms on rewritten kernels: {sum(r.seen for r in ran)}/{len(ran)}",
            f"named first: {sum(bool(r.first) for r in whole)}/{len(whole)}",
        )
    )


def _table(name: str, records: Sequence[Record], of: Callable[[Record], str]) -> str:
    head = [f"{name:40}{'made':>6}", *(f"{t:>13}" for t in _TRUTHS), f"{'seen':>7}{'missed':>8}"]
    lines = ["".join(head)]
    for value in sorted({of(r) for r in records}):
        some = [r for r in records if of(r) == value]
        counts = [sum(r.truth == t for r in some) for t in _TRUTHS]
        seen = sum(r.truth == "clear" and r.seen for r in some)
        cells = "".join(f"{n:>13}" for n in counts)
        lines.append(f"{value:40}{len(some):>6}{cells}{seen:>7}{len(missed(some)):>8}")
    return "\n".join(lines)


def _controls(honest: Sequence[Record]) -> str:
    lines = [f"{'rewrite':40}{'made':>6}{'same bits':>13}{'farthest':>13}{'false alarms':>14}"]
    for change in sorted({r.change for r in honest}):
        some = [r for r in honest if r.change == change and _ran(r)]
        same = sum(r.truth == "equivalent" for r in some)
        farthest = max((r.times for r in some), default=0.0)
        lines.append(f"{change:40}{len(some):>6}{same:>13}{farthest:>13.3g}{len(alarms(some)):>14}")
    return "\n".join(lines)


def _listed(name: str, records: Sequence[Record]) -> list[str]:
    if not records:
        return []
    lines = [
        f"  {r.model} | {r.op} | {r.kind} | {r.change} | seed {r.seed} | {r.truth}, "
        f"{r.times:.3g} times its own kernel's distance | {r.verdict} {r.ratio:.3g} | "
        f"{' '.join(r.message.split())[:120]}"
        for r in sorted(records, key=lambda r: (r.model, r.kind, r.op))
    ]
    return ["\n".join([f"{name}: {len(records)}", *lines])]


def _ran(record: Record) -> bool:
    return record.truth != "not compiled"
