"""ONNX: a file or ``ModelProto`` → :class:`OnnxProgram`."""

from tapml_nb.frontends.onnx.program import OnnxProgram, import_onnx

__all__ = ["OnnxProgram", "import_onnx"]
