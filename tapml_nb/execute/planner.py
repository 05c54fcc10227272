"""What is to be compiled for an operator in a step: a unit, with sizes open where they can be."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tapml_nb.compile.cache import Failure
from tapml_nb.compile.compiler import Compiler
from tapml_nb.execute.source import SourceRun
from tapml_nb.frontends.program import Unit, Unsupported
from tapml_nb.graph import OpId, TensorSpec


@dataclass(frozen=True)
class Slot:
    """An operator and the shapes it meets; hashed once, for it is looked up in every run."""

    op: OpId
    shapes: tuple[TensorSpec, ...]

    @cached_property
    def _hash(self) -> int:
        return hash((self.op, self.shapes))

    def __hash__(self) -> int:
        return self._hash


HOST_OPERATOR = "runs on the host: it computes no tensor"
"""Why an operator that yields Python numbers has no kernel."""


@dataclass(frozen=True)
class Plan:
    """What is to be compiled for a slot."""

    key: str
    """Of the unit, and of the kernel that becomes of it."""
    is_open: bool | None
    """Whether it leaves sizes open; None if the compiler is to tell."""
    numbers: tuple[int, ...]
    """The sizes that no tensor tells."""


class Planner:
    """Units of operators, and what is known of them by the shapes that operators meet."""

    def __init__(self, source: SourceRun, compiler: Compiler) -> None:
        self._source = source
        self._graph = source.program.graph
        self._compiler = compiler
        self._plans: dict[Slot, Plan | Failure] = {}
        self._slots: dict[tuple[OpId, int], Slot] = {}
        self._conversions: dict[OpId, str] = {}
        self._of_fixed_sizes: dict[OpId, str] = {}
        self._needed: Counter[str] = Counter()
        self._made_for: dict[str, tuple[OpId, int]] = {}
        self._keys: dict[int, tuple[Any, str]] = {}

    def __getitem__(self, call: tuple[OpId, int]) -> Plan | Failure:
        """The plan of a call that has one, or why there can be none."""
        return self._plans[self.slot(*call)]

    def slot(self, op: OpId, step: int) -> Slot:
        """What distinguishes the calls of one operator: the shapes it sees in a step.

        Host numbers may be baked into a unit, so they count as part of its shape, and so may sizes
        that values decide, which only what it yields tells.
        """
        if (op, step) not in self._slots:
            self._slots[op, step] = self._slot(op, step)
        return self._slots[op, step]

    def _slot(self, op: OpId, step: int) -> Slot:
        values = self._source.values(step)
        known = self._graph.values
        decided = [
            v for v in self._graph[op].outputs if not known[v].host and -1 in known[v].spec.shape
        ]
        shapes = tuple(
            TensorSpec((), f"={values[v]}")
            if known[v].host
            else TensorSpec(self._source.shape(v, step), known[v].spec.dtype)
            for v in (*self._graph[op].inputs, *decided)
        )
        return Slot(op, shapes)

    def unit(self, op: OpId, step: int) -> Unit:
        """What is compiled for an operator: for all sizes that it may meet, where that can be.

        Raises:
            Unsupported: as :meth:`Program.unit <tapml_nb.frontends.program.Program.unit>`.
        """
        program, values = self._source.program, self._source.values(step)
        if not self._compiler.leaves_sizes_open or op in self._of_fixed_sizes:
            return program.unit(op, values)
        try:
            return program.unit(op, values, symbolic=True)
        except Exception as reason:  # also what TVM's builders say of open sizes
            unit = program.unit(op, values)  # raises the same if it is no matter of these
            self._of_fixed_sizes[op] = str(reason)
            return unit

    def plan(self, op: OpId, step: int) -> tuple[Plan | Failure, Unit | None]:
        """The plan of a call, made if there is none yet, then with its unit."""
        slot = self.slot(op, step)
        if slot in self._plans:
            return self._plans[slot], None
        try:
            if self._graph[op].host:
                raise Unsupported(self._graph[op].beyond or HOST_OPERATOR)
            unit = self.unit(op, step)
        except Unsupported as reason:
            self._plans[slot] = Failure("unsupported", str(reason))
            return self._plans[slot], None
        if unit.conversion:
            self._conversions[op] = unit.conversion
        key = self._key(unit.module)
        self._made_for.setdefault(key, (op, step))
        self._needed[key] += 1
        self._plans[slot] = Plan(key, unit.is_open, unit.numbers)
        return self._plans[slot], unit

    def _key(self, module: Any) -> str:
        """A unit's key; equal calls share a module, which is hashed once."""
        known, key = self._keys.get(id(module), (None, ""))
        if known is not module:
            key = self._compiler.key(module)
            self._keys[id(module)] = module, key
        return key

    def module(self, key: str) -> Any | None:
        """What a kernel was compiled from, made once more; None if that is not known any more."""
        with contextlib.suppress(KeyError, IndexError):  # a step that is forgotten
            return self.unit(*self._made_for[key]).module
        return None

    def fix_sizes(self, op: OpId, step: int, reason: str) -> None:
        """There can be no kernel with open sizes for a call: from now on its operator has one for
        each shape."""
        self._of_fixed_sizes[op] = reason
        self._drop(self.slot(op, step))

    def forget(self, op: OpId, step: int) -> Plan | None:
        """Forget the plan of a made-up step, and return it; not one that a step of the model's
        has, too."""
        slot = self.slot(op, step)
        del self._slots[op, step]
        if any(self.slot(op, s) == slot for s in range(self._source.program.steps)):
            return None
        return self._drop(slot)

    def _drop(self, slot: Slot) -> Plan | None:
        plan = self._plans.pop(slot, None)
        if not isinstance(plan, Plan):
            return None
        self._needed[plan.key] -= 1
        if not self._needed[plan.key]:
            del self._needed[plan.key]
        return plan

    # -- what people are told ----------------------------------------------------------------------

    @property
    def unique(self) -> int:
        """How many different kernels the operators seen so far need."""
        return len(self._needed)

    def labels(self) -> dict[OpId, str]:
        """The short name of every operator's kernel that is known already."""
        plans = list(self._plans.items())
        return {slot.op: plan.key[:12] for slot, plan in plans if isinstance(plan, Plan)}

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
        }
