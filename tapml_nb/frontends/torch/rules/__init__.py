"""Our own conversions of ATen calls to Relax, for what TVM's importer cannot convert.

They stand in only where the importer has no rule, or its rule raises for legal arguments: what it
does convert is judged as it is.  Whatever one of these converts is marked so in the report.
"""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm import relax

from tapml_nb.frontends.torch.rules import (
    complex_numbers,
    elementwise,
    indexing,
    products,
    reductions,
    searching,
)
from tapml_nb.frontends.torch.rules.call import Call, Rule
from tapml_nb.frontends.torch.rules.complex_numbers import concerns_complex

__all__ = ["COMPLEX_RULES", "RULES", "Call", "Rule", "apply", "concerns_complex"]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **indexing.RULES,
    **products.RULES,
    **reductions.RULES,
    **searching.RULES,
}
"""The rules by ATen overload."""

COMPLEX_RULES: dict[str, Rule] = complex_numbers.RULES
"""The rules for calls that have to do with complex numbers, where no others apply."""


def apply(rule: Rule, importer: Any, node: fx.Node) -> Any:
    """What a rule makes of a call, as the importer keeps it: bound, and a list where the call
    yields several tensors."""
    call = Call(importer, node)
    result = rule(call, *call.arguments())
    if result is NotImplemented:
        return result
    if isinstance(result, tuple):
        return [_bound(call, member) for member in result]
    return _bound(call, result)


def _bound(call: Call, expr: Any) -> Any:
    return expr if isinstance(expr, relax.Var) else call.emit(expr)
