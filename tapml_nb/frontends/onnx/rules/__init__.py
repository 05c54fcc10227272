"""Our own conversions of ONNX nodes to Relax, for what TVM's importer cannot convert.

They stand in only where the importer has no rule, or its rule raises for a legal node: what it does
convert is judged as it is.  Whatever one of these converts is marked so in the report.
"""

from tapml_nb.frontends.onnx.rules import (
    activations,
    attention,
    bits,
    formats,
    framing,
    indexing,
    matrices,
    ngrams,
    normalization,
    optionals,
    pooling,
    powers,
    quantized,
    recurrent,
    resizing,
    sampling,
    selection,
    spectral,
    stateful,
    traditional,
    training,
)
from tapml_nb.frontends.onnx.rules.call import Rule

RULES: dict[str, Rule] = {
    **activations.RULES,
    **attention.RULES,
    **bits.RULES,
    **formats.RULES,
    **framing.RULES,
    **indexing.RULES,
    **matrices.RULES,
    **ngrams.RULES,
    **normalization.RULES,
    **optionals.RULES,
    **pooling.RULES,
    **powers.RULES,
    **quantized.RULES,
    **recurrent.RULES,
    **resizing.RULES,
    **sampling.RULES,
    **selection.RULES,
    **spectral.RULES,
    **stateful.RULES,
    **traditional.RULES,
    **training.RULES,
}
"""The rules by operator, with its domain where that is another vendor's."""

DECIDED = frozenset(selection.RULES)
"""Operators whose values decide how many elements they yield."""

LEGALIZED = frozenset(
    (
        *DECIDED,
        *(
            "Pow",
            "RMSNormalization",
            "ReduceMax",
            "ReduceMin",
            "Reshape",
            "Resize",
            "Split",
            "Upsample",
        ),
    )
)
"""Operators that the importer converts in some cases to what TVM then makes no kernel of: a rule of
ours stands in there, too."""

CARRYING = frozenset(formats.RULES)
"""Operators whose rules know what carries tensors that no target takes."""

OPTIONAL = frozenset(optionals.RULES)
"""Operators whose rules take an optional, with a value or without."""
