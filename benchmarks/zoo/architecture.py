"""What an architecture of the zoo is, and weights at which its activations say something.

Most initialisations are made for training: they begin with outputs near 0, with branches switched
off by tiny scales, with norms that do nothing.  Errors would drown in such a model.  Here every
weight matrix keeps the scale of its input, and every scale and bias differs from element to
element.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = dict[str, torch.Tensor]
Made = tuple[nn.Module, Inputs]


@dataclass(frozen=True)
class Architecture:
    """One entry of the zoo.

    Attributes:
        name: what people call it.
        group: what it computes on: ``"text decoder"``, ``"vision"``, ….
        make: builds the model and its inputs, with the random weights it comes with.
        recipe: text that changes whenever the model does.
    """

    name: str
    group: str
    make: Callable[[], Made]
    recipe: str

    def build(self, dtype: torch.dtype = torch.float32) -> Made:
        """The model in eval mode with activations of scale one, and its inputs.  Deterministic.

        In a narrow dtype it is the same model, its weights and inputs rounded.
        """
        torch.manual_seed(0)
        model, inputs = self.make()
        settle(model)
        floats = {name: x.to(dtype) for name, x in inputs.items() if x.is_floating_point()}
        return model.eval().to(dtype), {**inputs, **floats}

    @property
    def digest(self) -> str:
        """Changes when the model, its inputs or its weights do."""
        text = self.recipe + inspect.getsource(sys.modules[__name__])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_transformers(
    name: str,
    group: str,
    model: str,
    inputs: Callable[[], Inputs],
    config: str = "",
    **options: Any,
) -> Architecture:
    """An architecture of the ``transformers`` package.

    Args:
        name: what people call it.
        group: what it computes on.
        model: the model's class.
        inputs: makes its inputs.
        config: the class of its configuration; default, the name of the model's own up to
            ``For`` or ``Model``.
        options: what the configuration says; a dict that has a ``"class"`` becomes a
            configuration of that class.
    """
    config = config or f"{_stem(model)}Config"

    def make() -> Made:
        import transformers

        given = {key: _nested(value) for key, value in options.items()}
        return getattr(transformers, model)(getattr(transformers, config)(**given)), inputs()

    return Architecture(name, group, make, f"{model} {config} {options} {_source(inputs)}")


def written(name: str, group: str) -> Callable[[Callable[[], Made]], Architecture]:
    """Decorates a function that makes a model written in the zoo."""

    def register(make: Callable[[], Made]) -> Architecture:
        module = inspect.getmodule(make)
        assert module is not None
        return Architecture(name, group, make, inspect.getsource(module))

    return register


def _stem(model: str) -> str:
    return re.split(r"For(?=[A-Z])|LMHead|MTModel|Model", model)[0]


def _nested(value: Any) -> Any:
    if not (isinstance(value, dict) and "class" in value):
        return value
    import transformers

    rest = {key: _nested(inner) for key, inner in value.items() if key != "class"}
    return getattr(transformers, value["class"])(**rest)


def _source(inputs: Callable[[], Inputs]) -> str:
    """The text of what makes the inputs, with the values it holds on to."""
    held = [cell.cell_contents for cell in inputs.__closure__ or ()]
    return f"{inspect.getsource(inputs)} {held}"


@torch.no_grad()
def settle(model: nn.Module) -> None:
    """Give a model weights at which activations have a scale near one.

    Matrices get the scale ``1/√(fan in)``, filters, mostly before a rectifier, ``√2`` of that (He
    et al. 2015), embeddings 1; what is zero or one to begin with (scales, biases, running
    statistics, learned tokens) gets noise of a tenth.  What is neither, such as the decays of a
    state space, stays what the model made it.
    """
    done: set[int] = set()
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) not in done and weight.is_floating_point():
                done.add(id(weight))
                _settle(module, name, weight)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_var.uniform_(0.5, 1.5)
            _noise(module.running_mean)


def _settle(module: nn.Module, name: str, weight: torch.Tensor) -> None:
    if isinstance(module, nn.Embedding):
        weight.normal_()
    elif weight.dim() >= 2 and (name.endswith("weight") or _is_small(weight)):
        gain = 2.0 if isinstance(module, nn.modules.conv._ConvNd) else 1.0
        weight.normal_(std=math.sqrt(gain / _fan_in(module, weight)))
    elif _is_constant(weight) or _is_small(weight):
        _noise(weight)


def _fan_in(module: nn.Module, weight: torch.Tensor) -> int:
    """Over how many elements a weight sums."""
    if type(module).__name__ == "Conv1D":  # GPT-2's linear layer, stored the other way round
        return weight.shape[0]
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return max(1, weight.shape[0] * math.prod(weight.shape[2:]) // math.prod(module.stride))
    if isinstance(module, nn.modules.conv._ConvNd):
        return math.prod(weight.shape[1:])
    return weight.shape[-1]


def _is_constant(weight: torch.Tensor) -> bool:
    return weight.numel() > 0 and bool((weight == weight.flatten()[0]).all())


def _is_small(weight: torch.Tensor) -> bool:
    return float(weight.abs().amax() if weight.numel() else 0.0) < 0.25


def _noise(weight: torch.Tensor | None) -> None:
    if weight is not None:
        weight.add_(torch.randn_like(weight), alpha=0.1)


def rms(tensors: Iterable[torch.Tensor]) -> float:
    """Root mean square of finite, floating-point elements, masks' sentinels aside."""
    squares, count = 0.0, 0
    for tensor in tensors:
        if tensor.is_floating_point():
            wide = tensor.detach().double()
            wide = wide[torch.isfinite(wide) & (wide.abs() < 1e4)]
            squares += float((wide * wide).sum())
            count += wide.numel()
    return math.sqrt(squares / count) if count else math.nan
