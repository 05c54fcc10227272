"""What arithmetic an operator is: its kind, which decides what its elements' errors lean on, and
how many terms it adds up, which bounds honest rounding error.

Both are read off the names of its primitives, whatever front end they come from:
``aten.add.Tensor``, ``onnx.Add`` and ``relax.add`` are one thing here.

A sum of n terms rounds n times; with errors of random sign the result is off by about √n unit
roundoffs of its scale (N. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed.,
§4.2 and §2.8).  A source that sums pairwise is much better than that, and a target that sums in
order is not wrong for it.  A length that is too long by a factor of four only doubles the bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto


class Arithmetic(Enum):
    """How the elements of an operator's result come about."""

    MOVES = auto()
    """They are moved, selected, compared or counted: nothing is rounded."""
    ROUNDED = auto()
    """Each is one product or quotient, or the like, of its own operands."""
    ADDED = auto()
    """Each is a sum or difference of its own operands."""
    FUNCTION = auto()
    """Each is a function of its own operands that libraries approximate."""
    SUMMED = auto()
    """Each is a sum of many products: linear in every one of the operator's operands."""
    ROWS = auto()
    """Rows share what normalizes them; also whatever is not known."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVES = _names(
    """
    abs adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d alias amax amin as_strided
    bitcast broadcast broadcast_to cat ceil channel_shuffle chunk clamp clamp_max clamp_min
    clip clone complex compress concat concatenate conj conj_physical constant constant_of_shape
    constant_pad_nd constantofshape contiguous copy cummax cummin depth_to_space depthtospace
    detach diagonal dropout embedding expand expand_dims eyelike fill flatten flip floor
    fractional_max_pool2d fractional_max_pool3d frexp full full_like gather gather_elements
    gather_nd gatherelements gathernd getitem globalmaxpool hardtanh histc identity imag index
    index_select kthvalue layout_transform lift_fresh lift_fresh_copy lu_unpack masked_fill
    masked_scatter max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices maximum maxpool min minimum narrow neg negative new_full new_ones
    new_zeros nextafter numpy_T ones ones_like pad permute permute_dims pixel_shuffle
    pixel_unshuffle real reducemax reducemin reflection_pad1d reflection_pad2d reflection_pad3d
    relu relu6 repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d
    reshape reversesequence roll round scalar_tensor scatter scatter_elements scatter_nd
    scatterelements scatternd select select_scatter sign signbit slice slice_scatter sort
    space_to_depth spacetodepth split split_with_sizes squeeze stack strided_slice t take
    tensorscatter tile topk transpose tril trilu triu trunc unbind unfold unsafe_view unsqueeze
    upsample_nearest1d upsample_nearest2d upsample_nearest3d view view_as_complex view_as_real
    where zeros zeros_like
    bitwise_and bitwise_not bitwise_or bitwise_xor eq equal ge greater greater_equal
    greaterorequal gt isfinite isinf isnan le less less_equal lessorequal logical_and logical_not
    logical_or logical_xor lt ne not_equal
    argwhere masked_select nonzero nonzero_static unique unique2 unique_consecutive unique_dim
    alias_copy as_strided_copy as_strided_scatter detach_copy diagonal_copy diagonal_scatter
    expand_copy narrow_copy permute_copy reshape_alias select_copy slice_copy split_copy
    split_with_sizes_copy squeeze_copy t_copy transpose_copy unbind_copy unfold_copy
    unsqueeze_copy view_copy
    """
)
"""Primitives that move, select or count."""

_ROUNDED = _names(
    """
    astype cast castlike convert_element_type copysign deg2rad div divide exp2i leaky_relu
    leakyrelu mul multiply prelu rad2deg reciprocal rsqrt sqrt square to_copy true_divide
    dequantize dequantizelinear
    """
)

_ADDED = _names("add fmod mod remainder rsub sub subtract")

_FUNCTION = _names(
    """
    acos acosh asin asinh atan atan2 atanh celu cos cosh digamma elu erf erfc erfinv exp exp2
    expm1 gelu gelu_tanh hardsigmoid hardswish hypot i0 igamma igammac lgamma log log10 log1p
    log2 log_sigmoid log_sigmoid_forward logit mish polygamma pow power selu sigmoid silu sin
    sinc sinh softplus softsign special_airy_ai special_bessel_j0 special_bessel_j1
    special_bessel_y0 special_bessel_y1 special_chebyshev_polynomial_t
    special_chebyshev_polynomial_u special_chebyshev_polynomial_v special_chebyshev_polynomial_w
    special_erf special_erfcx special_hermite_polynomial_h special_hermite_polynomial_he
    special_i0e special_i1 special_i1e special_laguerre_polynomial_l
    special_legendre_polynomial_p special_log_ndtr special_modified_bessel_i0
    special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1
    special_ndtri special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1
    special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u
    special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w
    special_spherical_bessel_j0 special_zeta swish tan tanh
    """
)

_SUMMED = _names(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d addbmm addmm addmv averagepool
    avg_pool1d avg_pool2d avg_pool3d baddbmm bmm conv conv1d conv1d_transpose conv2d
    conv2d_transpose conv3d conv3d_transpose conv_transpose1d conv_transpose2d conv_transpose3d
    convolution convtranspose cumsum dot einsum gemm globalaveragepool grouped_mm
    grouped_mm_fallback index_add index_put linear matmul mean mm mv reducemean reducesum
    scatter_add sum upsample_bilinear2d upsample_linear1d upsample_trilinear3d
    """
)

