"""Inks for figures without paper, by what the page behind them is like."""

from __future__ import annotations

from dataclasses import dataclass

from tapml_nb.report.drawing import FREE


@dataclass(frozen=True)
class Theme:
    """What is drawn on a page with.

    Attributes:
        ink: of text and axes.
        dim: of what is said beside it, and of hatches.
    """

    ink: str
    dim: str


THEMES = {
    "any": Theme(FREE, "#8a8a8a"),
    "light": Theme("#1b1b1b", "#616161"),
    "dark": Theme("#ececec", "#a8a8a8"),
}
"""The ink of ``"any"`` has a contrast of 4.6 to white and 4.1 to JupyterLab's dark (#111111), by
WCAG 2.2's formula."""


def theme_of(name: str) -> Theme:
    """A theme by its name.

    Raises:
        ValueError: if there is none.
    """
    if name not in THEMES:
        raise ValueError(f"theme: {name!r}; choose {', '.join(map(repr, THEMES))}")
    return THEMES[name]
