"""A Hugging Face language model as a decoder with a cache: a prompt, then tokens one by one.

The model is wrapped so that its key/value cache is something that ``torch.export`` can see:
buffers that a step changes, or tensors that go in and come out.  The tokens of later steps, and
what is in the cache when they come, are the model's own.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from tapml_nb.frontends.program import FrontendError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, each ``[batch, heads, positions, head size]``."""

Step = tuple[Any, ...]
"""Positional inputs of one step."""


def decode_steps(
    model: PreTrainedModel,
    prompt: torch.Tensor,
    steps: int = 8,
    *,
    cache: Literal["static", "dynamic"] = "static",
) -> tuple[ExportedProgram, list[Step]]:
    """Prefill and greedy decoding of a Hugging Face model, as arguments for ``tapml.debug``.

    Step 0 is the whole prompt, each later one the token that the model itself finds likeliest.

    Args:
        model: a causal or an encoder-decoder language model of ``transformers``, in eval mode.
        prompt: int64 token ids ``[batch, positions]`` without padding.  Of an encoder-decoder model
            what its encoder takes; the encoder runs here, once, and decoding begins with the
            model's start token.
        steps: decode steps after the prefill.
        cache: ``"static"``: buffers as long as all steps need, written in place: what a step on
            the target leaves, the next one finds.  ``"dynamic"``: tensors that grow, inputs and
            outputs of every step: each step begins with what the source left.  With both, sizes
            that differ from step to step are open, and an operator has one kernel for all steps.

    Returns:
        The exported program and the inputs of all ``1 + steps`` steps.  The program takes token
        ids; the encoder's result, if there is an encoder; and, with a dynamic cache, a list of
        keys and values by layer.  It returns the logits and, with a dynamic cache, that list.

    Raises:
        TypeError, ValueError: if an argument does not fit, or the model keeps another kind of
            state than keys and values of every position.
        FrontendError: if ``torch.export`` cannot capture the model with its cache.

    Example:
        >>> program, steps = tapml.decode_steps(llama, torch.tensor([[5, 7, 9]]), steps=2)
        >>> [tuple(step[0].shape) for step in steps]
        [(1, 3), (1, 1), (1, 1)]
    """
    _check(model, prompt, steps, cache)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoded: tuple[torch.Tensor, ...] = ()
        tokens = prompt
        if model.config.is_encoder_decoder:
            encoded = (model.get_encoder()(prompt).last_hidden_state,)
            start = model.generation_config.decoder_start_token_id
            tokens = torch.full((len(prompt), 1), start, dtype=torch.long, device=prompt.device)
        empty = _empty_cache(model, (tokens, *encoded), tokens.shape[1] + steps)
        module: _Decoder
        if cache == "static":
            module = _StaticDecoder(model, empty, tokens.shape[1] + steps)
            inputs = list(_decode(module, (tokens, *encoded), steps))
            for buffer in module.buffers(recurse=False):  # empty, as before the first step
                buffer.zero_()
        else:
            module = _DynamicDecoder(model)
            inputs = list(_decode(module, (tokens, *encoded, list(chain(*empty))), steps))
        return _export(module, inputs[0]), inputs