MEANS = re.compile(r"mean|avg|average")
"""Sums that are divided by the number of their terms."""

ABSOLUTE = _names(
    "acos asin atan atan2 celu cos cosh elu erf erfinv hardsigmoid log selu sin sinh tan tanh"
)
"""Functions made of numbers of order one, whose error has that size wherever they are small:
``tanh`` as a quotient of sums of 1 and an exponential, ``sin`` after its argument was reduced."""

PROPORTIONAL = _names("gelu gelu_tanh hardswish mish")
"""Products of the argument and such a function."""

PERIODIC = _names("cos sin tan")
"""Functions whose argument counts as exact however large: reducing it is their own business."""


def arithmetic(primitives: Iterable[str], *, several: bool = False) -> Arithmetic:
    """What kind of arithmetic the primitives of an operator are together; ``several`` says that
    they are several calls, of which one reads what another has made."""
    made = {bare(name) for name in primitives} - MOVES
    if not made:
        return Arithmetic.MOVES
    if several:
        return Arithmetic.ROWS
    if made <= _ROUNDED and len(made) == 1:
        return Arithmetic.ROUNDED
    if made <= _ADDED and len(made) == 1:
        return Arithmetic.ADDED
    if not made.isdisjoint(_FUNCTION) and made <= _FUNCTION | _ROUNDED | _ADDED:
        return Arithmetic.FUNCTION
    if not made.isdisjoint(_SUMMED) and made <= _SUMMED | {"add"}:
        return Arithmetic.SUMMED
    return Arithmetic.ROWS


def bare(name: str) -> str:
    """A primitive's name without its library and overload: ``add`` for ``aten.add.Tensor``."""
    if name.startswith("<"):
        return "getitem"
    library, _, rest = name.partition(".")
    if library == "relax":
        return rest.rpartition(".")[2]
    plain = rest.partition(".")[0].strip("_")
    return plain.lower() if library != "aten" and plain[:1].isupper() else plain


_CONTRACTION = re.compile(
    r"\.(\w*mm\b|matmul|linear|einsum|\w*lstm|gru|rnn|\w*conv\w*|\w*attention\w*)", re.IGNORECASE
)
_REDUCTION = re.compile(
    r"\.(sum|mean|var\w*|std\w*|prod|cumsum|cumprod|logsumexp|logcumsumexp|\w*norm\w*|\w*softmax|"
    r"\w*pool\w*|scatter_add|index_add|index_put\w*|histc|bincount|_fft\w*|upsample\w*|grid_sampler\w*|"
    r"dot|mv|dist|_cdist\w*|reduce\w*|lrn|resize\w*|gridsample|scatter\w+|\w*nll_loss\w*|"
    r"negativeloglikelihoodloss|dft|stft|"
    r"_?linalg_\w+|cholesky\w*|lu_solve|triangular_solve|geqrf|ormqr)",
    re.IGNORECASE,
)


def reduction_length(
    primitives: Iterable[str], inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]
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
