"""What TVM by itself makes of a PyTorch function: repros that need nothing of tapml_nb."""

from __future__ import annotations

from collections.abc import Callable

import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program


class Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.forward = function


def check(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> str:
    """How TVM fails on a function, or differs from PyTorch; empty where it does neither."""
    program = torch.export.export(Function(function), inputs)
    try:
        module = from_exported_program(program)
        machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
        result = machine["main"](*[tvm.runtime.tensor(x.numpy()) for x in inputs])[0]
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[-1]}"
    target, source = torch.from_numpy(result.numpy()), function(*inputs)
    if target.dtype != source.dtype or target.shape != source.shape:
        return f"{target.dtype}{list(target.shape)}, not {source.dtype}{list(source.shape)}"
    if torch.allclose(target, source, rtol=1e-4, atol=1e-5):
        return ""
    return f"{target.flatten()[:4].tolist()}…, not {source.flatten()[:4].tolist()}…"
