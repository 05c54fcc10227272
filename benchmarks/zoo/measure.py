"""One architecture through a session: what :mod:`benchmarks.zoo` notes of it."""

from __future__ import annotations

import math
import re
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import tapml_nb as tapml
from benchmarks.zoo.architecture import Architecture, rms
from tapml_nb.frontends.torch.rules.call import is_floating
from tapml_nb.frontends.torch.workarounds import WORKAROUNDS
from tapml_nb.graph import Graph, Op
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import FAULTS, Verdict
from tapml_nb.report import Report
from tapml_nb.session import Session

_NOT_JUDGED = (Verdict.UNSUPPORTED, Verdict.COMPILE_ERROR, Verdict.UNKNOWN)
"""Verdicts that no run and no comparison of values stands behind."""

SCALES = (0.05, 20.0)
"""Where the middle of a model's activations has to be, as root mean squares of operators."""


@dataclass(frozen=True)
class Finding:
    """Operators of one kind that do not pass, for one reason.

    Attributes:
        kind: their ATen op.
        verdict: their verdict.
        pattern: what the error looks like; empty for nothing known.
        message: why, in the words of the first of them.
        count: how many there are.
        op: the first of them.
        inputs: what that one takes, as text.
    """

    kind: str
    verdict: str
    pattern: str
    message: str
    count: int
    op: str
    inputs: str


@dataclass(frozen=True)
class Record:
    """What is known of one architecture.

    Attributes:
        name: the architecture's.
        group: what it computes on.
        key: of the model and the versions that this was measured with.
        dtype: of its weights and inputs.
        error: why the tool got no further; empty where it got to the end.
        operators: operators that compute a defined tensor.
        converted: how many of them are converted to Relax.
        ours: how many of these by rules of tapml_nb's, because TVM's has none that works.
        workarounds: in how many which workaround had a part.
        judged: how many have a verdict from running, or from a comparison of values.
        verdicts: how many have which verdict.
        findings: those that do not pass.
        scale: root mean square of the activations, of the operator in the middle.
        moved: operators on the target in the hybrid run.
        outputs: the verdict on the model's outputs in the hybrid run.
        unobserved: whether an unobserved run gives the same bits: ``"same"``, ``"different"``, or
            empty where there was none.
        seconds: from the model to the hybrid run's end.
        megabytes: of memory at most, of the process with the session.
    """

    name: str
    group: str
    key: str
    dtype: str = "float32"
    error: str = ""
    operators: int = 0
    converted: int = 0
    ours: int = 0
    workarounds: dict[str, int] = field(default_factory=dict)
    judged: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    scale: float = math.nan
    moved: int = 0
    outputs: str = ""
    unobserved: str = ""
    seconds: float = 0.0
    megabytes: int = 0

    @property
    def ended(self) -> bool:
        """Whether the model went through from end to end."""
        return not self.error

    @property
    def share(self) -> float:
        """Judged operators among all."""
        return self.judged / self.operators if self.operators else 0.0


def measure(one: Architecture, dtype: str, key: str) -> Record:
    """Judge every operator of an architecture, then run it with all that pass on the target.

    In float32 what TVM's importer produces is judged as it is.  Of narrow dtypes so much is wrong
    there that little else would be seen: every workaround is in force.

    Raises:
        RuntimeError: if its activations are so small or large that errors say little.
    """
    begin = time.perf_counter()
    model, inputs = one.build(getattr(torch, dtype))
    given: Any = inputs if _takes_keywords(model) else tuple(inputs.values())
    names = [] if dtype == "float32" else [workaround.name for workaround in WORKAROUNDS]
    with tapml.debug(model, given, target="llvm", name=one.name, workarounds=names) as session:
        scale = _scale(session)
        report = session.run()
        graph = report.graph
        results = [report.introduced[op.id, 0] for op in graph.ops if _computes(op, report)]
        good = (Verdict.PASS, Verdict.SKIPPED)
        moved = [op.id for op in graph.ops if not op.host and report.verdict(op.id) in good]
        session.offload(moved)
        info = session.hybrid().info
    seconds = time.perf_counter() - begin
    unobserved = info.unobserved
    return Record(
        name=one.name,
        group=one.group,
        key=key,
        dtype=dtype,
        operators=len(results),
        converted=sum(r.verdict is not Verdict.UNSUPPORTED for r in results),
        ours=sum("by rules of tapml_nb's" in words for words in report.conversions.values()),
        workarounds=_worked_around(report),
        judged=sum(r.verdict not in _NOT_JUDGED for r in results),
        verdicts=_count(results),
        findings=_findings(graph, results),
        scale=scale,
        moved=len(moved),
        outputs=str(info.outputs),
        unobserved={None: "", True: "same", False: "different"}[
            None if unobserved is None else unobserved.same
        ],
        seconds=seconds,
        megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


def _takes_keywords(model: torch.nn.Module) -> bool:
    return not isinstance(model, torch.nn.Sequential)  # whose one parameter is called input


def _computes(op: Op, report: Report) -> bool:
    """Whether an operator computes a tensor whose values are defined."""
    result = report.introduced[op.id, 0]
    undefined = result.verdict is Verdict.SKIPPED and result.statistics is None
    return not op.host and not undefined


def _scale(session: Session) -> float:
    """The root mean square of the operator in the middle; and no output may be near 0.

    Raises:
        RuntimeError: see :func:`measure`.
    """
    graph = session.graph
    floats = [
        op.id
        for op in graph.ops
        if not op.host and is_floating(graph.values[op.outputs[0]].spec.dtype)
    ]
    scales = [rms([torch.from_numpy(session.tensor(op).astype(np.float64))]) for op in floats]
    middle = statistics.median(scale for scale in scales if not math.isnan(scale))
    if not SCALES[0] < middle < SCALES[1]:
        raise RuntimeError(f"activations have a root mean square of {middle:.3g}: near one is due")
    return middle


def _worked_around(report: Report) -> dict[str, int]:
    """Operators by the workarounds that had a part in them."""
    said = list(report.conversions.values())
    counts = {
        workaround.name: sum(bool(re.search(rf"\b{workaround.name}\b", words)) for words in said)
        for workaround in WORKAROUNDS
    }
    return {name: count for name, count in counts.items() if count}


def _count(results: Sequence[OpResult]) -> dict[str, int]:
    found = [result.verdict for result in results]
    return {str(verdict): found.count(verdict) for verdict in Verdict if verdict in found}


def _findings(graph: Graph, results: Sequence[OpResult]) -> tuple[Finding, ...]:
    groups: dict[tuple[str, str, str], list[OpResult]] = {}
    for result in results:
        if result.verdict in FAULTS or result.verdict in _NOT_JUDGED:
            pattern = str(result.diagnosis.pattern) if result.diagnosis else ""
            slot = (graph[result.op].kind, str(result.verdict), pattern)
            groups.setdefault(slot, []).append(result)
    return tuple(
        Finding(
            kind,
            verdict,
            pattern,
            found[0].message,
            len(found),
            found[0].op,
            ", ".join(str(graph.values[v].spec) for v in graph[found[0].op].inputs),
        )
        for (kind, verdict, pattern), found in groups.items()
    )
