"""What a planted fault is, and how each is played and scored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_dtypes import finfo

import tapml_nb as tapml
from benchmarks.faults import libcompare, models
from tapml_nb.graph import Op, TensorSpec
from tapml_nb.judge.verdict import FAULTS, Verdict

Session = Any


@dataclass
class Site:
    """Where a fault is planted."""

    session: Session
    op: Op

    @property
    def inputs(self) -> list[TensorSpec]:
        """What the operator reads."""
        values = self.session.graph.values
        return [values[v].spec for v in self.op.inputs if not values[v].host]

    @property
    def outputs(self) -> list[TensorSpec]:
        """What it writes."""
        return [self.session.graph.values[v].spec for v in self.op.outputs]

    def honest(self, *arrays: np.ndarray) -> np.ndarray:
        """What the source itself computes from these inputs (its first output)."""
        program = self.session.engine.program
        values = self.session.engine.source.values(0)
        tensors = [v for v in self.op.inputs if not self.session.graph.values[v].host]
        given = {v: values[v] for v in self.op.inputs}
        for value, array in zip(tensors, arrays, strict=True):
            given[value] = program.from_array(np.require(array, None, ["C", "W"]), values[value])
        result: np.ndarray = program.to_numpy(program.run(self.op.id, given)[0]).copy()
        return result


Make = Callable[..., Any]
Register = Callable[[Make], Make]

NONE = ""
"""Among a fault's patterns: no diagnosis is right, too."""


@dataclass(frozen=True)
class Plant:
    """A kernel to put in the place of an operator, and what should be said of it.

    Attributes:
        name: of the function that makes it; its docstring names what it is modelled on.
        model: which of the models.
        ops: selectors, each with the number of the match to take; several where the fault is in
            operators together.
        make: makes the kernel, or the kernels, from the sites.
        patterns: diagnoses that are true of it; empty where there is no pattern for it, so that
            any diagnosis is false.
        benign: whether it is none at all.
        verdicts: those that are right of it, if it is benign.
    """

    name: str
    model: str
    ops: tuple[tuple[str, int], ...]
    make: Make
    patterns: frozenset[str] = frozenset()
    benign: bool = False
    verdicts: frozenset[Verdict] = frozenset((Verdict.PASS, Verdict.SKIPPED))


PLANTS: list[Plant] = []


def fault(model: str, *ops: str | tuple[str, int], patterns: Sequence[str] = ()) -> Register:
    """Register a fault; the decorated function makes its kernel."""
    return _register(model, ops, frozenset(patterns), benign=False)


def control(
    model: str,
    *ops: str | tuple[str, int],
    verdicts: Sequence[Verdict] = (Verdict.PASS, Verdict.SKIPPED),
) -> Register:
    """Register a benign kernel (or None, for the operator's own) with the verdicts that fit it."""
    return _register(model, ops, frozenset(), benign=True, verdicts=frozenset(verdicts))


def _register(
    model: str,
    ops: Sequence[str | tuple[str, int]],
    patterns: frozenset[str],
    *,
    benign: bool,
    verdicts: frozenset[Verdict] = frozenset(),
) -> Register:
    places = tuple((op, 0) if isinstance(op, str) else op for op in ops)

    def register(make: Make) -> Make:
        PLANTS.append(Plant(make.__name__, model, places, make, patterns, benign, verdicts))
        return make

    return register


@dataclass(frozen=True)
class Score:
    """What became of a plant.

    Attributes:
        plant: which.
        verdict: of the first operator it is in.
        seen: whether it was reported.
        first: whether it was named before all else.
        pattern: what it was said to look like.
        runs: hybrid runs that localizing it took.
        bound: operators that could have been it.
        seconds: to judge and to localize it.
        peer: whether LibCompare raises, at its own and at mlc-llm's tolerances.
        effective: whether the kernel differs from the source at all.
        message: the tool's words.
    """

    plant: Plant
    verdict: Verdict
    seen: bool
    first: bool
    pattern: str
    runs: int
    bound: int
    seconds: float
    peer: tuple[bool, bool]
    effective: bool
    message: str = field(repr=False, default="")

    @property
    def diagnosed(self) -> bool | None:
        """Whether the diagnosis is true; None where there is none and none was asked for."""
        if not self.plant.patterns and not self.pattern:
            return None
        return self.pattern in self.plant.patterns


