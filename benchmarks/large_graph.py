"""A session over a graph of any size that nothing is ever computed of: for drawing alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tapml_nb import Session
from tapml_nb.api import open_session
from tapml_nb.execute.events import OpJudged
from tapml_nb.frontends.program import Mark, Unit, Unsupported
from tapml_nb.graph import Graph, Op, OpId, TensorSpec, Value, ValueId
from tapml_nb.graph.model import layer_of
from tapml_nb.judge import Verdict
from tapml_nb.judge.results import OpResult

SPEC = TensorSpec((1, 32, 256), "float32")


_LAYER = 57
"""Operators of one layer."""


class _Builder:
    """Operators one after the other, each reading what came before."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.values = {"x": Value("x", "input", SPEC, "x")}
        self._names: dict[str, int] = {}

    def add(self, scope: str, name: str, *inputs: ValueId) -> ValueId:
        """One operator; returns its value."""
        path = f"{scope}/{name}"
        count = self._names[path] = self._names.get(path, -1) + 1
        op, value = (f"{path}_{count}" if count else path), f"v{len(self.ops)}"
        self.values[value] = Value(value, "operator", SPEC, op, op)
        self.ops.append(
            Op(op, f"aten.{name}", scope, "M", layer_of(scope), inputs, (value,), None, ())
        )
        return value

    def chain(self, scope: str, names: str, value: ValueId, *others: ValueId) -> ValueId:
        """A row of operators."""
        for name in names.split():
            value = self.add(scope, name, value, *(others if name == "mul" else ()))
        return value


def transformer(operators: int) -> Graph:
    """A decoder in shape and names, of at least this many operators (57 a layer)."""
    b = _Builder()
    rotary = b.chain("model.rotary_emb", "arange cos sin", "x")
    h = b.add("model.embed_tokens", "embedding", "x")
    norm = "pow mean add rsqrt mul mul"
    for layer in range(-(-operators // _LAYER)):
        scope = f"model.layers.{layer}"
        attention = f"{scope}.self_attn"
        x = b.chain(f"{scope}.input_layernorm", norm, h)
        parts = []
        for part in "qkv":
            y = b.add(f"{attention}.{part}_proj", "linear", x)
            rotate = "view transpose mul slice neg cat mul add expand reshape"
            parts.append(b.chain(attention, rotate, y, rotary))
        y = b.add(attention, "scaled_dot_product_attention", *parts)
        y = b.chain(attention, "transpose reshape clone view", y)
        h = b.add(scope, "add", h, b.add(f"{attention}.o_proj", "linear", y))
        x = b.chain(f"{scope}.post_attention_layernorm", norm, h)
        gate = b.add(f"{scope}.mlp.act_fn", "silu", b.add(f"{scope}.mlp.gate_proj", "linear", x))
        y = b.add(f"{scope}.mlp", "mul", gate, b.add(f"{scope}.mlp.up_proj", "linear", x))
        h = b.add(scope, "add", h, b.add(f"{scope}.mlp.down_proj", "linear", y))
    h = b.add("lm_head", "linear", b.chain("model.norm", norm, h))
    return Graph("Decoder", tuple(b.ops), b.values, ("x",), (h,))


class _Drawing:
    """A program whose graph can be looked at."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.steps = 1

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        return {"x": np.zeros(())}

    @property
    def mutations(self) -> dict[ValueId, ValueId]:
        return {}

    def marks(self) -> dict[tuple[ValueId, int], Mark]:
        return {}

    def run(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        return [np.zeros(())]

    def draws(self, op: OpId, values: Mapping[ValueId, Any]) -> bool:
        return False

    def repeatable(self, op: OpId) -> None:
        return None

    def run_exact(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any] | None:
        return None

    def unit(self, op: OpId, values: Mapping[ValueId, Any], *, symbolic: bool = False) -> Unit:
        raise Unsupported("nothing is computed here")

    def to_numpy(self, tensor: Any) -> np.ndarray:
        return np.asarray(tensor)

    def array_of(self, tensor: Any) -> np.ndarray:
        return np.asarray(tensor)

    def from_array(self, array: np.ndarray, like: Any) -> Any:
        return array

    def memory(self, tensor: Any) -> None:
        return None


def drawing(operators: int) -> Session:
    """A session with results as a real one has them, of which one is a fault."""
    session = open_session(_Drawing(transformer(operators)), "llvm")
    ratios = 10 ** np.random.default_rng(0).normal(-0.5, 0.5, len(session.graph))
    for k, op in enumerate(session.graph.ops):
        fault = k == len(session.graph) // 3
        verdict = Verdict.FAIL if fault else Verdict.PASS
        ratio = 5e4 if fault else min(4.0, float(ratios[k]))
        result = OpResult(op.id, 0, verdict, ratio=ratio, floor=1e-7)
        session.engine.ledger.introduced[op.id, 0] = result
        session.engine.events.emit(OpJudged(op.id, 0, result))
    return session
