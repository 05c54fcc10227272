"""What can be wrong with a kernel: changes to TIR, each at one place, as bugs are.

Indices stay within their buffers: what lies outside would be chance, and a kernel that writes there
overwrites what others are judged by.  For the same reason workspaces are filled before a mutant
begins, floating-point ones with NaN: one that it forgets to write might hold the right values of
before.
(Crashes and hangs are in :mod:`benchmarks.faults`.)
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from tvm import s_tir, tirx

from benchmarks.mutants.tir import (
    Node,
    Stack,
    dtype,
    in_index,
    in_value,
    is_float,
    kind,
    rebuilt,
    replaced,
    walk,
    with_filled_workspaces,
)

Mutate = Callable[[Node, Stack, random.Random], Node | None]
"""What is to stand in a node's place; None where the mutation does not apply to it."""

MUTATIONS: dict[str, Mutate] = {}
_RARE: set[str] = set()


def mutation(name: str, *, rare: bool = False) -> Callable[[Mutate], Mutate]:
    """Register a kind of mutation; one that applies to few kernels is tried first more often."""

    def register(mutate: Mutate) -> Mutate:
        MUTATIONS[name] = mutate
        if rare:
            _RARE.add(name)
        return mutate

    return register


def mutant(function: Any, rng: random.Random) -> tuple[str, Any] | None:
    """A mutation of a PrimFunc, by name, and the PrimFunc that has it; None if none applies.

    Of a kind every place is as likely, and so is every kind that applies, but for the rare ones.
    """
    nodes = list(walk(function.body))
    names = sorted(MUTATIONS, key=lambda name: rng.random() ** (3 if name in _RARE else 1))
    for name in names:
        places = list(nodes)
        rng.shuffle(places)
        for node, number, stack in places:
            new = MUTATIONS[name](node, stack, rng)
            if new is not None:
                changed = function.with_body(replaced(function.body, number, new))
                return name, with_filled_workspaces(changed)
    return None


# -- numbers ---------------------------------------------------------------------------------------


