"""tapml_nb against TVM's own LibCompareVMInstrument: same model, same kernels, one process.

    python benchmarks/compare.py [--layers 12] [--hidden 1024] [--length 32]

Both judge every kernel call of a Llama on an LLVM target in another process: TVM's instrument over
TVM's stock RPC server, ours over ours.  Each makes two passes.  Printed: seconds, kernel calls
checked, bytes sent, and the ratios: between both, and of each to two plain passes, the model once
in PyTorch and once on TVM's virtual machine, with nothing judged.  The kernels are built by the
same pipeline from the same operators; compilation is timed apart.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from transformers import LlamaConfig, LlamaForCausalLM
from tvm import relax, rpc
from tvm.relax.testing.lib_comparator import LibCompareVMInstrument

import tapml_nb as tapml
from tapml_nb.engine.engine import Engine
from tapml_nb.frontends.torch import TorchProgram, import_torch

TOLERANCE = 1e-3
"""Wide enough that honest rounding does not stop LibCompare halfway (its default is 1e-5)."""


@dataclass(frozen=True)
class Pass:
    """One pass over the model."""

    seconds: float
    checked: int
    sent: int


def main() -> None:
    """Run both and print a table."""
    options = _options()
    model, inputs = llama(options.layers, options.hidden, options.length)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    print(
        f"Llama, {options.layers} layers, hidden {options.hidden}, {options.length} tokens, "
        f"{weights / 1e6:.0f} MB of weights; {os.cpu_count()} cores"
    )
    program = import_torch(model, inputs)
    theirs, machine = libcompare(program)
    ours = tapml_passes(model, inputs)
    plain = forward(model, inputs) + machine
    print(f"\n{'':24}{'pass':>6}{'seconds':>10}{'checked':>10}{'MB sent':>10}")
    for name, passes in (("LibCompareVMInstrument", theirs), ("tapml_nb", ours)):
        for number, one in enumerate(passes, 1):
            print(
                f"{name:24}{number:>6}{one.seconds:>10.2f}{one.checked:>10}{one.sent / 1e6:>10.1f}"
            )
    print(f"{'two plain passes':24}{'':>6}{plain:>10.2f}{0:>10}{0:>10.1f}")
    for number, (a, b) in enumerate(zip(theirs, ours, strict=True), 1):
        print(
            f"pass {number}: tapml_nb is {a.seconds / b.seconds:.1f} times as fast; of two plain "
            f"passes LibCompare takes {a.seconds / plain:.1f}, tapml_nb {b.seconds / plain:.1f}"
        )
    share = ours[1].sent / ours[0].sent
    print(f"tapml_nb's second pass sends {share:.2%} of the bytes of its first")


def llama(layers: int, hidden: int, length: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A Llama and its inputs.

    The mask is given in its final form: with none, transformers computes one with a cumulative
    sum of booleans, which TVM 0.27 cannot compile, and LibCompare needs the whole model compiled.
    """
    torch.manual_seed(0)
    eager: dict[str, Any] = {"attn_implementation": "eager"}
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=8000,
        initializer_range=hidden**-0.5,
        use_cache=False,
        **eager,
    )
    model = LlamaForCausalLM(config).eval()
    causal = torch.triu(torch.full((length, length), torch.finfo(torch.float32).min), 1)
    return model, {
        "input_ids": torch.randint(0, config.vocab_size, (1, length)),
        "attention_mask": causal[None, None],
        "position_ids": torch.arange(length)[None],
    }


