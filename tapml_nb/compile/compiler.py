"""Units in, kernels out: keys, the cache, and a worker that compiles what is new in parallel."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm

from tapml_nb.compile.cache import (
    CODE,
    FUSION,
    SIZES,
    TEXTS,
    UNIT,
    Compiled,
    Failure,
    KernelCache,
    read_entry,
    write_file,
)
from tapml_nb.compile.code import KernelCode, UnitTexts, read_code
from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.lowering import PIPELINE
from tapml_nb.compile.process import WorkerBroken, WorkerEnded, WorkerProcess
from tapml_nb.compile.sources import SOURCE_KINDS, SourcePackage
from tapml_nb.compile.toolchain import Tool, ToolchainError, check_linker, link_shared, machine_of
from tapml_nb.compile.trouble import CompilerInterrupted, CompilerTrouble, in_words
from tapml_nb.compile.watch import Stalled
from tapml_nb.compile.worker import (
    SECONDS_PER_MODEL,
    SECONDS_PER_UNIT,
    TROUBLE,
    is_open,
    was_reading,
)
from tapml_nb.frontends.granularity import Fusion
from tapml_nb.frontends.program import FrontendError, WrittenModule
from tapml_nb.owner import Owner

_BATCH = 4
"""Units per child of the worker: few, so that the cores finish together."""

_SLACK = 60.0
"""Seconds beyond a unit's deadline, which the child keeps, after which it is not asked any more."""

_WORKING_SECONDS = 5.0
"""Processor time of a child that has worked until its deadline, on however busy a machine."""

_LOSSES = 2
"""How often the worker itself may be lost without a unit finished in between."""

_HOPELESS = 5
"""Units that had trouble twice after which no others are tried."""

_REMEDY = (
    "This is no kernel's fault; results so far are kept, and the next run compiles what is missing"
)


