"""Which front end takes a model, and whether the source that was asked for can run it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapml_nb.frontends.program import Program


def import_model(
    model: Any,
    inputs: Any,
    *,
    source: str | None = None,
    dynamic_shapes: Any = None,
    name: str | None = None,
    workarounds: Sequence[str] = (),
) -> Program:
    """Import a model of any known kind; arguments as for :func:`tapml_nb.debug`.

    Raises:
        TypeError: if the model or the inputs are of no known kind.
        ValueError: if the source cannot run such a model, or the inputs do not fit it.
        FrontendError: if the model cannot be imported.
    """
    if _is_onnx(model):
        _check_source(source, "an ONNX model", ("onnxruntime",))
        _check_torch_alone(dynamic_shapes, workarounds, "an ONNX model")
        if find_spec("onnx") is None or find_spec("onnxruntime") is None:
            raise ValueError(
                "model: ONNX models need onnx and onnxruntime; pip install 'tapml_nb[onnx]'"
            )
        from tapml_nb.frontends.onnx import import_onnx

        return import_onnx(model, inputs, name=name)

    import tvm

    if isinstance(model, tvm.IRModule):
        _check_source(source, "a Relax module", ("tvm:llvm", "tvm:cuda"))
        _check_torch_alone(dynamic_shapes, workarounds, "a Relax module")
        from tapml_nb.frontends.relax import import_relax

        return import_relax(model, inputs, source=source or "tvm:llvm", name=name)

    import torch
    from torch.export import ExportedProgram

    from tapml_nb.frontends.torch import import_torch
    from tapml_nb.frontends.torch.export import to_device

    if not isinstance(model, torch.nn.Module | ExportedProgram):
        raise TypeError(
            f"model: a {type(model).__name__}; give a torch.nn.Module, an ExportedProgram, "
            f"an ONNX path or ModelProto, or a tvm.IRModule"
        )
    kind, _, device = (source or "torch").partition(":")
    if kind != "torch":
        _check_source(source, "a PyTorch model", ("torch", "torch:cuda"))
    if device:
        model, inputs = to_device(model, inputs, device)
    return import_torch(
        model, inputs, dynamic_shapes=dynamic_shapes, name=name, workarounds=workarounds
    )


def _is_onnx(model: Any) -> bool:
    """Whether a model is a path or a ``ModelProto``, without importing onnx."""
    kind = type(model)
    proto = kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0] == "onnx"
    return proto or isinstance(model, str | Path)


def _check_source(source: str | None, model: str, known: tuple[str, ...]) -> None:
    if source is not None and source not in known:
        names = " or ".join(map(repr, known))
        raise ValueError(f"source: {source!r} does not run {model}; give {names}")


def _check_torch_alone(dynamic_shapes: Any, workarounds: Sequence[str], model: str) -> None:
    """Refuse what only PyTorch models have."""
    if dynamic_shapes is not None:
        raise ValueError(
            f"dynamic_shapes: {model} says itself which sizes vary; leave the argument out"
        )
    if workarounds:
        raise ValueError(
            f"workarounds: {', '.join(workarounds)}: all are of TVM's PyTorch importer, which "
            f"{model} does not go through; leave the argument out"
        )
