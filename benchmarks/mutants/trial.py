"""A model through a session, one changed kernel per operator and run.

Every operator is judged on the source's own inputs, so a run carries one mutant in each.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm

import tapml_nb as tapml
from benchmarks.mutants import arbiter, kernels
from benchmarks.mutants.arbiter import Ground, Truth
from benchmarks.mutants.models import MODELS
from benchmarks.mutants.mutations import mutant
from benchmarks.mutants.rewrites import rewritten
from benchmarks.mutants.tir import Strange, refreshed
from tapml_nb.graph import Op
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import FAULTS, Verdict

Session = Any

BATCH = 60
"""Operators that are changed in one run."""

_ATTEMPTS = 20
"""Seeds that are tried for a change that was not made before."""


@dataclass(frozen=True)
class Record:
    """What came of one changed kernel.

    Attributes:
        model: in which model.
        op: in whose place.
        kind: of operator.
        change: the kind of mutation, or of rewrite.
        honest: whether it is a rewrite.
        seed: makes the same change again, with the model and the operator.
        digest: of the kernel as it was changed; no two of an operator are the same.
        truth: what it is (:class:`~benchmarks.mutants.arbiter.Truth`); ``"crash"`` and
            ``"timeout"`` where it gives no result, ``"not compiled"`` where there is none.
        times: its distance from the exact result, over that of the operator's own kernel.
        verdict: the judge's.
        ratio: the judge's.
        pattern: of the judge's diagnosis.
        message: the judge's.
        first: in a run of the whole model, whether it leads the culprits; None where it was not
            tried so.
    """

    model: str
    op: str
    kind: str
    change: str
    honest: bool
    seed: int
    digest: str
    truth: str
    times: float
    verdict: str
    ratio: float
    pattern: str
    message: str
    first: bool | None = None

    @property
    def seen(self) -> bool:
        """Whether the judge says that something is broken."""
        return self.verdict in FAULTS


@dataclass(frozen=True)
class _Site:
    """An operator whose kernel can be changed."""

    op: Op
    function: Any
    own: list[np.ndarray]
    grounds: list[Ground]


@dataclass(frozen=True)
class _Changed:
    """A changed kernel."""

    site: _Site
    change: str
    seed: int
    digest: str
    function: Any


class Trial:
    """One model, whose operators' kernels are replaced again and again."""

    def __init__(self, model: str, seed: int, known: Iterable[Record] = ()) -> None:
        """Begin; what is ``known`` from earlier is not made again."""
        self.model = model
        self._seed = seed
        self._tried = {(record.op, record.digest) for record in known}
        made, inputs = MODELS[model]()
        self.session: Session = tapml.debug(made, inputs, target=tapml.Target("llvm", timeout=5))
        report = self.session.run()
        self._known = {c.op for c in report.culprits}
        self.left_out: dict[str, str] = {}
        """Why operators are not among the sites."""
        self.sites = [
            site
            for op in report.graph.ops
            if not op.host and (site := self._site(op, report.introduced[op.id, 0]))
        ]

    def close(self) -> None:
        """End the session."""
        self.session.close()

    def round(self, number: int, *, honest: bool) -> list[Record]:
        """Change every site in turn, as many as one run takes, and judge.

        The first round takes the first sites, and so on; after the last one, they come again.
        """
        order = list(self.sites)
        random.Random(f"{self._seed} {self.model}").shuffle(order)
        begin = number * BATCH
        several = -(-BATCH // len(order)) + 1
        chosen = (order * several)[begin % len(order) :][: min(BATCH, len(order))]
        turn = begin // len(order)
        changed = [c for site in chosen if (c := self._changed(site, turn + number, honest))]
        return self._judged(changed, honest)

    def whole(self, records: Sequence[Record]) -> Iterator[Record]:
        """Judge whole models with one mutant each: is it what the report names first?"""
        sites = {site.op.id: site for site in self.sites}
        for record in records:
            changed = self._made(sites[record.op], record.seed, honest=False)
            assert changed is not None, "it was made before"
            self.session.override(record.op, changed.function)
            culprits = [c.op for c in self.session.run().culprits if c.op not in self._known]
            self.session.override(record.op, None)
            yield replace(record, first=culprits[:1] == [record.op])

    # -- parts -------------------------------------------------------------------------------------

    def _site(self, op: Op, result: OpResult) -> _Site | None:
        try:
            if result.verdict is not Verdict.PASS:
                raise kernels.NoKernel(f"{result.verdict}")
            function = refreshed(kernels.deployed(self.session, op.id))
            program, values = self.session.engine.program, self.session.engine.source.values(0)
            found = arbiter.grounds(program, op, values)
            own = self._outputs(op)
            if found is None or any(
                g.distance(a) == np.inf for g, a in zip(found, own, strict=True)
            ):
                raise kernels.NoKernel("no float64 result to measure by")
        except (kernels.NoKernel, Strange) as reason:
            self.left_out[op.id] = str(reason)
            return None
        return _Site(op, function, own, found)

    def _changed(self, site: _Site, turn: int, honest: bool) -> _Changed | None:
        begin = random.Random(f"{self._seed} {self.model} {site.op.id} {turn} {honest}")
        for _ in range(_ATTEMPTS):
            changed = self._made(site, begin.randrange(2**31), honest)
            if changed is not None and (site.op.id, changed.digest) not in self._tried:
                self._tried.add((site.op.id, changed.digest))
                return changed
        return None

    def _made(self, site: _Site, seed: int, honest: bool) -> _Changed | None:
        try:
            made = (rewritten if honest else mutant)(site.function, random.Random(seed))
        except ValueError:  # TVM: a constant that its dtype cannot hold
            return None
        if made is None:
            return None
        function = refreshed(made[1])
        digest = hashlib.sha256(tvm.ir.save_json(function).encode()).hexdigest()[:16]
        return _Changed(site, made[0], seed, digest, function)

    def _judged(self, changed: Sequence[_Changed], honest: bool) -> list[Record]:
        for one in changed:
            self.session.override(one.site.op.id, one.function)
        ops = [one.site.op.id for one in changed]
        report = self.session.run(ops)
        diagnoses = {c.op: c.pattern for c in report.culprits}
        records = [
            self._record(one, honest, report.introduced[one.site.op.id, 0], diagnoses)
            for one in changed
        ]
        for op in ops:
            self.session.override(op, None)
        return records

    def _record(
        self, one: _Changed, honest: bool, result: OpResult, diagnoses: dict[str, str]
    ) -> Record:
        op = one.site.op
        found, times = "not compiled", 0.0
        if result.verdict is Verdict.CRASH:
            found = "crash"
        elif result.verdict is Verdict.TIMEOUT:
            found = "timeout"
        elif result.verdict is not Verdict.COMPILE_ERROR:
            try:
                runs = [self._outputs(op), self._outputs(op)]
                found, times = arbiter.truth(op, one.site.grounds, one.site.own, runs)
            except RuntimeError as error:
                found = "crash" if "ended" in str(error) or "signal" in str(error) else "timeout"
        return Record(
            model=self.model,
            op=op.id,
            kind=op.kind,
            change=one.change,
            honest=honest,
            seed=one.seed,
            digest=one.digest,
            truth=str(found),
            times=float(times),
            verdict=str(result.verdict),
            ratio=float(result.ratio),
            pattern=str(diagnoses.get(op.id, "")),
            message=result.message,
        )

    def _outputs(self, op: Op) -> list[np.ndarray]:
        """What the kernel in an operator's place gives."""
        return [self.session.tensor(op.id, "target", output=k) for k in range(len(op.outputs))]


def clear(records: Sequence[Record]) -> list[Record]:
    """Those that are clearly wrong."""
    return [r for r in records if not r.honest and r.truth == Truth.CLEAR]
