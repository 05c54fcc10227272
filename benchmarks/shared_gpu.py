"""What a GPU that source and target share has to keep, checked on one.

    python -m benchmarks.shared_gpu

Memory is filled, compared and copied by the driver alone; a model on the GPU is judged with
nothing sent through the host; planted faults are the only culprits, as on the host; and a kernel
that writes into its inputs reaches none of the model's own.  Each line says what holds; ends with 1
where one does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb.targets.wire.cuda import Cuda

_ROWS, _WIDTH = 8, 64


@T.prim_func(s_tir=True)
def spoils_its_weight(
    x: T.Buffer((8, 64), "float32"),
    w: T.Buffer((64, 64), "float32"),
    b: T.Buffer((64,), "float32"),
    y: T.Buffer((8, 64), "float32"),
) -> None:
    T.func_attr({"global_symbol": "spoils_its_weight", "tirx.noalias": True})
    for i in T.thread_binding(8, thread="blockIdx.x"):
        for j in T.thread_binding(64, thread="threadIdx.x"):
            with T.sblock("y"):
                vi, vj = T.axis.remap("SS", [i, j])
                y[vi, vj] = x[vi, vj] + b[vj]
                w[vi, vj] = T.float32(0)


def checks() -> Iterator[tuple[str, bool]]:
    """What has to hold, and whether it does."""
    yield from _driver()
    yield from _session()


def _driver() -> Iterator[tuple[str, bool]]:
    cuda, size = Cuda(torch.cuda.current_device()), (1 << 20) + 3
    data = torch.randint(0, 256, (size,), dtype=torch.uint8, device="cuda")
    places = (0, 1, size // 2, size - 3, size - 2, size - 1)
    changed = [data.clone() for _ in places]
    for copy, place in zip(changed, places, strict=True):
        copy[place] ^= 1
    other = torch.empty_like(data)
    torch.cuda.synchronize()
    found = [cuda.all_same([(data.data_ptr(), copy.data_ptr(), size)])[0] for copy in changed]
    yield "one changed byte is seen wherever it is", not any(found)
    cuda.copy((other.data_ptr(), data.data_ptr(), size))
    yield "a copy is the same", all(cuda.all_same([(data.data_ptr(), other.data_ptr(), size)]))
    cuda.fill(other.data_ptr(), 7, size - 1)
    torch.cuda.synchronize()
    yield "fill stops where it should", bool((other[:-1] == 7).all() and other[-1] == data[-1])


def _session() -> Iterator[tuple[str, bool]]:
    torch.manual_seed(0)
    layers = nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH), nn.Softmax(-1)
    model = nn.Sequential(*layers).cuda().eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    given = torch.randn(_ROWS, _WIDTH, device="cuda")

    def untouched() -> bool:
        state = model.state_dict()
        return all(torch.equal(state[name], value) for name, value in weights.items())

    with tapml.debug(model, (given,), target="cuda", source="torch:cuda") as session:
        report = session.run()
        yield "honest kernels pass", report.ok and len(report.introduced) == 4
        yield "nothing was sent", int(report.frame()["sent_bytes"].sum()) == 0
        yield "the second run agrees", session.run().counts == report.counts
        for name, kernel in {
            "a factor of 1.001": lambda x, w, b: (x @ w.T + b) * np.float32(1.001),
            "one wrong element": _one_wrong,
            "a kernel that writes into its weight": spoils_its_weight,
        }.items():
            session.override("2/linear", kernel)
            blamed = [culprit.op for culprit in session.run().culprits]
            yield f"{name} is the only culprit", blamed == ["2/linear"]
            yield f"{name} leaves the model alone", untouched()
        session.override("2/linear", None)
        yield "mended, all pass again", session.run().ok
        session.offload([op.id for op in report.graph.ops])
        yield "and so they do together", session.hybrid().ok


def _one_wrong(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    result = x @ w.T + b
    result[3, 5] *= 1.01
    return result


def main() -> int:
    """Run the command; returns its exit status."""
    if not torch.cuda.is_available():
        print("there is no GPU that PyTorch can use here", file=sys.stderr)
        return 2
    results = list(checks())
    for what, holds in results:
        print("ok  " if holds else "FAIL", what)
    return int(not all(holds for _, holds in results))


if __name__ == "__main__":
    sys.exit(main())
