"""Kernels for a site out of tensor expressions: compiled by TVM, run on the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.faults.suite import Site


def elementwise(site: Site, body: Callable[..., Any]) -> Any:
    """``body(te, *elements)`` at every element; inputs of the output's shape."""
    from tvm import te

    shape = site.outputs[0].shape
    return kernel(site, lambda te_, *tensors: te.compute(
        shape, lambda *at: body(te_, *(t(*at) for t in tensors))))  # fmt: skip


def kernel(site: Site, body: Callable[..., Any]) -> Any:
    """``body(te, *tensors)`` as a PrimFunc of the site's inputs and its output."""
    from tvm import te

    tensors = [
        te.placeholder(spec.shape, spec.dtype, name=f"p{k}") for k, spec in enumerate(site.inputs)
    ]
    return te.create_prim_func([*tensors, body(te, *tensors)])
