"""The target's side of a session: its tensors, its kernels, and running the one on the other.

Runs in the server's session process and imports no compiler.  Tensors are known by the keys that
the notebook gave them.  Before every run all memory that a kernel is to write is poisoned, with
other bytes each time, so that what it does not write can never look right.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import tvm_ffi

from tapml_nb.compile.kernel import Kernel
from tapml_nb.numerics import np_dtype, statistics
from tapml_nb.targets.poison import PATTERNS


class TensorMemory:
    """Tensors by key, in the TVM runtime's own memory."""

    def __init__(self) -> None:
        self._tensors: dict[str, Any] = {}
        self._alloc = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
        self._device = tvm_ffi.device("cpu", 0)

    def __getitem__(self, key: str) -> Any:
        try:
            return self._tensors[key]
        except KeyError:
            raise KeyError(f"no tensor {key!r} is resident on the target") from None

    def __setitem__(self, key: str, tensor: Any) -> None:
        self._tensors[key] = tensor

    def new(self, shape: Sequence[int], dtype: str) -> Any:
        """Memory for a tensor of this shape and dtype, uninitialised."""
        return self._alloc(tvm_ffi.Shape(tuple(shape)), tvm_ffi.dtype(dtype), self._device, None)

    def view(self, tensor: Any, shape: Sequence[int], dtype: str) -> Any:
        """The same memory under another shape."""
        return self._view(tensor, tvm_ffi.Shape(tuple(shape)), tvm_ffi.dtype(dtype), 0)

    def array(self, tensor: Any) -> np.ndarray:
        """The tensor's memory as an array, without a copy."""
        shape = tuple(int(n) for n in tensor.shape)
        return raw_bytes(tensor).view(np_dtype(str(tensor.dtype))).reshape(shape)

    def drop(self, keys: Sequence[str]) -> None:
        """Forget tensors; keys that are not there are fine."""
        for key in keys:
            self._tensors.pop(key, None)

    def held(self) -> int:
        """Bytes of all tensors."""
        return sum(raw_bytes(tensor).size for tensor in self._tensors.values())


def raw_bytes(tensor: Any) -> np.ndarray:
    """A tensor's memory as bytes.  (An array over DLPack would not do: no bfloat16.)"""
    itemsize = np_dtype(str(tensor.dtype)).itemsize
    count = math.prod(int(n) for n in tensor.shape) * itemsize
    if count == 0:
        return np.empty(0, np.uint8)
    memory = (ctypes.c_char * count).from_address(tensor.data_ptr())
    return np.frombuffer(memoryview(memory), np.uint8)


class KernelRunner:
    """Launch plans with their loaded functions."""

    def __init__(self, memory: TensorMemory) -> None:
        self._memory = memory
        self._kernels: dict[str, tuple[Kernel, list[tuple[Any, tuple[int, ...]]]]] = {}
        self._modules: list[Any] = []

    def load(self, library: str, plans: str) -> None:
        """Load a library and the plans (JSON list) of the kernels in it.

        Raises:
            RuntimeError: if the library cannot be loaded, or lacks a function; with its name.
        """
        module = tvm_ffi.load_module(library)
        for plan in json.loads(plans):
            kernel = Kernel.from_json(plan)
            launches = []
            for launch in kernel.launches:
                if not module.implements_function(launch.function):
                    raise RuntimeError(f"the library has no function {launch.function}")
                launches.append((module.get_function(launch.function), launch.args))
            self._kernels[kernel.key] = (kernel, launches)
        self._modules.append(module)

    def call(self, text: str) -> str:
        """Run a kernel as a JSON request says; see :meth:`TargetSession.call`."""
        request = json.loads(text)
        kernel, launches = self._kernels[request["kernel"]]
        fixed = [self._memory[key] for key in (*request["inputs"], *kernel.constants)]
        runs: list[list[Any]] = []
        ms: list[float] = []
        for number in range(request["repeats"]):
            buffers = self._buffers(kernel, fixed, PATTERNS[number % len(PATTERNS)])
            begin = time.perf_counter()
            for function, arguments in launches:
                function(*[buffers[i] for i in arguments])
            ms.append((time.perf_counter() - begin) * 1e3)
            runs.append([buffers[i] for i in kernel.results])
        outputs, references = request["outputs"], request["references"]
        deterministic = [
            all(_same(run[k], runs[0][k]) for run in runs[1:]) for k in range(len(outputs))
        ]
        for k, key in enumerate(outputs):
            self._memory[key] = runs[-1][k]
            if not deterministic[k]:
                self._memory[f"{key}#1"] = runs[0][k]
        identical = [
            None if reference is None else self._equal(runs[-1][k], self._memory[reference])
            for k, reference in enumerate(references)
        ]
        return json.dumps({"ms": ms, "deterministic": deterministic, "identical": identical})

    def statistics(self, output: str, reference: str) -> str:
        """Error statistics of a resident tensor against another, as JSON."""
        memory = self._memory
        stats = statistics(memory.array(memory[output]), memory.array(memory[reference]))
        return json.dumps(asdict(stats))

    def _buffers(self, kernel: Kernel, fixed: list[Any], poison: int) -> list[Any]:
        """Every buffer of a run: those given, then fresh poisoned ones, then views."""
        views = dict(kernel.views)
        buffers: list[Any] = list(fixed)
        for number in range(len(fixed), len(kernel.buffers)):
            spec = kernel.buffers[number]
            if number in views:
                buffers.append(None)
                continue
            tensor = self._memory.new(spec.shape, spec.dtype)
            raw_bytes(tensor)[:] = poison
            buffers.append(tensor)
        for destination, source in kernel.views:  # in order: a view may be of a view
            spec = kernel.buffers[destination]
            buffers[destination] = self._memory.view(buffers[source], spec.shape, spec.dtype)
        return buffers

    def _equal(self, a: Any, b: Any) -> bool:
        same_type = str(a.dtype) == str(b.dtype) and tuple(a.shape) == tuple(b.shape)
        return same_type and _same(a, b)


def _same(a: Any, b: Any) -> bool:
    """Whether two tensors of one size agree bit for bit."""
    x, y = raw_bytes(a), raw_bytes(b)
    if x.size % 8 == 0:
        x, y = x.view(np.uint64), y.view(np.uint64)
    return bool(np.array_equal(x, y))
