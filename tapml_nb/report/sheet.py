"""Figures that lie on any page: no paper of their own, text that stays text, no dates."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tapml_nb.report.drawing import DPI

_EXPORT: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "tapml_nb", "pdf.fonttype": 42}
_UNDATED = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}


class Sheet(Figure):
    """A Matplotlib figure, transparent, whose files are the same whenever they are written.

    ``savefig`` to SVG and PDF keeps text as text, and notes neither date nor version.
    """

    def __init__(self, width: float, height: float) -> None:
        """Sizes in inches."""
        super().__init__(figsize=(width, height), dpi=DPI, facecolor="none")
        self.set_layout_engine("none")  # whatever the notebook has set
        FigureCanvasAgg(self)

    def savefig(self, fname: Any, **options: Any) -> None:
        """As Matplotlib's; a ``metadata`` of one's own replaces what is said above of dates."""
        name = options.get("format") or (
            Path(fname).suffix[1:] if isinstance(fname, str | Path) else "png"
        )
        if name in _UNDATED:
            options.setdefault("metadata", _UNDATED[name])
        with rc_context(_EXPORT):
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        """For notebooks, without pyplot."""
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()
