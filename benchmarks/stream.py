"""When verdicts come: seconds after ``run()``, with an empty kernel cache and with a full one.

    python -m benchmarks.stream [--layers 2] [--hidden 256] [--vocabulary 2000] [--tokens 16]

A Qwen3 of random weights in float32, on ``llvm``.  Printed for either cache: when the source had
run, the first verdict of all and the first on a kernel were there, the last kernel was compiled and
the run had ended, and how many libraries were linked.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import tapml_nb as tapml
from tapml_nb.execute.events import OpJudged, RunProgress

WORKAROUNDS = ("integer_cumsum",)


def options(text: str) -> argparse.ArgumentParser:
    """A parser that knows how large the model is to be."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, size in {"layers": 2, "hidden": 256, "vocabulary": 2000, "tokens": 16}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    return parser


def decoder(sizes: argparse.Namespace) -> tuple[Any, tuple[torch.Tensor]]:
    """The model, and token ids."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=sizes.hidden,
        intermediate_size=3 * sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=max(2, sizes.hidden // 64),
        num_key_value_heads=max(1, sizes.hidden // 128),
        head_dim=64,
        vocab_size=sizes.vocabulary,
        use_cache=False,
    )
    model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    return model, (torch.randint(0, sizes.vocabulary, (1, sizes.tokens)),)


def main() -> None:
    """Measure both and print a table."""
    model, inputs = decoder(options(__doc__ or "").parse_args())
    rows = ("source", "first verdict", "first on a kernel", "last kernel", "end", "links")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TAPML_CACHE"] = cache
        found = [measure(model, inputs) for _ in ("empty", "full")]
    print("| | empty cache | full cache |\n| --- | ---: | ---: |")
    for row in rows:
        cells = [f"{one[row]:.2f}" if row in one else "" for one in found]
        print(f"| {row} | {' | '.join(cells)} |")


def measure(model: Any, inputs: Any) -> dict[str, float]:
    """One session's first run."""
    found: dict[str, float] = {}
    with tapml.debug(model, inputs, workarounds=WORKAROUNDS) as session:
        links: list[Path] = []
        link = session.engine.compiler.link

        def counted(kernels: Any, library: Path) -> Any:
            links.append(library)
            return link(kernels, library)

        def judged(event: OpJudged) -> None:
            now = time.perf_counter() - begin
            found.setdefault("first verdict", now)
            if event.result.kernel:
                found.setdefault("first on a kernel", now)

        def progress(event: RunProgress) -> None:
            name = {"source": "source", "compile": "last kernel"}.get(event.phase)
            if name:
                found[name] = time.perf_counter() - begin

        session.engine.compiler.link = counted  # type: ignore[method-assign]
        session.on("OpJudged", judged)
        session.on("RunProgress", progress)
        begin = time.perf_counter()
        session.run()
        found |= {"end": time.perf_counter() - begin, "links": len(links)}
    return found


if __name__ == "__main__":
    main()