@mutation("other operation", rare=True)
def _other_operation(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """+ for -, and so on."""
    others = {"Add": "Sub", "Sub": "Add", "Mul": "Add", "Div": "Mul"}
    if not in_value(stack) or kind(node) not in others:
        return None
    return getattr(tirx, others[kind(node)])(node.a, node.b)


@mutation("swapped operands", rare=True)
def _swapped_operands(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if not in_value(stack):
        return None
    if kind(node) in ("Sub", "Div", "LT", "LE", "GT", "GE", "FloorDiv", "FloorMod"):
        return type(node)(node.b, node.a)
    if kind(node) == "Select":
        return tirx.Select(node.condition, node.false_value, node.true_value)
    if kind(node) == "Call" and _name(node) in ("pow", "atan2"):
        return _call(_name(node), node.args[1], node.args[0])
    return None


@mutation("dropped operand", rare=True)
def _dropped_operand(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """A term or a factor that is missing."""
    if not in_value(stack) or kind(node) not in ("Add", "Sub", "Mul", "Div", "And", "Or"):
        return None
    return node.a if kind(node) == "Div" else rng.choice((node.a, node.b))


@mutation("constant 1 % off", rare=True)
def _constant_one_percent(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if kind(node) != "FloatImm" or not in_value(stack) or not 0 < abs(node.value) < 1e30:
        return None
    return tirx.const(node.value * rng.choice((0.99, 1.01)), dtype(node))


@mutation("constant twice as large", rare=True)
def _constant_twice(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if kind(node) != "FloatImm" or not in_value(stack) or not 0 < abs(node.value) < 1e30:
        return None
    return tirx.const(node.value * 2, dtype(node))


@mutation("another epsilon", rare=True)
def _another_epsilon(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if kind(node) != "FloatImm" or not 0 < abs(node.value) < 1e-3 or not in_value(stack):
        return None
    return tirx.const(node.value * rng.choice((0.0, 10.0, 1000.0)), dtype(node))


@mutation("another integer", rare=True)
def _another_integer(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if kind(node) != "IntImm" or not in_value(stack) or dtype(node) == "bool":
        return None
    if not -100 < int(node) < 100:  # the ends of a range: there is nothing beyond
        return None
    return tirx.IntImm(dtype(node), node.value + rng.choice((-1, 1)))


@mutation("one percent too large")
def _one_percent(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """A scale that is off: of one value that the kernel reads or computes."""
    if not in_value(stack) or not is_float(node) or kind(node) in ("FloatImm", "Var"):
        return None
    return tirx.Mul(node, tirx.const(1.01, dtype(node)))


@mutation("through float16")
def _through_float16(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if not in_value(stack) or dtype(node) != "float32" or kind(node) in ("FloatImm", "Var"):
        return None
    return tirx.Cast("float32", tirx.Cast("float16", node))


@mutation("max for min", rare=True)
def _max_for_min(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if not in_value(stack) or kind(node) not in ("Max", "Min"):
        return None
    return (tirx.Min if kind(node) == "Max" else tirx.Max)(node.a, node.b)


@mutation("another comparison", rare=True)
def _another_comparison(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    others = {"LT": "LE", "LE": "LT", "GT": "GE", "GE": "GT", "EQ": "NE", "NE": "EQ"}
    if not in_value(stack) or kind(node) not in others:
        return None
    other = getattr(tirx, others[kind(node)])(node.a, node.b)
    return _clamped_loads_above(other, stack)


@mutation("sign lost")
def _sign_lost(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if not in_value(stack) or kind(node) != "TensorLoad" or not is_float(node):
        return None
    return tirx.abs(node)


@mutation("approximation", rare=True)
def _approximation(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """A cheaper function in an intrinsic's place."""
    if kind(node) != "Call" or not is_float(node) or not in_value(stack):
        return None
    x = node.args[0]

    def c(value: float) -> Node:
        return tirx.const(value, dtype(node))

    def coarse_exp(x: Node) -> Node:  # (1 + x/1024)^1024
        power = c(1) + x * c(1 / 1024)
        for _ in range(10):
            power = power * power
        return power

    match _name(node):
        case "exp":
            return rng.choice((coarse_exp(x), _call("exp", x * c(0.999))))
        case "sigmoid":
            return c(1) / (c(1) + coarse_exp(c(0) - x))
        case "tanh":
            y = tirx.max(tirx.min(x, c(3)), c(-3))
            return y * (c(27) + y * y) / (c(27) + c(9) * y * y)
        case "erf":
            return _call("tanh", x * c(1.128379) * (c(1) + c(0.089) * x * x))
        case "rsqrt" | "sqrt" | "log" | "pow":
            return node * c(1 + rng.choice((1e-2, 1e-3, 1e-4)))
        case "sin":
            return _call("sin", x * c(1 + 1e-3))
        case "cos":
            return _call("cos", x * c(1 + 1e-3))
    return None


@mutation("sine for cosine", rare=True)
def _sine_for_cosine(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if kind(node) != "Call" or _name(node) not in ("sin", "cos"):
        return None
    return _call("cos" if _name(node) == "sin" else "sin", node.args[0])


@mutation("clamped")
def _bounded(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """A clamp that the operator has not."""
    if not in_value(stack) or kind(node) != "TensorLoad" or not is_float(node):
        return None
    bound = rng.choice((1.0, 6.0, 100.0))
    return tirx.max(tirx.min(node, tirx.const(bound, dtype(node))), tirx.const(-bound, dtype(node)))


# -- indices ---------------------------------------------------------------------------------------


@mutation("index off by one")
def _index_off_by_one(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    extent = _extent_here(node, stack)
    if extent is None:
        return None
    one = tirx.const(rng.choice((-1, 1)), dtype(node))
    return _clamped(node + one, extent)


@mutation("index rounded down")
def _index_rounded(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """Lanes of a vector that share a value."""
    extent = _extent_here(node, stack)
    if extent is None:
        return None
    width = tirx.const(rng.choice((2, 4, 8)), dtype(node))
    return tirx.FloorDiv(node, width) * width


@mutation("index fixed")
def _index_fixed(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    extent = _extent_here(node, stack)
    if extent is None or kind(node) == "IntImm":
        return None
    return tirx.const(rng.choice((0, extent - 1)), dtype(node))


@mutation("axis reversed")
def _axis_reversed(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    extent = _extent_here(node, stack)
    if extent is None or kind(node) == "IntImm":
        return None
    return tirx.const(extent - 1, dtype(node)) - node


@mutation("wrong axis")
def _wrong_axis(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """Two indices of a load exchanged."""
    if kind(node) != "TensorLoad" or not in_value(stack):
        return None
    shape = _shape(node.source)
    wide = [k for k, size in enumerate(shape) if size > 1]
    if len(wide) < 2 or _is_accumulator(node, stack):
        return None
    i, j = rng.sample(wide, 2)
    indices = list(node.indices)
    indices[i], indices[j] = (
        _clamped(indices[j], shape[i]),
        _clamped(indices[i], shape[j]),
    )
    return tirx.BufferLoad(node.source, indices)


@mutation("another tensor")
def _another_tensor(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """A load from the other operand, at the same place."""
    if kind(node) != "TensorLoad" or not in_value(stack) or _is_accumulator(node, stack):
        return None
    store = next(above for above, _ in stack if kind(above) == "BufferStore")
    others = [
        n.source
        for n, _, _ in walk(store.value)
        if kind(n) == "TensorLoad"
        and not n.source.same_as(node.source)
        and not n.source.same_as(store.buffer)
        and len(n.indices) == len(node.indices)
        and dtype(n) == dtype(node)
    ]
    if not others:
        return None
    other = rng.choice(others)
    shape = _shape(other)
    indices = [_clamped(i, size) for i, size in zip(node.indices, shape, strict=True)]
    return tirx.BufferLoad(other, indices)


# -- loops, blocks, stores -------------------------------------------------------------------------


@mutation("loop shorter by one")
def _shorter(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """A term that a sum leaves out, or a slice that is not written."""
    if kind(node) != "For" or kind(node.extent) != "IntImm" or int(node.extent) < 2:
        return None
    return _for(node, int(node.extent) - 1)


@mutation("loop in whole tiles", rare=True)
def _whole_tiles(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """The rest that fills no tile is left out."""
    if kind(node) != "For" or kind(node.extent) != "IntImm":
        return None
    extent = int(node.extent)
    tiles = [t for t in (8, 16, 32) if extent > t and extent % t]
    return _for(node, extent - extent % rng.choice(tiles)) if tiles else None


@mutation("terms left out", rare=True)
def _terms_left_out(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """One in so many steps of a reduction does nothing."""
    block = _block(stack)
    if kind(node) != "BufferStore" or block is None or stack[-1][1] == "init":
        return None
    reduced = [v for v in block.iter_vars if v.iter_type == v.CommReduce]
    if not reduced:
        return None
    var, every = rng.choice(reduced).var, rng.choice((2, 4, 8))
    last = tirx.const(every - 1, dtype(var))
    return tirx.IfThenElse(tirx.NE(tirx.FloorMod(var, last + 1), last), node, None)


@mutation("term counted twice", rare=True)
def _term_twice(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    block = _block(stack)
    if kind(node) != "BufferStore" or block is None or stack[-1][1] == "init":
        return None
    reduced = [v for v in block.iter_vars if v.iter_type == v.CommReduce]
    if not reduced:
        return None
    var = rng.choice(reduced).var
    first = tirx.EQ(var, tirx.const(0, dtype(var)))
    return tirx.SeqStmt([node, tirx.IfThenElse(first, node, None)])


@mutation("store missing")
def _store_missing(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """A region that is never written."""
    block = _block(stack)
    if kind(node) != "BufferStore" or block is None or block.init is not None:
        return None
    spatial = [v for v in block.iter_vars if int(v.dom.extent) > 1]
    if not spatial:
        return None
    chosen = rng.choice(spatial)
    one = rng.choice((0, int(chosen.dom.extent) - 1, int(chosen.dom.extent) // 2))
    there = tirx.EQ(chosen.var, tirx.const(one, dtype(chosen.var)))
    return tirx.IfThenElse(tirx.Not(there), node, None)


@mutation("initial value dropped", rare=True)
def _init_dropped(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if kind(node) != "SBlock" or node.init is None:
        return None
    return s_tir.SBlock(
        node.iter_vars, node.reads, node.writes, node.name_hint, node.body, None,
        node.alloc_buffers, node.match_buffers, node.annotations,
    )  # fmt: skip


@mutation("another initial value", rare=True)
def _another_init(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    if kind(node) != "FloatImm" or not any(field == "init" for _, field in stack):
        return None
    value = rng.choice((1.0, 1e-2)) if math.isfinite(node.value) and not node.value else 0.0
    return tirx.const(value, dtype(node))


@mutation("guard dropped", rare=True)
def _guard_dropped(node: Node, stack: Stack, rng: random.Random) -> Node | None:
    """One branch of a choice for all."""
    if not in_value(stack):
        return None
    if kind(node) == "Select":
        branches = [node.true_value, node.false_value]
    elif kind(node) == "Call" and _name(node) == "if_then_else":
        branches = [node.args[1], node.args[2]]
    else:
        return None
    return _with_clamped_loads(rng.choice(branches))


# -- parts -----------------------------------------------------------------------------------------


def _name(call: Node) -> str:
    return str(getattr(call.op, "name", "")).rpartition(".")[2]


def _call(name: str, *args: Node) -> Node:
    return getattr(tirx, name)(*args)


def _shape(buffer: Node) -> list[int]:
    return [int(size) if kind(size) == "IntImm" else 1 for size in buffer.shape]


def _clamped(index: Node, extent: int) -> Node:
    zero, last = (tirx.const(k, dtype(index)) for k in (0, extent - 1))
    return tirx.max(tirx.min(index, last), zero)


def _with_clamped_loads(root: Node) -> Node:
    """All that is read in an expression, within bounds: its guard is gone."""

    def clamp(node: Node, number: int, stack: Stack) -> Node:
        if kind(node) != "TensorLoad":
            return node
        sizes = zip(node.indices, _shape(node.source), strict=True)
        return tirx.BufferLoad(node.source, [_clamped(i, size) for i, size in sizes])

    return rebuilt(root, clamp)


def _clamped_loads_above(node: Node, stack: Stack) -> Node | None:
    """A comparison, unless it guards what is read: beyond it there is no memory."""
    guards = any((kind(above) == "Call" and _name(above) == "if_then_else") for above, _ in stack)
    return None if guards else node


def _extent_here(node: Node, stack: Stack) -> int | None:
    """The size of the axis that a node is the index of, if it is one of a value that is read."""
    if not stack or stack[-1][1] != "indices" or kind(stack[-1][0]) != "TensorLoad":
        return None
    load = stack[-1][0]
    if not in_value(stack[:-1]) or _is_accumulator(load, stack[:-1]) or in_index(stack[:-1]):
        return None
    place = [k for k, index in enumerate(load.indices) if index.same_as(node)]
    extent = _shape(load.source)[place[0]] if place else 1
    return extent if extent > 1 else None


def _is_accumulator(load: Node, stack: Stack) -> bool:
    """Whether a load reads what its own store writes."""
    stores = [above for above, _ in stack if kind(above) == "BufferStore"]
    return any(load.source.same_as(store.buffer) for store in stores)


def _block(stack: Stack) -> Node | None:
    """The block that a store stands in by itself."""
    above = [node for node, _ in stack if kind(node) == "SBlock"]
    return above[-1] if above and above[-1].iter_vars else None


def _for(node: Node, extent: int) -> Node:
    return tirx.For(
        node.loop_var, node.min, tirx.const(extent, dtype(node.extent)), node.kind, node.body,
        node.thread_binding, node.annotations, node.step,
    )  # fmt: skip
