"""What is known of a configuration, kept as lines of JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "transformers", "apache-tvm")


@dataclass(frozen=True)
class Planted:
    """What became of a planted fault.

    Attributes:
        fault: which.
        op: where.
        verdict: of the operator it is in.
        first: whether it leads the culprits that were not there before.
        others: operators that were accused beside it.
        seconds: of the run that judges the whole model.
        message: the tool's words.
    """

    fault: str
    op: str
    verdict: str
    first: bool
    others: tuple[str, ...]
    seconds: float
    message: str

    @property
    def found(self) -> bool:
        """Whether it is named first, and nothing else is accused."""
        return self.first and not self.others


@dataclass(frozen=True)
class Record:
    """What is known of one configuration.

    Attributes:
        name: the configuration's.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: of weights and activations.
        scale: ``"full"``, or ``"small"``.
        key: of the versions that it was measured with.
        hardware: what the device is.
        error: why there is no more; empty where all stages are done.
        granularity: what one operator is.
        parameters: how many numbers the weights are.
        weights_mb: and their size.
        steps: inputs that it was run on, one after the other.
        operators: how many.
        seconds: by stage; ``"forward"`` and ``"kernels"`` are the two plain passes.
        sent_mb: to the target in the first run, and in the second.
        host_mb: the most memory of this process and those that it started.
        gpu_mb: the most that was in use of the GPU's memory, by whomever.
        verdicts: how many operators have which.
        causes: what is broken, by cause.
        missing: what has no kernel, by cause.
        moved: operators on the target in the hybrid run.
        outputs: the verdict on its outputs.
        unobserved: what the unobserved run after it gave: ``"same"``, ``"different"``, ``"none"``.
        migrated: operators that the migration moved.
        planted: what became of planted faults.
    """

    name: str
    device: str
    dtype: str
    scale: str
    key: str
    hardware: str = ""
    error: str = ""
    granularity: str = ""
    parameters: int = 0
    weights_mb: float = 0.0
    steps: int = 0
    operators: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    sent_mb: tuple[float, ...] = ()
    host_mb: float = 0.0
    gpu_mb: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)
    causes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    moved: int = 0
    outputs: str = ""
    unobserved: str = ""
    migrated: int = 0
    planted: tuple[Planted, ...] = ()

    @property
    def plain(self) -> float:
        """Seconds of the two plain passes."""
        return self.seconds.get("forward", 0.0) + self.seconds.get("kernels", 0.0)

    @property
    def run(self) -> tuple[str, str, str, str]:
        """What a later record replaces an earlier one for."""
        return self.device, self.dtype, self.scale, self.name

    def ratio(self, stage: str) -> float | None:
        """Seconds of a stage over those of the two plain passes; None where either is unknown."""
        return self.seconds[stage] / self.plain if self.plain and stage in self.seconds else None


def line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(asdict(record))


def read(text: str) -> Record:
    """A record from its line."""
    values = json.loads(text)
    values["planted"] = tuple(
        Planted(**{**one, "others": tuple(one["others"])}) for one in values["planted"]
    )
    for name in ("sent_mb", "causes", "missing"):
        values[name] = tuple(values[name])
    return Record(**values)


def kept(path: Path) -> list[Record]:
    """What a file knows: of each run the last record, in the order in which they first came."""
    lines = path.read_text().splitlines() if path.exists() else []
    return list({record.run: record for record in map(read, lines)}.values())


def due(records: Iterable[Record], wanted: Iterable[Record]) -> list[Record]:
    """Of the wanted those that no record of the same version has measured to the end: first what
    was never tried, then what came to no end."""
    tried = {record.run: record for record in records}
    fresh, failed = [], []
    for record in wanted:
        known = tried.get(record.run)
        if known is None or known.key != record.key:
            fresh.append(record)
        elif known.error:
            failed.append(record)
    return fresh + failed


def key() -> str:
    """Of the versions that figures depend on: the tool's and this benchmark's text, packages."""
    text = hashlib.sha256()
    for path in sorted((*(_ROOT / "tapml_nb").rglob("*.py"), *Path(__file__).parent.glob("*.py"))):
        if path.name != "page.py":
            text.update(path.read_bytes())
    text.update(" ".join(map(version, _PACKAGES)).encode())
    return text.hexdigest()[:16]
