"""One session over prefill and decoding with open sizes, against a session for every step.

    python benchmarks/steps.py [--steps 8]

A Llama decodes with a dynamic cache, so every step has other shapes.  *Open sizes*: all steps in
one session, whose kernels are each for all of them.  *Step by step*: every step exported and judged
by itself, as one has to where a kernel is for one shape; equal kernels are shared through the
cache, which both begin empty.  Printed: kernels that were compiled, and seconds with export,
import, compilation and all verdicts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tapml_nb as tapml


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_TEXT)
    parser.add_argument("--steps", type=int, default=8, help="tokens after the prompt")
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=300,
        initializer_range=64**-0.5,
    )
    model = LlamaForCausalLM(config).eval()
    prompt = torch.randint(0, config.vocab_size, (1, 5))
    with _empty_cache():
        begin = time.perf_counter()
        program, inputs = tapml.decode_steps(model, prompt, steps, cache="dynamic")
        together = _judge(program, inputs)
        seconds = time.perf_counter() - begin
    with _empty_cache():
        begin = time.perf_counter()
        program, inputs = tapml.decode_steps(model, prompt, steps, cache="dynamic")
        alone = sum(_judge(torch.export.export(program.module(), step), step) for step in inputs)
        one_by_one = time.perf_counter() - begin
    print("| | open sizes | step by step | |")
    print("| --- | ---: | ---: | ---: |")
    print(f"| kernels compiled | {together} | {alone} | {alone / together:.1f}x |")
    print(f"| seconds | {seconds:.1f} | {one_by_one:.1f} | {one_by_one / seconds:.1f}x |")


def _judge(program: torch.export.ExportedProgram, inputs: Any) -> int:
    """How many kernels were compiled to judge every operator in every step."""
    with tapml.debug(program, inputs) as session:
        report = session.run()
        assert report.ok, report
        return report.info.compiled


@contextmanager
def _empty_cache() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TAPML_CACHE"] = folder
        yield


_TEXT = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
