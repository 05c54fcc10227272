"""Sizes as plain data, whatever they are made of: the same numbers as Python's and TVM's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tvm import tirx

from tapml_nb.compile.kernel import Size, SizeMisfit, bind, evaluate, parse
from tapml_nb.compile.primfunc import SizeNames

NAMES = ("n0", "n1", "n2")
COMPARISONS = ("<", "<=", "==", "!=")

symbols = st.fixed_dictionaries({name: st.integers(1, 50) for name in NAMES})


def symbols_in(size: Size) -> set[str]:
    """The symbols that a size depends on."""
    if isinstance(size, str):
        return {size}
    return set().union(*map(symbols_in, size[1:])) if isinstance(size, tuple) else set()


def sizes() -> st.SearchStrategy[Size]:
    """Sizes that can be evaluated: what divides is a number."""
    leaves = st.integers(0, 20) | st.sampled_from(NAMES)
    return st.recursive(leaves, _operations, max_leaves=12)


def _operations(size: st.SearchStrategy[Size]) -> st.SearchStrategy[Size]:
    truth: st.SearchStrategy[Any] = st.tuples(st.sampled_from(COMPARISONS), size, size)
    truth |= st.tuples(st.sampled_from(["and", "or"]), truth, truth)
    truth |= st.tuples(st.just("not"), truth)
    return (
        st.tuples(st.sampled_from(["+", "-", "*", "min", "max"]), size, size)
        | st.tuples(st.sampled_from(["//", "%"]), size, st.integers(1, 9))
        | st.tuples(st.just("select"), truth, size, size)
    )


def python(size: Size) -> str:
    """The size as an expression of Python's."""
    if not isinstance(size, tuple):
        return str(size)
    name, *operands = size[0], *map(python, size[1:])
    match name:
        case "min" | "max":
            return f"{name}({', '.join(operands)})"
        case "select":
            return "({1} if {0} else {2})".format(*operands)
        case "not":
            return f"(not {operands[0]})"
    return f"({operands[0]} {name} {operands[1]})"


def tvm(size: Size, variables: dict[str, Any]) -> Any:
    """The size as an expression of TVM's."""
    if isinstance(size, str):
        return variables[size]
    if isinstance(size, int):
        return tirx.IntImm("int64", size)
    name, *operands = size[0], *(tvm(operand, variables) for operand in size[1:])
    made = {
        "+": tirx.Add,
        "-": tirx.Sub,
        "*": tirx.Mul,
        "//": tirx.FloorDiv,
        "%": tirx.FloorMod,
        "min": tirx.Min,
        "max": tirx.Max,
        "<": tirx.LT,
        "<=": tirx.LE,
        "==": tirx.EQ,
        "!=": tirx.NE,
        "and": tirx.And,
        "or": tirx.Or,
        "not": tirx.Not,
        "select": tirx.Select,
    }
    return made[name](*operands)


@given(sizes(), symbols)
def test_they_are_what_python_computes(size, known):
    assert evaluate(size, known) == eval(python(size), dict(known))


@given(sizes(), symbols)
def test_tvm_says_the_same_after_it_has_simplified_them(size, known):
    variables = {name: tirx.Var(name, "int64") for name in NAMES}
    names = SizeNames()
    names.declare([list(variables.values())])
    assert evaluate(names.size(tvm(size, variables)), known) == evaluate(size, known)


@given(sizes(), symbols)
def test_json_keeps_them(size, known):
    assert parse(json.loads(json.dumps(size))) == size


@given(sizes(), symbols)
def test_their_symbols_are_all_they_need(size, known):
    needed = symbols_in(size)
    assert evaluate(size, {name: known[name] for name in needed}) == evaluate(size, known)
    for name in needed:
        with pytest.raises(KeyError):
            evaluate(size, {other: known[other] for other in needed - {name}})


@given(st.lists(st.lists(sizes(), max_size=3), max_size=3), symbols)
def test_shapes_tell_symbols(shapes, known):
    declared = [list(NAMES), *shapes]
    given_shapes = [[evaluate(size, known) for size in shape] for shape in declared]
    assert bind(declared, given_shapes, {}) == known


@given(st.lists(sizes(), min_size=1, max_size=3), symbols, st.data())
def test_any_other_number_is_refused(shape, known, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    declared = [list(NAMES), shape]
    numbers = [evaluate(size, known) for size in shape]
    numbers[axis] += data.draw(st.integers(-3, 3).filter(bool))
    assume(numbers[axis] >= 0)
    with pytest.raises(SizeMisfit, match=f"axis {axis} of "):
        bind(declared, [list(known.values()), numbers], {})
