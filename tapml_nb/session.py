"""The session: one model, one target, and everything that is learned about the two.

All work is done by one thread that belongs to the session, one command at a time; what the user
calls only puts commands in its queue and waits, or does not.  Results are kept as they come, so
whatever ends a run early, nothing already known is lost.
"""

from __future__ import annotations

import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from tapml_nb.compile.cache import Failure
from tapml_nb.compile.compiler import Compiler
from tapml_nb.execute.device import Device
from tapml_nb.execute.events import (
    Callback,
    Event,
    EventStream,
    OpAccumulated,
    OpJudged,
    OpStarted,
    OverrideChanged,
    PlacementChanged,
    RunFinished,
    RunProgress,
    RunStarted,
    SessionClosed,
    TargetLost,
    TargetStarted,
)
from tapml_nb.execute.hybrid import SOURCE, TARGET, HybridRun
from tapml_nb.execute.kernels import KernelTable, check_override
from tapml_nb.execute.source import SourceRun, Stopped
from tapml_nb.frontends.program import Program
from tapml_nb.graph import Graph, Op, OpId, Selector, SelectorError, select
from tapml_nb.judge.accumulated import AccumulatedRun
from tapml_nb.judge.introduced import IntroducedRun
from tapml_nb.judge.references import References
from tapml_nb.judge.results import AccumulatedResult, OpResult
from tapml_nb.judge.verdict import LIMIT, SEVERITY, Verdict
from tapml_nb.migrate import Answer, Localization, Migration, Probes, localize, migrate
from tapml_nb.migrate.migration import Step, in_order
from tapml_nb.progress import ProgressLine
from tapml_nb.report import Report, RunInfo
from tapml_nb.targets.session import State, TargetEvent, TargetLostEvent, TargetSession
from tapml_nb.targets.spec import Target

if TYPE_CHECKING:
    import pandas as pd

    from tapml_nb.carve import Bundle
    from tapml_nb.compile.code import KernelCode
    from tapml_nb.widgets import Workbench
    from tapml_nb.widgets.feed import Feed

Criterion = Callable[[list[np.ndarray]], bool]
"""Whether a model's outputs (its tensors, in order) are right."""

Which = Literal["source", "target", "float64", "difference"]


_MOVABLE = (Verdict.PASS, Verdict.SKIPPED)
"""Verdicts with which an operator may be on the target."""


class SessionBusy(RuntimeError):
    """Something that needs the session for itself was asked for while a run goes on."""


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