class _Decoder(nn.Module):
    """A model that takes tokens, and keeps its cache in one way or another."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def logits(self, layers: Sequence[Any], tokens: torch.Tensor, *encoded: torch.Tensor) -> Any:
        """Run the model on top of cache layers, which it updates."""
        from transformers.cache_utils import Cache, EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        kept: Any = Cache(layers=list(layers))
        named: dict[str, Any] = {"input_ids": tokens}
        if encoded:
            kept = EncoderDecoderCache(kept, Cache(layers=[_passing() for _ in layers]))
            encoder_outputs = BaseModelOutput(last_hidden_state=encoded[0])
            named = {"decoder_input_ids": tokens, "encoder_outputs": encoder_outputs}
        # What a model calls its cache has changed within transformers 5.
        takes = inspect.signature(self.model.forward).parameters
        named["cache" if "cache" in takes else "past_key_values"] = kept
        return self.model(**named, use_cache=True).logits


class _StaticDecoder(_Decoder):
    """Its cache are buffers, and how far they are filled is one, too."""

    def __init__(self, model: PreTrainedModel, empty: Sequence[Pair], length: int) -> None:
        from transformers.cache_utils import StaticLayer

        super().__init__(model)
        self._layers = [StaticLayer(length) for _ in empty]
        for i, (layer, pair) in enumerate(zip(self._layers, empty, strict=True)):
            layer.lazy_initialization(*pair)
            for name in ("keys", "values", "cumulative_length"):
                self.register_buffer(f"{name}_{i}", getattr(layer, name), persistent=False)

    def forward(self, input_ids: torch.Tensor, *encoded: torch.Tensor) -> Any:
        for i, layer in enumerate(self._layers):
            for name in ("keys", "values", "cumulative_length"):
                setattr(layer, name, getattr(self, f"{name}_{i}"))  # while exporting: others
        return self.logits(self._layers, input_ids, *encoded)


class _DynamicDecoder(_Decoder):
    """Its cache are inputs and outputs."""

    def forward(self, input_ids: torch.Tensor, *rest: Any) -> tuple[Any, list[torch.Tensor]]:
        from transformers.cache_utils import DynamicLayer

        *encoded, past = rest
        layers: list[Any] = []
        for keys, values in zip(past[::2], past[1::2], strict=True):
            layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            layers.append(layer)
        logits = self.logits(layers, input_ids, *encoded)
        return logits, list(chain(*((layer.keys, layer.values) for layer in layers)))


def _decode(module: nn.Module, first: Step, steps: int) -> Iterator[Step]:
    """The inputs of every step, each made of what the module gives in the one before."""
    step = first
    for left in reversed(range(steps + 1)):
        yield step
        if not left:
            return
        result = module(*step)
        logits, *present = result if isinstance(result, tuple) else (result,)
        token = logits[:, -1:].argmax(-1)
        step = (token, *step[1 : len(step) - len(present)], *present)


def _export(module: _Decoder, first: Step) -> ExportedProgram:
    """Export a decoder for prompts and caches of every length."""
    dynamic = isinstance(module, _DynamicDecoder)
    tokens, *rest = first
    varies = {1: Dim.DYNAMIC} if tokens.shape[1] > 1 else None  # one at a time, always
    shapes: list[Any] = [varies, *(None for _ in rest)]
    if dynamic:
        *rest, past = rest
        # What is exported with a size of 0 or 1 holds for no other.
        longer = [t.new_zeros((*t.shape[:2], tokens.shape[1] + 2, t.shape[3])) for t in past]
        rest.append(longer)
        shapes[-1] = [{2: Dim.DYNAMIC} for _ in past]
    of_rest = (tuple(shapes[1:]),) if rest else ()  # what comes as ``*rest`` is one argument
    try:
        return torch.export.export(
            module, (tokens, *rest), dynamic_shapes=(shapes[0], *of_rest), strict=False
        )
    except Exception as error:
        raise FrontendError(
            f"torch.export cannot capture {type(module.model).__name__} with a "
            f"{'dynamic' if dynamic else 'static'} cache: {first_line(error)}"
        ) from error


def _empty_cache(model: PreTrainedModel, first: Step, length: int) -> list[Pair]:
    """Keys and values of no position for every layer, of the sizes that the model gives them.

    Raises:
        ValueError: if a layer keeps anything else, or only the last positions.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    layers: list[Any] = DynamicCache(config=model.config).layers
    for layer in layers:
        if type(layer) is DynamicSlidingWindowLayer and layer.sliding_window <= length:
            raise ValueError(
                f"steps: {length} positions are more than the model's sliding window of "
                f"{layer.sliding_window} holds; take a shorter prompt or fewer steps"
            )
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ValueError(
                f"model: {type(model).__name__} keeps a {type(layer).__name__}; only caches of "
                f"keys and values can be decoded with"
            )
    _Decoder(model).logits(layers, *first)
    return [(layer.keys[:, :, :0], layer.values[:, :, :0]) for layer in layers]


def _passing() -> Any:
    """A cache layer for keys and values of the encoder's result, which every step computes.

    A new dynamic layer would append them to an empty tensor: an operator that no model has.
    """
    from transformers.cache_utils import DynamicLayer

    layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
    layer.update = lambda keys, values, *_, **__: (keys, values)
    return layer


def _check(model: Any, prompt: Any, steps: Any, cache: Any) -> None:
    try:
        from transformers import PreTrainedModel
    except ImportError:
        raise ValueError(
            "model: decode_steps needs transformers; pip install transformers"
        ) from None
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        raise TypeError(
            f"model: a {type(model).__name__}; give a language model of transformers that can "
            f"generate (for others, put the cache into inputs or buffers yourself)"
        )
    if model.training:
        raise ValueError("model: it is in training mode; call model.eval() first")
    if not isinstance(prompt, torch.Tensor) or prompt.dim() < 2 or not prompt.numel():
        found = f"shape {list(prompt.shape)}" if isinstance(prompt, torch.Tensor) else type(prompt)
        raise ValueError(f"prompt: {found}; give token ids [batch, positions]")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps: {steps!r}; give how many tokens to decode, at least 1")
    if cache not in ("static", "dynamic"):
        raise ValueError(f"cache: {cache!r}; choose 'static' or 'dynamic'")
