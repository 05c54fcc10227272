"""What people say about a target: its kind, where it is, and how long a call may take."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapml_nb.budget import parse_budget

KINDS = ("llvm", "c", "cuda", "opencl", "webgpu")
"""Kinds of target by TVM's names."""

CPU_KINDS = ("llvm", "c")
"""Kinds whose kernels run on a CPU; their memory can be guarded."""

BROWSER = "browser"
"""What ``rpc`` is where a browser's page is the device."""


@dataclass(frozen=True)
class Target:
    """A platform to bring up.  What does not fit is a ValueError when it is made.

    Attributes:
        kind: ``"llvm"`` (CPUs), ``"c"``, ``"cuda"``, ``"opencl"``, ``"webgpu"``.
        rpc: None: start a server on this machine.  ``"host:port/key"``: a running
            ``tapml serve``; it prints what to paste.  ``"host:port"``: TVM's own RPC server, or
            with ``"tracker://"`` or ``"proxy://"`` in front, and a key behind, what its tracker
            or proxy knows.  A list of these: equal machines that share the work.  ``"browser"``
            (kind ``"webgpu"``): the notebook's own page, or any that opens the session's link.
        tvm_target: a ``tvm.target.Target``, or what makes one (``{"kind": "llvm", "mcpu":
            "skylake"}``); default the kind alone.
        timeout: deadline of one kernel call, in seconds.
        device: which device of that kind, from 0, where there are several.
        workers: how many sessions share the judging of operators; of GPUs, each has its own.
        guard: run every kernel between guard pages, twice, and watch its inputs, so that
            accesses out of bounds, unwritten outputs and reads of uninitialised memory become
            verdicts; CPUs only, and slower.
        max_memory: how much memory tensors, and what kernels take beside them, may take there, in
            bytes or as text (``"6 GB"``); of several sessions, in each.  None: what the device
            has.  Tensors that were not used for longest go, and are sent again when they are
            needed; an operator that does not fit even alone is ``UNSUPPORTED``.

    Example:
        >>> tapml.Target("llvm", tvm_target={"kind": "llvm", "mcpu": "skylake"}, guard=True).local
        True
    """

    kind: str
    rpc: str | Sequence[str] | None = None
    tvm_target: Any = None
    timeout: float = 30.0
    guard: bool = False
    device: int = 0
    workers: int = 1
    max_memory: int | str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            near = difflib.get_close_matches(str(self.kind), KINDS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"target: unknown kind {self.kind!r}; {hint}there are {_listed()}")
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < math.inf:
            raise ValueError(f"target: timeout is {self.timeout!r}; give seconds above 0")
        if not isinstance(self.device, int) or self.device < 0:
            raise ValueError(f"target: device is {self.device!r}; give a number from 0")
        if not isinstance(self.workers, int) or self.workers < 1:
            raise ValueError(f"target: workers is {self.workers!r}; give a number from 1")
        try:
            parse_budget(self.max_memory)
        except ValueError as error:
            raise ValueError(f"target: {error}") from None
        if self.guard and self.kind not in CPU_KINDS:
            cpus = " or ".join(map(repr, CPU_KINDS))
            raise ValueError(f"target: guard needs a CPU ({cpus}), not {self.kind!r}")
        if self.rpc == BROWSER and (self.kind != "webgpu" or self.workers > 1 or self.device):
            raise ValueError(
                "target: rpc is 'browser'; a page is one device of kind 'webgpu', so give neither "
                "another kind nor device nor workers"
            )
        several = self.rpc is not None and not isinstance(self.rpc, str)
        if several and (self.workers > 1 or not self.rpc):
            raise ValueError("target: rpc is a list; give one address per worker, and no workers")
        if not self.local:
            for member in self.members if several else [self]:
                member.address  # noqa: B018  checks it now, not in the middle of a run

    @property
    def local(self) -> bool:
        """Whether its server is one that a session starts on this machine."""
        return self.rpc is None or self.rpc == BROWSER

    @property
    def bound(self) -> int | None:
        """Bytes of ``max_memory``; None for no limit."""
        return parse_budget(self.max_memory)

    @property
    def members(self) -> list[Target]:
        """The sessions that share the work, each as a target of its own."""
        if self.rpc is not None and not isinstance(self.rpc, str):
            return [replace(self, rpc=address) for address in self.rpc]
        on_gpus = self.kind not in CPU_KINDS
        return [
            replace(self, workers=1, device=self.device + number * on_gpus)
            for number in range(self.workers)
        ]

    @property
    def device_names(self) -> list[str]:
        """What people call the device of each of :attr:`members`."""
        if self.rpc is not None:
            return [f"{self.kind} at {member.rpc}" for member in self.members]
        if self.kind not in CPU_KINDS:
            return [f"{self.kind}:{member.device}" for member in self.members]
        if self.workers == 1:
            return [self.kind]
        return [f"{self.kind}, worker {number}" for number in range(self.workers)]

    @property
    def address(self) -> tuple[str, int, str]:
        """Host, port and key of ``rpc``.

        Raises:
            ValueError: if ``rpc`` is none of the forms of an address.
        """
        wanted = (
            "give 'host:port/key' as 'tapml serve' prints it, 'tracker://host:port/key', "
            "'proxy://host:port/key', or None for a server here"
        )
        place, _, key = str(self.rpc).removeprefix(f"{self.scheme}://").partition("/")
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"target: rpc is {self.rpc!r}; {wanted}")
        return host.strip("[]"), int(port), key

    @property
    def scheme(self) -> str:
        """``"tracker"`` or ``"proxy"``, if ``rpc`` names one; else empty."""
        found = str(self.rpc).partition("://")[0]
        return found if found in ("tracker", "proxy") else ""

    @classmethod
    def of(cls, target: Any) -> Target:
        """A target from a short name, a ``tvm.target.Target``, or a ``Target``.

        Raises:
            ValueError: if there is no such kind.
            TypeError: for anything else.
        """
        if isinstance(target, Target):
            return target
        if isinstance(target, str):
            return cls(target)
        if type(target).__name__ == "Target" and hasattr(target, "kind"):
            return cls(target.kind.name, tvm_target=target)
        raise TypeError(
            f"target: a {type(target).__name__}; give one of {_listed()}, a tvm.target.Target "
            f"or a tapml_nb.Target"
        )


def _listed() -> str:
    return ", ".join(map(repr, KINDS))