class KernelsLost(Exception):
    """Kernels are not in the cache any more as they were compiled.

    Attributes:
        keys: theirs.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} kernels")
        self.keys = keys


class _Job:
    """A unit on its way through the worker, and the accidents it had."""

    def __init__(self, key: str, module: Any) -> None:
        self.key, self.module = key, module
        self.folder = Path("/nonexistent")
        self.crashed = False
        self.trouble = ""
        self.result: Compiled | Failure | None = None


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
        self._here, self._elsewhere = self.cache.workspaces()
        self._homeless: dict[str, Path] = {}
        """Kernels that the cache could not take, in folders of this session's."""
        self._worker: WorkerProcess | None = None
        self._batches = 0
        self._tool = Tool()
        self._lock = threading.Lock()
        self._guard = threading.Lock()
        self._active = self._interrupted = self._closed = False
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
        text = "|".join(filter(None, _texts_of(module)))
        return hashlib.sha256(f"{self._salt}|{text}".encode()).hexdigest()

    def compile(self, modules: Mapping[str, Any]) -> Generator[tuple[str, Compiled | Failure]]:
        """Compile modules by key; yields each as it is done, those in the cache first.

        Raises:
            CompilerTrouble: if what kept it from a kernel is no matter of its code; twice, for
                every kernel is tried once more.  The others are in the cache.
            CompilerInterrupted: if :meth:`interrupt` ended it.
        """
        missing: list[str] = []
        for key in modules:
            known = self._kept(key)
            if known is None:
                missing.append(key)
            else:
                self.cache_hits += 1
                yield key, known
        if not missing:
            return
        with self._working(), contextlib.closing(self._run(missing, modules)) as jobs:
            for job, failure in jobs:
                yield job.key, failure or self._take(job)

    def code(self, key: str, module: Any) -> KernelCode:
        """A unit's Relax, TIR and generated source, from the cache or made by the worker.

        Waits while :meth:`compile` compiles; so never call it between two of its results.  A
        compiler that crashes or hangs is told in the message, and asked again by the next call.

        Raises:
            CompilerTrouble, CompilerInterrupted: as :meth:`compile`.
        """
        code = self.cache.code(key)
        if code is None:
            code = self._describe(key, module)
        known = self._kept(key)
        if isinstance(known, Failure) and not code.message:
            return replace(code, message=known.message)  # say, of the C compiler
        return code

    def texts(self, module: Any) -> UnitTexts:
        """A unit as text.

        Raises:
            ValueError: if TVM cannot read it.
            CompilerTrouble, CompilerInterrupted: as :meth:`compile`.
        """
        with self._alone("write", self.key(module), module) as (folder, death):
            if death:
                raise ValueError(f"the unit cannot be read: {death.message}")
            texts = json.loads((folder / TEXTS).read_text())
        if texts["error"]:
            raise ValueError(texts["error"])
        return UnitTexts(texts["json"], texts["script"])

    def fusion(self, module: Any) -> Fusion:
        """What the target fuses of a whole model (see
        :data:`~tapml_nb.frontends.granularity.Decide`).

        Raises:
            FrontendError: if its pipeline fails on the model as a whole.
            CompilerTrouble: as :meth:`compile`.
        """
        with self._alone("fuse", "model", module) as (folder, death):
            if death:
                answer: dict[str, Any] = {"error": death.message}
            else:
                answer = json.loads((folder / FUSION).read_text())
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
        return self._new_folder("libraries-", elsewhere)

    def link(self, kernels: Sequence[Compiled], library: Path) -> list[tuple[Path, list[Kernel]]]:
        """Put kernels that launch something together, as far as that can be done.

        Args:
            kernels: the kernels.
            library: the file to write.

        Returns:
            Files that the target can load, each with the kernels in it.

        Raises:
            KernelsLost: if some are not in the cache as they were; to be compiled again.
            ToolchainError: if the linker rejects them.
            CompilerTrouble: if it cannot work, and again.
            CompilerInterrupted: if :meth:`interrupt` ended it.
        """
        codes = [(kernel, kernel.code) for kernel in kernels if kernel.code]
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
        self._homeless.pop(key, None)
        self.cache.discard(key)

    def interrupt(self) -> None:
        """Break off what goes on, if anything does; it raises :class:`CompilerInterrupted
        <tapml_nb.compile.trouble.CompilerInterrupted>`.  From any thread."""
        if self._owner.elsewhere:
            return
        with self._guard:
            if self._active:
                self._interrupted = True
                if self._worker:
                    self._worker.kill()
        self._tool.interrupt()

    def close(self) -> None:
        """End the worker and everything it runs.  Idempotent."""
        if self._owner.elsewhere:
            return
        self._closed = True
        self.interrupt()
        if not self._active:  # or the thread that is at it clears up
            self._drop_worker()
        for space in (self._here, self._elsewhere):
            space.close()

    # -- the worker ----------------------------------------------------------------------------

    def _start(self) -> None:
        """Start the worker."""
        self._closed = False
        self._start_another()

    def _start_another(self) -> None:
        try:
            worker = WorkerProcess()
        except OSError as error:
            why = in_words(error)
            raise CompilerTrouble(f"the compile worker cannot be started: {why}") from None
        with self._guard:
            if self._closed:
                worker.close()
                raise CompilerInterrupted
            self._worker = worker

    def _drop_worker(self) -> None:
        with self._guard:
            worker, self._worker = self._worker, None
            if worker:
                worker.close()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """While the block runs, it has the worker for itself and can be interrupted."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the compiler is closed")
            with self._guard:
                self._active, self._interrupted = True, False
            try:
                yield
            finally:
                with self._guard:
                    self._active = False

    def _run(
        self, keys: Sequence[str], modules: Mapping[str, Any], task: str = "compile"
    ) -> Generator[tuple[_Job, Failure | None]]:
        """Have the worker do something with units; yields each, with what the compiler died of.

        Its folder is there until the next one is asked for.
        """
        crew = [_Job(key, modules[key]) for key in keys]
        running: dict[int, list[_Job]] = {}
        try:
            for job in crew:
                self._fill(job)
            for job, failure in self._collect(crew, running, task):
                yield job, failure
                if job.folder not in self._homeless.values():
                    shutil.rmtree(job.folder, ignore_errors=True)
        finally:
            if any(running.values()):  # stopped early, or broken off: end what still compiles
                self._drop_worker()
            for job in crew:
                if job.folder not in self._homeless.values():
                    shutil.rmtree(job.folder, ignore_errors=True)

    def _collect(
        self, waiting: list[_Job], running: dict[int, list[_Job]], task: str
    ) -> Generator[tuple[_Job, Failure | None]]:
        """Keep ``jobs`` children busy; what had an accident is tried once more, alone."""
        again: list[_Job] = []
        hopeless: list[_Job] = []
        losses = 0
        while waiting or running or again:
            while waiting and len(running) < self._jobs:
                batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
                self._submit(batch, running, task)
            if not running:
                self._submit([again.pop(0)], running, task)
            event = self._next_event(task)
            if isinstance(event, str):  # the worker itself is gone
                losses += 1
                if losses > _LOSSES:
                    raise CompilerTrouble(
                        f"the compile worker was lost {losses} times in a row: {event}. {_REMEDY}"
                    )
                waiting = [self._fill(j) for batch in running.values() for j in batch] + waiting
                running.clear()
                continue
            if "key" in event:
                job = next(j for batch in running.values() for j in batch if j.key == event["key"])
                for batch in running.values():
                    if job in batch:
                        batch.remove(job)
                losses = 0
                trouble = event.get("trouble", "")
                if task == "compile" and not trouble:
                    job.result = read_entry(job.folder, job.key)
                    if job.result is None:  # somebody has swept there
                        trouble = f"{job.folder} does not hold any more what was compiled"
                if trouble:
                    self._trouble(job, trouble, again, hopeless, elsewhere=True)
                else:
                    yield job, None
            elif left := running.pop(event["batch"], []):
                job, waiting = left[0], left[1:] + waiting
                death = _death(event, job.folder)
                if isinstance(death, str):
                    self._trouble(job, death, again, hopeless)
                elif job.crashed or (
                    death.reason == "timeout" and event["seconds"] >= _WORKING_SECONDS
                ):
                    yield job, death
                else:
                    job.crashed = True
                    again.append(self._fill(job))
        if hopeless:
            raise _hopeless(hopeless)

    def _submit(self, batch: list[_Job], running: dict[int, list[_Job]], task: str) -> None:
        if self._interrupted or self._closed:
            raise CompilerInterrupted
        if self._worker is None:
            self._start_another()
        assert self._worker
        self._batches += 1
        running[self._batches] = list(batch)
        self._worker.submit(
            {
                "batch": self._batches,
                "task": task,
                "target": str(self.target),
                "scratch": {job.key: str(job.folder) for job in batch},
            }
        )

    def _next_event(self, task: str) -> dict[str, Any] | str:
        """What the worker says next; or, if it is gone, why."""
        worker = self._worker
        seconds = SECONDS_PER_MODEL if task == "fuse" else SECONDS_PER_UNIT
        lost = "it was closed"
        if worker:
            try:
                return worker.event(seconds + _SLACK)
            except WorkerBroken as broken:
                self._drop_worker()
                raise CompilerTrouble(f"the compile worker cannot work: {broken}") from None
            except WorkerEnded:
                lost = "it was killed"
            except Stalled as stalled:
                lost = str(stalled)
        self._drop_worker()
        if self._interrupted or self._closed:
            raise CompilerInterrupted
        return lost

    def _trouble(
        self,
        job: _Job,
        trouble: str,
        again: list[_Job],
        hopeless: list[_Job],
        *,
        elsewhere: bool = False,
    ) -> None:
        """A unit could not be compiled for no fault of its own: once more, but not twice.

        Raises:
            CompilerTrouble: if no unit seems to fare better.
        """
        if not job.trouble:
            job.trouble = trouble
            again.append(self._fill(job, elsewhere=elsewhere))
            return
        job.trouble = trouble
        hopeless.append(job)
        if len(hopeless) >= _HOPELESS:
            raise _hopeless(hopeless)

    # -- folders -------------------------------------------------------------------------------

    def _fill(self, job: _Job, *, elsewhere: bool = False) -> _Job:
        """Put a unit into a new folder of its own.

        Raises:
            CompilerTrouble: if no disk takes it.
        """
        shutil.rmtree(job.folder, ignore_errors=True)
        text, sizes = _texts_of(job.module)

        def fill(folder: Path) -> None:
            write_file(folder / UNIT, text.encode())
            if sizes:
                write_file(folder / SIZES, sizes.encode())

        job.folder = self._new_folder("unit-", elsewhere, fill)
        return job

    def _new_folder(
        self, name: str, elsewhere: bool, fill: Callable[[Path], None] = lambda folder: None
    ) -> Path:
        """A folder on the cache's disk, or where that fails, or ``elsewhere`` says so, among the
        temporary files.

        Raises:
            CompilerTrouble: if neither takes it.
        """
        spaces = (self._here, self._elsewhere)
        troubles: list[str] = []
        for space in reversed(spaces) if elsewhere else spaces:
            folder = None
            try:
                folder = space.new(name)
                fill(folder)
                return folder
            except OSError as error:
                troubles.append(in_words(error, space.root))
                if folder:
                    shutil.rmtree(folder, ignore_errors=True)
        raise CompilerTrouble(f"no disk takes kernels ({'; '.join(troubles)}). {_REMEDY}")

    def _kept(self, key: str) -> Compiled | Failure | None:
        """A kernel that is there already."""
        found = self.cache.get(key)
        if found is None and key in self._homeless:
            found = read_entry(self._homeless[key], key)
        return found

    def _take(self, job: _Job) -> Compiled | Failure:
        """Put what was compiled into the cache; where that cannot be, it stays where it is."""
        found = job.result
        assert found is not None
        self.compiled += 1
        try:
            self.cache.commit(job.key, job.folder)
        except OSError as error:
            self._warn(error)
            self._homeless[job.key] = job.folder
            return found
        return self.cache.get(job.key) or found

    def _warn(self, error: OSError) -> None:
        if not self._homeless:
            warnings.warn(
                f"the kernel cache {self.cache.root} cannot be written any more "
                f"({error.strerror}); this session goes on without it",
                stacklevel=2,
            )

    # -- one unit ------------------------------------------------------------------------------

    @contextmanager
    def _alone(self, task: str, key: str, module: Any) -> Iterator[tuple[Path, Failure | None]]:
        """Have something done with one unit: the folder, and what the compiler died of."""
        with self._working(), contextlib.closing(self._run([key], {key: module}, task)) as jobs:
            job, death = next(jobs)
            yield job.folder, death

    def _describe(self, key: str, module: Any) -> KernelCode:
        empty = KernelCode("", "", "", self.target.kind.name, "")
        if self._closed:
            return replace(empty, message="the compiler is closed")
        with self._alone("describe", key, module) as (folder, death):
            code = read_code(folder / CODE) or empty
            if death:
                return replace(code, message=death.message)
            self.cache.keep_code(key, code, folder)
            return code

    def _link(
        self, codes: list[tuple[Compiled, Path]], library: Path
    ) -> list[tuple[Path, list[Kernel]]]:
        library.parent.mkdir(parents=True, exist_ok=True)
        if self.target.kind.name == "cuda":  # whose libraries hold code for two machines
            files = [library.with_stem(f"{library.stem}-{n}") for n in range(len(codes))]
            for (_, code), file in zip(codes, files, strict=True):
                file.unlink(missing_ok=True)
                shutil.copyfile(code, file)
            return [(file, [k.kernel]) for (k, _), file in zip(codes, files, strict=True)]
        if self.target.kind.name in SOURCE_KINDS:
            packages = [SourcePackage.parse(code.read_text(encoding="utf-8")) for _, code in codes]
            write_file(library, SourcePackage.merged(packages).dump().encode())
        else:
            objects = [code for _, code in codes]
            link_shared(objects, library, machine_of(self.target), self._tool.run)
        return [(library, [kernel.kernel for kernel, _ in codes])]


def _hopeless(jobs: Sequence[_Job]) -> CompilerTrouble:
    what = "a kernel" if len(jobs) == 1 else f"{len(jobs)} kernels"
    return CompilerTrouble(f"{what} could not be compiled: {jobs[0].trouble}. {_REMEDY}")


def _texts_of(module: Any) -> tuple[str, str]:
    """A unit as the worker reads it: TVM's JSON, and the sizes to fill in, if any."""
    if not isinstance(module, WrittenModule):
        return str(tvm.ir.save_json(module)), ""
    if module.shapes is None:
        return module.text, ""
    return module.text, json.dumps([module.shapes, module.numbers])


_OF_THE_COMPILER = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTRAP,
    signal.SIGSYS,
)
"""Signals that a program brings upon itself; all others come from outside."""


def _death(event: dict[str, Any], folder: Path) -> Failure | str:
    """What a child's end says of the unit in its hands; text, if it says nothing."""
    died, unread = event["signal"], was_reading(folder)
    if died == signal.SIGALRM:
        return Failure("timeout", "the compiler did not finish in time", is_open(folder))
    how = f"signal {signal.Signals(died).name}" if died else f"exit status {event['code']}"
    if died and died not in _OF_THE_COMPILER:
        return f"the compiler was ended from outside ({how}), by a lack of memory perhaps"
    if not died and event["code"] in (0, TROUBLE):
        return "the compiler gave up"
    if unread:
        return Failure("crash", f"TVM cannot read the unit: its reader crashed ({how})")
    return Failure("crash", f"the compiler itself crashed ({how})", is_open(folder))
