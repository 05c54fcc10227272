"""The target's side of a session: its kernels, run on its tensors.

Runs in the server's session process and imports no compiler.  Tensors are known by the keys that
the notebook gave them.  Before every run all memory that a kernel is to write is poisoned, with
other bytes each time, so that what it does not write can never look right.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import tvm_ffi

from tapml_nb.array_api import np_dtype
from tapml_nb.compile.kernel import Kernel, SizeMisfit
from tapml_nb.numerics import statistics
from tapml_nb.targets.devices.base import BeyondDevice, Within, raw_bytes, size_of
from tapml_nb.targets.server.aftermath import Aftermath
from tapml_nb.targets.server.guard import Block, telling
from tapml_nb.targets.server.memory import TensorMemory, allocate
from tapml_nb.targets.wire.calls import (
    PATTERNS,
    CallRequest,
    CallResult,
    ChainCall,
    ChainRequest,
    ChainResult,
)
from tapml_nb.targets.wire.errors import KernelRaised, NoRoom
from tapml_nb.targets.wire.recorder import Recorder

_FULL = ("bad_alloc", "out of memory", "OUT_OF_MEMORY", "MEM_OBJECT_ALLOCATION_FAILURE")
"""What is said in a launch where a kernel gets no memory for itself."""

_Shapes = tuple[tuple[int, ...], ...]


@dataclass
class _Loaded:
    """A kernel with its functions by name."""

    plan: Kernel
    functions: Mapping[str, Any]
    harmless: bool = False
    """Whether it was watched, and changed none of its inputs."""

    known: dict[tuple[_Shapes, tuple[int, ...]], _Loaded] = field(default_factory=dict)
    """The same for shapes and numbers that it was called with, where it leaves sizes open."""

    def at(self, shapes: _Shapes, numbers: Sequence[int]) -> _Loaded:
        """The same for shapes of its parameters; SizeMisfit if it is for others."""
        if not self.plan.is_open:
            return self
        call = (shapes, tuple(numbers))
        if call not in self.known:
            self.known[call] = _Loaded(self.plan.at(shapes, numbers), self.functions)
        return self.known[call]


class KernelRunner:
    """Launch plans with their loaded functions."""

    def __init__(
        self,
        memory: TensorMemory,
        recorder: Recorder,
        aftermath: Aftermath | None = None,
    ) -> None:
        """Run kernels on tensors.  The recorder is told of every launch; ``aftermath`` looks after
        this process, where kernels run in it."""
        self._memory = memory
        self._device = memory.device
        self._recorder = recorder
        self._aftermath = aftermath
        self._new = partial(allocate, memory.device)
        self._kernels: dict[str, _Loaded] = {}

    def load(self, library: str, kernels: Sequence[Kernel], within: Within) -> None:
        """Load a library and the plans of the kernels in it; raises as :meth:`Device.load`."""
        wanted = {launch.function for kernel in kernels for launch in kernel.launches}
        with self._recorder.during("load"):
            functions = self._device.load(library, wanted, within)
        for kernel in kernels:
            self._kernels[kernel.key] = _Loaded(kernel, functions)

    def call(self, request: CallRequest, within: Within) -> CallResult:
        """Run a kernel; see :meth:`TargetSession.call`.

        ``within`` runs each launch within what is left of the call's time.  ValueError if the
        kernel is not loaded, or takes or gives another number of tensors.
        """
        self._memory.drop_written()  # by one that raised: they are not what their keys say
        kernel, inputs, outputs = request.kernel, request.inputs, request.outputs
        plan = self._find(kernel).plan
        _expect("inputs", plan.params, inputs)
        _expect("outputs", len(plan.results), outputs)
        _expect("references", len(plan.results), request.references)
        loaded, given = self._given(kernel, [self._memory[key] for key in inputs], request.numbers)
        compared = [[self._memory[key] for key in keys] for keys in request.references]
        # A kernel that writes what it should only read would change tensors that later calls
        # rely on, so it is watched, unless it was and did no harm.
        watched = inputs if request.repeats > 1 or not loaded.harmless else ()
        before = self._copies(watched)
        runs: list[list[Any]] = []
        ms: list[float] = []
        overruns: list[str] = []
        run = partial(self._run_guarded if request.guard else self._run, within=within)
        for number in range(request.repeats):
            results, took, beyond = run(loaded, given, PATTERNS[number % len(PATTERNS)])
            runs.append(results)
            ms.append(took)
            overruns += [words for words in beyond if words not in overruns]
        first, last = runs[0], runs[-1]
        varying = {
            k
            for run in runs[1:]
            for k, same in enumerate(self._device.all_same(list(zip(run, first, strict=True))))
            if not same
        }
        deterministic = tuple(k not in varying for k in range(len(outputs)))
        equals = self._equals(last, compared)
        del compared
        for k, key in enumerate(outputs):
            self._memory.drop([f"{key}#1"])
            if not deterministic[k]:
                self._memory[f"{key}#1"] = first[k]
            if equals[k] < 0:
                self._memory[key] = last[k]
            elif request.references[k][equals[k]] != key:  # it is there under another key
                self._memory.drop([key])
        overwritten = self._drop_changed(before) + self._memory.drop_written()
        if watched and not overwritten:
            loaded.harmless = True
        stale = False
        if not all(deterministic) and not overwritten:
            # By chance, or because of what was in memory before?  The first run's poison again:
            again, _, _ = run(loaded, given, PATTERNS[0])
            stale = all(map(self._device.same, again, first))
        notes = tuple(self._aftermath.notes()) if self._aftermath else ()
        return CallResult(
            tuple(ms), deterministic, equals, overwritten, stale, tuple(overruns), notes
        )

    def chain(self, request: ChainRequest, within: Within) -> ChainResult:
        """Run kernels one after the other, each ``within`` its time; see
        :meth:`TargetSession.chain`."""
        self._memory.drop_written()
        calls, kept = request.calls, frozenset(request.keep)
        poison = PATTERNS[0] if request.observed else None
        spoiled: list[str] = []
        last = {key: number for number, call in enumerate(calls) for key in call.inputs}
        tensors: dict[str, Any] = {}  # what the chain makes; freed after its last use
        before: dict[str, Any] = {}
        for number, call in enumerate(calls):
            given = [tensors[k] if k in tensors else self._memory[k] for k in call.inputs]
            if call.kernel is None:
                made = [self._viewed(given[0], call)]
            else:
                read = dict(zip(call.inputs, given, strict=True))
                loaded, given = self._given(call.kernel, given, call.numbers)
                own = {}
                if not loaded.harmless:
                    outside = [k for k in call.inputs if k in self._memory and k not in before]
                    before |= self._copies(outside)
                    if request.observed:
                        own = {k: self._device.snapshot(t) for k, t in read.items() if k in tensors}
                buffers = self._buffers(loaded.plan, given, poison, self._new)
                self._observe(loaded, buffers, within)
                spoiled += [k for k, was in own.items() if not self._device.unchanged(read[k], was)]
                made = [buffers[i] for i in loaded.plan.results]
                del buffers, read, own
            tensors.update(zip(call.outputs, made, strict=True))
            del given, made
            for key in (*call.inputs, *call.outputs):
                if last.get(key, number) <= number and key not in kept:
                    tensors.pop(key, None)
        compared = [[self._memory[key] for key in keys] for keys in request.references]
        equals = self._equals([tensors[key] for key in request.keep], compared)
        for key, place in zip(request.keep, equals, strict=True):
            if place < 0:
                self._memory[key] = tensors[key]
        written = self._drop_changed(before) + self._memory.drop_written()
        return ChainResult((*spoiled, *written), equals)

    def _viewed(self, tensor: Any, call: ChainCall) -> Any:
        """A view of a tensor as a chain asks for it; ValueError if the tensor is not as large."""
        size, found = math.prod(call.shape) * np_dtype(call.dtype).itemsize, size_of(tensor)
        if size != found:
            raise ValueError(f"a view of {size} bytes of a tensor of {found}")
        return self._device.view(tensor, call.shape, call.dtype)

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        """Error statistics of a resident tensor against another."""
        memory = self._memory
        return asdict(statistics(memory.array(memory[output]), memory.array(memory[reference])))

    def _run(
        self, loaded: _Loaded, given: list[Any], poison: int, within: Within
    ) -> tuple[list[Any], float, list[str]]:
        """One run: its results, its milliseconds, and what it wrote beyond its buffers (which
        only a guarded run can tell)."""
        plan = loaded.plan
        buffers = self._buffers(plan, given, poison, self._new)
        self._device.finish()
        ms = self._observe(loaded, buffers, within)
        return [buffers[i] for i in plan.results], ms, []

    def _run_guarded(
        self, loaded: _Loaded, given: list[Any], poison: int, within: Within
    ) -> tuple[list[Any], float, list[str]]:
        """The same with every buffer between guard pages: inputs are copied in, results out."""
        plan, memory = loaded.plan, self._device
        blocks: list[Block] = []
        names = iter(_names(plan))

        def new(shape: Sequence[int], dtype: str) -> Any:
            size = math.prod(shape) * np_dtype(dtype).itemsize
            blocks.append(Block.map(next(names), size))
            if not size:
                return self._new(shape, dtype)
            return memory.view(tvm_ffi.from_dlpack(blocks[-1].data), shape, dtype)

        try:
            guarded = []
            for tensor in given:
                guarded.append(new([int(n) for n in tensor.shape], str(tensor.dtype)))
                raw_bytes(guarded[-1])[:] = raw_bytes(tensor)
            buffers = self._buffers(plan, guarded, poison, new)
            with telling(blocks):
                ms = self._observe(loaded, buffers, within)
            results = []
            for number in plan.results:
                results.append(self._new(plan.buffers[number].shape, plan.buffers[number].dtype))
                raw_bytes(results[-1])[:] = raw_bytes(buffers[number])
            for tensor, copy in zip(given, guarded, strict=True):
                if not self._device.same(tensor, copy):  # what it did to its inputs, it did
                    self._memory.overwrite(tensor, raw_bytes(copy))
            return results, ms, [words for block in blocks if (words := block.overruns())]
        finally:
            for block in blocks:
                block.unmap()

    def _observe(self, loaded: _Loaded, buffers: list[Any], within: Within) -> float:
        """Launch a kernel within its time, so that others can tell whether it ran; milliseconds.
        KernelRaised if it says that it failed, or left a copy of this process behind."""
        try:
            with self._recorder.during("launch", loaded.plan.key):
                ms: float = within(partial(self._launch, loaded, buffers))
        except (BeyondDevice, NoRoom, ConnectionError):
            raise
        except Exception as error:
            said = str(error) or type(error).__name__
            if any(words in said for words in _FULL):
                raise NoRoom(0, self._device.capacity()) from None
            raise KernelRaised(said) from None
        finally:
            if self._aftermath:
                self._aftermath.end_if_copy()
        if self._aftermath and self._aftermath.copy_came_back():
            raise KernelRaised("it forked this process, and both came back from it")
        return ms

    def _launch(self, loaded: _Loaded, buffers: list[Any]) -> float:
        """Run a kernel to its end; milliseconds."""
        on_host = self._aftermath if self._device.on_host else None
        inputs = buffers[: loaded.plan.params]
        with (
            on_host.looked_after() if on_host else nullcontext(),
            self._memory.watching(inputs),
        ):
            begin = time.perf_counter()
            for launch in loaded.plan.launches:
                arguments = [buffers[i] for i in launch.args]
                for place, size in launch.sizes:
                    arguments.insert(place, size)
                loaded.functions[launch.function](*arguments)
            self._device.finish()
            return (time.perf_counter() - begin) * 1e3

    def _equals(self, tensors: Sequence[Any], compared: Sequence[Sequence[Any]]) -> tuple[int, ...]:
        """For each tensor the place of the first it equals of those that it is compared with, in
        dtype, shape and every bit; -1 if there is none."""
        pairs = [
            (k, place, other)
            for k, others in enumerate(compared)
            for place, other in enumerate(others)
            if _type(tensors[k]) == _type(other)
        ]
        same = self._device.all_same([(tensors[k], other) for k, _, other in pairs])
        found = [-1] * len(tensors)
        for (k, place, _), equal in zip(pairs, same, strict=True):
            if equal and found[k] < 0:
                found[k] = place
        return tuple(found)

    def _find(self, kernel: str) -> _Loaded:
        try:
            return self._kernels[kernel]
        except KeyError:
            raise ValueError(f"kernel {kernel} is not loaded") from None

    def _given(
        self, kernel: str, inputs: list[Any], numbers: Sequence[int]
    ) -> tuple[_Loaded, list[Any]]:
        """A kernel for these inputs, and all that is there before it runs: they and constants."""
        loaded = self._find(kernel)
        constants = [self._memory[key] for key in loaded.plan.constants]
        shapes = tuple(tuple(int(n) for n in tensor.shape) for tensor in inputs)
        try:
            return loaded.at(shapes, numbers), [*inputs, *constants]
        except SizeMisfit as misfit:  # where sizes are fixed, the kernel itself says so
            raise KernelRaised(str(misfit)) from None

    def _copies(self, keys: Sequence[str]) -> dict[str, Any]:
        """What tensors hold now, but for those of which the memory itself says if it changes."""
        watched = [key for key in dict.fromkeys(keys) if not self._memory.is_read_only(key)]
        return {key: self._device.snapshot(self._memory[key]) for key in watched}

    def _drop_changed(self, before: Mapping[str, Any]) -> tuple[str, ...]:
        """Drop the tensors that are not what they were; their keys."""
        changed = tuple(
            key
            for key, snapshot in before.items()
            if not self._device.unchanged(self._memory[key], snapshot)
        )
        self._memory.drop(changed)
        return changed

    def _buffers(
        self, plan: Kernel, given: list[Any], poison: int | None, new: Callable[..., Any]
    ) -> list[Any]:
        """Every buffer of a run: those given, then fresh ones, poisoned if asked, then views."""
        views = dict(plan.views)
        buffers: list[Any] = list(given)
        for number, spec in enumerate(plan.buffers[len(given) :], len(given)):
            buffers.append(None if number in views else new(spec.shape, spec.dtype))
            if number not in views and poison is not None:
                self._device.fill(buffers[number], poison)
        for destination, source in plan.views:  # in order: a view may be of a view
            spec = plan.buffers[destination]
            buffers[destination] = self._device.view(buffers[source], spec.shape, spec.dtype)
        return buffers


def _type(tensor: Any) -> tuple[str, tuple[int, ...]]:
    return str(tensor.dtype), tuple(tensor.shape)


def _names(plan: Kernel) -> list[str]:
    """What people call the buffers of a plan that have memory of their own, in number order."""
    names = [f"input {k}" for k in range(plan.params)]
    names += [f"constant {k}" for k in range(len(plan.constants))]
    results = {plan.root(number): f"output {k}" for k, number in enumerate(plan.results)}
    return names + [
        results.get(number, f"intermediate buffer {number}")
        for number in range(len(names), len(plan.buffers))
        if plan.root(number) == number
    ]


def _expect(what: str, count: int, found: Sequence[Any]) -> None:
    if len(found) != count:
        raise ValueError(f"{what}: the kernel has {count}, and {len(found)} were given")
