"""``%load_ext tapml_nb``: the command line as a magic, ``%tapml replay llama.tapml``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any


def register(shell: Any, main: Callable[[Sequence[str]], int]) -> None:
    """Make ``%tapml`` known to an IPython shell; ``main`` is the command line's."""

    def tapml(line: str) -> None:
        """Run a ``tapml`` command; its output lands in the cell.

        Unlike in a shell, a failing status is no error: the report that was printed says it.
        """
        try:
            main(shlex.split(line))
        except SystemExit:  # argparse has printed the usage
            return

    shell.register_magic_function(tapml, "line", "tapml")
