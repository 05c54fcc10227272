"""Operators in a row on the target, called in one request: what each of them gives.

A call of its own costs each operator a few exchanges with the target, which on a GPU take longer
than its kernel.  In a row they are poisoned, watched and compared as in such a call; but what goes
wrong there has no name yet, so what did not go well says nothing, and its operators are to be
called one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tapml_nb.array_api import Array
from tapml_nb.execute.caller import Argument, Caller, Outcome, Wanted
from tapml_nb.execute.implementation import Implementation
from tapml_nb.execute.source import Stopped
from tapml_nb.graph import Op, OpId, ValueId
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.calls import CallRequest, ChainCall
from tapml_nb.targets.wire.errors import TargetError, TargetLost


@dataclass(frozen=True)
class Made:
    """What an output became: an array or a host number, or the key of what it equals on the target,
    which is known here.

    Attributes:
        result: the array or number; None where it equals something.
        key: where the target keeps it.
        equal: the key of what it equals.
        compared: keys of what else it was compared with.
    """

    result: Any
    key: str = ""
    equal: str = ""
    compared: Sequence[str] = ()


class Row:
    """Calls that are to be made one after the other."""

    def __init__(self, session: TargetSession, name: str) -> None:
        """``name``: of keys of what it makes; another one for each row."""
        self._session, self._name = session, name
        self._calls: list[ChainCall] = []
        self._outgoing: dict[str, Callable[[], Array]] = {}
        self._alike: dict[str, Sequence[str]] = {}
        self._there: dict[ValueId, str] = {}
        self._ops: list[Op] = []

    def __len__(self) -> int:
        return len(self._ops)

    def __contains__(self, value: ValueId) -> bool:
        return value in self._there

    def add(
        self,
        op: Op,
        implementation: Implementation,
        inputs: Mapping[ValueId, Argument],
        order: Sequence[ValueId],
        alike: Sequence[Sequence[str]],
    ) -> None:
        """Call one more operator.

        Args:
            inputs: of its tensor inputs those that the row does not make.
            order: all of them, in order.
            alike: for each output the keys of what it may be compared with.
        """
        for argument in inputs.values():
            self._outgoing[argument.key()] = argument.outgoing
        for key in implementation.constants:
            self._outgoing[key] = partial(implementation.constants.__getitem__, key)
        read = [self._there[v] if v in self._there else inputs[v].key() for v in order]
        made = [f"{self._name}/{value}" for value in op.outputs]
        self._calls += implementation.chained(read, made)
        self._there.update(zip(op.outputs, made, strict=True))
        self._alike.update(zip(made, alike, strict=True))
        self._ops.append(op)

    def run(self) -> dict[OpId, list[Made]]:
        """Make the calls: what every operator gave; nothing if it did not go well.

        Raises:
            Stopped: if the session was interrupted.
            ModelChanged: as :meth:`Caller.call <tapml_nb.execute.caller.Caller.call>`.
        """
        try:
            return self._run()
        except TargetError:
            self._session.drop(list(self._there.values()))
            return {}
        except TargetLost as lost:
            if lost.reason == "interrupted":
                raise Stopped from None
            return {}

    def _run(self) -> dict[OpId, list[Made]]:
        session, keys = self._session, list(self._there.values())
        session.put_all(self._outgoing)
        compared = [list(filter(session.resident, self._alike[key])) for key in keys]
        result = session.chain(self._calls, keys, compared, observed=True)
        if result.overwritten:
            session.drop(keys)
            return {}
        equal = {
            key: others[place]
            for key, others, place in zip(keys, compared, result.equals, strict=True)
            if place >= 0
        }
        new = [key for key in keys if key not in equal]
        arrays = dict(zip(new, session.fetch_all_there(new), strict=True))
        made = {
            key: Made(arrays.get(key), key, equal.get(key, ""), others)
            for key, others in zip(keys, compared, strict=True)
        }
        return {op.id: [made[self._there[value]] for value in op.outputs] for op in self._ops}


def call_in_a_row(caller: Caller, calls: Sequence[Wanted]) -> list[Outcome]:
    """Make calls that have nothing to do with one another in one request, and read at once what
    they gave.

    Returns:
        Outcomes of as many as went well, none of a failure.  Of all others nothing is known.

    Raises:
        Stopped: if the session was interrupted.
        ModelChanged: as :meth:`Caller.call <tapml_nb.execute.caller.Caller.call>`.
    """
    try:
        return _call_in_a_row(caller, calls) if calls else []
    except TargetError:
        return []
    except TargetLost as lost:
        if lost.reason == "interrupted":
            raise Stopped from None
        return []


def _call_in_a_row(caller: Caller, calls: Sequence[Wanted]) -> list[Outcome]:
    session = caller.session
    reads: dict[str, Callable[[], Array]] = {}
    first: dict[str, int] = {}
    for number, call in enumerate(calls):
        for key, outgoing in call.reads.items():
            reads.setdefault(key, outgoing)
            first.setdefault(key, number)
    sent = [0] * len(calls)
    for key, size in session.put_all(reads).items():
        sent[first[key]] += size
    there = [
        [list(filter(session.resident, keys)) for keys in call.operands.compared] for call in calls
    ]
    requests = [
        CallRequest(
            call.compiled.kernel.key,
            tuple(call.inputs),
            tuple(call.operands.outputs),
            tuple(map(tuple, keys)),
            session.target.timeout,
            call.repeats,
            tuple(call.compiled.numbers),
        )
        for call, keys in zip(calls, there, strict=True)
    ]
    results = session.call_all(requests)
    new = [
        key
        for call, result in zip(calls, results, strict=False)
        for key, place in zip(call.operands.outputs, result.equals, strict=True)
        if place < 0
    ]
    arrays = dict(zip(new, session.fetch_all_there(new), strict=True)) if new else {}
    outcomes = []
    for call, keys, result, size in zip(calls, there, results, sent, strict=False):
        outputs = call.operands.outputs
        outcome = caller.outcome(outputs, call.inputs, keys, result, size)
        here = {key: arrays[key] for key in outputs if key in arrays}
        outcomes.append(replace(outcome, read=partial(_read, here, outputs, outcome)))
    return outcomes


def _read(
    arrays: Mapping[str, Array], keys: Sequence[str], outcome: Outcome, output: int, first: bool
) -> Array:
    """Read an output of a call, of which those in ``arrays`` are here already."""
    assert outcome.result, "or there is nothing to read"
    if keys[output] in arrays and not (first and not outcome.result.deterministic[output]):
        return arrays[keys[output]]
    return outcome.read(output, first)
