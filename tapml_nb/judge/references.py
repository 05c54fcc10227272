"""References by operator and step: the exact results that verdicts lean on.

Those of single operators take several times as much memory as the source's values.  They are
computed a little ahead of who judges, and kept until their operator is judged, or longer where it
is to be judged in every run; whoever asks later has them computed again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, islice
from typing import Any, cast

import numpy as np

from tapml_nb.array_api import Array, dtype_of, namespace, np_dtype
from tapml_nb.execute.source import SourceRun
from tapml_nb.execute.storage import Kept
from tapml_nb.frontends.program import RecordedProgram
from tapml_nb.graph import Op, OpId, ValueId
from tapml_nb.judge.arithmetic import Arithmetic, reduction_length
from tapml_nb.judge.floor import Floor, Reference, referring
from tapml_nb.judge.scale import arithmetic_of, beside
from tapml_nb.measured import Asking, together

_PATIENCE = 0.05
"""Seconds between two chances to break off who waits."""

_TOGETHER = 256
"""Operators whose references are computed together, at most, where that saves time."""

_MUCH = 1 << 29
"""Bytes of float64 results of operators whose references are computed together, at most."""

_AHEAD = 1 << 29
"""Bytes of references that nobody has judged by yet, from which no more are computed ahead."""

_LARGE = 1 << 26
"""Bytes of an operator's tensors from which its float64 run may take longer than who stops a run
should wait."""


@dataclass(frozen=True)
class _Stored:
    """What a reference has beside the source's tensor, which the source keeps."""

    delta: Kept | None
    floor: Floor | None
    beside: Kept | None = None

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return sum(kept.nbytes for kept in (self.delta, self.beside) if kept)