class Stage:
    """One model with its session, on which plants are played one after the other."""

    def __init__(self, model: str) -> None:
        made, inputs = models.make(model)
        # Calls that hang end soon; an operator of these models takes less than a millisecond.
        self.session: Session = tapml.debug(made, inputs, target=tapml.Target("llvm", timeout=2))
        report = self.session.run()
        self.known = {c.op for c in report.culprits}
        """What TVM itself gets wrong here: not ours to count."""

    def close(self) -> None:
        """End the session."""
        self.session.close()

    def play(self, plant: Plant) -> Score:
        """Plant, judge, localize, and take it back."""
        session = self.session
        sites = [Site(session, session.graph[self._find(*place)]) for place in plant.ops]
        kernels = plant.make(*sites)
        kernels = kernels if isinstance(kernels, tuple) else (kernels,)
        for site, kernel in zip(sites, kernels, strict=True):
            session.override(site.op.id, kernel)
        try:
            return self._score(plant, [site.op.id for site in sites])
        finally:
            session.restore("*")
            for site in sites:
                session.override(site.op.id, None)
            session.run([site.op.id for site in sites])

    def _find(self, selector: str, number: int) -> str:
        return tapml_select(self.session, selector)[number]

    def _score(self, plant: Plant, ops: list[str]) -> Score:
        session = self.session
        begin = time.perf_counter()
        report = session.run(ops)
        culprits = [c for c in report.culprits if c.op in ops or c.op not in self.known]
        result = report.introduced[ops[0], 0]
        runs, together = 0, False
        if not plant.benign:
            session.restore("*")
            found = session.localize(ops=[op.id for op in session.graph.ops])
            runs = found.runs
            together = frozenset(ops) in found.culprits
        seconds = time.perf_counter() - begin
        missing = {r.op for r in report.missing}
        alone = [report.verdict(op) for op in ops]
        if len(ops) > 1:
            seen = first = together and not any(v in FAULTS for v in alone)
        else:
            seen = alone[0] in FAULTS
            first = bool(culprits and culprits[0].op == ops[0]) or ops[0] in missing
        if plant.benign:
            seen = bool(culprits) or alone[0] not in plant.verdicts
        target = self._target(ops[0]) if len(ops) == 1 else None
        source = session.tensor(ops[0])
        return Score(
            plant=plant,
            verdict=alone[0],
            seen=seen,
            first=first,
            pattern=culprits[0].pattern if culprits and culprits[0].op in ops else "",
            runs=runs,
            bound=len(session.graph),
            seconds=seconds,
            peer=(False, False) if len(ops) > 1 else libcompare.raises(target, source),
            effective=len(ops) > 1 or target is None or target.tobytes() != source.tobytes(),
            message=result.message,
        )

    def _target(self, op: str) -> np.ndarray | None:
        """The kernel's last output, which is what LibCompare looks at; None if it has none."""
        try:
            result: np.ndarray = self.session.tensor(op, "target")
        except RuntimeError:
            return None
        return result


def tapml_select(session: Session, selector: str) -> list[str]:
    """Operators that compute tensors and that a selector names, in graph order."""
    from tapml_nb.graph import select

    return [op for op in select(session.graph, selector) if not session.graph[op].host]


def limit(score: Score) -> float:
    """How many hybrid runs a fault in two operators may take."""
    return 4 * math.log2(score.bound) + 10


def ulp(array: np.ndarray) -> np.ndarray:
    """The distance to the next number, element by element."""
    _, exponent = np.frexp(np.abs(array.astype(np.float64)))
    result: np.ndarray = np.ldexp(float(finfo(array.dtype).eps), exponent - 1)
    return result
