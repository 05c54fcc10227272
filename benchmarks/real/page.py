"""``docs/scale.md``: what is known of the configurations, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from benchmarks.real.records import Record

_HEAD = """\
# Models of real size

    python -m benchmarks.real --device cuda
    python -m benchmarks.real --page

Shapes of models that people deploy, with random weights at the scales of trained ones, made on the
device. A language model gets a prompt of 128 tokens, or, decoding with a static cache, that and
four tokens after it in one session; Whisper's encoder gets 30 seconds of sound, the U-Net a step of
denoising for a picture of 512 by 512. *q4f16* has weights of four bits in groups of 32 with a scale
in float16, unpacked in the kernel that multiplies by them, as mlc-llm deploys them; there, a module
is one operator, and all is in float16. A *small* configuration is of the same architecture with two
layers of width 64 and 32 tokens.

The two plain passes are *forward*, the source's own pass over all steps (the fastest of three), and
*kernels*, the sum of the target's. `debug()` exports and imports, the first `run()` compiles and
judges all, the second judges all again, `hybrid()` has all on the target that passes, *toggle*
takes one operator in the middle back to the source and looks again, `migrate()` begins from
nothing. In brackets: the ratio to the two plain passes. Memory of the host is that of all
processes, memory of the GPU all that is in use there, the weights included. Times of small
configurations, on processors that have other work, say little: a run there takes what it costs to
ask, not to compute. They are here for what is found.
"""

_NOTHING = "-"
_STAGES = ("debug", "first run", "second run", "hybrid", "toggle", "migrate")


def page(records: Iterable[Record]) -> str:
    """The whole page."""
    ordered = sorted(records, key=_part)
    parts = [_section(part, list(group)) for part, group in groupby(ordered, key=_part)]
    return "\n".join((_HEAD, *parts))


def _part(record: Record) -> tuple[str, str, str]:
    """What one section is about; the full scale and GPUs come first."""
    return record.scale, "CPU" if record.device == "cpu" else "GPU", record.dtype


def _section(part: tuple[str, str, str], records: Sequence[Record]) -> str:
    scale, device, dtype = part
    hardware = ", ".join(sorted({r.hardware for r in records if r.hardware})) or device
    title = f"## {'Real' if scale == 'full' else 'Small'} shapes in {dtype} ({hardware})"
    lines = [title, "", *_table(records)]
    lines += _listed("### What is broken", records, lambda r: r.causes)
    lines += _listed("### What has no kernel", records, lambda r: r.missing)
    lines += _planted(records)
    return "\n".join(lines) + "\n"


def _table(records: Sequence[Record]) -> list[str]:
    columns = (
        *("configuration", "parameters", "weights", "steps", "operators", "forward", "kernels"),
        *_STAGES,
        *("sent first", "sent again", "host", "GPU", "verdicts", "hybrid run"),
    )
    rows = [
        (
            *(record.name, f"{record.parameters / 1e6:,.1f} M", _size(record.weights_mb)),
            *(str(record.steps), f"{record.operators:,}"),
            *(_seconds(record.seconds.get(name)) for name in ("forward", "kernels")),
            *(_stage(record, name) for name in _STAGES),
            *(_size(mb) for mb in (*record.sent_mb, None, None)[:2]),
            *(_size(record.host_mb), _size(record.gpu_mb) if record.device == "cuda" else _NOTHING),
            *(_verdicts(record), _outcome(record)),
        )
        for record in records
    ]
    numeric = ["---", *["---:"] * (len(columns) - 3), "---", "---"]
    return [f"| {' | '.join(row)} |" for row in (columns, numeric, *rows)]


def _stage(record: Record, name: str) -> str:
    ratio = record.ratio(name)
    taken = _seconds(record.seconds.get(name))
    return taken if ratio is None else f"{taken} ({ratio:,.1f})"


def _seconds(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:,.3g} s" if value < 100 else f"{value:,.0f} s"


def _size(mb: float | None) -> str:
    if mb is None:
        return _NOTHING
    return f"{mb:,.1f} MB" if mb < 1000 else f"{mb / 1000:,.1f} GB"


def _verdicts(record: Record) -> str:
    return (
        ", ".join(f"{count:,} {verdict}" for verdict, count in record.verdicts.items()) or _NOTHING
    )


def _outcome(record: Record) -> str:
    if record.error:
        return f"**{_text(record.error)}**"
    return f"{record.outputs}, unobserved {record.unobserved}; {record.migrated:,} migrated"


def _listed(title: str, records: Sequence[Record], what: object) -> list[str]:
    assert callable(what)
    found = [(record, what(record)) for record in records if what(record)]
    if not found:
        return []
    lines = ["", title, ""]
    for record, items in found:
        lines += [f"- {record.name}", *(f"  - {_text(item)}" for item in items)]
    return lines


def _planted(records: Sequence[Record]) -> list[str]:
    rows = [
        f"| {record.name} | {one.fault} | {one.op} | {one.verdict} | "
        f"{'yes' if one.first else 'NO'} | {', '.join(one.others) or 'none'} | "
        f"{_seconds(one.seconds)} |"
        for record in records
        for one in record.planted
    ]
    if not rows:
        return []
    return [
        "",
        "### Planted faults",
        "",
        "| configuration | fault | in | verdict | named first | others accused | run |",
        "| --- | --- | --- | --- | --- | --- | ---: |",
        *rows,
    ]


def _text(words: str) -> str:
    """Words that Markdown leaves alone, and that end somewhere."""
    flat = " ".join(words.split()).replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")
    return flat if len(flat) <= 300 else f"{flat[:300]}…"
