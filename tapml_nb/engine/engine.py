"""The engine: everything that the work on one model and one target takes, put together.

It has no verbs: those are functions over it (:mod:`tapml_nb.engine.verbs`), which the session's
thread does one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from tapml_nb.budget import parse_budget
from tapml_nb.compile.cache import KernelCache
from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.toolchain import machine_of
from tapml_nb.engine.cached import give_back_cached
from tapml_nb.engine.jobs import Job, JobThread, in_main_thread
from tapml_nb.engine.ledger import Ledger
from tapml_nb.engine.pool import TargetPool
from tapml_nb.execute.events import EventStream, RunFinished, RunStarted, SessionClosed
from tapml_nb.execute.host_call import BrokenOff
from tapml_nb.execute.hybrid import TARGET, HybridRun
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.source import SourceRun, Stopped
from tapml_nb.execute.storage import Storage
from tapml_nb.execute.unobserved import UnobservedRun
from tapml_nb.frontends.program import Program
from tapml_nb.graph import Graph, Op, OpId, Selector, SelectorError, select
from tapml_nb.judge.accumulated import AccumulatedRun
from tapml_nb.judge.augmented import AugmentedRun
from tapml_nb.judge.introduced import IntroducedRun
from tapml_nb.judge.references import References
from tapml_nb.judge.verdict import LIMIT
from tapml_nb.jupyter.notebook import ProgressLine, invite
from tapml_nb.migrate import Probes
from tapml_nb.owner import finalize
from tapml_nb.report import Report, RunInfo
from tapml_nb.report.outcome import Outputs
from tapml_nb.targets.client.availability import resolve
from tapml_nb.targets.spec import BROWSER, CPU_KINDS, Target

_SETTLING = 5.0
"""Seconds that a reference that nobody needs any more may take before what it reads is closed."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`tapml_nb.debug` that are about the work, not about the model; they
    never change.

    Attributes:
        target: what the operators run on.
        tolerance: how many noise floors a target may be off.
        workarounds: those for faults of TVM's importer that are in force.
        max_memory: bytes of memory that kept tensors may take; None for no limit.
    """

    target: Target
    tolerance: float
    workarounds: tuple[str, ...]
    max_memory: int | None

    @classmethod
    def of(
        cls,
        target: Target,
        tolerance: float | None = None,
        workarounds: Sequence[str] = (),
        max_memory: int | str | None = None,
    ) -> Self:
        """Settings as users give them.

        Raises:
            ValueError: if one does not fit.
        """
        if tolerance is None:
            tolerance = LIMIT
        elif not tolerance > 0:
            raise ValueError(f"tolerance: {tolerance!r}; give a positive number of noise floors")
        return cls(target, tolerance, tuple(workarounds), parse_budget(max_memory))


class Engine:
    """One program on one target.  A context manager.

    What computes belongs to the session's thread, that is, to verbs; ``ledger``, ``settings``,
    ``graph``, the counters of ``pool`` and ``compiler``, and what :attr:`kernels` says it answers
    to any thread may be read anywhere.

    Attributes:
        program, graph, steps: the model, its operators, and the numbers of its steps.
        settings, compiler, pool, jobs, events: what it was made with.
        source: the source's values.
        kernels: which kernel computes which operator.
        references: what is right, and how far off it rounding may be.
        judges: what judges operators one at a time, for each device of the pool.
        derived: what judges them on inputs derived from the real ones.
        hybrid: the run of the model with some operators on the target.
        unobserved: that run as a deployment has it.
        accumulated: what judges the hybrid run's values.
        ledger: what was found.
        probes: what a search has asked already, by criterion and by whether every kernel was
            launched afresh; only until a kernel changes.
        opened: the engines of coarse operators that were looked into.
    """

    def __init__(
        self,
        program: Program,
        settings: Settings,
        compiler: Compiler,
        pool: TargetPool,
        jobs: JobThread,
        events: EventStream,
        storage: Storage | None = None,
        at_end: Sequence[Callable[[], None]] = (),
    ) -> None:
        """``storage`` is where the source's values are kept; ``at_end`` ends what the engine
        owns, each idempotent."""
        self.program = program
        self.graph: Graph = program.graph
        self.steps = range(program.steps)
        self.settings = settings
        self.compiler = compiler
        self.pool = pool
        self.jobs = jobs
        self.events = events
        self.source = SourceRun(program, events, storage)
        self.kernels = KernelTable(self.source, compiler, pool.sessions, events)
        self.references = References(self.source)
        self.judges = [
            IntroducedRun(self.source, self.kernels, caller, self.references, settings.tolerance)
            for caller in pool.callers
        ]
        self.derived = AugmentedRun(self.source, self.kernels, self.judges[0], self.references)
        first = pool.callers[0]
        self.hybrid = HybridRun(self.source, self.kernels, first, events)
        self.unobserved = UnobservedRun(self.source, self.kernels, first, self.hybrid)
        self.accumulated = AccumulatedRun(
            self.source, self.hybrid, self.references, settings.tolerance
        )
        self.ledger = Ledger(self.graph, self.steps)
        self.probes: dict[tuple[Any, bool], Probes] = {}
        self.opened: dict[OpId, Engine] = {}
        self._finalizer = finalize(self, _do_all, [*at_end, self.kernels.close])

    # -- work, from any thread -------------------------------------------------------------------

    def start(
        self, verb: Callable[Concatenate[Engine, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Job[R]:
        """Start a run; as :meth:`JobThread.start`."""
        return self.jobs.start(partial(verb, self, *args, **kwargs))

    def do(self, verb: Callable[Concatenate[Engine, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Have something done between two operators of a run; as :meth:`JobThread.do`."""
        return self.jobs.do(partial(verb, self, *args, **kwargs))

    def run(
        self, verb: Callable[Concatenate[Engine, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Start a run and wait for its end, showing how far it is."""
        return self.result_of(self.start(verb, *args, **kwargs))

    def result_of(self, job: Job[R], progress: bool = True) -> R:
        """Wait for a run's end, in the main thread with a line that shows how far it is; as
        :meth:`JobThread.result_of`."""
        if not (progress and in_main_thread()):
            return self.jobs.result_of(job, lambda: None)

        def outcome() -> str:
            result = getattr(job, "result", None)
            # another engine is that of a coarse operator that was looked into
            if isinstance(result, Engine):
                return result.report().outcome
            return self.report().told

        with ProgressLine(self.events, outcome) as line:
            return self.jobs.result_of(job, line.draw)

    def known_outputs(self) -> Outputs | None:
        """What is known of the model's outputs as operators are placed now; None where it has
        none."""
        ledger, graph = self.ledger, self.graph
        if not graph.outputs:
            return None
        current = ledger.placement == ledger.hybrid_placement
        return Outputs(
            worst=ledger.worst_output if current else None,
            there=sum(where == TARGET for where in ledger.placement.values()),
            movable=sum(not op.host for op in graph.ops),
            same=ledger.unobserved.same if current and ledger.unobserved else None,
        )

    def report(self, opener: Callable[[Selector], Report] | None = None) -> Report:
        """Everything known now, frozen; ``opener`` judges what a coarse operator holds."""
        ledger, target = self.ledger, self.settings.target
        return Report(
            graph=self.graph,
            steps=len(self.steps),
            introduced=dict(ledger.introduced),
            accumulated=dict(ledger.accumulated),
            augmented=tuple(r for found in ledger.augmented.values() for r in found),
            placement=dict(ledger.placement),
            conversions=self.kernels.conversions,
            info=RunInfo(
                target=target.kind + (" (guarded)" if target.guard else ""),
                kernels=self.kernels.unique,
                compiled=self.compiler.compiled,
                seconds=ledger.seconds,
                sent_bytes=self.pool.bytes_sent,
                peak_bytes=self.pool.peak_bytes,
                restarts=self.pool.restarts,
                stopped=ledger.stopped,
                workarounds=self.settings.workarounds,
                tolerance=self.settings.tolerance,
                outputs=ledger.outputs,
                known=self.known_outputs(),
                agreement=ledger.agreement,
                unobserved=ledger.unobserved,
            ),
            opener=opener,
        )

    def the_operator(self, selector: Selector, step: int) -> Op:
        """The one operator that computes tensors and that a selector names.

        Raises:
            SelectorError, ValueError: if there is no such operator, or no such step.
        """
        chosen = [op for op in select(self.graph, selector) if not self.graph[op].host]
        if len(chosen) != 1:
            raise SelectorError(f"op: {selector!r} names {len(chosen)} operators; name one")
        if step not in self.steps:
            raise ValueError(f"step: {step}; this session has {len(self.steps)} steps")
        return self.graph[chosen[0]]

    # -- for verbs, on the session's thread ------------------------------------------------------

    def complete(self) -> None:
        """Have the source's values of every step.

        Raises:
            Stopped: if the run is to end.
        """
        self.source.complete(self.jobs.stopping)

    def prepare(self, ops: Sequence[OpId]) -> None:
        """Have the source's values, and kernels for operators in every step, where there can be
        any."""
        self.complete()
        self.kernels.prepare([(op, s) for s in self.steps for op in ops], self.jobs.stopping)

    @contextmanager
    def running(self, name: str, total: int) -> Iterator[None]:
        """Brackets a run with its events and its time; one that is stopped ends with the block,
        and the ledger says so."""
        begin = time.perf_counter()
        stopped, early = False, True
        self.events.emit(RunStarted(name, total))
        try:
            yield
            early = False
        except (Stopped, BrokenOff):
            stopped = True
        finally:
            give_back_cached()
            self.ledger.seconds = time.perf_counter() - begin
            self.ledger.stopped = stopped
            self.events.emit(RunFinished(name, early))

    # -- life --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop what is going on and end all that was started.  Idempotent; the ledger stays."""
        if self.jobs.closed:
            return
        self.jobs.close()
        self.jobs.stop()
        for each in (self, *self.opened.values()):
            each.references.settle(_SETTLING)
        self._finalizer()
        for opened in self.opened.values():
            opened._finalizer()
        self.jobs.join()
        self.events.emit(SessionClosed())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def assemble(program: Program, compiler: Compiler, settings: Settings) -> Engine:
    """An engine with a thread, targets and a storage of its own; it owns the compiler, too."""
    events = EventStream()
    on_cpu = settings.target.kind in CPU_KINDS
    pool = TargetPool(settings.target, machine_of(compiler.target) if on_cpu else "", events)

    def break_off() -> None:
        pool.interrupt()
        compiler.interrupt()

    storage = Storage(settings.max_memory)
    at_end = (pool.close, compiler.close, storage.close)
    jobs = JobThread(break_off)
    engine = Engine(program, settings, compiler, pool, jobs, events, storage, at_end)
    if settings.target.rpc == BROWSER:
        invite(pool.first.link)
    return engine


def open_engine(
    program: Program,
    target: Any,
    *,
    tolerance: float | None = None,
    workarounds: Sequence[str] = (),
    max_memory: int | str | None = None,
) -> Engine:
    """An engine over a program that is already imported, with the workarounds it was given.

    Raises:
        ValueError: if the target is unknown or cannot be used here, or another argument does not
            fit.
    """
    spec, tvm_target = resolve(target)
    settings = Settings.of(spec, tolerance, workarounds, max_memory)
    return assemble(program, Compiler(tvm_target, KernelCache()), settings)


def _do_all(works: Sequence[Callable[[], None]]) -> None:
    for work in works:
        work()
