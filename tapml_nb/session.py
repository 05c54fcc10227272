"""The session: one model, one target, and everything that is learned about the two.

All work is done by one thread that belongs to the session, one command at a time; what the user
calls only puts commands in its queue and waits, or does not.  Results are kept as they come, so
whatever ends a run early, nothing already known is lost.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.toolchain import machine_of
from tapml_nb.engine.jobs import Job, JobThread, SessionBusy, in_main_thread
from tapml_nb.engine.runs import Criterion, Runs, Which
from tapml_nb.execute.events import Callback, Event, EventStream, SessionClosed
from tapml_nb.execute.hybrid import SOURCE, TARGET
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.overrides import check_override
from tapml_nb.execute.storage import Storage
from tapml_nb.frontends.program import Program
from tapml_nb.graph import Graph, Op, OpId, Selector, SelectorError, select
from tapml_nb.judge.agreement import logits
from tapml_nb.judge.verdict import LIMIT, Verdict
from tapml_nb.jupyter.progress import ProgressLine, in_notebook
from tapml_nb.migrate import Localization, Migration
from tapml_nb.migrate.migration import in_order
from tapml_nb.owner import finalize
from tapml_nb.report import Report, RunInfo
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.client.supervisor import State
from tapml_nb.targets.spec import CPU_KINDS, Target
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd

    from tapml_nb.carve import Bundle
    from tapml_nb.compile.code import KernelCode
    from tapml_nb.widgets import Workbench
    from tapml_nb.widgets.feed import Feed

__all__ = ["Criterion", "Session", "SessionBusy", "SessionStatus", "Which"]


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


class Session:
    """Debugs one model on one target.  Made by :func:`tapml_nb.debug`; a context manager.

    Attributes:
        graph: the model's operators (:class:`~tapml_nb.graph.Graph`).
    """

    def __init__(
        self,
        program: Program,
        target: Target,
        compiler: Compiler,
        *,
        tolerance: float = LIMIT,
        workarounds: Sequence[str] = (),
        max_memory: int | None = None,
    ) -> None:
        """``max_memory`` is in bytes."""
        self.graph: Graph = program.graph
        self._program = program
        self._spec = target
        self._events = EventStream()
        on_cpu = target.kind in CPU_KINDS
        self._target, *self._others = [
            TargetSession(
                member,
                machine=machine_of(compiler.target) if on_cpu else "",
                on_event=self._events.emit,
            )
            for member in target.members
        ]
        self._compiler = compiler
        self._thread = JobThread(_breaker_of(self._sessions, compiler))
        guarded = " (guarded)" if target.guard else ""
        info = RunInfo(
            target=target.kind + guarded, tolerance=tolerance, workarounds=tuple(workarounds)
        )
        storage = Storage(max_memory)
        self._runs = Runs(
            program, self._target, compiler, self._events, self._thread, info, self._others, storage
        )
        self._feed: Feed | None = None
        self._workbench: Workbench | None = None
        self._finalizer = finalize(
            self, _release, [self._target, *self._others], compiler, self._runs.tables, storage
        )

    @property
    def placement(self) -> dict[OpId, str]:
        """``"source"`` or ``"target"`` by operator; change it with :meth:`offload` and
        :meth:`restore`."""
        return self._runs.placement

    # -- runs ------------------------------------------------------------------------------------

    def run(
        self, ops: Selector | None = None, *, augment: bool = False, wait: bool = True
    ) -> Report:
        """Judge operators on the target, each on the source's own inputs.

        Args:
            ops: which (see :mod:`tapml_nb.graph.select`); default all.
            augment: also try each kernel that passes on inputs derived from the real ones: the
                largest and smallest magnitudes of the model, negated and reversed values, exact
                ties, equal rows, zeros, and sizes one off.  ``report.augmented`` has the results,
                apart from the real ones; where the source itself cannot compute an operator, or
                not without overflow, it is not tried.
            wait: show progress and return when done; else return at once with the report as it
                is now, while the run goes on (see :meth:`wait`, :meth:`stop`, :meth:`on`).

        Returns:
            The report.  Ctrl-C stops the run and raises; :attr:`report` keeps what was judged.

        Raises:
            SelectorError: if ``ops`` names no operator.
            ModelChanged: if a weight or an input is not what it was in the session's first run;
                so do all methods that look at tensors.
            RuntimeError: if the session is busy or closed.
            CompilerTrouble: if what keeps the compiler from its work is no kernel's fault.
        """
        chosen = select(self.graph, ops)
        self._thread.start(lambda: self._runs.judge_all(chosen, augment=augment))
        return self.wait() if wait else self.report

    def hybrid(self, *, wait: bool = True) -> Report:
        """Run the model once with today's placement and judge every value it changes.

        Only what depends on a changed placement is computed.  The report's ``acc_`` columns and
        ``report.info.outputs`` say how far the result is from the pure source run.

        Args:
            wait: as for :meth:`run`.
        """
        self._thread.start(self._runs.run_hybrid)
        return self.wait() if wait else self.report

    def wait(self, *, progress: bool = True) -> Report:
        """Wait for the run that is going on; return the report.

        Args:
            progress: show how far it is (in the main thread alone).

        Raises:
            KeyboardInterrupt: on Ctrl-C, after the run has been stopped.
            Exception: whatever ended the run.
        """
        if self._thread.run is not None:
            self._result_of(self._thread.run, progress)
        return self.report

    def stop(self) -> None:
        """Stop the run that is going on; what was judged is kept.  Returns when it has ended.

        The operator at work may finish within half a second; after that its call is broken off.
        What is in C code of this process that does not return cannot be; it is left alone after
        some seconds, with a warning, and the session is of use again when it returns.
        """
        self._thread.stop()

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
        self._thread.require_open()
        chosen = [op for op in select(self.graph, selector) if not self.graph[op].host]
        failures = self._runs.known_failures(chosen)
        if failures is None:
            failures = self._thread.do(lambda: self._runs.prepare(chosen))
        movable = [op for op in chosen if op not in failures]
        if not movable:
            why = next(iter(failures.values()), "it computes no tensor")
            raise SelectorError(f"nothing that {selector!r} names can run on the target: {why}")
        return self._runs.place(movable, TARGET)

    def restore(self, selector: Selector) -> list[OpId]:
        """Place operators on the source again; returns them.

        Raises:
            SelectorError: if the selector names no operator.
        """
        self._thread.require_open()
        return self._runs.place(select(self.graph, selector), SOURCE)

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
        job = self._thread.start(lambda: self._runs.migrate(order, chosen))
        return cast(Migration, self._result_of(job))

    def localize(
        self, criterion: Criterion | None = None, ops: Selector | None = None
    ) -> Localization:
        """Find which operators, alone or together, break the model's output on the target.

        Args:
            criterion: what tells whether the model is right.  A function of its output tensors
                (NumPy arrays in order) that returns a bool, asked once per step; or ``"floor"``
                (default): all outputs are within the end-to-end noise floor; or, for language
                models, ``"top1"``: the same token is the likeliest at every position, or
                ``"kl"``: the mean divergence of the logits is at most 0.001 nats.
            ops: which operators to put on the target; default those that are there now, or, if
                there are none, every one that has a kernel.

        Returns:
            The culprits and the hybrid runs it took; empty if nothing breaks.  What was asked
            already is remembered, so a search that was stopped goes on where it was.

        Raises:
            SelectorError: if ``ops`` names no operator.
            ValueError: if there is no such criterion, or the model has no logits.
            SessionBusy: if a run goes on.
        """
        criterion = self._criterion(criterion)
        chosen = [op for op, where in self.placement.items() if where == TARGET]
        if ops is not None or not chosen:
            chosen = select(self.graph, ops)
        job = self._thread.start(lambda: self._runs.localize(criterion, chosen))
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
        self._thread.require_idle()
        self._runs.override(chosen[0], kernel)

    # -- results -----------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """Everything known now, frozen."""
        return self._report_of(self._runs)

    @property
    def status(self) -> SessionStatus:
        """What the session is doing now."""
        return SessionStatus(
            state=self._target.state,
            address=self._target.address,
            busy=self._thread.busy,
            waiting=self._thread.awaited,
            restarts=sum(session.restarts for session in self._sessions),
            kernels=self._runs.kernels.unique,
            compiled=self._compiler.compiled,
            cache_hits=self._compiler.cache_hits,
            sent_bytes=sum(session.bytes_sent for session in self._sessions),
            outputs=self._runs.info.outputs,
        )

    @property
    def steps(self) -> int:
        """How many steps of inputs there are."""
        return self._program.steps

    @property
    def overrides(self) -> dict[OpId, str]:
        """What the user put in operators' places, in words."""
        return self._runs.kernels.overrides

    @property
    def ops(self) -> pd.DataFrame:
        """Every operator: ``op, kind, scope, layer, inputs, outputs, kernel, placement, file,
        line``; ``kernel`` is empty until it is compiled."""
        frame = self.graph.frame()
        labels = self._runs.kernels.labels()
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
        result: np.ndarray = self._thread.do(
            lambda: self._runs.tensor(operator, which, step, output)
        )
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
        result: list[np.ndarray] = self._thread.do(lambda: self._runs.inputs(operator, step))
        return result

    def code(self, op: Selector, step: int = 0) -> KernelCode:
        """What an operator looks like on its way to a kernel: Relax, TIR, generated source.

        Made on demand, and kept; for kernels that cannot be compiled as far as they came.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing.
        """
        operator = self._one(op, step)
        result: KernelCode = self._thread.do(lambda: self._runs.code(operator, step))
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
            chosen = [op for op in chosen if (op, 0) in self._runs.introduced]
            if not chosen:
                raise ValueError("ops: nothing was judged yet; call run() first or name operators")
        writer.check_writable(Path(path))
        bundle: Bundle = self._thread.do(lambda: self._runs.carve(Path(path), chosen))
        return bundle

    def repro(self, op: Selector, path: str | Path, step: int = 0) -> Path:
        """Write an operator that fails as one Python file that needs only TVM and NumPy.

        It holds the operator in Relax, its real inputs and the source's outputs, compiles and
        runs it as TVM deploys it, and prints where it differs.  Its exit status is 1 if it
        differs, 0 if not, 2 if it could not be run.  Large tensors are in a ``.npz`` beside it.

        Args:
            op: the operator, or a selector that names exactly one.
            path: the file to write, by custom ``*.py``.
            step: which step.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing, the operator does
                not fail, or TVM's package cannot run what the target's kind needs.
        """
        from tapml_nb.carve import repro, writer

        operator = self._one(op, step)
        path = Path(path)
        repro.check(self.report, operator, step, self._spec.kind, operator.id in self.overrides)
        writer.check_writable(path, "repro.py")
        written: Path = self._thread.do(lambda: self._runs.repro(path, operator, step))
        return written

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
    def link(self) -> str:
        """Where ``rpc="browser"``: the address of the page that becomes the target in the browser
        that opens it.

        Raises:
            RuntimeError: if the target is no browser.
        """
        return self._target.link

    def invite(self) -> None:
        """Show what makes a browser's page the target: in a notebook a widget that does so with
        the notebook's own page, elsewhere the link to open.

        Raises:
            RuntimeError: if the target is no browser.
        """
        if in_notebook():
            from IPython.display import display

            from tapml_nb.widgets.page import TargetPage

            display(TargetPage(self.link))
        else:
            print(f"open {self.link} in a browser with WebGPU; that page is the target")

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
        if self._thread.closed:
            return
        self._thread.close()
        self.stop()
        self._finalizer()
        self._thread.join()
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
        state = "closed" if self._thread.closed else "busy" if self._thread.busy else "idle"
        return printable(
            f"<Session of {self.graph.name} on {self._spec.kind}: {len(self.graph)} operators, "
            f"{state}>"
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.report._repr_mimebundle_()

    def _ipython_display_(self) -> None:
        from tapml_nb.widgets import show

        show(self)

    @property
    def _sessions(self) -> list[TargetSession]:
        return [self._target, *self._others]

    # -- the session's thread ----------------------------------------------------------------------

    def _result_of(self, job: Job, progress: bool = True) -> Any:
        """Wait for a run's end, with a line that shows how far it is."""
        if not (progress and in_main_thread()):
            return self._thread.result_of(job, lambda: None)

        def told() -> str:
            opened = isinstance(job.result, Runs)  # another graph's, of a coarse operator
            return self._report_of(job.result if opened else self._runs).outcome

        with ProgressLine(self._events, told) as line:
            return self._thread.result_of(job, line.draw)

    def _report_of(self, runs: Runs) -> Report:
        return Report(
            graph=runs.graph,
            steps=self._program.steps,
            introduced=dict(runs.introduced),
            accumulated=dict(runs.accumulated),
            augmented=tuple(r for found in runs.augmented.values() for r in found),
            placement=dict(runs.placement),
            conversions=runs.kernels.conversions,
            info=replace(
                runs.info,
                kernels=runs.kernels.unique,
                compiled=self._compiler.compiled,
                sent_bytes=sum(session.bytes_sent for session in self._sessions),
                restarts=sum(session.restarts for session in self._sessions),
            ),
            opener=_opener_of(self),
        )

    def _drill(self, op: Selector) -> Report:
        """See :meth:`Report.drill <tapml_nb.report.Report.drill>`."""
        self._thread.require_open()
        operator = self._one(op, 0)
        job = self._thread.start(lambda: self._runs.drill(operator))
        return self._report_of(self._result_of(job))

    def _criterion(self, criterion: Criterion | None) -> Criterion:
        if criterion is None:
            return "floor"
        if callable(criterion) or criterion == "floor":
            return criterion
        if criterion not in ("top1", "kl"):
            raise ValueError(
                f"criterion: {criterion!r}; give a function of the model's outputs, 'floor', "
                f"'top1' or 'kl'"
            )
        if logits(self.graph) is None:
            raise ValueError(
                f"criterion: {criterion!r} needs logits, and no output of {self.graph.name} is "
                f"[batch, positions, vocabulary] beside token ids [batch, positions]"
            )
        return criterion

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


def _opener_of(session: Session) -> Callable[[Selector], Report]:
    """Opens a coarse operator of a session, for reports that may outlive it."""
    held = weakref.ref(session)

    def open_up(op: Selector) -> Report:
        session = held()
        if session is None:
            raise RuntimeError("the session of this report is gone; make a new one")
        return session._drill(op)

    return open_up


def _breaker_of(sessions: Sequence[TargetSession], compiler: Compiler) -> Callable[[], None]:
    """Breaks off whatever the session's thread waits for (a function that does not hold the
    session)."""

    def break_off() -> None:
        for session in sessions:
            session.interrupt()
        compiler.interrupt()

    return break_off


def _release(
    sessions: Sequence[TargetSession],
    compiler: Compiler,
    tables: Sequence[KernelTable],
    storage: Storage,
) -> None:
    for session in sessions:
        session.close()
    compiler.close()
    for kernels in tables:
        kernels.close()
    storage.close()
