"""What is noted of a sample, and its line in a file.  Whoever reads it needs no PyTorch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FAULTY = ("COMPILE_ERROR", "CRASH", "TIMEOUT", "FAIL", "NONFINITE", "NONDETERMINISTIC")
"""Verdicts that a workaround may change."""

BEGUN = "begun"
"""The error of a record that only says what a process is at."""


@dataclass(frozen=True)
class Raised:
    """An exception that reached the user.

    Attributes:
        out_of: ``"debug"``, ``"run"`` or ``"tensor"``.
        type: its type's name.
        message: its message.
        documented: whether the method's documentation names it and tapml_nb raises it itself;
            what comes from within a library only has a type by the same name.
        at: where it was raised, file and function.
    """

    out_of: str
    type: str
    message: str
    documented: bool
    at: str


@dataclass(frozen=True)
class Judged:
    """An operator's verdict beside what ``torch.testing.assert_close`` says.

    Attributes:
        kind: the operator's.
        verdict, ratio, message: of its result.
        pattern: what its error looks like; empty for nothing known.
        defined: whether it computes a tensor whose values are defined.
        agrees: whether all outputs of the target are close to the source's; None where there are
            none to compare.
        beyond: whether they differ by more than the source's own error explains.
        inputs: what it takes, as text.
        tied: whether all that differs are places at which the same stands.
    """

    kind: str
    verdict: str
    ratio: float
    message: str
    pattern: str
    defined: bool
    agrees: bool | None
    beyond: bool
    inputs: str
    tied: bool = False


@dataclass(frozen=True)
class Record:
    """What is known of one sample.

    Attributes:
        name: the sample's.
        group: its group's.
        of: how many samples the group has.
        key: of the programs and versions that this was measured with.
        error: why there is no result: what became of the process.
        raised: exceptions that reached the user.
        ops: the model's operators.
        seconds: from the model to the last tensor.
        mended: where one of the operators is faulty, all of them with all workarounds in force.
    """

    name: str
    group: str
    of: int
    key: str
    error: str = ""
    raised: Sequence[Raised] = ()
    ops: Sequence[Judged] = ()
    seconds: float = 0.0
    mended: Sequence[Judged] = ()

    @property
    def with_workarounds(self) -> Sequence[Judged]:
        """Every operator once, as it is with all workarounds."""
        return self.mended or self.ops

    @property
    def seen(self) -> Sequence[Judged]:
        """The operators as TVM is, and those of which workarounds change the verdict once more."""
        changed = [
            m
            for op, m in zip(self.ops, self.with_workarounds, strict=True)
            if m.verdict != op.verdict
        ]
        return (*self.ops, *changed)


def line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(asdict(record))


def read(text: str) -> Record:
    """A record from its line."""
    values: dict[str, Any] = json.loads(text)
    values["raised"] = tuple(Raised(**r) for r in values["raised"])
    for several in ("ops", "mended"):
        values[several] = tuple(Judged(**o) for o in values.get(several, ()))
    return Record(**values)


def newest(records: Iterable[Record]) -> dict[str, Record]:
    """The last record of each sample, where its group was not measured anew with other programs."""
    last: dict[str, Record] = {}
    keys: dict[str, str] = {}
    for record in records:
        last[record.name], keys[record.group] = record, record.key
    return {name: record for name, record in last.items() if record.key == keys[record.group]}


def complete(records: Iterable[Record]) -> set[str]:
    """Groups whose samples all have a record."""
    found = list(records)
    counts = Counter(record.group for record in found)
    return {record.group for record in found if counts[record.group] >= record.of}
