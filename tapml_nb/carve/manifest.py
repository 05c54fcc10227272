"""What the manifest of a bundle must look like: checked whole before anything of it is used.

A bundle may come from anybody.  Behind this check every key is there and of its type, every number
is in its range, every tensor and unit that is named is a member, and the tests fit each other: so
nothing that reads a manifest has to look again.  Keys that are not known here are left alone.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tapml_nb.judge.verdict import Verdict

Check = Callable[[Any, str], None]
"""Looks at a value and at the words for where it stands; raises :class:`Malformed`."""

_LARGEST = 2**63 - 1


class Malformed(ValueError):
    """A manifest that is not as it should be; says where."""


def tensor_member(digest: str) -> str:
    """The name of a tensor's member."""
    return f"tensors/{digest}.safetensors"


def unit_member(key: str) -> str:
    """The name of a compilable unit's member."""
    return f"units/{key}.json"


def check(manifest: Mapping[str, Any], members: Collection[str]) -> None:
    """Check a manifest of this version's schema; ``members`` are the names of all other members.

    Raises:
        Malformed: at the first thing that is wrong.
    """
    _MANIFEST(manifest, "")
    listed = manifest["members"]
    if odd := sorted(set(members) ^ set(listed)):
        where = "it lists, and the file lacks" if odd[0] in listed else "the file holds unlisted"
        raise Malformed(f"members: {where} {reprlib.repr(odd[0])}")
    _check_tests(manifest["tests"], listed)


# -- what one value must be ------------------------------------------------------------------------


def _is(wanted: str, right: Callable[[Any], bool]) -> Check:
    def check(value: Any, at: str) -> None:
        if not right(value):
            raise Malformed(f"{at} is {reprlib.repr(value)}, and should be {wanted}")

    return check


def _whole(least: int) -> Check:
    words = f"a whole number from {least}"
    return _is(words, lambda v: type(v) is int and least <= v <= _LARGEST)


def _matching(pattern: str, words: str) -> Check:
    return _is(words, lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None)


_TEXT = _is("text", lambda v: isinstance(v, str))
_FLAG = _is("true or false", lambda v: isinstance(v, bool))
_LIST = _is("a list", lambda v: isinstance(v, list))
_OBJECT = _is("an object", lambda v: isinstance(v, dict))
_VERDICT = _is("a verdict", lambda v: isinstance(v, str) and v in list(Verdict))
_KEYED = _matching(r"[0-9a-f]{1,128}", "a key in hexadecimal")


def _number(value: Any, at: str) -> None:
    if isinstance(value, int):
        _is("a number of 64 bits", lambda v: -_LARGEST - 1 <= v <= 2 * _LARGEST + 1)(value, at)
    # A bool is one: whether a mask is given, say.
    _is("a number", lambda v: isinstance(v, int | float))(value, at)


def _constant(value: Any, at: str) -> None:
    if value is not None and not isinstance(value, str):
        _number(value, at)


def _maybe(inner: Check) -> Check:
    def maybe(value: Any, at: str) -> None:
        if value is not None:
            inner(value, at)

    return maybe


def _listed(inner: Check) -> Check:
    def listed(value: Any, at: str) -> None:
        _LIST(value, at)
        for k, member in enumerate(value):
            inner(member, f"{at}[{k}]")

    return listed


def _mapping(inner: Check) -> Check:
    def mapping(value: Any, at: str) -> None:
        _OBJECT(value, at)
        for name, member in value.items():
            inner(member, f"{at}[{reprlib.repr(name)}]")

    return mapping


def _record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    def record(value: Any, at: str) -> None:
        _OBJECT(value, at or "it")
        before = f"{at}." if at else ""
        for name, inner in required.items():
            if name not in value:
                raise Malformed(f"{before}{name} is missing")
            inner(value[name], before + name)
        for name, inner in (optional or {}).items():
            if name in value:
                inner(value[name], before + name)

    return record


_SPEC = _record({"shape": _listed(_whole(-1)), "dtype": _TEXT})

