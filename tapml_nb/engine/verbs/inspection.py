"""Looking at what is there: the report, the state, and an operator's tensors and code."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from tapml_nb.array_api import on_host
from tapml_nb.compile.kernel import KernelCode
from tapml_nb.engine.engine import Engine
from tapml_nb.engine.verbs import runs
from tapml_nb.graph import Op, Selector
from tapml_nb.judge.verdict import Verdict, deviation
from tapml_nb.numerics import as_complex
from tapml_nb.report import Report
from tapml_nb.report.outcome import Outputs
from tapml_nb.targets.client.supervisor import State

Which = Literal["source", "target", "float64", "difference"]


@dataclass(frozen=True)
class SessionStatus:
    """What a session is doing, and what its target has cost so far.

    Attributes:
        state: of the target: ``"idle"`` (not started yet), ``"connected"``, ``"lost"`` (it comes
            back with the next call) or ``"closed"``.
        address: where the target is; empty before it was started.
        busy: whether a run goes on.
        waiting: whether the main thread waits for it (a notebook's cell, mostly).
        restarts: how often the target had to be brought back.
        kernels: different kernels among the operators seen.
        compiled: kernels compiled by this session.
        cache_hits: kernels taken from the cache on disk.
        sent_bytes: bytes sent to the target.
        outputs: whether the last hybrid run's outputs are within the end-to-end noise floor;
            None when there was none.
        known: what is known of the outputs as operators are placed now; None where the model has
            none.
    """

    state: State
    address: str
    busy: bool
    waiting: bool
    restarts: int
    kernels: int
    compiled: int
    cache_hits: int
    sent_bytes: int
    outputs: Verdict | None
    known: Outputs | None


def report(engine: Engine) -> Report:
    """Everything known now; coarse operators can be looked into as long as the engine lives.
    From any thread."""
    held = weakref.ref(engine)  # reports may outlive the engine

    def open_up(op: Selector) -> Report:
        engine = held()
        if engine is None:
            raise RuntimeError("the session of this report is gone; make a new one")
        engine.jobs.require_open()
        opened = report(engine.run(runs.drill, engine.the_operator(op, 0)))
        return replace(opened, info=replace(opened.info, known=None))  # nobody runs these alone

    return engine.report(open_up)


def status(engine: Engine) -> SessionStatus:
    """What is done now, and what it has cost.  From any thread."""
    return SessionStatus(
        state=engine.pool.first.state,
        address=engine.pool.first.address,
        busy=engine.jobs.busy,
        waiting=engine.jobs.awaited,
        restarts=engine.pool.restarts,
        kernels=engine.kernels.unique,
        compiled=engine.compiler.compiled,
        cache_hits=engine.compiler.cache_hits,
        sent_bytes=engine.pool.bytes_sent,
        outputs=engine.ledger.outputs,
        known=engine.known_outputs(),
    )


def tensor(engine: Engine, op: Op, which: Which, step: int, output: int) -> np.ndarray:
    """A tensor of an operator; see :meth:`Session.tensor <tapml_nb.session.Session.tensor>`."""
    engine.complete()
    parts = _parts(engine, op, which, step, output)
    is_complex = engine.graph.values[op.outputs[output]].spec.complex
    return as_complex(parts) if is_complex and parts.shape[-1:] == (2,) else parts


def _parts(engine: Engine, op: Op, which: Which, step: int, output: int) -> np.ndarray:
    """The same with complex numbers as real and imaginary parts."""
    source = engine.source.array(op.outputs[output], step)
    if which == "source":
        return source.copy()
    if which == "float64":
        return on_host(engine.references.local(op, step)[output].exact())
    engine.kernels.prepare([(op.id, step)], engine.jobs.stopping)
    target = engine.judges[0].target_outputs(op, step)[output]
    if which == "target":
        return target
    return target.astype(np.float64) - source.astype(np.float64)


def beyond(engine: Engine, op: Op, step: int, output: int) -> np.ndarray:
    """Which elements are beyond the limit; see :meth:`Session.beyond
    <tapml_nb.session.Session.beyond>`."""
    engine.complete()
    engine.kernels.prepare([(op.id, step)], engine.jobs.stopping)
    target = engine.judges[0].target_outputs(op, step)[output]
    reference = engine.references.local(op, step)[output].on_host()
    marks = on_host(deviation(target, reference, engine.settings.tolerance).beyond)
    if engine.graph.values[op.outputs[output]].spec.complex and marks.shape[-1:] == (2,):
        return np.asarray(np.any(marks, axis=-1))
    return np.asarray(marks, bool)


def check_tensor(op: Op, which: str, output: int) -> None:
    """Make sure that there is such a tensor.  From any thread.

    Raises:
        ValueError: if there is none.
    """
    if not 0 <= output < len(op.outputs):
        raise ValueError(f"output: {output}; {op.id} has {len(op.outputs)}")
    if which not in get_args(Which):
        raise ValueError(f"which: {which!r}; choose 'source', 'target', 'float64' or 'difference'")


def inputs(engine: Engine, op: Op, step: int) -> list[np.ndarray]:
    """The tensors that an operator reads."""
    known = [engine.graph.values[value].spec for value in engine.graph.tensor_inputs(op)]
    arrays = input_parts(engine, op, step)
    pairs = zip(arrays, known, strict=True)
    return [as_complex(array) if spec.complex else array for array, spec in pairs]


def input_parts(engine: Engine, op: Op, step: int) -> list[np.ndarray]:
    """The same as a kernel takes them: complex numbers as real and imaginary parts."""
    engine.complete()
    return [engine.source.array(v, step).copy() for v in engine.graph.tensor_inputs(op)]


def code(engine: Engine, op: Op, step: int) -> KernelCode:
    """An operator on its way to a kernel."""
    engine.complete()
    return engine.kernels.code(op.id, step)
