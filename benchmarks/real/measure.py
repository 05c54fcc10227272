"""A configuration through a session, stage by stage: what each costs, and what is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram

import tapml_nb as tapml
from benchmarks.peak_memory import PeakMemory
from benchmarks.real.configurations import CONFIGURATIONS, Configuration
from benchmarks.real.faults import FAULTS, planted
from benchmarks.real.models import Case, Place
from benchmarks.real.quantized import PER_WORD
from benchmarks.real.records import Record
from tapml_nb.judge.verdict import Verdict
from tapml_nb.report import Report
from tapml_nb.session import Session

WORKAROUNDS = ("product_dtype", "integer_cumsum", "narrow_floats", "narrow_numbers")
"""For what TVM's importer does wrong with narrow dtypes, in all such models: little else would be
seen."""

_GOOD = (Verdict.PASS, Verdict.SKIPPED)
_PASSES = 3


class Stages:
    """Seconds by stage."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self._cuda = device == "cuda"

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds[name] = time.perf_counter() - begin


def measure(nothing: Record) -> Iterator[Record]:
    """What is known after each stage, with an error that says that it is not all, and at last
    without.

    Args:
        nothing: names the configuration, the device, the dtype and the scale.
    """
    with PeakMemory() as memory:
        for record, last in _stages(CONFIGURATIONS[nothing.name], nothing):
            peak = replace(record, host_mb=round(memory.host_mb), gpu_mb=round(memory.gpu_mb))
            error = "" if last else f"no further than {list(record.seconds)[-1]}"
            yield replace(peak, error=error)


def _stages(one: Configuration, record: Record) -> Iterator[tuple[Record, bool]]:
    stage = Stages(record.device)
    place = Place(record.device, one.dtype or getattr(torch, record.dtype), record.scale == "small")

    def known(**facts: Any) -> Record:
        nonlocal record
        seconds = {name: round(taken, 4) for name, taken in stage.seconds.items()}
        record = replace(record, seconds=seconds, **facts)
        return record

    with stage("build"):
        case = one.make(place)
    yield (
        known(
            hardware=_hardware(record.device),
            granularity=one.granularity,
            steps=len(case.steps),
            **_weights(case.module),
        ),
        False,
    )
    plain = plain_pass(case)
    for number in range(_PASSES):
        with stage(f"forward {number}"):
            plain()
    stage.seconds["forward"] = min(stage.seconds.pop(f"forward {n}") for n in range(_PASSES))
    if record.device == "cuda":
        torch.cuda.empty_cache()  # the target has the same memory
    with stage("debug"):
        session = tapml.debug(
            case.program,
            case.steps,
            target="cuda" if record.device == "cuda" else "llvm",
            granularity=one.granularity,
            workarounds=WORKAROUNDS,
            name=one.name,
        )
    with session:
        yield known(operators=len(session.graph)), False
        with stage("first run"):
            report = session.run()
        sent = _sent(report)
        stage.seconds["kernels"] = float(report.frame()["target_ms"].sum()) / 1e3
        yield known(sent_mb=(sent,), **_found(report)), False
        with stage("second run"):
            report = session.run()
        stage.seconds["kernels"] = float(report.frame()["target_ms"].sum()) / 1e3
        yield known(sent_mb=(sent, _sent(report))), False
        moved = session.offload(_movable(report))
        with stage("hybrid"):
            report = session.hybrid()
        yield known(moved=len(moved), **_outputs(report)), False
        with stage("toggle"):
            _toggle(session, moved)
        yield known(), False
        session.restore("*")
        with stage("migrate"):
            migration = session.migrate()
        yield known(migrated=len(migration.offloaded)), not one.faults
        if one.faults:
            session.restore("*")
            results = []
            for result in planted(session):
                results.append(result)
                yield known(planted=tuple(results)), len(results) == len(FAULTS)


def plain_pass(case: Case) -> Callable[[], None]:
    """What runs all steps of a case on the source, without the tool.  What steps leave in a cache
    is as it was, afterwards."""
    program = case.program
    exported = isinstance(program, ExportedProgram)
    module = program.module() if exported else program
    state = [(buffer, buffer.clone()) for buffer in module.buffers()] if exported else []

    @torch.no_grad()
    def run() -> None:
        for step in case.steps:
            module(*step)
        for buffer, before in state:
            buffer.copy_(before)

    return run


def _movable(report: Report) -> list[str]:
    return [op.id for op in report.graph.ops if not op.host and report.verdict(op.id) in _GOOD]


def _toggle(session: Session, moved: Sequence[str]) -> None:
    """Take the operator in the middle back to the source, and look."""
    session.restore(moved[len(moved) // 2])
    session.hybrid()


def _weights(module: torch.nn.Module) -> dict[str, Any]:
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}.values()
    packed = {id(t): t for name, t in module.named_buffers() if name.endswith("words")}.values()
    return {
        "parameters": sum(p.numel() for p in module.parameters())
        + PER_WORD * sum(map(torch.numel, packed)),
        "weights_mb": round(sum(t.numel() * t.element_size() for t in tensors) / 1e6, 1),
    }


def _hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _sent(report: Report) -> float:
    return round(int(report.frame()["sent_bytes"].sum()) / 1e6, 1)


def _found(report: Report) -> dict[str, Any]:
    return {
        "verdicts": {str(verdict): count for verdict, count in report.counts.items()},
        "causes": tuple(f"{cause}: {cause.diagnosis}" for cause in report.causes),
        "missing": tuple(
            f"{group[0].op} {group[0].verdict}, {len(group)} of this cause: {group[0].message}"
            for group in report.gaps
        ),
    }


def _outputs(report: Report) -> dict[str, Any]:
    unobserved = report.info.unobserved
    state = unobserved.same if unobserved else None
    return {
        "outputs": str(report.info.outputs),
        "unobserved": {True: "same", False: "different", None: "none"}[state],
    }
