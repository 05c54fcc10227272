"""Our own conversions of ONNX nodes to Relax, for what TVM's importer cannot convert.

They stand in only where the importer has no rule, or its rule raises for a legal node: what it does
convert is judged as it is.  Whatever one of these converts is marked so in the report.
"""

from tapml_nb.frontends.onnx.rules import (
    activations,
    attention,
    indexing,
    matrices,
    normalization,
    quantized,
    recurrent,
    sampling,
    spectral,
    stateful,
)
from tapml_nb.frontends.onnx.rules.call import Rule

RULES: dict[str, Rule] = {
    **activations.RULES,
    **attention.RULES,
    **indexing.RULES,
    **matrices.RULES,
    **normalization.RULES,
    **quantized.RULES,
    **recurrent.RULES,
    **sampling.RULES,
    **spectral.RULES,
    **stateful.RULES,
}
"""The rules by operator, with its domain where that is another vendor's."""