def forward(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """Seconds of the model in PyTorch, when it is warm."""
    with torch.inference_mode():
        for _ in range(2):
            begin = time.perf_counter()
            model(**inputs)
    return time.perf_counter() - begin


def tapml_passes(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> list[Pass]:
    """Two passes of ``session.run()``, the source run and the float64 references included."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TAPML_CACHE"] = cache
        with tapml.debug(model, inputs, target="llvm") as session:
            begin = time.perf_counter()
            session.engine.do(Engine.prepare, [op.id for op in session.graph.ops])
            print(f"tapml_nb: source run and compilation {time.perf_counter() - begin:.1f} s")
            passes: list[Pass] = []
            for _ in range(2):
                before = session.report.info.sent_bytes
                begin = time.perf_counter()
                report = session.run()
                seconds = time.perf_counter() - begin
                frame = report.frame()
                checked = int((frame["verdict"].isin(["PASS", "SKIPPED"])).sum())
                passes.append(Pass(seconds, checked, report.info.sent_bytes - before))
            print(report.summary())
            kernels = frame["target_ms"].sum() / 1e3
            print(f"  of its second pass the kernels alone take {kernels:.1f} s")
            return passes


class CountingCompare(LibCompareVMInstrument):
    """TVM's instrument, counting what it sends."""

    sent = 0

    def compare(self, name: str, ref_args: Any, new_args: Any, ret_indices: Any) -> None:
        """Count the arguments that were copied to the target for this call."""
        self.sent += sum(
            math.prod(arg.shape) * np.dtype(str(arg.dtype)).itemsize
            for i, arg in enumerate(ref_args)
            if i not in ret_indices
        )
        super().compare(name, ref_args, new_args, ret_indices)


def libcompare(program: TorchProgram) -> tuple[list[Pass], float]:
    """Two passes of TVM's instrument over the stock RPC server; and seconds of one without it, in
    this process, when it is warm."""
    begin = time.perf_counter()
    executable = tvm.compile(whole_module(program), target="llvm")
    print(f"LibCompare: compilation {time.perf_counter() - begin:.1f} s")
    values = program.bind(0, {})
    arguments = [
        tvm.runtime.tensor(program.to_numpy(values[v.id]))
        for v in program.graph.values.values()
        if v.producer is None
    ]
    with tempfile.TemporaryDirectory() as folder, stock_server() as port:
        library = Path(folder) / "model.so"
        executable.export_library(str(library))
        remote = rpc.connect("127.0.0.1", port)
        remote.upload(str(library))
        module = remote.load_module(library.name)
        machine = relax.VirtualMachine(executable, tvm.cpu())
        for _ in range(2):
            begin = time.perf_counter()
            machine["main"](*arguments)
            alone = time.perf_counter() - begin
        passes: list[Pass] = []
        for _ in range(2):
            compare = CountingCompare(
                module, remote.cpu(), verbose=False, rtol=TOLERANCE, atol=TOLERANCE
            )
            machine.set_instrument(compare)
            begin = time.perf_counter()
            machine["main"](*arguments)
            passes.append(Pass(time.perf_counter() - begin, compare.counter, compare.sent))
        return passes, alone


def whole_module(program: TorchProgram) -> Any:
    """The model as one Relax module: a ``main`` that calls each of our operators' functions."""
    graph = program.graph
    values = program.bind(0, {})
    for op in graph.ops:
        values.update(zip(op.outputs, program.run(op.id, values), strict=True))
    builder = relax.BlockBuilder()
    functions = {
        op.id: builder.add_func(
            program.unit(op.id, values).module["main"].without_attr("global_symbol"), f"op{i}"
        )
        for i, op in enumerate(graph.ops)
        if not op.host
    }
    env: dict[str, Any] = {
        v.id: relax.Var(v.id, relax.TensorType(v.spec.shape, v.spec.dtype))
        for v in graph.values.values()
        if v.producer is None
    }
    with builder.function("main", list(env.values())):
        with builder.dataflow():
            for op in graph.ops:
                if op.host:
                    continue
                call = builder.emit(relax.Call(functions[op.id], [env[v] for v in op.inputs]))
                if len(op.outputs) == 1:
                    env[op.outputs[0]] = call
                else:
                    for k, value in enumerate(op.outputs):
                        env[value] = builder.emit(relax.TupleGetItem(call, k))
            result = builder.emit_output(relax.Tuple([env[v] for v in graph.outputs]))
        builder.emit_func_output(result)
    return builder.get()


@contextlib.contextmanager
def stock_server() -> Iterator[int]:
    """TVM's own RPC server on the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--port-end", str(port + 1)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        time.sleep(1)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--length", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()
