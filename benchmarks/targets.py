"""The same five models on every target that works on this machine.

python benchmarks/targets.py [KIND ...]    (of llvm, c, cuda, opencl, webgpu, aarch64, browser)

Models are small, structurally true and have random weights.  For each target and model: operators,
verdicts, seconds of the first run (kernels are compiled anew), culprits and what has no kernel by
kind of operator, and whether the model is right with all on the target that passes.  ``aarch64`` is
a server under qemu-user, in the userland that ``make test`` installs; ``browser`` is a page in
Debian's Chromium, whose GPU the CPU plays.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

os.environ.setdefault("TAPML_CACHE", tempfile.mkdtemp(prefix="tapml-benchmark-"))
os.environ["HF_HUB_OFFLINE"] = "1"

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.client.availability import check_all

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


AARCH64 = Path(sys.prefix) / "aarch64" / "python"
CHROMIUM = Path("/usr/bin/chromium")

Visit = Callable[[str], object]
"""Opens a session's link in a browser."""


def main(kinds: list[str]) -> None:
    """Print one table per target, as Markdown."""
    found: dict[str, tuple[str, Any, Visit | None]] = {
        state.kind: (state.reason, state.kind, None) for state in check_all() if state.works
    }
    with contextlib.ExitStack() as stack:
        if AARCH64.exists() and (not kinds or "aarch64" in kinds):
            found["aarch64"] = ("qemu-user", stack.enter_context(board()), None)
        if CHROMIUM.exists() and (not kinds or "browser" in kinds):
            page = stack.enter_context(chromium())
            target = tapml.Target("webgpu", rpc="browser")
            found["browser"] = (
                f"a page in Chromium {page.context.browser.version}",
                target,
                page.goto,
            )
        for kind in kinds or found:
            reason, target, visit = found[kind]
            print(f"\n### {kind}: {reason}\n")
            print("| model | operators | verdicts | seconds | on the target | outputs |")
            print("| --- | --- | --- | --- | --- | --- |")
            notes: dict[str, list[str]] = {}
            for name, make in MODELS.items():
                print(row(target, name, make, notes, visit), flush=True)
            print()
            for note, models in notes.items():
                print(f"- {note} ({', '.join(models)})")


@contextlib.contextmanager
def board() -> Iterator[tapml.Target]:
    """A server under qemu-user."""
    process = subprocess.Popen(
        [str(AARCH64), "-m", "tapml_nb.cli", "serve"],
        env=os.environ | {"PYTHONPATH": str(Path(tapml.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        process.stdout.readline()
        address = process.stdout.readline().partition("rpc='")[2].partition("'")[0]
        triple = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
        yield tapml.Target("llvm", rpc=address, tvm_target=triple)
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A page of a browser with WebGPU."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser.new_page()
        browser.close()


def row(
    target: Any,
    name: str,
    make: Callable[[], Model],
    notes: dict[str, list[str]],
    visit: Visit | None,
) -> str:
    """Judge one model, move it over, and describe both; ``notes`` says which models have what."""
    torch.manual_seed(0)
    model, inputs = make()
    quiet = contextlib.redirect_stdout(io.StringIO())  # the link is for people
    with quiet:
        session = tapml.debug(model.eval(), inputs, target=target, name=name)
    with session:
        if visit:
            visit(session.link)
        begin = time.perf_counter()
        report = session.run()
        seconds = time.perf_counter() - begin
        moved = session.migrate()
        after = session.report
    verdicts = ", ".join(f"{report.counts[v]} {v}" for v in Verdict if report.counts.get(v))
    kinds = {op.id: op.kind for op in report.graph.ops}
    said = [(c.op, c.verdict, c.diagnosis) for c in report.culprits]
    said += [(r.op, r.verdict, r.message) for r in report.missing]
    for op, verdict, words in said:
        models = notes.setdefault(f"`{kinds[op]}` {verdict}: {_essence(words)}", [])
        if name not in models:
            models.append(name)
    movable = sum(not op.host for op in report.graph.ops)
    unobserved = after.info.unobserved
    outcome = None if unobserved is None else unobserved.same
    same = {None: "not run", True: "the same", False: "DIFFERENT"}[outcome]
    return (
        f"| {name} | {len(report.graph)} | {verdicts} | {seconds:.1f} "
        f"| {len(moved.offloaded)}/{movable} | {after.info.outputs}, unobserved {same} |"
    )


def _essence(words: str) -> str:
    """A message without what differs from kernel to kernel."""
    words = " ".join(words.split()).partition("; ")[0]
    words = re.sub(r"k[0-9a-f]{16}_", "", words)
    words = re.sub(r"\S*/tempfile\S*|/\S*/", "", words)
    return re.sub(r"\d{2,}", "…", words)[:200]


if __name__ == "__main__":
    main(sys.argv[1:])