class References:
    """Noise floors of single operators, and of the whole model up to a value."""

    def __init__(self, source: SourceRun) -> None:
        self._source, program = source, source.program
        self._recorded = program if isinstance(program, RecordedProgram) else None
        self._local: dict[tuple[OpId, int], Future[list[_Stored]]] = {}
        self._unread: dict[tuple[OpId, int], int] = {}
        """Bytes of what was computed ahead, and is still to be judged by."""

        self._unread_bytes = 0
        """Of all of that together."""

        self._judged: set[tuple[OpId, int]] = set()
        """Operators that were judged in this run."""

        self._settled: set[tuple[OpId, int]] = set()
        """Operators that need not be judged again, so that nothing is computed ahead for them."""

        self._end_to_end: list[dict[ValueId, _Stored]] = []
        self._carried: tuple[dict[ValueId, Any], dict[ValueId, int]] = ({}, {})
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def local(self, op: Op, step: int) -> list[Reference]:
        """Each output of an operator with its floor, on the source's own inputs."""
        slot = (op.id, step)
        with self._lock:
            known = self._local.get(slot)
            result = self._local.setdefault(slot, Future())
        if known is None:
            work = partial(self._find, [(op, step, result)])
            if self._bytes(op, step) < _LARGE:
                work()
            else:  # who waits can be broken off, and arithmetic cannot
                self._in_background(work)
        while not result.done():  # bit by bit, so that it can be broken off
            wait([result], _PATIENCE)
        stored = zip(op.outputs, result.result(), strict=True)
        return [self._reference(value, step, found) for value, found in stored]

    def _find(self, wanted: Sequence[tuple[Op, int, Future[list[_Stored]]]]) -> None:
        """Compute the local references of operators for all who wait for them."""
        try:
            asked = [self._referring_locally(op, step) for op, step, _ in wanted]
            found = iter(together(list(chain.from_iterable(asked))))
            for (*_, result), askings in zip(wanted, asked, strict=True):
                result.set_result(list(islice(found, len(askings))))
        except BaseException as error:
            if len(wanted) > 1 and isinstance(error, Exception):  # to each his own error
                for one in wanted:
                    self._find([one])
                return
            for op, step, result in wanted:
                if not result.done():
                    with self._lock:
                        self._local.pop((op.id, step), None)
                    result.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def _referring_locally(self, op: Op, step: int) -> list[Asking[_Stored]]:
        exact = self._source.exact(op.id, step)
        scales = () if exact is None else self._scales(op, step, exact)
        return self._referring(op, step, exact, self._length(op, step), scales)

    def _bytes(self, op: Op, step: int) -> int:
        """What an operator reads and writes."""
        tensors = self._source.program.graph.tensors((*op.inputs, *op.outputs))
        known = self._source.program.graph.values
        return sum(
            math.prod(self._source.shape(v, step)) * np_dtype(known[v].spec.dtype).itemsize
            for v in tensors
        )

    def _wide_bytes(self, op: Op, step: int) -> int:
        """What its float64 results take."""
        tensors = self._source.program.graph.tensors(op.outputs)
        return 8 * sum(math.prod(self._source.shape(v, step)) for v in tensors)

    def _in_background(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="tapml-references", daemon=True)
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()]
            thread.start()
            self._threads.append(thread)

    def forget(self, op: Op, step: int) -> None:
        """Drop an operator's local references in a step."""
        with self._lock:
            self._local.pop((op.id, step), None)

    def judged(self, op: Op, step: int, *, again: bool) -> None:
        """An operator was judged in a step; whether it is to be judged ``again`` in the next run,
        as far as one can tell."""
        slot = (op.id, step)
        with self._lock:
            self._unread_bytes -= self._unread.pop(slot, 0)
            self._judged.add(slot)
            if again:
                self._settled.discard(slot)
                return
            self._settled.add(slot)
            known = self._local.get(slot)
            if known and known.done():  # else it goes when it is: see :meth:`ahead`
                del self._local[slot]

    @property
    def held(self) -> int:
        """Bytes of all local references."""
        with self._lock:
            return sum(map(_size, self._local.values()))

    @contextmanager
    def ahead(self, calls: Sequence[tuple[OpId, int]]) -> Iterator[None]:
        """While the block runs, compute local references in this order in the background.

        The float64 runs then cost next to nothing: they go on while the target is at work.  Not
        while the source is, which is left in peace.  What need not be judged again is left out, and
        who is far ahead of :meth:`judged` waits for it.
        """
        ops = self._source.program.graph
        ended = threading.Event()

        def work() -> None:
            with self._lock:
                self._unread.clear()
                self._unread_bytes = 0
                self._judged.clear()
                new = [call for call in calls if call not in self._settled]
            wanted = [(ops[op], step) for op, step in new if not ops[op].host]
            begin, size = 0, 1
            while not (self._source.is_complete or ended.is_set()):
                ended.wait(_PATIENCE)
            while begin < len(wanted) and not ended.is_set():
                if self._unread_bytes > _AHEAD:
                    ended.wait(_PATIENCE)
                    continue
                end = begin + self._light(wanted[begin : begin + size])
                self._find_new(wanted[begin:end])
                begin = end
                if self._source.is_far:  # whoever waits for the first does not wait for all
                    size = min(2 * size, _TOGETHER)

        self.settle()
        self._in_background(work)
        try:
            yield
        finally:
            ended.set()  # the one at work may take its time: nobody waits for it

    def find(self, calls: Sequence[tuple[Op, int]]) -> None:
        """Compute local references of operators that are about to be judged, together."""
        left = list(calls)
        while left:
            count = self._light(left)
            self._find_new(left[:count])
            left = left[count:]

    def _find_new(self, calls: Sequence[tuple[Op, int]]) -> None:
        """Compute local references that nobody has asked for yet."""
        with self._lock:
            new = [(op, step) for op, step in calls if (op.id, step) not in self._local]
            futures: list[Future[list[_Stored]]] = [Future() for _ in new]
            self._local.update(
                ((op.id, step), future) for (op, step), future in zip(new, futures, strict=True)
            )
        self._find([(*call, future) for call, future in zip(new, futures, strict=True)])
        with self._lock:
            for (op, step), future in zip(new, futures, strict=True):
                if (op.id, step) in self._settled:
                    self._local.pop((op.id, step), None)
                elif (op.id, step) not in self._judged:
                    self._unread[op.id, step] = _size(future)
                    self._unread_bytes += _size(future)

    def _light(self, calls: Sequence[tuple[Op, int]]) -> int:
        """How many of these operators do not take too much memory together; one at least."""
        sizes = accumulate(self._wide_bytes(op, step) for op, step in calls)
        return max(1, sum(size < _MUCH for size in sizes))

    def settle(self, seconds: float = math.inf) -> None:
        """Wait for what still goes on in the background, so long at most."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and (going := [t for t in self._threads if t.is_alive()]):
            going[0].join(_PATIENCE)

    def end_to_end(self, value: ValueId, step: int) -> Reference:
        """An operator's value with the floor of the model run up to there.

        The exact result is that of a float64 run of the whole model, so the floor is what the
        source's precision costs from the inputs to this value.
        """
        # What a step leaves in its buffers, the next one finds.
        while len(self._end_to_end) <= step:
            self._end_to_end.append(self._run_model(len(self._end_to_end)))
        return self._reference(value, step, self._end_to_end[step][value])

    def _run_model(self, step: int) -> dict[ValueId, _Stored]:
        program = self._source.program
        graph = program.graph
        buffers, lengths = self._carried
        exact_values, lengths = dict(buffers), dict(lengths)
        self._source.vouch_for_all()
        values = ChainMap(exact_values, cast(dict[ValueId, Any], self._source.values(step)))
        last_use = {v: op.id for op in graph.ops for v in op.inputs}
        kept = set(program.mutations.values())
        droppable = {v.id for v in graph.values.values() if v.role == "operator"} - kept
        result: dict[ValueId, _Stored] = {}
        waiting: dict[ValueId, Asking[_Stored]] = {}
        taken = 0
        for op in graph.ops:
            if op.host:
                continue
            taken += self._wide_bytes(op, step)
            if len(waiting) >= (_TOGETHER if self._source.is_far else 1) or taken > _MUCH:
                result.update(zip(waiting, together(list(waiting.values())), strict=True))
                waiting.clear()
                taken = 0
            outputs = (
                self._redrawn(op, step, values)
                if self._source.is_random(op.id, step)
                else program.run_exact(op.id, values)
            )
            exact = None if outputs is None else [program.array_of(t) for t in outputs]
            # Noise of a long sum stays in everything that depends on it.
            length = max([self._length(op, step), *(lengths.get(v, 1) for v in op.inputs)])
            lengths.update(dict.fromkeys(op.outputs, length))
            waiting.update(zip(op.outputs, self._referring(op, step, exact, length), strict=True))
            if outputs is not None:
                exact_values.update(zip(op.outputs, outputs, strict=True))
            for value in op.inputs:  # float64 tensors are large: drop each after its last use
                if last_use[value] == op.id and value in droppable:
                    exact_values.pop(value, None)
        result.update(zip(waiting, together(list(waiting.values())), strict=True))
        mutations = program.mutations.items()
        self._carried = (
            {**buffers, **{buffer: values[value] for buffer, value in mutations}},
            {buffer: lengths.get(value, 1) for buffer, value in mutations},
        )
        return result

    def _scales(self, op: Op, step: int, exact: Sequence[Array]) -> Sequence[Array | None]:
        """What stands beside the elements of an operator's outputs."""
        source, values = self._source, self._source.values(step)
        if self._recorded:
            return self._recorded.scales(op.id, values)
        tensors = source.program.graph.tensor_inputs(op)

        def run(given: Mapping[int, Array]) -> list[Array] | None:
            return source.exact_on(op.id, step, {tensors[k]: a for k, a in given.items()})

        inputs = [source.array_there(v, step) for v in tensors]
        dtypes = [dtype_of(source.array_there(v, step)) for v in op.outputs]
        known = source.program.graph.values
        complex_ = [[known[v].spec.complex for v in ends] for ends in (tensors, op.outputs)]
        squares = None
        if source.squaring and not any(chain(*complex_)):
            squares = partial(source.exact_squared, op.id, step)
        return beside(op, inputs, dtypes, exact, run, *complex_, squares=squares)

    def _redrawn(self, op: Op, step: int, values: Mapping[ValueId, Any]) -> list[Any]:
        """A random operator on exact inputs, with the numbers that the source drew: it draws
        others in float64, so it is run in the source's own precision."""
        program, source = self._source.program, self._source.values(step)
        inputs: dict[ValueId, Any] = {value: source[value] for value in op.inputs}
        for value in op.inputs:
            if values[value] is not source[value] and not program.graph.values[value].host:
                like = self._source.array_there(value, step)
                with np.errstate(over="ignore"):  # as the source itself overflows
                    narrow = namespace(like).astype(program.array_of(values[value]), like.dtype)
                inputs[value] = program.from_array(narrow, source[value])
        return self._source.compute(op, step, inputs)

    def _length(self, op: Op, step: int) -> int:
        if op.members:  # sums in a row: their errors add up as those of one sum of all the terms
            return sum(
                reduction_length(
                    member.primitives,
                    [spec.shape for spec in member.inputs],
                    [spec.shape for spec in member.outputs],
                )
                for member in op.members
            )
        tensors = self._source.program.graph.tensors
        inputs, outputs = (
            [self._source.shape(v, step) for v in tensors(ends)] for ends in (op.inputs, op.outputs)
        )
        return reduction_length(op.primitives, inputs, outputs)

    def _referring(
        self, op: Op, step: int, exact: Any, length: int, scales: Sequence[Array | None] = ()
    ) -> list[Asking[_Stored]]:
        """References of an operator's outputs, asked for one by one."""
        known = self._source.program.graph.values
        complex_ = any(known[value].spec.complex for value in (*op.inputs, *op.outputs))
        kind = arithmetic_of(op, complex_) if scales else Arithmetic.ROWS

        def storing(k: int, value: ValueId) -> Asking[_Stored]:
            found = yield from referring(
                self._source.array_there(value, step),
                None if exact is None else exact[k],
                length,
                arithmetic=kind,
                beside=scales[k] if scales else None,
            )
            return _Stored(self._keep(found.delta), found.floor, self._keep(found.beside))

        return [storing(k, value) for k, value in enumerate(op.outputs)]

    def _keep(self, array: Array | None) -> Kept | None:
        return None if array is None else self._source.storage.keep(array)

    def _reference(self, value: ValueId, step: int, stored: _Stored) -> Reference:
        delta, scale = (None if k is None else k.array() for k in (stored.delta, stored.beside))
        return Reference(self._source.array_there(value, step), delta, stored.floor, scale)


def _size(found: Future[list[_Stored]]) -> int:
    """Bytes of references, if they are there."""
    if not found.done() or found.exception():
        return 0
    return sum(one.nbytes for one in found.result())
