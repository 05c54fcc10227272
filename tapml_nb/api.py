"""The front door: from a model, its inputs and a target's name to a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tapml_nb.compile.cache import KernelCache
from tapml_nb.compile.compiler import Compiler
from tapml_nb.engine.engine import Settings, assemble, open_engine
from tapml_nb.extras import may_need_extras
from tapml_nb.frontends.dispatch import import_model
from tapml_nb.frontends.program import CoarseProgram, Granularity, Program
from tapml_nb.session import Session
from tapml_nb.targets.client.availability import resolve

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch.export import ExportedProgram


@may_need_extras()
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
    workarounds: Sequence[str] = (),
    max_memory: int | str | None = None,
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
        granularity: what one operator is.  ``"operator"``: one ATen call, ONNX node or Relax
            binding; of PyTorch models also ``"fused"``: what becomes one kernel when TVM deploys
            the whole model on this target; ``"module"``: the calls of one innermost module;
            ``"module:N"``: those of a module whose path has N components (``"module:3"``:
            ``model.layers.0``).  What a coarse operator holds is in ``graph[op].members``;
            ``report.drill(op)`` judges these one by one.
        tolerance: how many noise floors the target may be away from the exact result; default
            8 (see :mod:`tapml_nb.judge.verdict`).
        dynamic_shapes: as for ``torch.export.export``, where steps differ in shape.  What it leaves
            open, kernels leave open where TVM can make them so.
        name: what to call the model in reports.
        workarounds: names of fixes for rules of TVM's PyTorch importer that are wrong, such as
            ``["negative_index"]`` (see ``docs/importer.md``); none by default, for what TVM
            produces is what is judged.  The report says which are in force, and where.
        max_memory: how much memory the tensors that the session keeps may take (the source's
            values, references, results of hybrid runs), on the host and on a GPU of the source's
            together, in bytes or as text (``"2 GB"``).  Those beyond it are in a file in the
            folder for temporary ones (``$TMPDIR``); results are the same.  Parameters and inputs
            do not count, nor does what the target holds, which has a bound of its own
            (``Target(max_memory=)``).

    Returns:
        The session.  Nothing has run on the target yet; call ``run()``.

    Raises:
        ValueError: if an argument does not fit; which, what was found, and what to do.
        TypeError: if the model or the inputs are of no known kind.
        FrontendError: if the model runs but cannot be exported, or what the target fuses of it
            cannot be found out.

    Example:
        >>> with tapml.debug(model, (x,), target="llvm") as session:
        ...     session.run("pool")
        <Report of Net: 2 UNKNOWN, 1 FAIL; 1 culprit, 2 not judged>
    """
    level = Granularity.parse(granularity)
    spec, tvm_target = resolve(target)
    settings = Settings.of(spec, tolerance, workarounds, max_memory)
    cache = KernelCache()  # before work that takes long: it may be refused
    program = import_model(
        model,
        inputs,
        source=source,
        dynamic_shapes=dynamic_shapes,
        name=name,
        workarounds=workarounds,
    )
    if not isinstance(program, CoarseProgram) and level.unit != "operator":
        raise ValueError(
            f"granularity: {granularity!r} is for PyTorch models; this one has 'operator' alone"
        )
    compiler = Compiler(tvm_target, cache)
    try:
        if isinstance(program, CoarseProgram):
            program = program.at(level, compiler.fusion)
    except BaseException:
        compiler.close()
        raise
    return Session(assemble(program, compiler, settings))


def open_session(program: Program, target: Any, **settings: Any) -> Session:
    """A session over a program that is already imported, with the workarounds it was given; as
    :func:`~tapml_nb.engine.engine.open_engine`."""
    return Session(open_engine(program, target, **settings))
