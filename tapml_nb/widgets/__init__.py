"""The widgets: a session's workbench and its parts, live in a notebook."""

from tapml_nb.widgets.parts import (
    DivergencePlot,
    GraphView,
    Heatmap,
    Inspector,
    OperatorTable,
    TargetStatus,
    Workbench,
)
from tapml_nb.widgets.show import show

__all__ = [
    "DivergencePlot",
    "GraphView",
    "Heatmap",
    "Inspector",
    "OperatorTable",
    "TargetStatus",
    "Workbench",
    "show",
]
