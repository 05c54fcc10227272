"""tapml_nb: bring a machine-learning model up on a new device, one operator at a time.

Importing the package is cheap; PyTorch and TVM come with the first thing that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapml_nb.api import debug
    from tapml_nb.carve import Bundle, BundleError, CarvedTest
    from tapml_nb.compile.trouble import CompilerTrouble
    from tapml_nb.execute.given import ModelChanged
    from tapml_nb.frontends.program import FrontendError
    from tapml_nb.frontends.torch.decoding import decode_steps
    from tapml_nb.graph import Graph, Op, SelectorError
    from tapml_nb.judge import Verdict
    from tapml_nb.migrate import Localization, Migration
    from tapml_nb.report import Cause, Culprit, Report
    from tapml_nb.session import Session
    from tapml_nb.targets.spec import Target
    from tapml_nb.targets.wire.errors import TargetLost

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "carve",
    "BundleError": "carve",
    "CarvedTest": "carve",
    "Cause": "report",
    "CompilerTrouble": "compile.trouble",
    "Culprit": "report",
    "FrontendError": "frontends.program",
    "Graph": "graph",
    "Localization": "migrate",
    "Migration": "migrate",
    "ModelChanged": "execute.given",
    "Op": "graph",
    "Report": "report",
    "SelectorError": "graph",
    "Session": "session",
    "Target": "targets.spec",
    "TargetLost": "targets.wire.errors",
    "Verdict": "judge",
    "debug": "api",
    "decode_steps": "frontends.torch.decoding",
}

__all__ = [
    "Bundle",
    "BundleError",
    "CarvedTest",
    "Cause",
    "CompilerTrouble",
    "Culprit",
    "FrontendError",
    "Graph",
    "Localization",
    "Migration",
    "ModelChanged",
    "Op",
    "Report",
    "SelectorError",
    "Session",
    "Target",
    "TargetLost",
    "Verdict",
    "debug",
    "decode_steps",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tapml_nb' has no attribute {name!r}")
    value = getattr(import_module(f"tapml_nb.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def load_ipython_extension(shell: Any) -> None:
    """What ``%load_ext tapml_nb`` calls: registers the ``%tapml`` magic."""
    from tapml_nb.cli import main
    from tapml_nb.jupyter.magics import register

    register(shell, main)
