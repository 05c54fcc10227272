"""Our own conversions of ATen calls to Relax, for what TVM's importer cannot convert.

They stand in only where the importer has no rule, or its rule raises for legal arguments: what it
does convert is judged as it is.  Whatever one of these converts is marked so in the report.
"""

from tapml_nb.frontends.torch.rules import (
    along_axis,
    arithmetic,
    complex_numbers,
    indexing,
    resampling,
    special,
    windows,
)
from tapml_nb.frontends.torch.rules.call import Rule

RULES: dict[str, Rule] = {
    **along_axis.RULES,
    **arithmetic.RULES,
    **indexing.RULES,
    **resampling.RULES,
    **special.RULES,
    **windows.RULES,
}
"""The rules by ATen overload."""

LEGALIZED = frozenset(("aten.index_put.default", "aten.where.self"))
"""Calls whose legal arguments TVM refuses late: its importer passes them on as they are, and how
index tensors broadcast, or what operands' dtypes are, is only looked at when the call is legalized,
by Python code of TVM's."""

COMPLEX_RULES: dict[str, Rule] = complex_numbers.RULES
"""The rules for calls that have to do with complex numbers, where no others apply."""
