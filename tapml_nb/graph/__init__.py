"""The model's graph: operators in order, the tensors between them, scopes and selectors."""

from tapml_nb.graph.model import Graph, Member, Op, OpId, SourceLine, TensorSpec, Value, ValueId
from tapml_nb.graph.positions import masks_and_positions
from tapml_nb.graph.select import Selector, SelectorError, select

__all__ = [
    "Graph",
    "Member",
    "Op",
    "OpId",
    "Selector",
    "SelectorError",
    "SourceLine",
    "TensorSpec",
    "Value",
    "ValueId",
    "masks_and_positions",
    "select",
]
