"""What a PrimFunc in destination-passing style takes: the buffers among its parameters."""

from __future__ import annotations

from typing import Any

from tapml_nb.compile.kernel import BufferSpec


def is_primfunc(value: Any) -> bool:
    """Whether a value is a ``tvm.tirx.PrimFunc``."""
    import tvm

    return isinstance(value, tvm.tirx.PrimFunc)


def buffer_specs(function: Any) -> list[BufferSpec]:
    """Shape and dtype of every parameter.

    Raises:
        ValueError: if a parameter is no buffer, or its shape is not static.
    """
    return [_buffer_spec(param) for param in function.params]


def _buffer_spec(param: Any) -> BufferSpec:
    if type(param.ty).__name__ != "BufferType":
        raise ValueError(f"parameter {param.name} of the PrimFunc is no buffer")
    try:
        shape = tuple(int(n) for n in param.shape)
    except TypeError:
        raise ValueError(f"parameter {param.name} of the PrimFunc has no static shape") from None
    return BufferSpec(shape, str(param.dtype))
