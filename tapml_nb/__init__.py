"""tapml_nb: bring a machine-learning model up on a new device, one operator at a time.

Importing the package is cheap; PyTorch and TVM come with the first thing that needs them, and
what is not installed is missed only there (:mod:`tapml_nb.extras`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapml_nb.api import debug as debug
    from tapml_nb.carve import Bundle as Bundle
    from tapml_nb.carve import BundleError as BundleError
    from tapml_nb.carve import CarvedTest as CarvedTest
    from tapml_nb.compile.trouble import CompilerTrouble as CompilerTrouble
    from tapml_nb.execute.given import ModelChanged as ModelChanged
    from tapml_nb.frontends.program import FrontendError as FrontendError
    from tapml_nb.frontends.torch.decoding import decode_steps as decode_steps
    from tapml_nb.graph import Graph as Graph
    from tapml_nb.graph import Op as Op
    from tapml_nb.graph import SelectorError as SelectorError
    from tapml_nb.judge import Verdict as Verdict
    from tapml_nb.migrate import Localization as Localization
    from tapml_nb.migrate import Migration as Migration
    from tapml_nb.report import Cause as Cause
    from tapml_nb.report import Culprit as Culprit
    from tapml_nb.report import Report as Report
    from tapml_nb.session import Session as Session
    from tapml_nb.targets.spec import Target as Target
    from tapml_nb.targets.wire.errors import TargetLost as TargetLost

    __version__: str

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

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        from tapml_nb.extras import may_need_extras

        with may_need_extras():
            value = getattr(import_module(f"tapml_nb.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'tapml_nb' has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    """What was installed, which git's tags say (``pyproject.toml``)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tapml_nb")
    except PackageNotFoundError:  # a checkout on the path, never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})


def load_ipython_extension(shell: Any) -> None:
    """What ``%load_ext tapml_nb`` calls: registers the ``%tapml`` magic."""
    from tapml_nb.cli import register

    register(shell)
