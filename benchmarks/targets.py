"""The same five models on every target that works on this machine.

python benchmarks/targets.py [KIND ...]

Models are small, structurally true and have random weights.  For each target and model: operators,
verdicts, seconds of the first run (kernels are compiled anew), culprits and what has no kernel by
kind of operator, and whether the model is right with all on the target that passes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

os.environ.setdefault("TAPML_CACHE", tempfile.mkdtemp(prefix="tapml-benchmark-"))
os.environ["HF_HUB_OFFLINE"] = "1"

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.availability import check_all

Model = tuple[nn.Module, tuple[torch.Tensor, ...] | dict[str, torch.Tensor]]


def llama() -> Model:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=500,
        use_cache=False,
        initializer_range=128**-0.5,
    )
    return LlamaForCausalLM(config), (torch.randint(0, 500, (1, 24)),)


def qwen3() -> Model:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=500,
        use_cache=False,
        initializer_range=128**-0.5,
    )
    return Qwen3ForCausalLM(config), (torch.randint(0, 500, (1, 24)),)


def vit() -> Model:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        initializer_range=64**-0.5,
    )
    return ViTModel(config, add_pooling_layer=False), (torch.randn(1, 3, 32, 32),)


def resnet() -> Model:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2], layer_type="bottleneck"
    )
    return ResNetModel(config), (torch.randn(1, 3, 32, 32),)


def whisper() -> Model:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=64,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        num_mel_bins=20,
        max_source_positions=40,
        init_std=64**-0.5,
    )
    return WhisperEncoder(config), (torch.randn(1, 20, 80),)


MODELS: dict[str, Callable[[], Model]] = {
    "Llama": llama,
    "Qwen3 (qk-norm)": qwen3,
    "ViT": vit,
    "ResNet": resnet,
    "Whisper encoder": whisper,
}


def main(kinds: list[str]) -> None:
    """Print one table per target, as Markdown."""
    states = {state.kind: state for state in check_all()}
    for kind in kinds or [kind for kind, state in states.items() if state.works]:
        print(f"\n### {kind}: {states[kind].reason}\n")
        print("| model | operators | verdicts | seconds | on the target | outputs |")
        print("| --- | --- | --- | --- | --- | --- |")
        notes: list[str] = []
        for name, make in MODELS.items():
            print(row(kind, name, make, notes), flush=True)
        for note in notes:
            print(note)


def row(kind: str, name: str, make: Callable[[], Model], notes: list[str]) -> str:
    """Judge one model, move it over, and describe both; details go to ``notes``."""
    torch.manual_seed(0)
    model, inputs = make()
    with tapml.debug(model.eval(), inputs, target=kind, name=name) as session:
        begin = time.perf_counter()
        report = session.run()
        seconds = time.perf_counter() - begin
        moved = session.migrate()
        after = session.report
    graph = report.graph
    verdicts = ", ".join(f"{report.counts[v]} {v}" for v in Verdict if report.counts.get(v))
    found = Counter((graph[c.op].kind, str(c.verdict), c.diagnosis) for c in report.culprits)
    found |= Counter((graph[r.op].kind, str(r.verdict), r.message) for r in report.missing)
    shown: set[tuple[str, str]] = set()
    for (operator, verdict, words), _ in found.items():
        if (operator, verdict) not in shown:
            shown.add((operator, verdict))
            count = sum(n for (k, v, _), n in found.items() if (k, v) == (operator, verdict))
            text = " ".join(words.split())[:220]
            notes.append(f"- {name}: {count} {verdict} `{operator}`: {text}")
    movable = sum(not op.host for op in graph.ops)
    unobserved = after.info.unobserved
    same = "not run" if unobserved is None else "same" if unobserved.same else "DIFFERENT"
    return (
        f"| {name} | {len(graph)} | {verdicts} | {seconds:.1f} | {len(moved.offloaded)}/{movable} "
        f"| {after.info.outputs}, unobserved: {same} |"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
