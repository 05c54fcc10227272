"""Types of ONNX values: tensors, and what is none; what a model declares against what it is
given."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tapml_nb import tensorfile
from tapml_nb.array_api import np_dtype
from tapml_nb.frontends.arrays import spec_of, to_array
from tapml_nb.frontends.onnx.carriers import carrier
from tapml_nb.graph import TensorSpec


def told(value: Any) -> TensorSpec | str:
    """Shape and dtype of a tensor that can cross to a target; else, in words, what the value is."""
    if not isinstance(value, np.ndarray):
        return "nothing" if value is None else "a sequence"
    if value.dtype.kind in "OUS":
        return "text"
    crosses = tensorfile.holds(np_dtype(carrier(value.dtype.name)))
    return spec_of(value) if crosses else value.dtype.name


def bound(value: Any, declared: Any, name: str) -> Any:
    """What a user gives for a ``TypeProto``: an array, a list for a sequence, None for an optional
    without a value.

    Raises:
        TypeError: if it is nothing of that kind; the message calls it ``name``.
    """
    kind, inner = _opened(declared)
    if kind == "optional" and value is None:
        return None
    if kind == "optional":
        return bound(value, inner, name)
    if kind == "tensor":
        return to_array(value, name)
    if kind != "sequence" or not isinstance(value, list | tuple):
        raise TypeError(
            f"inputs: {name} is a {type(value).__name__}, the model takes {words(declared)}"
            + ("; give a list" if kind == "sequence" else ", which cannot be given here")
        )
    return [bound(item, inner, f"{name}[{k}]") for k, item in enumerate(value)]


def fits(value: Any, declared: Any, sizes: dict[str, int]) -> bool:
    """Whether a value that is :func:`bound` is of a ``TypeProto``; ``sizes`` are those that have a
    name, as far as they are known."""
    kind, inner = _opened(declared)
    if value is None:
        return kind == "optional"
    if kind == "optional":
        return fits(value, inner, sizes)
    if kind == "sequence":
        return all(fits(item, inner, {}) for item in value)  # each has sizes of its own
    if value.dtype.kind not in "OUS" and value.dtype != _dtype(inner):
        return False
    if not inner.HasField("shape"):
        return True
    dims = inner.shape.dim
    return len(dims) == value.ndim and all(
        _fits_axis(size, dim, sizes) for size, dim in zip(value.shape, dims, strict=True)
    )


def words(declared: Any) -> str:
    """A ``TypeProto`` in words: ``float32[2, n]``, ``a sequence of float32[?, 3]``."""
    kind, inner = _opened(declared)
    if kind == "optional":
        return f"nothing or {words(inner)}"
    if kind == "sequence":
        return f"a sequence of {words(inner)}"
    if kind != "tensor":
        return f"a value of the kind {kind}"
    dims = [
        str(dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?") for dim in inner.shape.dim
    ]
    return f"{_dtype(inner).name}[{', '.join(dims)}]"


def look(value: Any) -> str:
    """A value that is :func:`bound`, in words."""
    if isinstance(value, list):
        return f"a sequence of {', '.join(dict.fromkeys(map(look, value))) or 'nothing'}"
    return "nothing" if value is None else str(spec_of(value))


def _opened(declared: Any) -> tuple[str, Any]:
    """The kind of a ``TypeProto``, and what is inside: an element's type, or a tensor's look."""
    which = str(declared.WhichOneof("value") or "unknown")
    inner: Any = getattr(declared, which, None)
    if which in ("sequence_type", "optional_type"):
        inner = inner.elem_type
    return which.removesuffix("_type"), inner


def _fits_axis(size: int, dim: Any, sizes: dict[str, int]) -> bool:
    """Sizes of one name are one size; -1, 0, nothing and ``?`` are what exporters write of any."""
    if dim.dim_value > 0:
        return bool(size == dim.dim_value)
    return dim.dim_param in ("", "?") or size == sizes.setdefault(dim.dim_param, size)


def _dtype(declared: Any) -> np.dtype:
    return np.dtype(helper.tensor_dtype_to_np_dtype(declared.elem_type))
