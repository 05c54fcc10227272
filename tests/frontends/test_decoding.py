"""Decoding with a cache: the exported steps compute what the model computes without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, T5Config, T5ForConditionalGeneration

from tapml_nb.execute.events import EventStream
from tapml_nb.execute.source import SourceRun
from tapml_nb.frontends.torch import import_torch
from tapml_nb.frontends.torch.decoding import decode_steps
from tests.models import llama, two_layers


def source_logits(program, inputs):
    """What the source run gives in all steps, end to end, and the program."""
    program = import_torch(program, inputs)
    run = SourceRun(program, EventStream())
    run.complete()
    output = program.graph.outputs[0]
    return torch.cat([run.values(step)[output] for step in range(program.steps)], 1), program


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_causal_model(cache):
    model, (prompt,) = llama(layers=1, length=5)
    program, inputs = decode_steps(model, prompt, 4, cache=cache)
    assert [tokens.shape for tokens, *_ in inputs] == [(1, 5), *[(1, 1)] * 4]
    logits, imported = source_logits(program, inputs)
    with torch.no_grad():
        whole = model(torch.cat([tokens for tokens, *_ in inputs], 1)).logits
    torch.testing.assert_close(logits, whole)
    chosen = whole.argmax(-1)[0, 4:-1]
    assert [int(tokens) for tokens, *_ in inputs[1:]] == chosen.tolist()
    if cache == "static":
        assert len(imported.mutations) == 3  # keys, values and how many there are
    else:
        assert [step[1][0].shape[2] for step in inputs] == [0, 5, 6, 7, 8]
    again, _ = source_logits(program, inputs)
    assert torch.equal(again, logits), "a program can be imported twice"


def test_prompts_of_several_sequences():
    model, _ = llama(layers=1)
    prompt = torch.arange(8).reshape(2, 4)
    program, inputs = decode_steps(model, prompt, 2)
    logits, _ = source_logits(program, inputs)
    with torch.no_grad():
        whole = model(torch.cat([tokens for (tokens,) in inputs], 1)).logits
    torch.testing.assert_close(logits, whole)


_START: dict[str, Any] = {"decoder_start_token_id": 0}  # an option of every model's


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_encoder_decoder(cache):
    torch.manual_seed(0)
    config = T5Config(
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        vocab_size=100,
        **_START,
    )
    model = T5ForConditionalGeneration(config).eval()
    prompt = torch.randint(1, 100, (1, 6))
    program, inputs = decode_steps(model, prompt, 3, cache=cache)
    logits, _ = source_logits(program, inputs)
    with torch.no_grad():
        tokens = torch.cat([tokens for tokens, *_ in inputs], 1)
        whole = model(input_ids=prompt, decoder_input_ids=tokens).logits
    torch.testing.assert_close(logits, whole)


class TestBadInput:
    def test_arguments(self):
        model, (prompt,) = llama(layers=1)
        ask: Any = decode_steps
        with pytest.raises(TypeError, match=r"^model: a TwoLayers; give a language model"):
            ask(two_layers()[0], prompt)
        with pytest.raises(ValueError, match=r"^prompt: shape \[12\]; give token ids"):
            decode_steps(model, prompt[0])
        with pytest.raises(ValueError, match=r"^steps: 0; give how many"):
            decode_steps(model, prompt, 0)
        with pytest.raises(ValueError, match=r"^cache: 'paged'; choose"):
            ask(model, prompt, cache="paged")
        with pytest.raises(ValueError, match=r"^model: it is in training mode"):
            decode_steps(model.train(), prompt)

    def test_more_than_the_window_holds(self):
        config = MistralConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=50,
            sliding_window=8,
        )
        model = MistralForCausalLM(config).eval()
        with pytest.raises(ValueError, match=r"^steps: 9 positions .* sliding window of 8"):
            decode_steps(model, torch.ones(1, 5, dtype=torch.long), 4)
