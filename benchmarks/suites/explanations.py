"""Why verdicts and ``torch.testing.assert_close`` disagree: every known reason once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.suites.records import Judged


@dataclass(frozen=True)
class Explanation:
    """A reason for disagreements.

    Attributes:
        title: the reason in a few words.
        text: what happens, and who is right.
        agrees: whether the tensors are close, by ``assert_close``.
        kinds: operators that it explains; empty for all.
        says: what the verdict's message contains.
        dtype: of an input, what it begins with; empty for any.
        tied: whether it is for places at which the same stands, and for nothing else.
        ratio: the verdict's at most.
    """

    title: str
    text: str
    agrees: bool
    kinds: Sequence[str] = ()
    says: str = ""
    dtype: str = ""
    tied: bool = False
    ratio: float = math.inf

    def explains(self, op: Judged) -> bool:
        """Whether a disagreement is for this reason."""
        return (
            op.agrees is self.agrees
            and (not self.kinds or op.kind in self.kinds)
            and self.says in op.message
            and op.inputs.startswith(self.dtype)
            and (op.tied or not self.tied)
            and not op.ratio > self.ratio
        )


EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        title="Undefined by the operator's own specification",
        text="Shifts by the width or more, integers divided by 0, conversions of what the integer "
        "cannot hold, memory that nothing was written to: any value is right, and the verdict says "
        "that nothing was judged.",
        agrees=False,
        says="undefined",
    ),
    Explanation(
        title="Ties broken another way",
        text="What is chosen is the same, and stands in more than one place. `assert_close` "
        "compares indices as numbers; in the input the same stands at both, as the benchmark "
        "looks up itself.",
        agrees=False,
        tied=True,
    ),
    Explanation(
        title="A few narrow numbers added up",
        text="TVM keeps the sums of pooling in float16, PyTorch in float32: rounded after every "
        "term, its own figures come out bit for bit. Of a few terms the error is within one noise "
        "floor, which is that of two roundings; of some 200 and more the tensor is noisier than "
        "the source by more than the verdict allows, and fails.",
        agrees=False,
        kinds=[f"aten.{pool}{d}d" for pool in ("avg_pool", "adaptive_avg_pool") for d in (1, 2, 3)],
        dtype="float16",
        ratio=1.0,
    ),
    Explanation(
        title="One answer of several",
        text="Singular vectors, eigenvectors and QR factorizations have any sign: they are judged "
        "by the equations that define them.",
        agrees=False,
        kinds=("aten.linalg_svd", "aten.svd", "aten.linalg_eigh", "aten.linalg_qr", "aten.qr"),
    ),
    Explanation(
        title="Short sums of float16 that cancel",
        text="TVM keeps sums of float16 in float16. 125 numbers up to 8.5 add up to -14.208 "
        "(float64), -14.211 (PyTorch), -14.172 (TVM): a rounding of 64, about the root of the sum "
        "of their squares, is 0.03, and `assert_close` knows the result alone. Nine numbers have "
        "the mean -2.2504 (float64), -2.2500 (PyTorch), -2.2520 (TVM), the next float16. Longer "
        "sums kept in float16, and those that do not cancel, fail.",
        agrees=False,
        kinds=("aten.sum", "aten.avg_pool2d"),
        dtype="float16",
    ),
    Explanation(
        title="Computed in the narrow dtype",
        text="`assert_close` forgives 1.6 % in bfloat16, and 1e-5 whatever the value. PyTorch "
        "computes in float32 and rounds once. TVM keeps sums narrow, and `softplus` as a logarithm "
        "of a sum in which what is small is rounded: of 3x at -8.5 it yields 0 where PyTorch and "
        "float64 have 2.8e-12, at -4.69 2.78e-7 where they have 2.61e-7 and 2.60e-7.",
        agrees=True,
        kinds=("aten.softplus", "aten.sum", "aten.l1_loss"),
        says="noisier than the source",
    ),
    Explanation(
        title="The lowest number for minus infinity",
        text="ONNX's definition adds -inf where a query may not look, and so does the target; "
        "onnxruntime fills these scores with -3.4e38, beyond which one rounding is -inf.",
        agrees=False,
        kinds=("onnx.Attention",),
    ),
    Explanation(
        title="Digits lost where values are small",
        text="`assert_close` forgives 1e-5 whatever the value. TVM writes these as a logarithm of "
        "a sum, or `expm1` as a difference: what is small loses its digits there, and PyTorch "
        "keeps them.",
        agrees=True,
        kinds=(
            *("aten.atanh", "onnx.Atanh", "aten.expm1", "aten.softplus", "aten.log_sigmoid"),
            "aten.soft_margin_loss",
        ),
        says="noise floors",
    ),
    Explanation(
        title="A mean of thousands of terms, summed in order",
        text="TVM adds the weights of a mean one after the other in float32. Few of them differ, "
        "so that their roundings have one sign: a sum of 6480 is off by 2e-5. NumPy's sum in "
        "that order gives the same numbers, bit for bit (tests/test_suites.py), and a sum in order "
        "is no fault. onnxruntime adds in another order.",
        agrees=False,
        kinds=("onnx.SoftmaxCrossEntropyLoss", "onnx.NegativeLogLikelihoodLoss"),
        dtype="float32",
    ),
)