_MEMBER = _record(
    {"op": _TEXT, "primitives": _listed(_TEXT), "inputs": _listed(_SPEC), "outputs": _listed(_SPEC)}
)

_TEST = _record(
    {
        **dict.fromkeys(("op", "kind", "scope", "module", "layer"), _TEXT),
        "source": _maybe(_record({"file": _TEXT, "line": _whole(0), "text": _TEXT})),
        "primitives": _listed(_TEXT),
        "host": _FLAG,
        "constants": _mapping(_constant),
        "step": _whole(0),
        "inputs": _listed(_record({"value": _TEXT, "tensor": _KEYED})),
        "outputs": _listed(_record({"value": _TEXT, "tensor": _KEYED, "delta": _maybe(_KEYED)})),
        "unit": _maybe(_KEYED),
        "unsupported": _maybe(_TEXT),
        "verdict": _maybe(_VERDICT),
        "message": _TEXT,
    },
    {  # those of the first bundles did not have all of these
        "members": _listed(_MEMBER),
        "scalars": _listed(_record({"value": _TEXT, "number": _number})),
        "numbers": _listed(_whole(0)),
        "conversion": _TEXT,
    },
)

_MANIFEST = _record(
    {
        "name": _TEXT,
        "tests": _listed(_TEST),
        "members": _mapping(_matching(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal")),
    },
    {"versions": _mapping(_TEXT)},
)


# -- how the tests fit each other ------------------------------------------------------------------


def _check_tests(tests: list[dict[str, Any]], members: Collection[str]) -> None:
    """What is named is there, steps and operators are in order, each value is one thing."""
    calls: set[tuple[str, int]] = set()
    ends: dict[str, list[list[str]]] = {}
    makers: dict[str, str] = {}
    numbers: dict[str, bool] = {}
    held: dict[tuple[int, str], str] = {}
    for k, test in enumerate(tests):
        at, op, step = f"tests[{k}]", test["op"], test["step"]
        if (op, step) in calls:
            raise Malformed(f"{at} is of {op!r} in step {step}, and so is one before it")
        calls.add((op, step))
        _check_members(test, at, members)
        is_new = op not in ends
        here = [
            [entry["value"] for entry in test.get(end, ())]
            for end in ("inputs", "scalars", "outputs")
        ]
        if ends.setdefault(op, here) != here:
            raise Malformed(f"{at}: {op!r} has other inputs or outputs in another step")
        values = [(value, end == 1) for end in range(3) for value in here[end]]
        if len(dict(values)) < len(values):
            raise Malformed(f"{at}: one of its values is there twice")
        for value in here[2]:
            if is_new and value in numbers:
                raise Malformed(f"{at}: {value!r} is there before the operator that computes it")
            if makers.setdefault(value, op) != op:
                raise Malformed(f"{at}: {makers[value]!r} computes {value!r}, too")
        for value, is_number in values:
            if numbers.setdefault(value, is_number) != is_number:
                raise Malformed(f"{at}: {value!r} is both a tensor and a number")
        for entry in (*test["inputs"], *test["outputs"]):
            if held.setdefault((step, entry["value"]), entry["tensor"]) != entry["tensor"]:
                raise Malformed(f"{at}: {entry['value']!r} is two tensors in step {step}")
    steps = {step for _, step in calls}
    if steps and max(steps) >= len(steps):
        raise Malformed(f"tests: there are {len(steps)} steps, and one is number {max(steps)}")


def _check_members(test: Mapping[str, Any], at: str, members: Collection[str]) -> None:
    outputs = test["outputs"]
    keys = [entry["tensor"] for entry in (*test["inputs"], *outputs)]
    keys += [entry["delta"] for entry in outputs if entry["delta"] is not None]
    for key in keys:
        if tensor_member(key) not in members:
            raise Malformed(f"{at}: there is no tensor {key}")
    if test["unit"] is not None and unit_member(test["unit"]) not in members:
        raise Malformed(f"{at}: there is no unit {test['unit']}")
    if test["unit"] is None and test["unsupported"] is None and not test["host"]:
        raise Malformed(f"{at} has neither a unit nor a reason why not")
