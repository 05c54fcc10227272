"""A session over very many operators: what each stage costs, and what doubling them costs.

    python benchmarks/scale.py [--operators 2500 5000 10000 20000] [--max-memory "2 MB"]
                               [--repeat 1]

A decoder of many small blocks, with few different kernels, goes from ``torch.export`` to a carved
bundle; each size in a process of its own, stage by stage in turn, for on a busy machine the same
work may take twice the CPU time of a quiet one, and so what else goes on meets all sizes alike.
Printed: seconds of every stage (in brackets: of CPU time), the most memory that the process and its
children (compiler, target server) had resident, what a page is sent when it begins, how the CPU
time and all this grow from size to size, and how many times ``torch.export`` alone an import takes.
Kernels are compiled beforehand, for that does not depend on the number of operators.  With repeats
every stage shows the least of its seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.nn import functional

import tapml_nb as tapml
from benchmarks.peak_memory import PeakMemory
from tapml_nb.api import open_session
from tapml_nb.frontends.torch import TorchProgram
from tapml_nb.frontends.torch.export import decompose, step_arguments
from tapml_nb.frontends.torch.model import ExportedModel
from tapml_nb.session import Session
from tapml_nb.widgets.feed import Feed, feed_of

_TOKENS, _WIDTH, _HEADS = 16, 64, 4

_TOTALS = {
    "import": ("torch.export", "decompositions", "graph"),
    "first report": ("run", "frame", "summary"),
}
"""Sums of stages that are shown, too."""


class _Norm(nn.Module):
    """A root-mean-square norm as models spell it out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(_WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class _Block(nn.Module):
    """Attention and a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = _Norm(), _Norm()
        self.q, self.k, self.v, self.out = (nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(_WIDTH, 2 * _WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * _WIDTH, _WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attention_norm(x)
        q, k, v = (
            part(y).view(1, _TOKENS, _HEADS, -1).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(1, _TOKENS, _WIDTH))
        y = self.mlp_norm(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Blocks in a row."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block() for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_TEXT)
    parser.add_argument("--operators", type=int, nargs="+", default=[2500, 5000, 10000, 20000])
    parser.add_argument("--max-memory", help="as for tapml_nb.debug")
    parser.add_argument("--repeat", type=int, default=1, help="runs of every size")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.max_memory)), flush=True)
        return
    limit = ["--max-memory", options.max_memory] if options.max_memory else []
    command = [sys.executable, __file__, *limit, "--one"]
    _in_turn(command, [100])  # compiles the kernels
    runs = [_in_turn(command, options.operators) for _ in range(options.repeat)]
    _print([_least(of_one) for of_one in zip(*runs, strict=True)])


def _in_turn(command: Sequence[str], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """What :func:`measure` finds in a process for each size, of which one is at work at a time."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(size)], **pipes) for size in sizes]
    try:
        while True:
            lines = list(map(_said, processes))
            if all(isinstance(line, dict) for line in lines):
                return lines
            for process in processes:
                assert process.stdin
                process.stdin.write("go\n")
                process.stdin.flush()
                _said(process)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _said(process: subprocess.Popen[str]) -> Any:
    """The next that a process says: a stage that it is to begin with or has done, or its result."""
    assert process.stdout
    return json.loads(process.stdout.readline())


def measure(operators: int, max_memory: str | None = None) -> dict[str, Any]:
    """Wall and CPU seconds of every stage, and peak memory in MB, of a model of about this size.
    Says when a stage is next, and begins with it when it is told a line."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # operators are tiny: more would wait for each other
    blocks = round(operators / 32)
    model, inputs = Decoder(blocks).eval(), (torch.randn(1, _TOKENS, _WIDTH),)
    stages: dict[str, tuple[float, float]] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        print(json.dumps(name), flush=True)
        sys.stdin.readline()
        begin, used = time.perf_counter(), _cpu_seconds()
        yield
        seconds = stages[name] = (time.perf_counter() - begin, _cpu_seconds() - used)
        print(f"  {operators}: {name} {seconds[0]:.2f} s, {seconds[1]:.2f} s CPU", file=sys.stderr)
        print(json.dumps(name), flush=True)

    with PeakMemory() as memory, tempfile.TemporaryDirectory() as folder:
        with stage("torch.export"), torch.no_grad():
            exported = torch.export.export(model, inputs, strict=False)
        with stage("decompositions"):
            exported = decompose(exported)
        with stage("graph"):
            program = TorchProgram(ExportedModel(exported, step_arguments(inputs), name="Decoder"))
        with open_session(program, "llvm", max_memory=max_memory) as session:
            with stage("run"):
                report = session.run()
            with stage("frame"):
                report.frame()
            with stage("summary"):
                report.summary()
            first_report_mb = memory.host_mb
            with stage("second run"):
                report = session.run()
            with stage("to_html"):
                report.to_html(Path(folder, "report.html"))
            with stage("first message to a page"):
                payload = _first_message(session)
            with stage("heatmap"):
                report.heatmap()
            with stage("hybrid"):
                session.offload(
                    [op.id for op in session.graph.ops if report.verdict(op.id) is _PASS]
                )
                hybrid = session.hybrid()
            with stage("toggle"):  # off and on again, with the hybrid run of each
                middle = session.graph.ops[len(session.graph) // 2].id
                for place in (session.restore, session.offload):
                    place(middle)
                    session.hybrid()
            with stage("migrate"):
                migration = session.migrate()
            with stage("carve"):
                bundle = session.carve(Path(folder, "decoder.tapml"))
            with stage("open"):
                tapml.Bundle.open(bundle.path).close()
            assert not report.culprits, report
            assert hybrid.info.outputs is _PASS, hybrid
            assert len(migration.offloaded) == len(bundle) == len(session.graph)
            count = len(session.graph)
            with stage("close"):
                session.close()
    return {
        "operators": count,
        **stages,
        "memory to first report": first_report_mb,
        "memory": memory.host_mb,
        "first message to a page, size": payload / 1e6,
    }


_PASS = tapml.Verdict.PASS
_TEXT = argparse.RawDescriptionHelpFormatter


class _Page:
    """Counts the bytes of what it is sent first, as a page that begins."""

    def __init__(self, feed: Feed) -> None:
        self.size = 0
        self.sent = threading.Event()
        feed.attach(self)
        feed.receive(self, {"kind": "ready"})

    def send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self.size = len(json.dumps(content)) + sum(map(len, buffers or ()))
        self.sent.set()


def _first_message(session: Session) -> int:
    """How many bytes a page is sent before it shows anything."""
    page = _Page(feed_of(session))
    assert page.sent.wait(600), "nothing came"
    return page.size


def _of_all(ask: Callable[[psutil.Process], float]) -> Iterator[float]:
    """The answers of this process and all its children."""
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            yield ask(process)


def _cpu_seconds() -> float:
    """CPU time of this process and all children, those that have ended too."""
    return sum(_of_all(lambda process: sum(process.cpu_times()[:4])))


def _least(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The least of what runs of one size took, stage by stage."""
    return {
        name: [min(times) for times in zip(*(run[name] for run in runs), strict=True)]
        if isinstance(value, list)
        else min(run[name] for run in runs)
        for name, value in runs[0].items()
    }


def _print(results: Sequence[dict[str, Any]]) -> None:
    for result in results:
        for name, parts in _TOTALS.items():
            result[name] = tuple(map(sum, zip(*(result[part] for part in parts), strict=True)))
    counts = " | ".join(f"{result.pop('operators'):,}" for result in results)
    print(f"| | {counts} | growth |")
    print("| --- |" + " ---: |" * (len(results) + 1))
    for name in results[0]:
        values = [result[name] for result in results]
        if isinstance(values[0], float):
            cells, grown = [f"{value:,.1f} MB" for value in values], values
        else:
            cells = [f"{wall:.1f} s ({cpu:.1f})" for wall, cpu in values]
            grown = [cpu for _, cpu in values]
        growth = ", ".join(f"{b / a:.2f}" if a else "-" for a, b in pairwise(grown))
        print(f"| {name} | {' | '.join(cells)} | {growth} |")
    times = [result["import"][1] / result["torch.export"][1] for result in results]
    print(f"| import, times torch.export | {' | '.join(f'{n:.2f}' for n in times)} | |")


if __name__ == "__main__":
    main()
