"""Which kernel computes which operator: units, compilation, libraries, overrides.

The table answers one question, "what runs for this operator in this step?", with a kernel on the
target, a NumPy function of the user's, or the reason why there is nothing.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb.compile.cache import Compiled, Failure
from tapml_nb.compile.code import KernelCode, UnitTexts
from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.linking import KernelsLost
from tapml_nb.compile.primfunc import is_primfunc
from tapml_nb.compile.toolchain import ToolchainError
from tapml_nb.compile.trouble import CompilerInterrupted, CompilerTrouble, in_words
from tapml_nb.execute.events import EventStream, RunProgress
from tapml_nb.execute.overrides import NumpyOverride, misfit, python_code
from tapml_nb.execute.source import RANDOM, SourceRun, Stopped
from tapml_nb.frontends.program import Unit, Unsupported, WrittenModule
from tapml_nb.graph import Graph, OpId, TensorSpec
from tapml_nb.owner import Owner
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.errors import BeyondTarget, TargetError, TargetLost

_Slot = tuple[OpId, tuple[TensorSpec, ...]]
"""An operator and the shapes it meets."""


@dataclass(frozen=True)
class _Planned:
    """What is to be compiled for a slot: a unit's key, whether it leaves sizes open (None: the
    compiler is to tell), and the sizes that no tensor tells."""

    key: str
    is_open: bool | None
    numbers: tuple[int, ...]


Implementation = Compiled | NumpyOverride | Failure

HOST_OPERATOR = "runs on the host: it computes no tensor"
"""Why an operator that yields Python numbers has no kernel."""


class KernelTable:
    """The implementation of every operator in every step, compiled and loaded on demand."""

    def __init__(
        self,
        source: SourceRun,
        compiler: Compiler,
        target: TargetSession,
        events: EventStream,
        others: Sequence[TargetSession] = (),
    ) -> None:
        self._source = source
        self._graph: Graph = source.program.graph
        self._compiler = compiler
        self._target = target
        self._others = others
        self._events = events
        self._known: dict[str, Compiled | Failure] = {}
        self._conversions: dict[OpId, str] = {}
        self._plans: dict[_Slot, _Planned | Failure] = {}
        self._placed: dict[tuple[str, _Slot], Implementation] = {}
        self._of_fixed_sizes: dict[OpId, str] = {}
        self._needed: Counter[str] = Counter()
        self._overrides: dict[OpId, str | NumpyOverride] = {}
        self._override_modules: dict[str, Any] = {}
        self._override_count = 0
        self._loaded: set[str] = set()
        self._made_for: dict[str, tuple[OpId, int]] = {}
        self._renewed: set[str] = set()
        self._folders: list[Path] = []
        self._owner = Owner()
        self._libraries = 0

    def close(self) -> None:
        """Remove the libraries."""
        if self._owner.elsewhere:
            return
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    # -- looking up ------------------------------------------------------------------------------

    def __getitem__(self, call: tuple[OpId, int]) -> Implementation:
        """What runs for an operator in a step; :meth:`prepare` must have seen it."""
        op, step = call
        if self._source.is_random(op, step):
            return Failure("unsupported", RANDOM)
        override = self._overrides.get(op)
        if isinstance(override, NumpyOverride):
            return override
        if override:
            return self._misfit(override, op, step) or self._place(override, op, step, ())
        plan = self._plan(op, step)
        if isinstance(plan, Failure):
            return plan
        return self._place(plan.key, op, step, plan.numbers)

    def prepared(self, op: OpId, step: int) -> Implementation | None:
        """What runs for an operator in a step if that is known already.  From any thread."""
        try:
            return self[op, step]
        except (KeyError, IndexError):  # not compiled yet, or the source has not run
            return None

    def version(self, op: OpId, step: int) -> str:
        """A name for the implementation that changes whenever it does."""
        implementation = self[op, step]
        if isinstance(implementation, NumpyOverride):
            return f"numpy:{implementation.version}"
        if isinstance(implementation, Failure):
            return "none"
        return "/".join((implementation.kernel.key, *map(str, implementation.numbers)))

    def overridden(self, op: OpId) -> bool:
        """Whether the user put something in the operator's place."""
        return op in self._overrides

    def takes_any_shape(self, op: OpId) -> bool:
        """Whether the operator can be compiled for other shapes: not where a PrimFunc of the
        user's stands in its place."""
        return not isinstance(self._overrides.get(op), str)

    def launches(self, op: OpId, step: int) -> bool:
        """Whether anything runs for an operator: a NumPy function, or a kernel and no view."""
        implementation = self[op, step]
        if isinstance(implementation, Compiled):
            return bool(implementation.kernel.launches)
        return isinstance(implementation, NumpyOverride)

    @property
    def overrides(self) -> dict[OpId, str]:
        """What the user put in operators' places, in words."""
        return {
            op: f"the NumPy function {override.name}, in this process"
            if isinstance(override, NumpyOverride)
            else "a PrimFunc of yours"
            for op, override in self._overrides.items()
        }

    @property
    def target(self) -> Any:
        """The ``tvm.target.Target`` that kernels are compiled for."""
        return self._compiler.target

    @property
    def conversions(self) -> dict[OpId, str]:
        """By what operators were converted, in words, where not by the importer alone; and why
        operators have a kernel for each shape where one was to be for all."""
        each = {
            op: f"a kernel for each shape, as there can be none for all: {' '.join(reason.split())}"
            for op, reason in self._of_fixed_sizes.items()
        }
        return {
            op: "; ".join(filter(None, (self._conversions.get(op), each.get(op))))
            for op in (self._conversions | each)
            if op not in self._overrides
        }

    @property
    def unique(self) -> int:
        """How many different kernels the operators seen so far need."""
        return len(self._needed)

    def labels(self) -> dict[OpId, str]:
        """The short name of every operator's kernel that is known already."""
        plans = list(self._plans.items())
        return {op: plan.key[:12] for (op, _), plan in plans if isinstance(plan, _Planned)}

    def unit_key(self, op: OpId, step: int) -> tuple[str, tuple[int, ...]] | Failure:
        """The key of what is compiled for an operator, and the sizes that it is called with beside
        its inputs; or why there is nothing.

        A NumPy override cannot be written down; the operator's own unit stands for it.
        """
        if self._source.is_random(op, step):
            return Failure("unsupported", RANDOM)
        override = self._overrides.get(op)
        if isinstance(override, str):
            return self._misfit(override, op, step) or (override, ())
        self._add_unit(op, step, {})
        plan = self._plan(op, step)
        return plan if isinstance(plan, Failure) else (plan.key, plan.numbers)

    def unit_text(self, op: OpId, step: int) -> str:
        """What is compiled for an operator that has a key, as TVM's JSON."""
        import tvm

        module = self._module(op, step)
        if not isinstance(module, WrittenModule):
            return str(tvm.ir.save_json(module))
        return module.text if module.shapes is None else self.unit_texts(op, step).json

    def unit_texts(self, op: OpId, step: int) -> UnitTexts:
        """The same, and as TVMScript.

        Raises:
            ValueError: if TVM cannot read it, where it came as text.
            Stopped: if the session was interrupted.
        """
        with _interruptible():
            return self._compiler.texts(self._module(op, step))

    def _module(self, op: OpId, step: int) -> Any:
        override = self._overrides.get(op)
        if isinstance(override, str):
            return self._override_modules[override]
        return self._unit(op, step).module

    def code(self, op: OpId, step: int) -> KernelCode:
        """What runs for an operator, as code; the step's source run must be complete.

        Where there is no code, or no kernel could be made of it, its ``message`` says why.
        """
        override = self._overrides.get(op)
        if isinstance(override, NumpyOverride):
            return python_code(override)
        if isinstance(override, str):
            key, module = override, self._override_modules[override]
        else:
            language = self._compiler.target.kind.name
            if self._graph[op].host:
                return KernelCode("", "", "", language, HOST_OPERATOR)
            try:
                module = self._unit(op, step).module
            except Unsupported as reason:
                return KernelCode("", "", "", language, " ".join(str(reason).split()))
            key = self._compiler.key(module)
        with _interruptible():
            code = self._compiler.code(key, module)
        known = self._known.get(key)  # more than the compiler knows: it may have failed to load
        if isinstance(known, Failure) and not code.message:
            return replace(code, message=" ".join(known.message.split()))
        return code

    def forget(self, op: OpId, step: int, tensors: Sequence[str]) -> None:
        """Forget what was prepared for a made-up step, and its tensors on the target."""
        slot = self._slot(op, step)
        if all(self._slot(op, s) != slot for s in range(self._source.program.steps)):
            self._forget(slot)
        self._target.drop(tensors)

    # -- preparing -------------------------------------------------------------------------------

    def prepare(
        self, calls: Sequence[tuple[OpId, int]], stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Compile and load everything these calls need and that is not there yet.

        Raises:
            Stopped: if ``stopped`` says so in between, or the session was interrupted; what is
                compiled stays.
            CompilerTrouble: if something keeps the compiler from its work.
            TargetLost: if the target is lost for good.
        """
        waiting: Sequence[tuple[OpId, int]] = calls
        while waiting:
            modules: dict[str, Any] = {}
            for op, step in waiting:
                override = self._overrides.get(op)
                if isinstance(override, str):
                    if override not in self._known:
                        modules[override] = self._override_modules[override]
                elif override is None:
                    self._add_unit(op, step, modules)
            self._compile(modules, stopped)
            waiting = self._fix_sizes(waiting)
        self._load()

    def _compile(self, modules: dict[str, Any], stopped: Callable[[], bool]) -> None:
        total = len(modules)
        compiling = self._compiler.compile(modules)
        with _interruptible(), contextlib.closing(compiling) as results:
            for done, (key, result) in enumerate(results, 1):
                self._known[key] = result
                self._events.emit(RunProgress("compile", done, total))
                if stopped():
                    raise Stopped

    def _fix_sizes(self, calls: Sequence[tuple[OpId, int]]) -> list[tuple[OpId, int]]:
        """The calls for which there can be no kernel with open sizes; from now on their operators
        have one for each shape."""
        failing: list[tuple[OpId, int]] = []
        for op, step in calls:
            plan = None if op in self._overrides else self._plan(op, step)
            if isinstance(plan, _Planned) and plan.is_open is not False:
                known = self._known[plan.key]
                if isinstance(known, Failure) and (plan.is_open or known.is_open):
                    self._of_fixed_sizes[op] = known.message
                    failing.append((op, step))
        for op, step in failing:
            self._forget(self._slot(op, step))
        return failing

    def _forget(self, slot: _Slot) -> None:
        plan = self._plans.pop(slot, None)
        if isinstance(plan, _Planned):
            self._placed.pop((plan.key, slot), None)
            self._needed[plan.key] -= 1
            if not self._needed[plan.key]:
                del self._needed[plan.key]

    def override(self, op: OpId, kernel: Any) -> None:
        """Put a PrimFunc or a NumPy function in an operator's place; None takes it back."""
        if kernel is None:
            self._overrides.pop(op, None)
            return
        if not is_primfunc(kernel):
            self._override_count += 1
            self._overrides[op] = NumpyOverride(kernel, self._override_count)
            return
        import tvm

        module = tvm.IRModule(
            {"override": kernel.with_attr("tapml.outputs", len(self._graph[op].outputs))}
        )
        key = self._compiler.key(module)
        self._override_modules[key] = module
        self._overrides[op] = key

    def _misfit(self, override: str, op: OpId, step: int) -> Failure | None:
        """Why a PrimFunc of the user's cannot run in a step, if its shapes are another step's."""
        ((_, function),) = self._override_modules[override].functions.items()
        operator = self._graph[op]
        tensors = [
            v for v in (*operator.inputs, *operator.outputs) if not self._graph.values[v].host
        ]
        shapes = [self._source.shape(v, step) for v in tensors]
        reason = misfit(function, len(operator.outputs), shapes)
        return Failure("unsupported", reason) if reason else None

    def _place(self, key: str, op: OpId, step: int, numbers: tuple[int, ...]) -> Implementation:
        """A kernel as it is for the shapes of a step."""
        known = self._known[key]
        if isinstance(known, Failure) or not known.kernel.is_open:
            return known
        slot = self._slot(op, step)
        if (key, slot) not in self._placed:
            tensors = [v for v in self._graph[op].inputs if not self._graph.values[v].host]
            shapes = [self._source.shape(v, step) for v in tensors]
            self._placed[key, slot] = known.at(shapes, numbers)
        return self._placed[key, slot]

    def _plan(self, op: OpId, step: int) -> _Planned | Failure:
        return self._plans[self._slot(op, step)]

    def _slot(self, op: OpId, step: int) -> _Slot:
        """What distinguishes the calls of one operator: the shapes it sees in a step.

        Host numbers may be baked into a unit, so they count as part of its shape.
        """
        values = self._source.values(step)
        return op, tuple(
            TensorSpec((), f"={values[v]}")
            if self._graph.values[v].host
            else TensorSpec(self._source.shape(v, step), self._graph.values[v].spec.dtype)
            for v in self._graph[op].inputs
        )

    def _unit(self, op: OpId, step: int) -> Unit:
        """What is compiled for an operator: for all sizes that it may meet, where that can be.

        Raises:
            Unsupported: as :meth:`Program.unit <tapml_nb.frontends.program.Program.unit>`.
        """
        program, values = self._source.program, self._source.values(step)
        if self._compiler.leaves_sizes_open and op not in self._of_fixed_sizes:
            try:
                return program.unit(op, values, symbolic=True)
            except Exception as reason:  # also what TVM's builders say of open sizes
                unit = program.unit(op, values)  # raises the same if it is no matter of these
                self._of_fixed_sizes[op] = str(reason)
                return unit
        return program.unit(op, values)

    def _add_unit(self, op: OpId, step: int, modules: dict[str, Any]) -> None:
        slot = self._slot(op, step)
        if slot in self._plans:
            plan = self._plans[slot]
            if isinstance(plan, _Planned) and not (plan.key in self._known or plan.key in modules):
                # compiled for, but an earlier preparation was stopped before it
                modules[plan.key] = self._unit(op, step).module
            return
        if self._graph[op].host:
            self._plans[slot] = Failure("unsupported", HOST_OPERATOR)
            return
        try:
            unit = self._unit(op, step)
        except Unsupported as reason:
            self._plans[slot] = Failure("unsupported", str(reason))
            return
        if unit.conversion:
            self._conversions[op] = unit.conversion
        key = self._compiler.key(unit.module)
        self._made_for.setdefault(key, (op, step))
        self._plans[slot] = _Planned(key, unit.is_open, unit.numbers)
        self._needed[key] += 1
        if key not in self._known:
            modules[key] = unit.module

    # -- loading ---------------------------------------------------------------------------------

    def _load(self) -> None:
        """Link what is new into one library and load it; if that fails, one by one.

        Raises:
            Stopped: if the session was interrupted.
            TargetLost: if the target is lost for good.
        """
        fresh = [
            (key, compiled)
            for key, compiled in self._known.items()
            if isinstance(compiled, Compiled) and key not in self._loaded
        ]
        if not fresh:
            return
        for attempt in (1, 2):
            try:
                self._target.start()  # a target that is none is no kernel's fault
                self._load_all(fresh)
                break
            except TargetLost as lost:
                if lost.reason == "interrupted":
                    raise Stopped from None
                if lost.reason != "killed" or attempt == 2:
                    raise

    def _load_all(self, fresh: Sequence[tuple[str, Compiled]]) -> None:
        if self._refusal([key for key, _ in fresh]):
            for key, _ in fresh:
                if refusal := self._refusal([key]):
                    self._known[key] = refusal
        self._loaded.update(key for key, _ in fresh)

    def _refusal(self, keys: Sequence[str]) -> Failure | None:
        """Load kernels as one library; returns why that cannot be, if it cannot.

        Raises:
            Stopped: if the session was interrupted.
            CompilerTrouble: if something keeps the linker from its work.
            TargetLost: if the target is lost for another reason than these kernels.
        """
        try:
            self._load_library(keys)
        except BeyondTarget as limit:
            return Failure("unsupported", f"the target cannot run it: {limit}")
        except (TargetError, ToolchainError) as error:
            return Failure("error", f"cannot be loaded on the target: {error}")
        except TargetLost as lost:
            if lost.reason not in ("crash", "timeout"):
                raise
            return Failure("error", f"cannot be loaded on the target: {lost}")
        return None

    def _load_library(self, keys: Sequence[str]) -> None:
        known = {key: self._known[key] for key in keys}
        running = [k for k, it in known.items() if isinstance(it, Compiled) and it.kernel.launches]
        if not running:
            return
        for again in (False, True):
            try:
                for file, inside in self._link(running):
                    self._target.load(file, inside)
                    for other in self._others:
                        other.know(file, inside)
                return
            except FileNotFoundError as error:  # somebody has swept in between
                if again:
                    raise CompilerTrouble(
                        f"{in_words(error)} is removed as soon as it is made"
                    ) from None

    def _link(self, keys: Sequence[str]) -> list[tuple[Path, list[Kernel]]]:
        """Link kernels, where there is room; one that is damaged, or that the linker does not take,
        is compiled anew first.

        Raises:
            Stopped: if the session was interrupted.
            ToolchainError: if the linker rejects them, though they are new.
            CompilerTrouble: if something keeps it from its work.
        """
        elsewhere = False
        while True:
            try:
                with _interruptible():
                    library = self._new_library(elsewhere)
                    there = [self._known[key] for key in keys]  # fewer, perhaps, once renewed
                    return self._compiler.link(
                        [kernel for kernel in there if isinstance(kernel, Compiled)], library
                    )
            except KernelsLost as lost:
                self._renew(lost.keys)
            except ToolchainError:
                if len(keys) > 1 or keys[0] in self._renewed:
                    raise
                self._renew(keys)
            except CompilerTrouble:
                if elsewhere:
                    raise
                elsewhere = True

    def _new_library(self, elsewhere: bool) -> Path:
        """A file in a folder that nobody else sweeps, unless there is no room."""
        self._libraries += 1
        folder = self._compiler.library_folder(elsewhere=elsewhere)
        self._folders.append(folder)
        return folder / f"kernels-{self._libraries}.so"

    def _renew(self, keys: Sequence[str]) -> None:
        """Compile kernels anew.

        Raises:
            CompilerTrouble: if one was compiled anew already, or nobody knows any more of what.
        """
        modules: dict[str, Any] = {}
        for key in keys:
            made_for = self._made_for.get(key)
            if key in self._override_modules:
                modules[key] = self._override_modules[key]
            elif key not in self._renewed and made_for:
                with contextlib.suppress(KeyError, IndexError):  # a step that is forgotten
                    modules[key] = self._unit(*made_for).module
            if key not in modules or key in self._renewed:
                raise CompilerTrouble(f"kernel {key[:12]} is damaged wherever it is kept")
            self._compiler.discard(key)
        self._renewed.update(keys)
        with _interruptible():
            self._known.update(self._compiler.compile(modules))


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """What is broken off in the compiler stops the run."""
    try:
        yield
    except CompilerInterrupted:
        raise Stopped from None


def resolve_result(compiled: Compiled, number: int, params: Sequence[np.ndarray]) -> np.ndarray:
    """What a result buffer holds in a kernel that launches nothing: a view or a constant."""
    kernel = compiled.kernel
    views = dict(kernel.views)
    buffer = number
    while buffer in views:
        buffer = views[buffer]
    if buffer < kernel.params:
        data = params[buffer]
    else:
        data = compiled.constants[kernel.constants[buffer - kernel.params]]
    spec = kernel.buffers[number]
    fits = math.prod(spec.shape) == data.size
    return np.ascontiguousarray(data).reshape(spec.shape) if fits else data
