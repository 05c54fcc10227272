"""How a model of a configuration comes to be: on its device, at the scales of trained weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import tapml_nb as tapml
from benchmarks.zoo.architecture import settle

Options = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a model is to live.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: of weights and activations.
        small: whether its layers are few and narrow, to be run anywhere.
    """

    device: str
    dtype: torch.dtype
    small: bool

    def numbers(self, *shape: int) -> torch.Tensor:
        """Normally distributed input.  The same on every device."""
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        return drawn.to(self.device, self.dtype)

    def tokens(self, vocabulary: int) -> torch.Tensor:
        """A prompt of 128 token ids, or of 32.  The same on every device."""
        drawn = torch.Generator().manual_seed(1)
        shape = (1, 32 if self.small else 128)
        return torch.randint(3, vocabulary, shape, generator=drawn).to(self.device)


@dataclass(frozen=True)
class Case:
    """What a session is opened on.

    Attributes:
        module: the model itself.
        program: what is debugged: the model, or an exported program of it.
        steps: the inputs of every step.
    """

    module: nn.Module
    program: Any
    steps: list[tuple[Any, ...]]

    @classmethod
    def of(cls, module: nn.Module, *inputs: torch.Tensor) -> Case:
        """One step of a module."""
        return cls(module, module, [inputs])


Make = Callable[[Place], Case]


class Output(nn.Module):
    """A model of ``transformers`` with positional inputs and one tensor for a result."""

    def __init__(self, model: nn.Module, takes: str, gives: str, **options: Any) -> None:
        super().__init__()
        self.model = model
        self._takes, self._gives, self._options = takes, gives, options
        self.eval()

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = getattr(
            self.model(**{self._takes: given}, **self._options), self._gives
        )
        return result


def shaped(place: Place, model: str, config: str, full: Options, small: Options) -> Any:
    """A model of ``transformers`` with the weights that it begins its training with, made where it
    is to live."""
    import transformers

    options = {**full, **small} if place.small else full
    given = getattr(transformers, config)(**options)
    with torch.device(place.device):
        return getattr(transformers, model)._from_config(
            given, dtype=place.dtype, attn_implementation="sdpa"
        )


@torch.no_grad()
def at_trained_scales(model: Any) -> Any:
    """A model, in eval mode, whose activations have a scale near one.

    An embedding that also makes the logits has the scale of a matrix, as trained ones do.
    """
    torch.manual_seed(0)
    settle(model)
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    if tied:
        shared = model.get_input_embeddings()
        shared.weight.mul_(1 / math.sqrt(shared.weight.shape[1]))
    return model.eval().requires_grad_(False)


def prompted(model: Any, place: Place) -> Case:
    """A causal language model on a prompt, from tokens to logits."""
    given = place.tokens(model.config.vocab_size)
    return Case.of(Output(model, "input_ids", "logits", use_cache=False), given)


def decoding(model: Any, prompt: torch.Tensor, place: Place) -> Case:
    """A language model with a static cache: a prompt, then token after token."""
    program, steps = tapml.decode_steps(model, prompt, steps=2 if place.small else 4)
    return Case(model, program, steps)
