"""The widgets: a session's workbench and its views, live in a notebook."""

from tapml_nb.widgets.snapshot import show
from tapml_nb.widgets.views import (
    DivergencePlot,
    GraphView,
    Heatmap,
    Inspector,
    OperatorTable,
    TargetStatus,
    Workbench,
)

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
