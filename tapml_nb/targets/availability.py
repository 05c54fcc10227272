"""Which targets can be used on this machine, and what the others lack."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from tapml_nb.compile.toolchain import ToolchainError, c_compiler
from tapml_nb.targets.spec import KINDS, Target

_RUNNABLE = ("llvm", "c")
"""Kinds that this version runs; it can generate code for the others, but not launch it."""

_DRIVERS = {
    "cuda": ("libcuda.so.1", "an NVIDIA GPU driver"),
    "opencl": ("libOpenCL.so.1", "an OpenCL driver loader (Debian: ocl-icd-libopencl1)"),
    "webgpu": ("libvulkan.so.1", "a Vulkan loader (Debian: libvulkan1)"),
}


@dataclass(frozen=True)
class Availability:
    """Whether a kind of target works here; ``reason`` says what is missing, or what was found."""

    kind: str
    works: bool
    reason: str


def check(kind: str) -> Availability:
    """Find out whether a kind of target can be used on this machine."""
    try:
        compiler = c_compiler()
    except ToolchainError as error:
        return Availability(kind, False, str(error).removeprefix("target: "))
    if kind in _RUNNABLE:
        return Availability(kind, True, f"kernels are linked with {compiler}")
    library, driver = _DRIVERS[kind]
    try:
        ctypes.CDLL(library)
    except OSError:
        return Availability(kind, False, f"it needs {driver}; {library} was not found")
    return Availability(kind, False, "its driver is here, but this version cannot launch on it yet")


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
    state = check(spec.kind)
    if not state.works:
        raise ValueError(f"target: {spec.kind!r} cannot be used here: {state.reason}")
    try:
        return spec, tvm.target.Target(spec.kind if spec.tvm_target is None else spec.tvm_target)
    except Exception as error:
        found = str(error).strip().splitlines()[-1]
        raise ValueError(f"target: TVM rejects {spec.tvm_target!r}: {found}") from None
