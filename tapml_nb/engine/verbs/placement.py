"""Where operators compute, and what computes them there.

All of this may be called from any thread; what takes compiling is done on the session's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapml_nb.engine.engine import Engine
from tapml_nb.execute.events import OverrideChanged, PlacementChanged
from tapml_nb.execute.hybrid import SOURCE, TARGET
from tapml_nb.execute.overrides import check_override
from tapml_nb.graph import OpId, Selector, SelectorError, select


def offload(engine: Engine, selector: Selector) -> list[OpId]:
    """See :meth:`Session.offload <tapml_nb.session.Session.offload>`."""
    engine.jobs.require_open()
    chosen = [op for op in select(engine.graph, selector) if not engine.graph[op].host]
    failures = _known_failures(engine, chosen)
    if failures is None:
        failures = engine.do(_failures, chosen)
    movable = [op for op in chosen if op not in failures]
    if not movable:
        why = next(iter(failures.values()), "it computes no tensor")
        raise SelectorError(f"nothing that {selector!r} names can run on the target: {why}")
    return place(engine, movable, TARGET)


def restore(engine: Engine, selector: Selector) -> list[OpId]:
    """See :meth:`Session.restore <tapml_nb.session.Session.restore>`."""
    engine.jobs.require_open()
    return place(engine, select(engine.graph, selector), SOURCE)


def place(engine: Engine, ops: Sequence[OpId], where: str) -> list[OpId]:
    """Place operators; returns those that are there now."""
    changed = engine.ledger.place(ops, where)
    if changed:
        engine.events.emit(PlacementChanged(tuple(changed), where))
    return [op for op in ops if engine.ledger.placement[op] == where]


def override(engine: Engine, selector: Selector, kernel: Any) -> None:
    """See :meth:`Session.override <tapml_nb.session.Session.override>`: what was known of the
    operator is not known any more."""
    chosen = [op for op in select(engine.graph, selector) if not engine.graph[op].host]
    if len(chosen) != 1:
        named = ", ".join(chosen[:3]) + ("…" if len(chosen) > 3 else "")
        raise SelectorError(f"op: {selector!r} names {len(chosen)} operators ({named}); name one")
    (op,) = chosen
    check_override(engine.graph, op, kernel)
    engine.jobs.require_idle()
    engine.kernels.overrides.put(op, kernel)
    engine.probes.clear()
    engine.ledger.forget(op)
    engine.events.emit(OverrideChanged(op, engine.kernels.overrides.words.get(op, "")))


def _failures(engine: Engine, ops: Sequence[OpId]) -> dict[OpId, str]:
    """Make kernels for operators; returns why some have none.  On the session's thread."""
    engine.prepare(ops)
    failures = _known_failures(engine, ops)
    assert failures is not None, "all were prepared"
    return failures


def _known_failures(engine: Engine, ops: Sequence[OpId]) -> dict[OpId, str] | None:
    """Why some operators have no kernel; None where that is not known of all yet."""
    failures: dict[OpId, str] = {}
    for op in ops:
        for step in engine.steps:
            implementation = engine.kernels.prepared(op, step)
            if implementation is None:
                return None
            if implementation.failure:
                failures[op] = implementation.failure.message
    return failures
