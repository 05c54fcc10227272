"""The front door: from a model, its inputs and a target's name to a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapml_nb.compile.cache import KernelCache
from tapml_nb.compile.compiler import Compiler
from tapml_nb.frontends.dispatch import import_model
from tapml_nb.frontends.program import Program
from tapml_nb.judge.verdict import LIMIT
from tapml_nb.session import Session
from tapml_nb.targets.availability import resolve
from tapml_nb.targets.spec import BROWSER

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch.export import ExportedProgram


def debug(
    model: torch.nn.Module | ExportedProgram | str | Path | Any,
    inputs: Any,
    *,
    target: Any = "llvm",
    source: str | None = None,
    granularity: str = "operator",
    tolerance: float | None = None,
    dynamic_shapes: Any = None,
    name: str | None = None,
) -> Session:
    """Open a session that debugs a model on a target.

    Args:
        model: a PyTorch module in eval mode, an ``ExportedProgram``, an ONNX model (a path or a
            ``ModelProto``), or a Relax ``tvm.IRModule``.
        inputs: what to run it on: a tuple (positional) or dict (by name) of tensors for one
            step, or a list of these for several steps.  Use realistic inputs: they are what
            every operator is judged on.
        target: a short name (``"llvm"``, ``"c"``), a ``tvm.target.Target``, or a
            :class:`~tapml_nb.targets.spec.Target`.
        source: the reference platform.  ``"torch"`` (default for PyTorch models) runs the model
            where its tensors are, ``"torch:cuda"`` a copy of it on that device;
            ``"onnxruntime"`` (default for ONNX models) runs on the CPU, unoptimized;
            ``"tvm:llvm"`` (default for Relax modules) and ``"tvm:cuda"`` run TVM's own kernels.
        granularity: what one operator is; ``"operator"`` is one ATen call, ONNX node or Relax
            binding.
        tolerance: how many noise floors the target may be away from the exact result; default
            8 (see :mod:`tapml_nb.judge.verdict`).
        dynamic_shapes: as for ``torch.export.export``, where steps differ in shape.
        name: what to call the model in reports.

    Returns:
        The session.  Nothing has run on the target yet; call ``run()``.

    Raises:
        ValueError: if an argument does not fit; which, what was found, and what to do.
        TypeError: if the model or the inputs are of no known kind.
        FrontendError: if the model runs but cannot be exported.
    """
    if granularity != "operator":
        raise ValueError(
            f"granularity: {granularity!r} is not available; this version has 'operator'"
        )
    spec, _ = resolve(target)
    _check_tolerance(tolerance)
    program = import_model(model, inputs, source=source, dynamic_shapes=dynamic_shapes, name=name)
    return open_session(program, spec, tolerance=tolerance)


def open_session(program: Program, target: Any, *, tolerance: float | None = None) -> Session:
    """A session over a program that is already imported.

    Raises:
        ValueError: if the target is unknown or cannot be used here.
    """
    spec, tvm_target = resolve(target)
    _check_tolerance(tolerance)
    compiler = Compiler(tvm_target, KernelCache())
    limit = LIMIT if tolerance is None else tolerance
    session = Session(program, spec, compiler, tolerance=limit)
    if spec.rpc == BROWSER:
        session.invite()
    return session


def _check_tolerance(tolerance: float | None) -> None:
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: {tolerance!r}; give a positive number of noise floors")
