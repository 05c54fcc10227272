"""Units in, kernels out: from the cache, or from a worker that compiles what is new in parallel;
and kernels in files that a target can load."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tapml_nb.compile.cache import (
    CODE,
    FUSION,
    TEXTS,
    Compiled,
    Failure,
    KernelCache,
    read_entry,
    write_file,
)
from tapml_nb.compile.kernel import Kernel, KernelCode
from tapml_nb.compile.schedule import Job, Schedule
from tapml_nb.compile.sources import SOURCE_KINDS, SourcePackage
from tapml_nb.compile.store import KernelStore
from tapml_nb.compile.supervisor import Supervisor
from tapml_nb.compile.toolchain import Tool, ToolchainError, check_linker, link_shared, machine_of
from tapml_nb.compile.trouble import CompilerTrouble, in_words
from tapml_nb.compile.unit import UnitTexts, key_of, salt_of
from tapml_nb.frontends.program import FrontendError, Fusion
from tapml_nb.owner import Owner


class KernelsLost(Exception):
    """Kernels, by their ``keys``, are not in the cache any more as they were compiled."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} kernels")
        self.keys = keys


class Compiler:
    """Compiles units for one target; start it early, it imports TVM meanwhile.

    A unit's key is the SHA-256 of its Relax module, the target, this pipeline and TVM's version:
    equal units are one kernel, in this session and, through the cache, in every later one.
    """

    def __init__(self, target: Any, cache: KernelCache | None = None, jobs: int | None = None):
        """Check the toolchain for a ``tvm.target.Target`` and start the worker, which compiles
        ``jobs`` units at a time (default the machine's cores); kernels are kept in ``cache``
        (default the user's).

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
        """Whether one kernel can be for tensors of many shapes: not where a driver compiles source
        text, for launches there are worked out beforehand."""
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
        """A new folder for what :meth:`link` makes; ``elsewhere``: not on the cache's disk."""
        return self._store.new_folder("libraries-", elsewhere)

    def link(self, kernels: Sequence[Compiled], library: Path) -> list[tuple[Path, list[Kernel]]]:
        """Put kernels that launch something in files that the target can load, each with those in
        it: in ``library``, as far as all fit into one.

        Raises:
            KernelsLost: if some are not in the cache as they were; to be compiled again.
            ToolchainError: if the linker rejects them.
            CompilerTrouble: if it cannot work, and again.
            CompilerInterrupted: if it was.
        """
        codes = [(kernel.kernel, kernel.code) for kernel in kernels if kernel.code]
        if not codes:
            return []
        for again in (False, True):
            try:
                return self._link(codes, library)
            except (ToolchainError, CompilerTrouble, OSError, ValueError) as error:
                lost = [k.kernel.key for k in kernels if read_entry(k.folder, k.kernel.key) is None]
                if lost:
                    raise KernelsLost(lost) from None
                if isinstance(error, OSError):
                    where = in_words(error, library)
                    raise CompilerTrouble(f"kernels cannot be linked: {where}") from None
                if again or isinstance(error, ToolchainError):
                    raise
        raise AssertionError("unreachable: the second attempt returns or raises")

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

    def _link(
        self, codes: Sequence[tuple[Kernel, Path]], library: Path
    ) -> list[tuple[Path, list[Kernel]]]:
        library.parent.mkdir(parents=True, exist_ok=True)
        kind = self.target.kind.name
        if kind == "cuda":  # whose libraries hold code for two machines
            linked = []
            for number, (kernel, code) in enumerate(codes):
                file = library.with_stem(f"{library.stem}-{number}")
                file.unlink(missing_ok=True)
                linked.append((Path(shutil.copyfile(code, file)), [kernel]))
            return linked
        if kind in SOURCE_KINDS:
            packages = [SourcePackage.parse(code.read_text(encoding="utf-8")) for _, code in codes]
            write_file(library, SourcePackage.merged(packages).dump().encode())
        else:
            objects = [code for _, code in codes]
            link_shared(objects, library, machine_of(self.target), self._tool.run)
        return [(library, [kernel for kernel, _ in codes])]

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
        code = KernelCode("", "", "", self.target.kind.name, "")
        if self._supervisor.closed:
            return replace(code, message="the compiler is closed")
        with self._alone("describe", key, module) as job:
            with contextlib.suppress(FileNotFoundError):  # it came to nothing
                code = KernelCode(**json.loads((job.folder / CODE).read_text()))
            if job.death:
                return replace(code, message=job.death.message)
            self.cache.keep_code(key, code, job.folder)
            return code
