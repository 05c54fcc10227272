"""Kernels that are right in another way: the order of loops and sums, and what real compilers do.

Whoever reports one of them cries wolf.  Nothing here is less precise than one more rounding of an
operand or a result, or a sum in another order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import tvm
from tvm import s_tir, tirx

from benchmarks.mutants.tir import (
    Node,
    Stack,
    dtype,
    in_value,
    is_float,
    kind,
    replaced,
    substituted,
    walk,
)

Rewrite = Callable[[Any, random.Random], Any]
"""Another PrimFunc, or None where the rewrite does not apply."""

REWRITES: dict[str, Rewrite] = {}


def rewritten(function: Any, rng: random.Random) -> tuple[str, Any] | None:
    """A PrimFunc written in another way, with the name of how; None if nothing applies.

    Every kind that applies is as likely.
    """
    names = list(REWRITES)
    rng.shuffle(names)
    for name in names:
        other = REWRITES[name](function, rng)
        if other is not None:
            return name, other
    return None


def _everywhere(name: str) -> Callable[[Callable[[Node, Stack], Node | None]], Any]:
    """Register a rewrite of expressions, made at one place, or at half of all."""

    def register(change: Callable[[Node, Stack], Node | None]) -> Any:
        def rewrite(function: Any, rng: random.Random) -> Any:
            body = function.body
            fits = [
                (number, new)
                for node, number, stack in walk(body)
                if in_value(stack) and (new := change(node, stack)) is not None
            ]
            if not fits:
                return None
            number, new = rng.choice(fits)
            return function.with_body(replaced(body, number, new))

        REWRITES[name] = rewrite
        return change

    return register


def _scheduled(name: str) -> Callable[[Callable[[Any, Any, random.Random], bool]], Any]:
    """Register a rewrite by TVM's schedules: of one block, chosen at random."""

    def register(change: Callable[[Any, Any, random.Random], bool]) -> Any:
        def rewrite(function: Any, rng: random.Random) -> Any:
            names = [
                node.name_hint
                for node, _, _ in walk(function.body)
                if kind(node) == "SBlock" and node.iter_vars
            ]
            names = [name for name in names if names.count(name) == 1]
            rng.shuffle(names)
            for block in names:
                schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
                try:
                    done = change(schedule, schedule.get_sblock(block, "main"), rng)
                except s_tir.schedule.ScheduleError:
                    continue
                if done:
                    return schedule.mod["main"]
            return None

        REWRITES[name] = rewrite
        return change

    return register


# -- expressions -----------------------------------------------------------------------------------


@_everywhere("operands commuted")
def _commuted(node: Node, stack: Stack) -> Node | None:
    return type(node)(node.b, node.a) if kind(node) in ("Add", "Mul", "EQ", "And", "Or") else None


@_everywhere("reassociated")
def _reassociated(node: Node, stack: Stack) -> Node | None:
    """(a·b)·c as a·(b·c), (a+b)+c as a+(b+c)."""
    if kind(node) not in ("Add", "Mul") or not is_float(node) or kind(node.a) != kind(node):
        return None
    make = type(node)
    return make(node.a.a, make(node.a.b, node.b))


@_everywhere("reciprocal")
def _reciprocal(node: Node, stack: Stack) -> Node | None:
    """a/b as a·(1/b)."""
    if kind(node) != "Div" or dtype(node) != "float32":
        return None
    return tirx.Mul(node.a, tirx.Div(tirx.const(1, dtype(node)), node.b))


@_everywhere("negative added")
def _negative_added(node: Node, stack: Stack) -> Node | None:
    """a-b as a+(-b)."""
    if kind(node) != "Sub" or not is_float(node):
        return None
    return tirx.Add(node.a, tirx.Mul(node.b, tirx.const(-1, dtype(node))))


