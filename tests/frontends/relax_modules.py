"""Relax modules that tests share: as ``relax.frontend.nn`` exports them, and written by hand."""
# ruff: noqa: N805, N806  # TVMScript's functions are no methods, its buffers have capitals

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode, TIRPagedKVCache
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T


class Attention(nn.Module):
    """Attention over a sequence of any length."""

    def __init__(self) -> None:
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16, bias=False)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        q, k, v = nn.op.split(self.qkv(x), 3, axis=-1)
        weights = nn.op.softmax(nn.op.matmul(q, nn.op.permute_dims(k, [0, 2, 1])) * 0.25, axis=-1)
        return self.out(nn.op.matmul(weights, v))


class Layer(nn.Module):
    """Attention and a perceptron, each behind a norm."""

    def __init__(self) -> None:
        self.before = nn.RMSNorm(16, axes=-1, bias=False)
        self.attention = Attention()
        self.between = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16, bias=False)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        x = x + self.attention(self.before(x))
        return x + self.down(nn.op.silu(self.up(self.between(x))))


class Transformer(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        self.layers = nn.ModuleList([Layer(), Layer()])

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):
    """One head of attention over all that a KV cache holds."""

    def __init__(self) -> None:
        self.qkv = nn.Linear(16, 48)
        self.cache = nn.KVCache(8, [16])

    def forward(self, x: nn.Tensor, total: tvm.ir.Var) -> nn.Tensor:
        q, k, _ = nn.op.split(self.qkv(x), 3, axis=-1)
        self.cache.append(nn.op.reshape(k, (x.shape[1], 16)))
        keys = self.cache.view(total)
        weights = nn.op.softmax(nn.op.matmul(q, nn.op.permute_dims(keys, [1, 0])), axis=-1)
        return nn.op.matmul(weights, keys)


class PagedLayer(nn.Module):
    """Attention of four heads over two of a paged cache, as mlc's models have it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.qkv = nn.Linear(32, 64, bias=False)
        self.out = nn.Linear(32, 32, bias=False)

    def forward(self, x: nn.Tensor, cache: PagedKVCache) -> nn.Tensor:
        tokens = x.shape[1]
        qkv = nn.op.reshape(self.qkv(x), (1, tokens, 8, 8))
        y = cache.attention_with_fused_qkv(self.number, qkv, 4, sm_scale=8**-0.5)
        return x + self.out(nn.op.reshape(y, (1, tokens, 32)))


class Paged(nn.Module):
    """Two layers, and what makes their cache."""

    def __init__(self) -> None:
        self.layers = nn.ModuleList([PagedLayer(0), PagedLayer(1)])

    def forward(self, x: nn.Tensor, cache: PagedKVCache) -> tuple[nn.Tensor, PagedKVCache]:
        for layer in self.layers:
            x = layer(x, cache)
        return x, cache

    def create(
        self, batch: tirx.Var, total: tirx.Var, chunk: tirx.Var, page: tirx.Var, sliding: tirx.Var
    ) -> PagedKVCache:
        return TIRPagedKVCache(
            attn_kind="mha",
            max_batch_size=batch,
            max_total_seq_len=total,
            prefill_chunk_size=chunk,
            page_size=page,
            support_sliding_window=sliding,
            layer_partition=relax.ShapeExpr([0, 2]),
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            qk_head_dim=8,
            v_head_dim=8,
            mla_original_qk_head_dim=0,
            mla_original_v_head_dim=0,
            rope_mode=RopeMode.NORMAL,
            rope_scale=1,
            rope_theta=10000,
            rope_scaling={},
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=8,
            enable_disaggregation=False,
            dtype="float32",
            target=tvm.target.Target("llvm"),
        )


def paged() -> tuple[tvm.IRModule, list[np.ndarray], Callable[[int], Any]]:
    """The module, its weights, and what makes a cache that is about to take tokens."""
    sizes = dict.fromkeys(("batch", "total", "chunk", "page", "sliding"), int)
    whole, params = Paged().export_tvm(
        {
            "forward": {
                "x": nn.spec.Tensor([1, "tokens", 32], "float32"),
                "cache": nn.spec.Object(object_type=PagedKVCache),
            },
            "create": {**sizes, "$": {"param_mode": "none", "effect_mode": "none"}},
        }
    )
    weights = [normal(k, *map(int, param.shape)) * 0.2 for k, (_, param) in enumerate(params)]
    parts = whole.functions.items()
    machine = relax.VirtualMachine(
        tvm.compile(tvm.IRModule({v: f for v, f in parts if v.name_hint != "forward"}), "llvm"),
        tvm.cpu(),
    )
    shape = tvm.runtime.ShapeTuple

    def cache(tokens: int) -> Any:
        made = machine["create"](*(shape([size]) for size in (1, 64, 16, 16, 0)))
        tvm.get_global_func("vm.builtin.kv_state_add_sequence")(made, 0)
        tvm.get_global_func("vm.builtin.kv_state_begin_forward")(made, shape([0]), shape([tokens]))
        return made

    return tvm.IRModule({v: f for v, f in parts if v.name_hint != "create"}), weights, cache


def transformer() -> tuple[tvm.IRModule, list[np.ndarray]]:
    """A :class:`Transformer`'s module and its weights."""
    return _exported(Transformer(), {"x": nn.spec.Tensor([1, "n", 16], "float32")})


