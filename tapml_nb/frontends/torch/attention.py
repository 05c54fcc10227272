"""Attention that PyTorch fused for a GPU, in core ATen.

On a GPU ``torch.export`` writes ``scaled_dot_product_attention`` as one of the fused kernels that
would run there (``aten::_scaled_dot_product_efficient_attention`` and its like).  PyTorch itself
decomposes only the one for the CPU; these do the same for the others, so that the graph of a model
does not depend on where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tapml_nb.frontends.torch.grouping import origin

_aten = torch.ops.aten

_BY_TOKENS = (0, 2, 1, 3)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
    order: tuple[int, ...],
) -> Tensor:
    """The definition of attention over [batch, heads, tokens, width]; ``order`` is that of the
    result's axes in memory, for what comes behind was exported as a view of it."""
    result: Tensor = _aten._scaled_dot_product_attention_math.default(
        query,
        key,
        value,
        attn_mask=bias,
        dropout_p=dropout,
        is_causal=causal,
        scale=scale,
        enable_gqa=query.size(-3) != key.size(-3),
    )[0]
    back = [order.index(axis) for axis in range(len(order))]
    return result.permute(order).contiguous().permute(back)


def _log_sums(
    query: Tensor, key: Tensor, bias: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """What a softmax divides by, in logarithms: [batch, heads, tokens] of float32.

    Only a backward pass reads it; elsewhere it goes as dead code.
    """
    groups = query.size(-3) // key.size(-3)
    keys = key.repeat_interleave(groups, -3).float()
    factor = query.size(-1) ** -0.5 if scale is None else scale
    scores = query.float() @ keys.transpose(-2, -1) * factor
    if bias is not None:
        scores = scores + bias
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.logsumexp(-1)


def _seed(query: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=query.device)


def efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    with_sums: bool,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """``_scaled_dot_product_efficient_attention``; its sums are padded to a multiple of 32."""
    result = _attend(query, key, value, bias, dropout, causal, scale, _BY_TOKENS)
    sums = query.new_empty((*query.shape[:2], 0), dtype=torch.float32)
    if with_sums:
        sums = _log_sums(query, key, bias, causal, scale)
        sums = torch.nn.functional.pad(sums, (0, -query.size(2) % 32), value=torch.inf)
    return result, sums, _seed(query), _seed(query)


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float = 0.0,
    causal: bool = False,
    with_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """``_scaled_dot_product_flash_attention``."""
    result = _attend(query, key, value, None, dropout, causal, scale, _BY_TOKENS)
    sums = _log_sums(query, key, None, causal, scale)
    state = torch.zeros(2, dtype=torch.uint64, device=query.device)
    none = query.new_empty(0)
    return result, sums, None, None, query.size(2), key.size(2), state, _seed(query), none


def cudnn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    with_sums: bool,
    dropout: float = 0.0,
    causal: bool = False,
    with_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """``_scaled_dot_product_cudnn_attention``; its sums have an axis more."""
    result, sums, *rest = overrideable(
        query, key, value, bias, dropout, causal, with_mask, scale=scale
    )
    return result, sums.unsqueeze(-1), *rest


def overrideable(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    with_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """``_scaled_dot_product_fused_attention_overrideable``: a backend's own."""
    order = tuple(sorted(range(query.dim()), key=query.stride, reverse=True))
    result = _attend(query, key, value, bias, dropout, causal, scale, order)
    sums = _log_sums(query, key, bias, causal, scale)
    sizes = query.size(-2), key.size(-2)
    return result, sums, None, None, *sizes, _seed(query), _seed(query), None


DECOMPOSITIONS: dict[Any, Callable[..., tuple[Any, ...]]] = {
    _aten._scaled_dot_product_efficient_attention.default: efficient,
    _aten._scaled_dot_product_flash_attention.default: flash,
    _aten._scaled_dot_product_cudnn_attention.default: cudnn,
    _aten._scaled_dot_product_fused_attention_overrideable.default: overrideable,
}
"""By ATen overload; arguments and results as in its schema."""


def drop_alignment(program: ExportedProgram) -> None:
    """Take a mask as it is that attention pads and cuts again, for its kernel's loads; in place.

    It changes nothing, but by how much depends on an open size, which no kernel of TVM's can do.
    """
    graph = program.graph
    for cut in list(graph.nodes):
        if cut.target is not _aten.slice.Tensor:
            continue
        padded = cut.args[0]
        if padded.target is _aten.constant_pad_nd.default and origin(cut) == origin(padded):
            given, start = padded.args[0], [*cut.args, 0, 0][2]
            sizes = zip(given.meta["val"].shape, cut.meta["val"].shape, strict=True)
            at_the_end = not start and not any(padded.args[1][::2])
            if at_the_end and all(statically_known_true(a == b) for a, b in sizes):
                cut.replace_all_uses_with(given)
    if graph.eliminate_dead_code():
        program.graph_module.recompile()
