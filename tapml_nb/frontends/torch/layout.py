"""Values laid out in memory as another tensor is, so that what is computed of them is the same.

A sum along other strides adds in another order, and libraries choose their loops by alignment.
"""

from __future__ import annotations

import torch

_ALIGNMENT = 64
"""Bytes to which PyTorch aligns what it allocates."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers to compare bits by, by their width in bytes."""


def laid_out(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values on the device of ``like``, with its strides and alignment.

    Where that cannot be (another shape; elements that share memory there and differ here) they
    are contiguous.
    """
    values = values.to(like.device)
    if values.shape != like.shape or like.layout is not torch.strided or values.numel() == 0:
        return values
    begin = like.data_ptr() % _ALIGNMENT
    if values.stride() == like.stride() and values.data_ptr() % _ALIGNMENT == begin:
        return values
    width = values.element_size()
    if like.element_size() != width or begin % width:
        return values
    last = sum((n - 1) * stride for n, stride in zip(like.shape, like.stride(), strict=True))
    memory = torch.empty(begin // width + last + 1, dtype=values.dtype, device=values.device)
    if memory.data_ptr() % _ALIGNMENT:
        return values
    result = memory.as_strided(like.shape, like.stride(), begin // width)
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in like.stride())
    result[once].copy_(values[once])
    # Only now it is known whether elements that share memory are the same.
    bits = _BITS.get(width)
    ours, theirs = (result, values) if bits is None else (result.view(bits), values.view(bits))
    return result if torch.equal(ours, theirs) else values