def decoder() -> tuple[tvm.IRModule, list[np.ndarray]]:
    """A :class:`Decoder`'s module, in which the cache is a parameter, and its weights."""
    return _exported(Decoder(), {"x": nn.spec.Tensor([1, "n", 16], "float32"), "total": int})


def normal(seed: int, *shape: int) -> np.ndarray:
    """Random numbers of scale one half."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / 2


def _exported(model: nn.Module, inputs: dict[str, Any]) -> tuple[tvm.IRModule, list[np.ndarray]]:
    modes = {"param_mode": "plain", "effect_mode": "plain"}
    module, params = model.export_tvm({"forward": {**inputs, "$": modes}})
    shapes = (map(int, param.shape) for _, param in params)
    return module, [normal(seed, *shape) for seed, shape in enumerate(shapes)]


@I.ir_module
class Kernels:
    """Kernels as call_tir, with symbolic shapes, and a fused function, beside operations."""

    @T.prim_func(s_tir=True, private=True)
    def double(x: T.handle, y: T.handle):
        n = T.int64()
        X = T.match_buffer(x, (n, 8))
        Y = T.match_buffer(y, (n, 8))
        for i, j in T.grid(n, 8):
            with T.sblock("double"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[vi, vj] * T.float32(2)

    @T.prim_func(s_tir=True, private=True)
    def prefix(x: T.handle, n: T.int64, y: T.handle):
        m = T.int64()
        X = T.match_buffer(x, (m, 4))
        Y = T.match_buffer(y, (n, 4))
        for i, j in T.grid(n, 4):
            with T.sblock("prefix"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[vi, vj]

    @R.function(private=True)
    def fused(a: R.Tensor(("n", 8), "float32"), b: R.Tensor((8, 4), "float32")) -> R.Tensor(
        ("n", 4), "float32"
    ):
        n = T.int64()
        R.func_attr({"Primitive": True})
        with R.dataflow():
            product: R.Tensor((n, 4), "float32") = R.matmul(a, b)
            result: R.Tensor((n, 4), "float32") = R.nn.relu(product)
            R.output(result)
        return result

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), w: R.Tensor((8, 4), "float32")):
        n = T.int64()
        cls = Kernels
        with R.dataflow():
            twice = R.call_tir(cls.double, (x,), out_ty=R.Tensor((n, 8), "float32"))
            both = R.split(twice, 2, axis=1)
            left = both[0]
            y: R.Tensor((n, 4), "float32") = cls.fused(twice, w)
            total = R.add(y, left)
            most = R.call_tir(cls.prefix, (total, n - 1), out_ty=R.Tensor((n - 1, 4), "float32"))
            R.output(most)
        return most


@I.ir_module
class Matched:
    """A tensor of unknown sizes, matched and taken apart, by way of a function of its own."""

    @R.function(private=True)
    def halve(a: R.Tensor(("m",), "float32")) -> R.Tensor(("m",), "float32"):
        m = T.int64()
        with R.dataflow():
            half: R.Tensor((m,), "float32") = R.multiply(a, R.const(0.5, "float32"))
            result: R.Tensor((m,), "float32") = R.exp(half)
            R.output(result)
        return result

    @R.function
    def main(x: R.Tensor(ndim=2, dtype="float32")):
        n = T.int64()
        k = T.int64()
        cls = Matched
        with R.dataflow():
            y = R.match_cast(x, R.Tensor((n, k), "float32"))
            flat = R.reshape(y, R.shape([n * k]))
            out: R.Tensor((n * k,), "float32") = cls.halve(flat)
            R.output(out)
        return out


@I.ir_module
class MatchedShape:
    """A match of a shape, which is no tensor: it names a size that nobody gave."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32")) -> R.Tensor(("n", 8), "float32"):
        n = T.int64()
        with R.dataflow():
            first = R.exp(x)
            shape = R.shape_of(first)
            m = T.int64()
            _ = R.match_cast(shape, R.Shape([m, 8]))
            flat = R.reshape(first, R.shape([m * 8]))
            out = R.add(R.reshape(R.multiply(flat, flat), R.shape([n, 8])), x)
            R.output(out)
        return out
