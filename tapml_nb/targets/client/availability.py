"""Which targets can be used on this machine, and what the others lack."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

from tapml_nb.compile.sources import SOURCE_KINDS
from tapml_nb.compile.toolchain import ToolchainError, bare_linker, c_compiler
from tapml_nb.interpreter import module_command, module_environment
from tapml_nb.targets.spec import CPU_KINDS, KINDS, Target

_PROBE_SECONDS = 60

_FOUND: dict[tuple[str, int], dict[str, Any]] = {}


@dataclass(frozen=True)
class Availability:
    """Whether a kind of target works here.

    Attributes:
        kind: the kind.
        works: whether it does.
        reason: what is missing, or what was found.
        device: what the device says of itself.
    """

    kind: str
    works: bool
    reason: str
    device: dict[str, Any] = field(default_factory=dict)


def check(kind: str, device: int = 0) -> Availability:
    """Find out whether a kind of target can be used on this machine.

    A driver is asked in a process of its own: some start threads, some crash.
    """
    compiler = ""
    try:
        if kind not in SOURCE_KINDS:
            compiler = " ".join(c_compiler())
    except ToolchainError as error:
        return Availability(kind, False, str(error).removeprefix("target: "))
    if kind in CPU_KINDS:
        return Availability(kind, True, f"kernels are linked with {compiler}{_foreign(kind)}")
    answer = _probed(kind, device)
    if "missing" in answer:
        return Availability(kind, False, answer["missing"])
    return Availability(kind, True, answer["name"], answer)


def _probed(kind: str, device: int) -> dict[str, Any]:
    """What a device says of itself, or ``missing`` and why; asked once, if it is there."""
    if (kind, device) in _FOUND:
        return _FOUND[kind, device]
    try:
        done = subprocess.run(
            module_command("tapml_nb.targets.devices.registry", kind, str(device)),
            env=module_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_SECONDS,
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"missing": "its driver does not answer"}
    except (IndexError, ValueError):
        return {"missing": f"its driver ends the process (exit status {done.returncode})"}
    if "missing" not in answer:
        _FOUND[kind, device] = answer
    return answer


def _foreign(kind: str) -> str:
    """What else kernels can be linked for here, in words."""
    try:
        return f"; for aarch64 with {' '.join(bare_linker('aarch64'))}" if kind == "llvm" else ""
    except ToolchainError:
        return ""


def check_all() -> list[Availability]:
    """The state of every kind of target."""
    return [check(kind) for kind in KINDS]


def resolve(target: Any) -> tuple[Target, Any]:
    """A target as people write it → the :class:`Target` and its ``tvm.target.Target``.

    Raises:
        ValueError: if it is unknown, or cannot be used on this machine.
    """
    import tvm

    spec = Target.of(target)
    device: dict[str, Any] = {}
    if spec.rpc is None:  # a browser says what it is when it comes
        state = check(spec.kind, spec.device)
        device = state.device
        if not state.works:
            raise ValueError(f"target: {spec.kind!r} cannot be used here: {state.reason}")
    said = spec.tvm_target
    if said is None:
        said = {"kind": spec.kind} | ({"arch": device["arch"]} if "arch" in device else {})
    try:
        chosen = tvm.target.Target(said)
        # Code for a device comes with code that launches it.
        return spec, chosen if spec.kind in CPU_KINDS else tvm.target.Target(chosen, host="llvm")
    except Exception as error:
        found = str(error).strip().splitlines()[-1]
        raise ValueError(f"target: TVM rejects {said!r}: {found}") from None