@_everywhere("fused multiply-add")
def _fused(node: Node, stack: Stack) -> Node | None:
    """a·b+c with one rounding."""
    if kind(node) != "Add" or dtype(node) != "float32":
        return None
    if "Mul" not in (kind(node.a), kind(node.b)):
        return None
    a, b = (_wide_product(x) if kind(x) == "Mul" else tirx.Cast("float64", x)
            for x in (node.a, node.b))  # fmt: skip
    return tirx.Cast("float32", tirx.Add(a, b))


def _wide_product(node: Node) -> Node:
    return tirx.Mul(tirx.Cast("float64", node.a), tirx.Cast("float64", node.b))


@_everywhere("computed in float64")
def _in_float64(node: Node, stack: Stack) -> Node | None:
    if kind(node) not in ("Add", "Sub", "Mul", "Div") or dtype(node) != "float32":
        return None
    a, b = (tirx.Cast("float64", x) for x in (node.a, node.b))
    return tirx.Cast("float32", type(node)(a, b))


@_everywhere("computed in float32")
def _in_float32(node: Node, stack: Stack) -> Node | None:
    """As most devices compute float16 and bfloat16."""
    if kind(node) not in ("Add", "Sub", "Mul", "Div"):
        return None
    if dtype(node) not in ("float16", "bfloat16"):
        return None
    a, b = (tirx.Cast("float32", x) for x in (node.a, node.b))
    return tirx.Cast(dtype(node), type(node)(a, b))


@_everywhere("another intrinsic")
def _another_intrinsic(node: Node, stack: Stack) -> Node | None:
    """exp by exp2, sigmoid by exp, rsqrt by sqrt."""
    if kind(node) != "Call" or dtype(node) != "float32":
        return None
    one = tirx.const(1, "float32")
    match str(getattr(node.op, "name", "")).rpartition(".")[2]:
        case "exp":
            return tirx.exp2(node.args[0] * tirx.const(1.4426950408889634, "float32"))
        case "sigmoid":
            return one / (one + tirx.exp(node.args[0] * tirx.const(-1, "float32")))
        case "rsqrt":
            return one / tirx.sqrt(node.args[0])
    return None


# -- loops -----------------------------------------------------------------------------------------


def _backwards(function: Any, rng: random.Random) -> Any:
    """A loop over space from its end to its beginning."""
    loops = {}
    for node, _, _ in walk(function.body):
        if kind(node) == "For" and kind(node.extent) == "IntImm" and int(node.extent) > 1:
            loops[node.loop_var] = int(node.extent)
    for node, _, _ in walk(function.body):
        if kind(node) == "SBlockRealize":  # a sum begins where its index is 0, whenever that is
            for var, value in zip(node.block.iter_vars, node.iter_values, strict=True):
                if var.iter_type == var.CommReduce:
                    loops.pop(value, None)
    fits = [
        (number, tirx.const(loops[node] - 1, dtype(node)) - node)
        for node, number, stack in walk(function.body)
        if kind(node) == "Var" and node in loops and stack and stack[-1][1] == "iter_values"
    ]
    if not fits:
        return None
    return function.with_body(replaced(function.body, *rng.choice(fits)))


def _sum_backwards(function: Any, rng: random.Random) -> Any:
    """A sum from its last term to its first."""
    fits = [
        (number, node, var)
        for node, number, _ in walk(function.body)
        if kind(node) == "SBlock"
        for var in node.iter_vars
        if var.iter_type == var.CommReduce and int(var.dom.extent) > 1
    ]
    if not fits:
        return None
    number, block, reduced = rng.choice(fits)
    last = tirx.const(int(reduced.dom.extent) - 1, dtype(reduced.var))
    body = substituted(block.body, {reduced.var: last - reduced.var})
    other = s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint, body, block.init,
        block.alloc_buffers, block.match_buffers, block.annotations,
    )  # fmt: skip
    return function.with_body(replaced(function.body, number, other))


REWRITES["loop backwards"] = _backwards
REWRITES["sum backwards"] = _sum_backwards


