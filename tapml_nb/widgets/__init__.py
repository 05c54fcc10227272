"""The widgets: a session's workbench and its views, live in a notebook."""

from tapml_nb.widgets.views import (
    DivergencePlot,
    GraphView,
    Heatmap,
    Inspector,
    OperatorTable,
    TargetStatus,
    Workbench,
    show,
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
