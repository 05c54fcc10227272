"""Units in, kernels out: from the cache, or from a worker that compiles what is new in parallel."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tapml_nb.compile import linking
from tapml_nb.compile.cache import CODE, FUSION, TEXTS, Compiled, Failure, KernelCache
from tapml_nb.compile.code import KernelCode, UnitTexts, read_code
from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.schedule import Job, Schedule
from tapml_nb.compile.sources import SOURCE_KINDS
from tapml_nb.compile.store import KernelStore
from tapml_nb.compile.supervisor import Supervisor
from tapml_nb.compile.toolchain import Tool, check_linker
from tapml_nb.compile.unit import key_of, salt_of
from tapml_nb.frontends.program import FrontendError, Fusion
from tapml_nb.owner import Owner


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
        self._children = jobs or os.cpu_count() or 1
        self._salt = salt_of(target)
        self._store = KernelStore(self.cache)
        self._tool = Tool()
        self._owner = Owner()
        self._supervisor = Supervisor()

    @property
    def leaves_sizes_open(self) -> bool:
        """Whether one kernel can be for tensors of many shapes.

        Not where a driver compiles source text: launches there are worked out beforehand.
        """
        return self.target.kind.name not in SOURCE_KINDS

    def key(self, module: Any) -> str:
        """The cache key of a unit's ``IRModule``."""
        return key_of(module, self._salt)

    def compile(self, modules: Mapping[str, Any]) -> Generator[tuple[str, Compiled | Failure]]:
        """Compile modules by key; yields each as it is done, those in the cache first.

        Raises:
            CompilerTrouble: if what kept it from a kernel is no matter of its code; twice, for
                every kernel is tried once more.  The others are in the cache.
            CompilerInterrupted: if :meth:`interrupt` ended it.
        """
        missing: dict[str, Any] = {}
        for key, module in modules.items():
            known = self._store.get(key)
            if known is None:
                missing[key] = module
            else:
                self.cache_hits += 1
                yield key, known
        if missing:
            with contextlib.closing(self._run("compile", missing)) as jobs:
                for job in jobs:
                    if job.result:
                        self.compiled += 1
                        yield job.key, self._store.keep(job.key, job.folder, job.result)
                    elif job.death:
                        yield job.key, job.death

    def code(self, key: str, module: Any) -> KernelCode:
        """A unit's Relax, TIR and generated source, from the cache or made by the worker.

        Waits while :meth:`compile` compiles; so never call it between two of its results.  A
        compiler that crashes or hangs is told in the message, and asked again by the next call.

        Raises:
            CompilerTrouble, CompilerInterrupted: as :meth:`compile`.
        """
        code = self.cache.code(key) or self._describe(key, module)
        known = self._store.get(key)
        if isinstance(known, Failure) and not code.message:
            return replace(code, message=known.message)  # say, of the C compiler
        return code

    def texts(self, module: Any) -> UnitTexts:
        """A unit as text.

        Raises:
            ValueError: if TVM cannot read it.
            CompilerTrouble, CompilerInterrupted: as :meth:`compile`.
        """
        with self._alone("write", self.key(module), module) as job:
            if job.death:
                raise ValueError(f"the unit cannot be read: {job.death.message}")
            texts = json.loads((job.folder / TEXTS).read_text())
        if texts["error"]:
            raise ValueError(texts["error"])
        return UnitTexts(texts["json"], texts["script"])

    def fusion(self, module: Any) -> Fusion:
        """What the target fuses of a whole model (see
        :data:`~tapml_nb.frontends.program.Decide`).

        Raises:
            FrontendError: if its pipeline fails on the model as a whole.
            CompilerTrouble: as :meth:`compile`.
        """
        with self._alone("fuse", "model", module) as job:
            if job.death:
                answer: dict[str, Any] = {"error": job.death.message}
            else:
                answer = json.loads((job.folder / FUSION).read_text())
        if "error" in answer:
            raise FrontendError(
                f"the pipeline of {self.target.kind.name} cannot fuse the model as a whole: "
                f"{answer['error']}; choose granularity='operator' to see which operator it is"
            )
        return Fusion(tuple(map(tuple, answer["kernels"])), tuple(answer["folded"]))

    def library_folder(self, *, elsewhere: bool = False) -> Path:
        """A new folder for what :meth:`link` makes; ``elsewhere``: not on the cache's disk.

        Raises:
            CompilerTrouble: if none can be made.
        """
        return self._store.new_folder("libraries-", elsewhere)

    def link(self, kernels: Sequence[Compiled], library: Path) -> list[tuple[Path, list[Kernel]]]:
        """Put kernels in files: see :func:`linking.link <tapml_nb.compile.linking.link>`."""
        return linking.link(kernels, library, self.target, self._tool.run)

    def discard(self, key: str) -> None:
        """Forget a kernel, so that it is compiled anew."""
        self._store.discard(key)

    def interrupt(self) -> None:
        """Break off what goes on, if anything does; it raises :class:`CompilerInterrupted
        <tapml_nb.compile.trouble.CompilerInterrupted>`.  From any thread."""
        if not self._owner.elsewhere:
            self._supervisor.interrupt()
            self._tool.interrupt()

    def close(self) -> None:
        """End the worker and everything it runs.  Idempotent."""
        if not self._owner.elsewhere:
            self._supervisor.close()
            self._tool.interrupt()
            self._store.close()

    def _run(self, task: str, modules: Mapping[str, Any]) -> Generator[Job]:
        with self._supervisor.working():
            schedule = Schedule(self._supervisor, self._store, task, self.target, modules)
            with contextlib.closing(schedule.results(self._children)) as jobs:
                yield from jobs

    @contextlib.contextmanager
    def _alone(self, task: str, key: str, module: Any) -> Iterator[Job]:
        with contextlib.closing(self._run(task, {key: module})) as jobs:
            yield next(jobs)

    def _describe(self, key: str, module: Any) -> KernelCode:
        empty = KernelCode("", "", "", self.target.kind.name, "")
        if self._supervisor.closed:
            return replace(empty, message="the compiler is closed")
        with self._alone("describe", key, module) as job:
            code = read_code(job.folder / CODE) or empty
            if job.death:
                return replace(code, message=job.death.message)
            self.cache.keep_code(key, code, job.folder)
            return code
