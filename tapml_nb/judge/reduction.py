"""How many terms an operator adds up: the length that bounds honest rounding error.

A sum of n terms rounds n times; with errors of random sign the result is off by about √n unit
roundoffs of its scale (N. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed.,
§4.2 and §2.8).  A source that sums pairwise is much better than that, and a target that sums in
order is not wrong for it.  The length is read off the core ATen operations and the shapes; an
estimate that is too long by a factor of four only doubles the bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

_CONTRACTION = re.compile(
    r"\.(\w*mm\b|matmul|linear|einsum|lstm|gru|rnn|\w*conv\w*|\w*attention\w*)",
    re.IGNORECASE,
)
_REDUCTION = re.compile(
    r"\.(sum|mean|var\w*|std\w*|prod|cumsum|cumprod|logsumexp|logcumsumexp|\w*norm\w*|\w*softmax|"
    r"\w*pool\w*|scatter_add|index_add|index_put\w*|histc|_fft\w*|upsample\w*|grid_sampler\w*|"
    r"dot|mv|dist|_cdist\w*|reduce\w*|lrn|resize\w*|gridsample|scatter\w+)",
    re.IGNORECASE,
)


def reduction_length(
    primitives: Iterable[str],
    inputs: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
) -> int:
    """Terms that one output element sums, estimated from above; 1 for element-wise operators.

    Args:
        primitives: core operations, e.g. ``aten.mm.default``, ``onnx.MatMul``.
        inputs: shapes of its tensor inputs; sizes that are unknown, and negative, count as 1.
        outputs: shapes of its tensor outputs.
    """
    ops = list(primitives)
    sizes = sorted(map(_elements, inputs), reverse=True)
    result = max([1, *map(_elements, outputs)])
    longest = max([1, *(n for shape in (*inputs, *outputs) for n in shape)])
    length = 1
    if any(_CONTRACTION.search(op) for op in ops) and len(sizes) >= 2:
        # C[M,N] = Σ_k A[M,K] B[K,N], so |A|·|B| / |C| = K².
        length = max(length, math.isqrt(sizes[0] * sizes[1] // result))
    if any(_REDUCTION.search(op) for op in ops) and sizes:
        length = max(length, sizes[0] // result, longest)
    return max(1, length)


def _elements(shape: Sequence[int]) -> int:
    return math.prod(1 if n < 0 else n for n in shape)
