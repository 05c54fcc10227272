"""Starting modules of this package as processes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this interpreter.

    ``-P``: modules in the user's current folder are none of our processes' business.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment(**more: str) -> dict[str, str]:
    """This process's environment, in which a new interpreter finds this same package."""
    package = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return (
        os.environ | {"PYTHONPATH": os.pathsep.join([package, path] if path else [package])} | more
    )
