"""Which kernel computes which operator.

The table answers one question, "what runs for this operator in this step?", with an
:class:`~tapml_nb.execute.implementation.Implementation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tapml_nb.compile.cache import Compiled, Failure
from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.kernel import KernelCode
from tapml_nb.compile.unit import UnitTexts, texts_of
from tapml_nb.execute.background import Background
from tapml_nb.execute.events import EventStream
from tapml_nb.execute.implementation import Implementation, NoImplementation, implementation_of
from tapml_nb.execute.loader import Loader, interruptible
from tapml_nb.execute.overrides import Overrides
from tapml_nb.execute.planner import HOST_OPERATOR, Plan, Planner, Slot
from tapml_nb.execute.preparation import Call, Preparation
from tapml_nb.execute.source import RANDOM, SourceRun
from tapml_nb.frontends.program import Unsupported
from tapml_nb.graph import Graph, OpId
from tapml_nb.targets.client.session import TargetSession


class KernelTable:
    """The implementation of every operator in every step, compiled and loaded on demand."""

    def __init__(
        self,
        source: SourceRun,
        compiler: Compiler,
        sessions: Sequence[TargetSession],
        events: EventStream,
    ) -> None:
        """``sessions``: where kernels run; libraries are first loaded on the first."""
        self._source = source
        self._graph: Graph = source.program.graph
        self._compiler, self.target = compiler, compiler.target
        self._sessions = sessions
        self._planner = Planner(source, compiler)
        self.overrides = Overrides(self._graph, compiler)
        self._events = events
        self._loader = Loader(compiler, sessions, self._module_of)
        self._placed: dict[tuple[str, Slot], Implementation] = {}
        self._made: dict[str, tuple[Compiled | Failure, Implementation]] = {}
        """What runs a kernel whose sizes are known, by its key."""

    def close(self) -> None:
        """Remove the libraries."""
        self._loader.close()

    # -- looking up ------------------------------------------------------------------------------

    def __getitem__(self, call: tuple[OpId, int]) -> Implementation:
        """What runs for an operator in a step; :meth:`prepare` must have seen it."""
        if call[0] in self.overrides.functions and not self._source.is_random(*call):
            return self.overrides.functions[call[0]]
        plan = self._plan(*call)
        if isinstance(plan, Failure):
            return NoImplementation(plan)
        known = self._loader[plan.key]
        if isinstance(known, Failure) or not known.kernel.is_open:
            made_of, made = self._made.get(plan.key, (None, None))
            if made is None or made_of is not known:
                made = implementation_of(known)
                self._made[plan.key] = known, made
            return made
        place = (plan.key, self._planner.slot(*call))
        if place not in self._placed:
            inputs = self._graph.tensor_inputs(self._graph[call[0]])
            shapes = [self._source.shape(value, call[1]) for value in inputs]
            self._placed[place] = implementation_of(known.at(shapes, plan.numbers))
        return self._placed[place]

    def prepared(self, op: OpId, step: int) -> Implementation | None:
        """What runs for an operator in a step if that is known already.  From any thread."""
        try:
            return self[op, step]
        except (KeyError, IndexError):  # not compiled yet, or the source has not run
            return None

    def takes_any_shape(self, op: OpId) -> bool:
        """Whether the operator can be compiled for other shapes: not where a PrimFunc of the
        user's stands in its place."""
        return op not in self.overrides.primfuncs

    @property
    def conversions(self) -> dict[OpId, str]:
        """What is to be said of how operators were converted, in words."""
        found = self._planner.conversions()
        return {op: words for op, words in found.items() if op not in self.overrides}

    @property
    def unique(self) -> int:
        """How many different kernels the operators seen so far need."""
        return self._planner.unique

    def labels(self) -> dict[OpId, str]:
        """The short name of every operator's kernel that is known already."""
        return self._planner.labels()

    def unit_key(self, op: OpId, step: int) -> tuple[str, tuple[int, ...]] | Failure:
        """The key of what is compiled for an operator, and the sizes that it is called with beside
        its inputs; or why there is nothing.

        A NumPy override cannot be written down; the operator's own unit stands for it.
        """
        if not (self._source.is_random(op, step) or op in self.overrides.primfuncs):
            self._planner.plan(op, step)
        plan = self._plan(op, step)
        return plan if isinstance(plan, Failure) else (plan.key, plan.numbers)

    def unit_text(self, op: OpId, step: int) -> str:
        """What is compiled for an operator that has a key, as TVM's JSON."""
        text, sizes = texts_of(self._module(op, step))
        return self.unit_texts(op, step).json if sizes else text

    def unit_texts(self, op: OpId, step: int) -> UnitTexts:
        """The same, and as TVMScript.

        Raises:
            ValueError: if TVM cannot read it, where it came as text.
            Stopped: if the session was interrupted.
        """
        with interruptible():
            return self._compiler.texts(self._module(op, step))

    def code(self, op: OpId, step: int) -> KernelCode:
        """What runs for an operator, as code; the step's source run must be complete.

        Where there is no code, or no kernel could be made of it, its ``message`` says why.
        """
        if op in self.overrides.functions:
            return self.overrides.functions[op].code()
        nothing = KernelCode("", "", "", self.target.kind.name, "")
        if self._graph[op].host and op not in self.overrides:
            return replace(nothing, message=self._graph[op].beyond or HOST_OPERATOR)
        try:
            module = self._module(op, step)
        except Unsupported as reason:
            return replace(nothing, message=" ".join(str(reason).split()))
        key = self._compiler.key(module)
        with interruptible():
            code = self._compiler.code(key, module)
        known = self._loader.known(key)
        if isinstance(known, Failure) and not code.message:  # it may have failed to load
            return replace(code, message=" ".join(known.message.split()))
        return code

    # -- preparing -------------------------------------------------------------------------------

    def prepare(self, calls: Sequence[Call], stopped: Callable[[], bool] = lambda: False) -> None:
        """Compile and load everything these calls need and that is not there yet.

        Raises:
            Stopped: if ``stopped`` says so in between, or the session was interrupted; what is
                compiled stays.
            CompilerTrouble: if something keeps the compiler, or its linker, from its work.
            TargetLost: if the target is lost for good.
        """
        with self.preparing(calls, stopped) as preparation:
            preparation.finish()

    def preparing(
        self, calls: Sequence[Call], stopped: Callable[[], bool] = lambda: False
    ) -> Preparation:
        """The same bit by bit, to be used while it goes on."""
        return Preparation(
            calls,
            self._planner,
            self.overrides,
            self._loader,
            Background(self._compiler),
            self._events,
            stopped,
            self._source.has_run,
        )

    def forget(self, op: OpId, step: int, tensors: Sequence[str]) -> None:
        """Forget what was prepared for a made-up step, and its tensors on the target."""
        if plan := self._planner.forget(op, step):
            self._placed.pop((plan.key, self._planner.slot(op, step)), None)
        self._sessions[0].drop(tensors)

    # -- parts -----------------------------------------------------------------------------------

    def _plan(self, op: OpId, step: int) -> Plan | Failure:
        """What is compiled for an operator: its unit, or a PrimFunc of the user's; or why there is
        nothing."""
        if self._source.is_random(op, step):
            return Failure("unsupported", RANDOM)
        key = self.overrides.primfuncs.get(op)
        if key is None:
            return self._planner[op, step]
        operator = self._graph[op]
        tensors = self._graph.tensors((*operator.inputs, *operator.outputs))
        reason = self.overrides.misfit(operator, [self._source.shape(v, step) for v in tensors])
        return Failure("unsupported", reason) if reason else Plan(key, False, ())

    def _module(self, op: OpId, step: int) -> Any:
        key = self.overrides.primfuncs.get(op)
        return self.overrides.modules[key] if key else self._planner.unit(op, step).module

    def _module_of(self, key: str) -> Any | None:
        known = self.overrides.modules
        return known[key] if key in known else self._planner.module(key)
