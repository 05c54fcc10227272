"""What the bare package does without: which extra brings it, what it gives, and what to say where
it is missing.

A target's server and a replay need TVM and NumPy alone.  PyTorch, Jupyter, tables and figures are
imported where they are used, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Part:
    """A package that an extra brings.

    Attributes:
        package: its name in the registry.
        extra: the extra of ``tapml_nb`` that brings it.
        gives: what does not work without it.
    """

    package: str
    extra: str
    gives: str

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return self.package.replace("-", "_")

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install 'tapml_nb[{self.extra}]'"

    @property
    def version(self) -> str | None:
        """The installed version; None if it is missing."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


PARTS = (
    Part("torch", "torch", "PyTorch models and decode_steps"),
    Part("array-api-compat", "torch", "PyTorch models"),
    Part("transformers", "demo", "decode_steps and the example notebooks"),
    Part("onnx", "onnx", "ONNX models"),
    Part("onnxruntime", "onnx", "ONNX models"),
    Part("jupyterlab", "notebook", "notebooks"),
    Part("anywidget", "notebook", "the workbench"),
    Part("ipywidgets", "notebook", "the workbench"),
    Part("pandas", "notebook", "tables"),
    Part("matplotlib", "notebook", "figures and HTML reports"),
    Part("wgpu", "webgpu", "WebGPU on this machine without a browser"),
    Part("pyopencl", "opencl", "OpenCL devices"),
)
"""What extras bring, in the order in which ``tapml doctor`` lists it."""

_BY_MODULE = {part.module: part for part in PARTS}


class MissingPart(ModuleNotFoundError):
    """Something needs a package that is not installed; the message says what installs it."""


@contextmanager
def may_need_extras() -> Iterator[None]:
    """Say what to install where an import of what an extra brings fails inside; also a decorator.

    Raises:
        MissingPart: in place of the import's own error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        part = _BY_MODULE.get((error.name or "").partition(".")[0])
        if part is None or isinstance(error, MissingPart):
            raise
        words = f"{part.package} is missing, which is there for {part.gives}: {part.command}"
        raise MissingPart(words, name=error.name) from error