class _Job:
    """A command on its way through the session's thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class Session:
    """Debugs one model on one target.  Made by :func:`tapml_nb.debug`; a context manager.

    Attributes:
        graph: the model's operators (:class:`~tapml_nb.graph.Graph`).
        placement: ``"source"`` or ``"target"`` by operator; change it with :meth:`offload` and
            :meth:`restore`.
    """

    def __init__(
        self,
        program: Program,
        target: Target,
        compiler: Compiler,
        *,
        tolerance: float = LIMIT,
    ) -> None:
        self.graph: Graph = program.graph
        self.placement: dict[OpId, str] = dict.fromkeys((op.id for op in self.graph.ops), SOURCE)
        self._program = program
        self._spec = target
        self._events = EventStream()
        self._target = TargetSession(target, on_event=_relay_to(self._events))
        self._compiler = compiler
        self._source = SourceRun(program, self._events)
        self._kernels = KernelTable(self._source, compiler, self._target, self._events)
        self._references = References(self._source)
        device = Device(self._target)
        self._introduced_run = IntroducedRun(
            self._source, self._kernels, device, self._references, tolerance
        )
        self._probes: dict[Criterion | None, Probes] = {}
        self._hybrid_run = HybridRun(self._source, self._kernels, device, self._events)
        self._accumulated_run = AccumulatedRun(
            self._source, self._hybrid_run, self._references, tolerance
        )
        self._introduced: dict[tuple[OpId, int], OpResult] = {}
        self._accumulated: dict[tuple[OpId, int], AccumulatedResult] = {}
        self._info = RunInfo(target=target.kind, tolerance=tolerance)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._current: _Job | None = None
        self._waiting = False
        self._feed: Feed | None = None
        self._workbench: Workbench | None = None
        self._stopping = threading.Event()
        self._closed = False
        self._thread = threading.Thread(
            target=_serve, args=(self._jobs,), name="tapml-session", daemon=True
        )
        self._thread.start()
        self._finalizer = weakref.finalize(
            self, _release, self._jobs, self._target, compiler, self._kernels
        )

    # -- runs ------------------------------------------------------------------------------------

    def run(self, ops: Selector | None = None, *, wait: bool = True) -> Report:
        """Judge operators on the target, each on the source's own inputs.

        Args:
            ops: which (see :mod:`tapml_nb.graph.select`); default all.
            wait: show progress and return when done; else return at once with the report as it
                is now, while the run goes on (see :meth:`wait`, :meth:`stop`, :meth:`on`).

        Returns:
            The report.  Ctrl-C stops the run and raises; :attr:`report` keeps what was judged.

        Raises:
            SelectorError: if ``ops`` names no operator.
            RuntimeError: if the session is busy or closed.
        """
        chosen = select(self.graph, ops)
        self._submit(lambda: self._judge_all(chosen))
        return self.wait() if wait else self.report

    def hybrid(self, *, wait: bool = True) -> Report:
        """Run the model once with today's placement and judge every value it changes.

        Only what depends on a changed placement is computed.  The report's ``acc_`` columns and
        ``report.info.outputs`` say how far the result is from the pure source run.

        Args:
            wait: as for :meth:`run`.
        """
        self._submit(self._run_hybrid)
        return self.wait() if wait else self.report

    def wait(self, *, progress: bool = True) -> Report:
        """Wait for the run that is going on; return the report.

        Args:
            progress: show how far it is (in the main thread alone).

        Raises:
            KeyboardInterrupt: on Ctrl-C, after the run has been stopped.
            Exception: whatever ended the run.
        """
        if self._current is not None:
            self._result_of(self._current, progress)
        return self.report

    def stop(self) -> None:
        """Stop the run that is going on; what was judged is kept.  Returns when it has ended.

        The operator at work may finish within half a second; after that its call is broken off.
        """
        job = self._current
        if job is None or job.done.is_set():
            return
        self._stopping.set()
        if threading.current_thread() is self._thread:
            return  # a callback asks: the run ends after this operator
        while not job.done.wait(0.5):
            self._target.interrupt()

    # -- placement ---------------------------------------------------------------------------------

    def offload(self, selector: Selector) -> list[OpId]:
        """Place operators on the target for the next :meth:`hybrid` run.

        Operators without a kernel there (see ``report.missing``), and those that compute no
        tensor, stay on the source.

        Returns:
            The operators that are now on the target.

        Raises:
            SelectorError: if the selector names no operator, or none that can be moved.
        """
        chosen = [op for op in select(self.graph, selector) if not self.graph[op].host]
        failures = self._known_failures(chosen)
        if failures is None:
            failures = self._await(lambda: self._prepare(chosen))
        movable = [op for op in chosen if op not in failures]
        if not movable:
            why = next(iter(failures.values()), "it computes no tensor")
            raise SelectorError(f"nothing that {selector!r} names can run on the target: {why}")
        return self._place(movable, TARGET)

    def restore(self, selector: Selector) -> list[OpId]:
        """Place operators on the source again; returns them.

        Raises:
            SelectorError: if the selector names no operator.
        """
        return self._place(select(self.graph, selector), SOURCE)

    def migrate(self, order: str = "topological", ops: Selector | None = None) -> Migration:
        """Offload gradually, as far as the model's output stays within its noise floor.

        Operators that were not judged yet are judged first; those that do not pass are
        quarantined at once.  The others move in batches, each checked by a hybrid run; one that
        breaks the model goes back and the migration goes on.  Afterwards they are on the target.

        Args:
            order: ``"topological"``, ``"kind"``, ``"scope"``, ``"cheapest"`` (least time on the
                source first) or ``"riskiest_last"`` (smallest ratio first).
            ops: which operators may move; default all.

        Returns:
            The widest safe placement, the timeline, and what remains to fix.  Ctrl-C or
            :meth:`stop` end it early, with what was safe until then.

        Raises:
            SelectorError, ValueError: if ``ops`` or ``order`` names nothing.
            SessionBusy: if a run goes on.
        """
        chosen = select(self.graph, ops)
        in_order(order, (), {})
        job = self._submit(lambda: self._migrate(order, chosen))
        return cast(Migration, self._result_of(job))

    def localize(
        self, criterion: Criterion | None = None, ops: Selector | None = None
    ) -> Localization:
        """Find which operators, alone or together, break the model's output on the target.

        Args:
            criterion: says of the model's output tensors whether they are right; default: all
                are within the end-to-end noise floor.  Asked once per step.
            ops: which operators to put on the target; default those that are there now, or, if
                there are none, every one that has a kernel.

        Returns:
            The culprits and the hybrid runs it took; empty if nothing breaks.  What was asked
            already is remembered, so a search that was stopped goes on where it was.

        Raises:
            SelectorError: if ``ops`` names no operator.
            SessionBusy: if a run goes on.
        """
        chosen = [op for op, where in self.placement.items() if where == TARGET]
        if ops is not None or not chosen:
            chosen = select(self.graph, ops)
        job = self._submit(lambda: self._localize(criterion, chosen))
        return cast(Localization, self._result_of(job))

    def override(self, op: Selector, kernel: Any) -> None:
        """Put a kernel of your own in an operator's place, on the target.

        Args:
            op: the operator, or a selector that names exactly one.
            kernel: a ``tvm.tirx.PrimFunc`` in destination-passing style whose buffers are the
                operator's inputs and then its outputs (``graph[op].inputs``, ``.outputs``); or a
                function of NumPy arrays that returns an array or a tuple of them (it runs in
                this process, and results say so); or None to take an override back.

        Raises:
            SelectorError: if ``op`` does not name exactly one operator.
            TypeError, ValueError: if the kernel cannot stand in its place.
        """
        chosen = [o for o in select(self.graph, op) if not self.graph[o].host]
        if len(chosen) != 1:
            named = ", ".join(chosen[:3]) + ("…" if len(chosen) > 3 else "")
            raise SelectorError(f"op: {op!r} names {len(chosen)} operators ({named}); name one")
        check_override(self.graph, chosen[0], kernel)
        self._require_idle()
        self._kernels.override(chosen[0], kernel)
        self._probes.clear()
        for step in range(self._program.steps):
            self._introduced.pop((chosen[0], step), None)
        self._events.emit(OverrideChanged(chosen[0], self.overrides.get(chosen[0], "")))

    # -- results -----------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """Everything known now, frozen."""
        return Report(
            graph=self.graph,
            steps=self._program.steps,
            introduced=dict(self._introduced),
            accumulated=dict(self._accumulated),
            placement=dict(self.placement),
            info=replace(
                self._info,
                kernels=self._kernels.unique,
                compiled=self._compiler.compiled,
                sent_bytes=self._target.bytes_sent,
                restarts=self._target.restarts,
            ),
        )

    @property
    def status(self) -> SessionStatus:
        """What the session is doing now."""
        return SessionStatus(
            state=self._target.state,
            address=self._target.address,
            busy=self._busy,
            waiting=self._waiting,
            restarts=self._target.restarts,
            kernels=self._kernels.unique,
            compiled=self._compiler.compiled,
            cache_hits=self._compiler.cache_hits,
            sent_bytes=self._target.bytes_sent,
            outputs=self._info.outputs,
        )

    @property
    def steps(self) -> int:
        """How many steps of inputs there are."""
        return self._program.steps

    @property
    def overrides(self) -> dict[OpId, str]:
        """What the user put in operators' places, in words."""
        return self._kernels.overrides

    @property
    def ops(self) -> pd.DataFrame:
        """Every operator: ``op, kind, scope, layer, inputs, outputs, kernel, placement, file,
        line``; ``kernel`` is empty until it is compiled."""
        frame = self.graph.frame()
        labels = self._kernels.labels()
        frame.insert(6, "kernel", [labels.get(op) for op in frame["op"]])
        frame.insert(7, "placement", [self.placement[op] for op in frame["op"]])
        return frame

    def tensor(
        self, op: Selector, which: Which = "source", step: int = 0, output: int = 0
    ) -> np.ndarray:
        """A tensor of an operator.

        Args:
            op: the operator, or a selector that names exactly one.
            which: ``"source"``: what the source computed.  ``"target"``: what its kernel gives
                on the source's inputs (run again and fetched).  ``"float64"``: the exact result.
                ``"difference"``: target minus source, in float64.
            step: which step.
            output: which output.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing.
            RuntimeError: if the operator has no kernel, or it gives no result.
        """
        operator = self._one(op, step)
        if not 0 <= output < len(operator.outputs):
            raise ValueError(f"output: {output}; {operator.id} has {len(operator.outputs)}")
        if which not in ("source", "target", "float64", "difference"):
            raise ValueError(
                f"which: {which!r}; choose 'source', 'target', 'float64' or 'difference'"
            )
        result: np.ndarray = self._await(lambda: self._tensor(operator, which, step, output))
        return result

    def inputs(self, op: Selector, step: int = 0) -> list[np.ndarray]:
        """The tensors an operator reads, as the source computed them (``graph[op].inputs``).

        Args:
            op: the operator, or a selector that names exactly one.
            step: which step.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing.
        """
        operator = self._one(op, step)
        result: list[np.ndarray] = self._await(lambda: self._inputs(operator, step))
        return result

    def code(self, op: Selector, step: int = 0) -> KernelCode:
        """What an operator looks like on its way to a kernel: Relax, TIR, generated source.

        Made on demand, and kept; for kernels that cannot be compiled as far as they came.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing.
        """
        operator = self._one(op, step)
        result: KernelCode = self._await(lambda: self._code(operator, step))
        return result

    def carve(self, path: str | Path, ops: Selector | None = None) -> Bundle:
        """Write operators with their real inputs and outputs as one replayable file.

        Args:
            path: the bundle to write, by custom ``*.tapml``.
            ops: which operators; default every one that was judged.

        Raises:
            SelectorError: if ``ops`` names no operator.
            ValueError: if the file cannot be written, or nothing was judged yet.
        """
        from tapml_nb.carve import writer

        chosen = select(self.graph, ops)
        if ops is None:
            chosen = [op for op in chosen if (op, 0) in self._introduced]
            if not chosen:
                raise ValueError("ops: nothing was judged yet; call run() first or name operators")
        writer.check_writable(Path(path))
        bundle: Bundle = self._await(lambda: self._carve(Path(path), chosen))
        return bundle

    def on(self, event: type[Event] | str, callback: Callback) -> Callable[[], None]:
        """Call back on events of a type or name (see :mod:`tapml_nb.execute.events`).

        Callbacks run on the session's thread and must be quick.  Returns a function that ends
        the subscription.
        """
        return self._events.on(event, callback)

    # -- life --------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the target is, once it runs."""
        return self._target.address

    @property
    def widget(self) -> Workbench:
        """The session's workbench: graph, placement, live divergence, heatmaps, inspector.

        A session that is the last line of a cell shows it, with a static picture beside it for
        when the kernel is gone.
        """
        if self._workbench is None:
            from tapml_nb.widgets import Workbench

            self._workbench = Workbench(self)
        return self._workbench

    def close(self) -> None:
        """Stop what is going on and end the target, the compiler and all threads.  Idempotent.

        Results stay readable.
        """
        if self._closed:
            return
        self._closed = True
        self.stop()
        self._finalizer()
        self._thread.join(5)
        self._events.emit(SessionClosed())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "busy" if self._busy else "idle"
        return (
            f"<Session of {self.graph.name} on {self._spec.kind}: {len(self.graph)} operators, "
            f"{state}>"
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.report._repr_mimebundle_()

    def _ipython_display_(self) -> None:
        from tapml_nb.widgets import show

        show(self)

    # -- the session's thread ----------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return self._current is not None and not self._current.done.is_set()

    def _require_idle(self) -> None:
        if self._closed:
            raise RuntimeError("the session is closed; make a new one with tapml_nb.debug")
        if self._busy:
            raise SessionBusy("a run is going on; call session.wait() or session.stop() first")

    def _submit(self, work: Callable[[], Any]) -> _Job:
        self._require_idle()
        self._stopping.clear()
        self._current = job = _Job(work)
        self._jobs.put(job)
        return job

    def _await(self, work: Callable[[], Any]) -> Any:
        """Have the session's thread do something: at once, or between two operators of a run."""
        if self._closed:
            self._require_idle()
        if threading.current_thread() is self._thread:
            return work()  # a callback asks
        if self._busy:
            job = _Job(work)
            self._jobs.put(job)
        else:
            job = self._submit(work)
        self._wait_for(job, lambda: None, stop=job is self._current)
        if isinstance(job.error, Stopped):
            raise RuntimeError("stopped before it was done")
        if job.error is not None:
            raise job.error
        return job.result

    def _result_of(self, job: _Job, progress: bool = True) -> Any:
        """Wait for a run's end; its result, or what ended it."""
        # Only there can an interrupt of the kernel reach who waits.
        self._waiting = threading.current_thread() is threading.main_thread()
        try:
            if progress and self._waiting:
                with ProgressLine(self._events) as line:
                    self._wait_for(job, line.draw, stop=True)
            else:
                self._wait_for(job, lambda: None, stop=True)
        finally:
            self._waiting = False
        if job.error is not None:
            raise job.error
        return job.result

    def _wait_for(self, job: _Job, tick: Callable[[], None], *, stop: bool) -> None:
        try:
            # A loop of short waits: an interrupted Thread.join lies on Python 3.11.
            while not job.done.wait(0.05):
                tick()
        except KeyboardInterrupt:
            if stop:
                self.stop()
            raise

    def _one(self, op: Selector, step: int) -> Op:
        """The one operator that computes tensors and that a selector names.

        Raises:
            SelectorError, ValueError: if there is no such operator, or no such step.
        """
        chosen = [o for o in select(self.graph, op) if not self.graph[o].host]
        if len(chosen) != 1:
            raise SelectorError(f"op: {op!r} names {len(chosen)} operators; name one")
        if not 0 <= step < self._program.steps:
            raise ValueError(f"step: {step}; this session has {self._program.steps} steps")
        return self.graph[chosen[0]]

    # -- work, on the session's thread -----------------------------------------------------------

    def _judge_all(self, ops: Sequence[OpId]) -> None:
        calls = [(op, step) for step in range(self._program.steps) for op in ops]
        with self._running("introduced", len(calls)):
            self._source.complete(self._stopping.is_set)
            self._kernels.prepare(calls, self._stopping.is_set)
            with self._references.ahead(calls):
                self._judge_calls(calls)

    def _judge_calls(self, calls: Sequence[tuple[OpId, int]]) -> None:
        self._introduced_run.begin()
        for done, (op, step) in enumerate(calls, 1):
            self._between_operators()
            self._events.emit(OpStarted("introduced", op, step, TARGET))
            result = self._introduced_run.judge(self.graph[op], step)
            self._introduced[op, step] = result
            self._events.emit(OpJudged(op, step, result))
            self._events.emit(RunProgress("introduced", done, len(calls)))

    def _between_operators(self) -> None:
        """Do what was asked for meanwhile; a tensor to look at must not wait for a run's end.

        Raises:
            Stopped: if the run is to end.
        """
        while not self._stopping.is_set():
            try:
                aside = self._jobs.get_nowait()
            except queue.Empty:
                return
            if aside is None:  # the end of the session, for its thread to see
                self._jobs.put(None)
                break
            _do(aside)
        raise Stopped

    def _run_hybrid(self) -> None:
        placement = dict(self.placement)
        moved = [op for op, where in placement.items() if where == TARGET]
        steps = range(self._program.steps)
        total = len(self.graph) * len(steps)
        with self._running("hybrid", total):
            self._source.complete(self._stopping.is_set)
            self._kernels.prepare([(op, s) for s in steps for op in moved], self._stopping.is_set)
            outputs = Verdict.PASS
            done = 0
            for step in steps:
                for computed in self._hybrid_run.run(placement, step, self._stopping.is_set):
                    self._between_operators()
                    done += 1
                    result = self._accumulated_run.judge(computed, step)
                    self._accumulated[result.op, step] = result
                    self._events.emit(OpAccumulated(result.op, step, result))
                    self._events.emit(RunProgress("hybrid", done, total))
                verdict = self._accumulated_run.judge_outputs(step)
                outputs = verdict if verdict is not Verdict.PASS else outputs
            self._info = replace(self._info, outputs=outputs)

    def _migrate(self, order: str, ops: Sequence[OpId]) -> Migration:
        judged = self._judged(ops)
        if judged is None:
            return Migration(self.graph, [], {}, [], {}, stopped=True)
        results, quarantined = judged
        tensors = [self.graph[op] for op in ops if not self.graph[op].host]
        passing = [op for op in tensors if results[op.id].verdict in _MOVABLE]
        moving = in_order(order, passing, results)
        moved: list[OpId] = []
        steps: list[Step] = []

        def on_step(step: Step, safe: Sequence[OpId]) -> None:
            moved[:] = safe
            steps.append(step)
            tried = sum(s.tried for s in steps if s.ok or s.tried == 1)
            self._events.emit(RunProgress("migrate", min(tried, len(moving)), len(moving)))

        probes = self._probes_for(None)
        with self._running("migration", len(moving)) as running:
            quarantined |= migrate(moving, probes, on_step).quarantined
        self._place([op for op in self.placement if self.placement[op] == TARGET], SOURCE)
        offloaded = self._place([op.id for op in self.graph.ops if op.id in set(moved)], TARGET)
        if not running.stopped:
            self._run_hybrid()  # everything a report says is of this placement
        labels = self._kernels.labels()
        kernels = {op: labels[op] for op in quarantined if op in labels}
        return Migration(
            self.graph, offloaded, quarantined, steps, kernels, stopped=running.stopped
        )

    def _localize(self, criterion: Criterion | None, ops: Sequence[OpId]) -> Localization:
        judged = self._judged(ops)
        if judged is None:
            return Localization([], 0, [], stopped=True)
        results, _ = judged
        there = [op for op in ops if not isinstance(self._kernels.prepared(op, 0), Failure)]
        there = [op for op in there if not self.graph[op].host]
        suspects = [op for op in there if results[op].verdict not in _MOVABLE]
        suspects.sort(key=lambda op: -results[op].ratio if results[op].ratio > 0 else 0.0)
        probes = self._probes_for(criterion)
        before = len(probes.journal)
        bound = 4 * math.ceil(math.log2(len(there) + 1)) + 10  # where two break it together
        probes.on_run = lambda runs: self._events.emit(
            RunProgress("localize", runs - before, max(runs - before, bound))
        )
        culprits: list[frozenset[OpId]] = []
        with self._running("localization", len(there)) as running:
            culprits = localize(there, suspects, probes)
        made = probes.journal[before:]
        return Localization(culprits, len(made), made, stopped=running.stopped)

    def _judged(self, ops: Sequence[OpId]) -> tuple[dict[OpId, OpResult], dict[OpId, str]] | None:
        """The worst result of every operator, judging what was not; and why some do not pass.

        None if that was stopped.
        """
        steps = range(self._program.steps)
        missing = [op for op in ops if any((op, s) not in self._introduced for s in steps)]
        if missing:
            self._judge_all(missing)
            if self._info.stopped:
                return None
        worst: dict[OpId, OpResult] = {}
        for op in ops:
            found = [self._introduced[op, step] for step in steps]
            worst[op] = min(found, key=lambda r: SEVERITY.index(r.verdict))
        failing = {
            op: f"{result.verdict}: {result.message}"
            for op, result in worst.items()
            if result.verdict not in _MOVABLE and not self.graph[op].host
        }
        return worst, failing

    def _probes_for(self, criterion: Criterion | None) -> Probes:
        """The probes of a criterion; kept until a kernel changes."""
        if criterion not in self._probes:
            self._probes[criterion] = Probes(lambda ops: self._probe(ops, criterion))
        return self._probes[criterion]

    def _probe(self, ops: frozenset[OpId], criterion: Criterion | None) -> Answer:
        """Run the model with these operators on the target, and look at its outputs."""
        placement = {op.id: TARGET if op.id in ops else SOURCE for op in self.graph.ops}
        accidents: dict[OpId, str] = {}
        right = True
        for step in range(self._program.steps):
            for computed in self._hybrid_run.run(placement, step, self._stopping.is_set):
                self._between_operators()
                if computed.accident:
                    accidents[computed.op.id] = computed.accident
            if criterion is None:
                right &= self._accumulated_run.judge_outputs(step) is Verdict.PASS
            else:
                outputs = [v for v in self.graph.outputs if not self.graph.values[v].host]
                right &= bool(criterion([self._hybrid_run.array(v, step) for v in outputs]))
        return Answer(right, accidents)

    def _running(self, run: str, total: int) -> _Running:
        return _Running(self, run, total)

    def _prepare(self, ops: Sequence[OpId]) -> dict[OpId, str]:
        """Make kernels for operators; returns why some have none."""
        self._source.complete(self._stopping.is_set)
        steps = range(self._program.steps)
        self._kernels.prepare([(op, s) for s in steps for op in ops], self._stopping.is_set)
        failures: dict[OpId, str] = {}
        for op in ops:
            for step in steps:
                implementation = self._kernels[op, step]
                if isinstance(implementation, Failure):
                    failures[op] = implementation.message
        return failures

    def _known_failures(self, ops: Sequence[OpId]) -> dict[OpId, str] | None:
        """What :meth:`_prepare` would answer, where that is known already."""
        failures: dict[OpId, str] = {}
        for op in ops:
            for step in range(self._program.steps):
                implementation = self._kernels.prepared(op, step)
                if implementation is None:
                    return None
                if isinstance(implementation, Failure):
                    failures[op] = implementation.message
        return failures

    def _place(self, ops: Sequence[OpId], where: str) -> list[OpId]:
        if self._closed:
            self._require_idle()
        changed = [op for op in ops if self.placement[op] != where]
        self.placement.update(dict.fromkeys(changed, where))
        if changed:
            self._events.emit(PlacementChanged(tuple(changed), where))
        return [op for op in ops if self.placement[op] == where]

    def _tensor(self, op: Any, which: Which, step: int, output: int) -> np.ndarray:
        self._source.complete(self._stopping.is_set)
        source = self._source.array(op.outputs[output], step)
        if which == "source":
            return source.copy()
        if which == "float64":
            return self._references.local(op, step)[output].exact()
        self._kernels.prepare([(op.id, step)], self._stopping.is_set)
        target = self._introduced_run.target_outputs(op, step)[output]
        if which == "target":
            return target
        return target.astype(np.float64) - source.astype(np.float64)

    def _inputs(self, op: Op, step: int) -> list[np.ndarray]:
        self._source.complete(self._stopping.is_set)
        values = [v for v in op.inputs if not self.graph.values[v].host]
        return [self._source.array(v, step).copy() for v in values]

    def _code(self, op: Op, step: int) -> KernelCode:
        self._source.complete(self._stopping.is_set)
        return self._kernels.code(op.id, step)

    def _carve(self, path: Path, ops: Sequence[OpId]) -> Bundle:
        from tapml_nb.carve import writer

        self._source.complete(self._stopping.is_set)
        steps = range(self._program.steps)
        self._kernels.prepare([(op, s) for s in steps for op in ops], self._stopping.is_set)
        return writer.write(
            path, self._source, self._kernels, self._references, self._introduced, ops
        )


class _Running:
    """Brackets a run with its events, its time, and the memory of whether it was stopped."""

    def __init__(self, session: Session, run: str, total: int) -> None:
        self._session, self._run, self._total = session, run, total
        self.stopped = False

    def __enter__(self) -> Self:
        self._begin = time.perf_counter()
        self._session._events.emit(RunStarted(self._run, self._total))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        session = self._session
        self.stopped = stopped = isinstance(error, Stopped)
        seconds = time.perf_counter() - self._begin
        session._info = replace(session._info, seconds=seconds, stopped=stopped)
        session._events.emit(RunFinished(self._run, stopped or error is not None))
        return stopped


def _relay_to(events: EventStream) -> Callable[[TargetEvent], None]:
    """Target news into a session's event stream (a function that does not hold the session)."""
    starts = 0

    def relay(news: TargetEvent) -> None:
        nonlocal starts
        if isinstance(news, TargetLostEvent):
            events.emit(TargetLost(news.reason, news.detail))
        else:
            events.emit(TargetStarted(news.address, news.pid, restarts=starts))
            starts += 1

    return relay


def _serve(jobs: queue.SimpleQueue[_Job | None]) -> None:
    """The session's thread.  It holds no reference to the session, so that one can be freed."""
    while (job := jobs.get()) is not None:
        _do(job)
        del job


def _do(job: _Job) -> None:
    try:
        job.result = job.work()
    except BaseException as error:
        job.error = error
    finally:
        job.done.set()


def _release(
    jobs: queue.SimpleQueue[_Job | None],
    target: TargetSession,
    compiler: Compiler,
    kernels: KernelTable,
) -> None:
    jobs.put(None)
    target.close()
    compiler.close()
    kernels.close()
