"""Whether there is a notebook, and what a session asks of whoever looks at it."""

from __future__ import annotations

import sys


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this (and not plain IPython in a terminal)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def invite(link: str) -> None:
    """Show what makes a browser's page the target: in a notebook a widget that does so with the
    notebook's own page, elsewhere the link to open."""
    if in_notebook():
        from IPython.display import display

        from tapml_nb.jupyter.page import TargetPage

        display(TargetPage(link))
    else:
        print(f"open {link} in a browser with WebGPU; that page is the target")
