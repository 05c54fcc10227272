"""PyTorch's OpInfo and ModuleInfo: what its own tests call its operators and modules with.

A group is an operator or a module in one dtype, ``nn.functional.gelu/bfloat16``.  Of its samples
some are taken that differ in kind: in what is given, and in how many dimensions tensors have.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from benchmarks.suites.sample import Sample

KINDS = 2
"""Samples of a group at most, from the first kind to the last."""

_LOOKED_AT = 32
"""So many of a group's samples are looked at for kinds."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)


class Call(torch.nn.Module):
    """A call as a module of the tensors that it takes; what else it takes is part of it."""

    def __init__(self, called: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.called = called
        self._leaves, self._spec = tree_flatten((args, kwargs))
        self._places = [k for k, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors of the call."""
        return tuple(self._leaves[k] for k in self._places)

    @property
    def kind(self) -> str:
        """What is given, without tensors' values and sizes."""
        return f"{self._spec} {[*map(_outline, self._leaves)]}"

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All tensors of the result."""
        leaves = list(self._leaves)
        for k, tensor in zip(self._places, tensors, strict=True):
            leaves[k] = tensor
        args, kwargs = tree_unflatten(leaves, self._spec)
        result = self.called(*args, **kwargs)
        return tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))

    def gives_tensors(self) -> bool:
        """Whether PyTorch itself can run it, and there is something to compare then."""
        try:
            with torch.no_grad():
                return bool(self(*self.tensors))
        except Exception:
            return False


def groups() -> list[str]:
    """Every operator and module in every dtype that it knows."""
    return list(_made())


def samples(group: str) -> Sequence[Sample]:
    """A group's samples, one of each kind."""
    torch.manual_seed(zlib.crc32(group.encode()))
    calls = itertools.islice(_made()[group](), _LOOKED_AT)
    kinds = list({call.kind: call for call in reversed([*calls])}.values())[::-1]
    kinds = [call.eval() for call in kinds if call.gives_tensors()]
    chosen = {k * (len(kinds) - 1) // (KINDS - 1) for k in range(KINDS)} if kinds else set()
    return [Sample(f"{group}/{k}", kinds[k], kinds[k].tensors) for k in sorted(chosen)]


def _outline(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return f"{leaf.dim()}{'-' if leaf.numel() == 0 else ''}{leaf.dtype}"
    numbers = isinstance(leaf, int | float) and not isinstance(leaf, bool)
    return f"{type(leaf).__name__}{(leaf > 0) - (leaf < 0)}" if numbers else f"{leaf}"


@cache
def _made() -> dict[str, Callable[[], Iterator[Call]]]:
    """What makes the calls of each group."""
    made: dict[str, Callable[[], Iterator[Call]]] = {}
    for dtype in _DTYPES:
        short = str(dtype).removeprefix("torch.")
        for op in op_db:
            name = ".".join(filter(None, (op.name, op.variant_test_name)))
            if dtype in op.dtypes:
                made[f"{name}/{short}"] = partial(_op_calls, op, dtype)
        for module in module_db:
            if dtype in module.dtypes:
                made[f"{module.name.replace('_', '.')}/{short}"] = partial(
                    _module_calls, module, dtype
                )
    return made


def _op_calls(op: OpInfo, dtype: torch.dtype) -> Iterator[Call]:
    for sample in op.sample_inputs("cpu", dtype):
        yield Call(op, sample.input, *sample.args, **sample.kwargs)


def _module_calls(info: Any, dtype: torch.dtype) -> Iterator[Call]:
    for given in info.module_inputs_func(info, "cpu", dtype, requires_grad=False, training=False):
        made, called = given.constructor_input, given.forward_input
        if called is not None:
            module = info.module_cls(*made.args, **made.kwargs).to(dtype).eval()
            yield Call(module, *called.args, **called.kwargs)
