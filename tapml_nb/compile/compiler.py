"""Units in, kernels out: keys, the cache, and a worker that compiles what is new in parallel."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Generator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm

from tapml_nb.compile.cache import CODE, FUSION, UNIT, Compiled, Failure, KernelCache
from tapml_nb.compile.code import KernelCode, read_code
from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.lowering import PIPELINE
from tapml_nb.compile.sources import SOURCE_KINDS, SourcePackage
from tapml_nb.compile.toolchain import check_linker, link_shared, machine_of
from tapml_nb.frontends.granularity import Fusion
from tapml_nb.frontends.program import FrontendError
from tapml_nb.interpreter import module_command, module_environment
from tapml_nb.owner import Owner

_BATCH = 4
"""Units per child of the worker: few, so that the cores finish together."""


class Compiler:
    """Compiles units for one target; start it early, it imports TVM meanwhile.

    A unit's key is the SHA-256 of its Relax module, the target, this pipeline and TVM's version:
    equal units are one kernel, in this session and, through the cache, in every later one.
    """

    def __init__(self, target: Any, cache: KernelCache | None = None, jobs: int | None = None):
        """Check the toolchain and start the worker.

        Args:
            target: ``tvm.target.Target`` to compile for.
            cache: where kernels are kept; default the user's.
            jobs: how many units compile at a time; default the machine's cores.

        Raises:
            ToolchainError: if the target cannot be compiled for on this machine.
            ValueError: if the cache cannot be written.
        """
        if target.kind.name not in SOURCE_KINDS:
            check_linker(target)
        self.target = target
        self.cache = cache or KernelCache()
        self.compiled = 0
        """Kernels compiled here (not found in the cache)."""
        self.cache_hits = 0
        """Kernels taken from the disk cache, its remembered failures too, and not compiled."""
        self._jobs = jobs or os.cpu_count() or 1
        self._salt = f"{target}|{PIPELINE}|{version('apache-tvm')}|{version('apache-tvm-ffi')}"
        if target.kind.name == "cuda" and os.environ.get("TVM_CUDA_NVCC_NO_FAST_MATH"):
            self._salt += "|without fast-math"  # TVM's own switch; it changes every kernel
        self._worker: subprocess.Popen[bytes] | None = None
        self._batches = 0
        self._lock = threading.Lock()
        self._owner = Owner()
        self._start()

    @property
    def leaves_sizes_open(self) -> bool:
        """Whether one kernel can be for tensors of many shapes.

        Not where a driver compiles source text: launches there are worked out beforehand.
        """
        return self.target.kind.name not in SOURCE_KINDS

    def key(self, module: Any) -> str:
        """The cache key of a unit's ``IRModule``."""
        text = tvm.ir.save_json(module)
        return hashlib.sha256(f"{self._salt}|{text}".encode()).hexdigest()

    def compile(self, modules: Mapping[str, Any]) -> Generator[tuple[str, Compiled | Failure]]:
        """Compile modules by key; yields each as it is done, those in the cache first."""
        missing: list[str] = []
        for key in modules:
            known = self.cache.get(key)
            if known is None:
                missing.append(key)
            else:
                self.cache_hits += 1
                yield key, known
        if missing:
            with self._lock:
                yield from self._compile_missing({key: modules[key] for key in missing})

    def code(self, key: str, module: Any) -> KernelCode:
        """A unit's Relax, TIR and generated source, from the cache or made by the worker.

        Waits while :meth:`compile` compiles; so never call it between two of its results.  A
        compiler that crashes or hangs is told in the message, and asked again by the next call.
        """
        code = self.cache.code(key)
        if code is None:
            with self._lock:
                code = self._describe(key, module)
        known = self.cache.get(key)
        if isinstance(known, Failure) and not code.message:
            return replace(code, message=known.message)  # say, of the C compiler
        return code

    def fusion(self, module: Any) -> Fusion:
        """What the target fuses of a whole model (see
        :data:`~tapml_nb.frontends.granularity.Decide`).

        Raises:
            FrontendError: if its pipeline fails on the model as a whole.
        """
        scratch = self.cache.scratch()
        try:
            (scratch / UNIT).write_text(tvm.ir.save_json(module))
            with self._lock:
                death = self._run_alone("fuse", "model", scratch)
            answer: dict[str, Any] = {} if death else json.loads((scratch / FUSION).read_text())
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if death:
            answer = {"error": death}
        if "error" in answer:
            raise FrontendError(
                f"the pipeline of {self.target.kind.name} cannot fuse the model as a whole: "
                f"{answer['error']}; choose granularity='operator' to see which operator it is"
            )
        return Fusion(tuple(map(tuple, answer["kernels"])), tuple(answer["folded"]))

    def link(self, kernels: list[Compiled], library: Path) -> list[tuple[Path, list[Kernel]]]:
        """Put kernels that launch something together, as far as that can be done.

        Args:
            kernels: the kernels.
            library: the file to write.

        Returns:
            Files that the target can load, each with the kernels in it.

        Raises:
            ToolchainError: if the linker fails.
        """
        codes = [(kernel, kernel.code) for kernel in kernels if kernel.code]
        if self.target.kind.name == "cuda":  # whose libraries hold code for two machines
            return [(code, [kernel.kernel]) for kernel, code in codes]
        if self.target.kind.name in SOURCE_KINDS:
            packages = [SourcePackage.parse(code.read_text(encoding="utf-8")) for _, code in codes]
            library.write_text(SourcePackage.merged(packages).dump(), encoding="utf-8")
        else:
            link_shared([code for _, code in codes], library, machine_of(self.target))
        return [(library, [kernel.kernel for kernel, _ in codes])]

    def close(self) -> None:
        """End the worker and everything it runs.  Idempotent."""
        if self._owner.elsewhere:
            return
        worker, self._worker = self._worker, None
        if worker is None:
            return
        for stream in (worker.stdin, worker.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        # At once, with its children: nothing half written is ever taken for a kernel, and to ask
        # politely takes a second while it still imports TVM.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    # -- the worker ----------------------------------------------------------------------------

    def _start(self) -> None:
        self._worker = subprocess.Popen(
            module_command("tapml_nb.compile.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=module_environment(),
            start_new_session=True,  # Ctrl-C in the terminal is for the notebook
        )

    def _compile_missing(
        self, modules: dict[str, Any]
    ) -> Generator[tuple[str, Compiled | Failure]]:
        scratch = {key: self.cache.scratch() for key in modules}
        try:
            for key, module in modules.items():
                (scratch[key] / UNIT).write_text(tvm.ir.save_json(module))
            for key, failure in self._run_batches(list(modules), scratch):
                if failure is not None:
                    yield key, failure
                    continue
                self.compiled += 1
                self.cache.commit(key, scratch.pop(key))
                result = self.cache.get(key)
                yield key, result or Failure("crash", "the compiler left no result")
        finally:
            for folder in scratch.values():
                shutil.rmtree(folder, ignore_errors=True)

    def _run_batches(
        self, waiting: list[str], scratch: dict[str, Path]
    ) -> Generator[tuple[str, Failure | None]]:
        """Keep ``jobs`` children busy; yield each key, with the failure its compiler died of."""
        running: dict[int, list[str]] = {}
        try:
            yield from self._collect(waiting, running, scratch)
        finally:
            if running:  # the caller stopped early: end what still compiles
                self.close()
                self._start()

    def _collect(
        self, waiting: list[str], running: dict[int, list[str]], scratch: dict[str, Path]
    ) -> Generator[tuple[str, Failure | None]]:
        while waiting or running:
            while waiting and len(running) < self._jobs:
                batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
                self._batches += 1
                running[self._batches] = batch
                self._submit(self._batches, batch, scratch)
            event = self._next_event()
            if event is None:  # the worker itself is gone: nobody's fault, start over
                waiting = [key for batch in running.values() for key in batch] + waiting
                running.clear()
                self.close()
                self._start()
            elif "key" in event:
                for batch in running.values():
                    if event["key"] in batch:
                        batch.remove(event["key"])
                yield event["key"], None
            elif "batch" in event and (left := running.pop(event["batch"], [])):
                yield left[0], _death(event)
                waiting = left[1:] + waiting

    def _describe(self, key: str, module: Any) -> KernelCode:
        scratch = self.cache.scratch()
        try:
            (scratch / UNIT).write_text(tvm.ir.save_json(module))
            death = self._run_alone("describe", key, scratch)
            code = read_code(scratch / CODE) or KernelCode("", "", "", self.target.kind.name, "")
            if death:
                return replace(code, message=death)
            self.cache.keep_code(key, scratch)
            return code
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _run_alone(self, task: str, key: str, scratch: Path) -> str:
        """Have a child leave something in ``scratch``; returns what it died of, if it did."""
        for _ in range(2):
            if self._worker is None:
                return "the compiler is closed"
            self._batches += 1
            self._submit(self._batches, [key], {key: scratch}, task)
            event: dict[str, Any] | None = {}
            while event is not None and event.get("batch") != self._batches:
                event = self._next_event()
            if event is not None:
                return _death(event).message if event["signal"] or event["code"] else ""
            if self._worker is not None:  # it is gone, and nobody closed it
                self.close()
                self._start()
        return "the compile worker ended before it answered"

    def _submit(
        self, number: int, keys: list[str], scratch: dict[str, Path], task: str = "compile"
    ) -> None:
        job = {
            "batch": number,
            "task": task,
            "target": str(self.target),
            "scratch": {key: str(scratch[key]) for key in keys},
        }
        assert self._worker
        assert self._worker.stdin
        with contextlib.suppress(BrokenPipeError):
            self._worker.stdin.write((json.dumps(job) + "\n").encode())
            self._worker.stdin.flush()

    def _next_event(self) -> dict[str, Any] | None:
        assert self._worker
        assert self._worker.stdout
        line = self._worker.stdout.readline()
        return json.loads(line) if line else None


def _death(event: dict[str, Any]) -> Failure:
    if event["signal"] == signal.SIGALRM:
        return Failure("timeout", "the compiler did not finish in time")
    how = (
        f"signal {signal.Signals(event['signal']).name}"
        if event["signal"]
        else f"exit status {event['code']}"
    )
    return Failure("crash", f"the compiler itself crashed ({how})")