def _extent(schedule: Any, loop: Any) -> int:
    return int(schedule.get(loop).extent)


def _loops(schedule: Any, block: Any) -> tuple[list[Any], list[Any]]:
    """A block's loops of more than one turn: over space, and over terms."""
    types = {v.var: v.iter_type for v in schedule.get(block).iter_vars}
    kinds = list(types.values())
    loops = schedule.get_loops(block)
    if len(loops) != len(kinds):
        return [], []
    long = [(x, k) for x, k in zip(loops, kinds, strict=True) if _extent(schedule, x) > 1]
    reduced = tirx.IterVar.CommReduce
    return [x for x, k in long if k != reduced], [x for x, k in long if k == reduced]


@_scheduled("loops reordered")
def _reordered(schedule: Any, block: Any, rng: random.Random) -> bool:
    space, terms = _loops(schedule, block)
    loops = [*space, *terms]
    if len(loops) < 2:
        return False
    rng.shuffle(loops)
    schedule.reorder(*loops)
    return True


@_scheduled("loops tiled")
def _tiled(schedule: Any, block: Any, rng: random.Random) -> bool:
    """A loop in tiles, the tiles' inner loop outside all others: sums in another order, too."""
    space, terms = _loops(schedule, block)
    loops = [x for x in (*space, *terms) if _extent(schedule, x) >= 4]
    if not loops:
        return False
    loop = rng.choice(loops)
    factor = rng.choice([f for f in (2, 3, 4, 5, 8, 16) if f < _extent(schedule, loop)])
    outer, inner = schedule.split(loop, [None, factor])
    if rng.random() < 0.5:
        schedule.reorder(inner, outer)
    return True


@_scheduled("partial sums")
def _partial_sums(schedule: Any, block: Any, rng: random.Random) -> bool:
    """Several sums that are added at the end."""
    _, terms = _loops(schedule, block)
    terms = [x for x in terms if _extent(schedule, x) % 2 == 0 and _extent(schedule, x) >= 4]
    if not terms:
        return False
    loop = rng.choice(terms)
    factors = [f for f in (2, 4, 8, 16) if _extent(schedule, loop) % f == 0]
    outer, inner = schedule.split(loop, [None, rng.choice(factors)])
    schedule.rfactor(rng.choice((outer, inner)), 0)
    return True


@_scheduled("initial values apart")
def _init_apart(schedule: Any, block: Any, rng: random.Random) -> bool:
    _, terms = _loops(schedule, block)
    if not terms:
        return False
    schedule.decompose_reduction(block, schedule.get_loops(block)[0])
    return True


@_scheduled("unrolled")
def _unrolled(schedule: Any, block: Any, rng: random.Random) -> bool:
    loops = [x for x in schedule.get_loops(block) if 1 < _extent(schedule, x) <= 64]
    if not loops:
        return False
    schedule.unroll(loops[-1])
    return True


@_scheduled("vectorized")
def _vectorized(schedule: Any, block: Any, rng: random.Random) -> bool:
    space, terms = _loops(schedule, block)
    if not space or terms:
        return False
    fits = [f for f in (4, 8, 16) if _extent(schedule, space[-1]) % f == 0]
    if not fits:
        return False
    _, inner = schedule.split(space[-1], [None, rng.choice(fits)])
    schedule.vectorize(inner)
    return True


@_scheduled("recomputed where it is read")
def _inlined(schedule: Any, block: Any, rng: random.Random) -> bool:
    if not schedule.get_consumers(block):
        return False
    schedule.compute_inline(block)
    return True


@_scheduled("loops fused")
def _fused_loops(schedule: Any, block: Any, rng: random.Random) -> bool:
    loops = schedule.get_loops(block)
    _, terms = _loops(schedule, block)
    if terms or len(loops) < 2:
        return False
    schedule.fuse(*loops)
    return True
