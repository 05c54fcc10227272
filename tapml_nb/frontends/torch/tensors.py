"""Tensors as arrays, and arrays as tensors that lie in memory as another one does.

A sum along other strides adds in another order, and libraries choose their loops by alignment: only
so what is computed of them is the same.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from tapml_nb.array_api import Array, on_host
from tapml_nb.frontends.program import Memory

_TWINS = {torch.bfloat16: (torch.int16, ml_dtypes.bfloat16)} | {
    getattr(torch, name): (torch.uint8, getattr(ml_dtypes, name))
    for name in ("float8_e4m3fn", "float8_e5m2")
}
"""torch dtypes without a NumPy twin: the integer dtype of their bits, and ml_dtypes' dtype."""

_ALIGNMENT = 64
"""Bytes to which PyTorch aligns what it allocates."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers to compare bits by, by their width in bytes."""


def array_of(tensor: torch.Tensor) -> Array:
    """The tensor's values where they are, contiguous: an array of NumPy's on the host, where
    bfloat16 and float8 are ml_dtypes', else a tensor.  Complex numbers are a last axis of real and
    imaginary parts: so they cross to a target, which knows no others."""
    return on_host(plain(tensor)) if tensor.device.type == "cpu" else plain(tensor)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's values, contiguous, as real numbers."""
    tensor = tensor.detach().contiguous()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg()


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The same on the host."""
    return on_host(array_of(tensor))


def from_array(array: Array, like: torch.Tensor) -> torch.Tensor:
    """A tensor with these values on the device of ``like``, and laid out as it is."""
    if isinstance(array, np.ndarray | np.generic):  # what is computed of a number is a scalar
        array = _from_numpy(np.asarray(array))
    return laid_out(torch.view_as_complex(array) if like.is_complex() else array, like)


def _from_numpy(array: np.ndarray) -> torch.Tensor:
    if not array.flags.writeable:  # PyTorch cannot promise to leave it alone
        array = array.copy()
    for dtype, (bits, twin) in _TWINS.items():
        if array.dtype == np.dtype(twin):
            width = np.dtype(str(bits).removeprefix("torch."))
            return torch.from_numpy(array.view(width)).view(dtype)
    return torch.from_numpy(array)


def memory_of(tensor: torch.Tensor) -> Memory | None:
    """The tensor's storage; None if it could not be made anew over another one."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    if not plain or tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
        return None
    storage = tensor.untyped_storage()

    dtype, device = tensor.dtype, tensor.device
    place = (int(tensor.storage_offset()), tensor.shape, tensor.stride())

    def data() -> Array:
        whole = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
        return whole.numpy() if device.type == "cpu" else whole

    def over(data: Array) -> torch.Tensor:
        whole = torch.from_numpy(data) if isinstance(data, np.ndarray) else data
        return torch.empty(0, dtype=dtype, device=device).set_(whole.untyped_storage(), *place)

    return Memory(storage.data_ptr(), data, over)


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
