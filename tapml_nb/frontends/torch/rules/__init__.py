"""Our own conversions of ATen calls to Relax, for what TVM's importer cannot convert.

They stand in only where the importer has no rule, or its rule raises for legal arguments: what it
does convert is judged as it is.  Whatever one of these converts is marked so in the report.
"""

from tapml_nb.frontends.torch.rules import (
    along_axis,
    arithmetic,
    bits,
    complex_numbers,
    incomplete,
    indexing,
    linear_algebra,
    orthogonal,
    pools,
    resampling,
    selection,
    special,
    views,
    windows,
)
from tapml_nb.frontends.torch.rules.call import Rule

RULES: dict[str, Rule] = {
    **along_axis.RULES,
    **arithmetic.RULES,
    **bits.RULES,
    **incomplete.RULES,
    **indexing.RULES,
    **linear_algebra.RULES,
    **orthogonal.RULES,
    **pools.RULES,
    **resampling.RULES,
    **selection.RULES,
    **special.RULES,
    **views.RULES,
    **windows.RULES,
}
"""The rules by ATen overload."""

LEGALIZED = frozenset(
    (
        *("aten.index_put.default", "aten.clamp.default", "aten.clamp.Tensor"),
        *("aten.argmax.default", "aten.argmin.default", "aten.where.self"),
    )
)
"""Calls whose legal arguments TVM refuses late, for every target: its importer passes them on as
they are, and TVM's own code looks at them only when the call is legalized.  So it is with how
index tensors broadcast, with the infinity that integers lack for a bound that is not given, with
a number, which has no axis to search along, and with operands of two dtypes."""

COMPLEX_RULES: dict[str, Rule] = complex_numbers.RULES
"""The rules for calls that have to do with complex numbers, where no others apply."""
