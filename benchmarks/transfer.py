"""How fast a tensor reaches a server in another process, beside TVM's stock RPC server.

python benchmarks/transfer.py
"""

from __future__ import annotations

import time

import numpy as np
from tvm import rpc
from tvm.runtime import empty

from benchmarks.compare import stock_server
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target

MB = 1 << 20
SIZE = 64 * MB


def main() -> None:
    """Send 64 MB three times each way; print the best, and their ratio."""
    numbers = np.random.default_rng(0)
    tensors = [numbers.random(SIZE // 4, np.float32) for _ in range(3)]
    with TargetSession(Target("llvm")) as session:
        ours = [
            (_seconds(session.put, f"tensor {k}", tensor), _seconds(session.fetch, f"tensor {k}"))
            for k, tensor in enumerate(tensors)
        ]
    with stock_server() as port:
        device = rpc.connect("127.0.0.1", port).cpu(0)
        stock = []
        for tensor in tensors:
            remote = empty(tensor.shape, "float32", device)
            stock.append((_seconds(remote.copyfrom, tensor), _seconds(remote.numpy)))
            del remote
        del device
    for way, name in enumerate(("to the server", "back")):
        mine, theirs = (min(pair[way] for pair in pairs) for pairs in (ours, stock))
        rates = f"{SIZE / MB / mine:.0f} MB/s, TVM's stock server {SIZE / MB / theirs:.0f} MB/s"
        print(f"64 MB {name}: {rates}, {theirs / mine:.0f} times as fast")


def _seconds(work: object, *arguments: object) -> float:
    begin = time.perf_counter()
    work(*arguments)  # type: ignore[operator]
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
