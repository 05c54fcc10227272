"""A model's mutants in a process of their own, and what earlier runs have found of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.isolated import Failed, isolated
from benchmarks.mutants.trial import Record, Trial, clear

ROOT = Path(__file__).resolve().parents[2]

SECONDS = 600
"""Without a batch, after which a process is ended."""

_MATTER = ("tir", "kernels", "mutations", "rewrites", "arbiter", "trial", "models")
"""Modules that decide what a batch holds."""


@dataclass(frozen=True)
class Batch:
    """What one run found.

    Attributes:
        model: in which model.
        part: ``"mutants"``, ``"rewrites"`` or ``"whole"``.
        number: which of the model's.
        key: of the programs, versions and the seed it was made with.
        records: one for each changed kernel.
    """

    model: str
    part: str
    number: int
    key: str
    records: tuple[Record, ...]

    @property
    def place(self) -> tuple[str, str, int]:
        """What tells it from the others of its key."""
        return self.model, self.part, self.number


@dataclass(frozen=True)
class Quota:
    """How many are due of a model."""

    mutants: int
    rewrites: int
    whole: int


def batches(
    model: str, seed: int, quota: Quota, kept: Sequence[Batch], key: str
) -> Iterator[Batch]:
    """What is due of a model, batch by batch, those that are known first.

    Raises:
        RuntimeError: if the model's process ends, or says nothing for a long time.
    """
    known = [batch for batch in kept if batch.model == model]
    yield from known
    try:
        yield from isolated(_made, model, seed, quota, known, key, seconds=SECONDS)
    except Failed as failed:
        raise RuntimeError(f"{model}: {failed}") from None


def _made(model: str, seed: int, quota: Quota, known: Sequence[Batch], key: str) -> Iterator[Batch]:
    places = {batch.place: batch for batch in known}
    known_records = [record for batch in known for record in batch.records]
    trial: Trial | None = None
    mutants: list[Record] = []
    try:
        for part, due in (("mutants", quota.mutants), ("rewrites", quota.rewrites)):
            number = count = 0
            while count < due and number <= due:
                batch = places.get((model, part, number))
                if batch is None:
                    trial = trial or Trial(model, seed, known_records)
                    if not trial.sites:
                        return
                    found = trial.round(number, honest=part == "rewrites")
                    yield (batch := Batch(model, part, number, key, tuple(found)))
                if not batch.records:  # there are no others
                    break
                count += sum(r.truth != "not compiled" for r in batch.records)
                mutants += batch.records
                number += 1
        if quota.whole and (model, "whole", 0) not in places:
            trial = trial or Trial(model, seed, known_records)
            wrong = clear(mutants)
            chosen = wrong[:: max(1, len(wrong) // quota.whole)][: quota.whole]
            yield Batch(model, "whole", 0, key, tuple(trial.whole(chosen)))
    finally:
        if trial:
            trial.close()


def line(batch: Batch) -> str:
    """A batch as a line of JSON."""
    return json.dumps(asdict(batch))


def read(text: str) -> Batch:
    """A batch from its line."""
    values = json.loads(text)
    return Batch(**{**values, "records": tuple(Record(**r) for r in values["records"])})


def programs() -> str:
    """A key that changes with the seed's meaning: our programs, and the versions of others."""
    sources = [Path(__file__).parent / f"{name}.py" for name in _MATTER]
    sources.append(ROOT / "benchmarks" / "faults" / "models.py")
    for folder in ("tapml_nb", "benchmarks/zoo"):
        sources += sorted((ROOT / folder).rglob("*.py"))
    digest = hashlib.sha256()
    for file in sources:
        digest.update(file.read_bytes())
    for package in ("torch", "transformers", "apache-tvm"):
        digest.update(version(package).encode())
    return digest.hexdigest()[:16]
