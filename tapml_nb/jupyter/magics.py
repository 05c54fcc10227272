"""``%load_ext tapml_nb``: the command line as a magic, ``%tapml replay llama.tapml``."""

from __future__ import annotations

import shlex
from typing import Any

from tapml_nb import cli


def tapml(line: str) -> None:
    """Run a ``tapml`` command; its output lands in the cell.

    Unlike in a shell, a failing status is no error: the report that was printed says it.
    """
    try:
        cli.main(shlex.split(line))
    except SystemExit:  # argparse has printed the usage
        return


def register(shell: Any) -> None:
    """Make ``%tapml`` known to an IPython shell."""
    shell.register_magic_function(tapml, "line", "tapml")
