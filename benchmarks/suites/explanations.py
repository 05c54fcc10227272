"""Why verdicts and ``torch.testing.assert_close`` disagree: every known reason once."""

from __future__ import annotations

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
    """

    title: str
    text: str
    agrees: bool
    kinds: Sequence[str] = ()
    says: str = ""
    dtype: str = ""

    def explains(self, op: Judged) -> bool:
        """Whether a disagreement is for this reason."""
        return (
            op.agrees is self.agrees
            and (not self.kinds or op.kind in self.kinds)
            and self.says in op.message
            and op.inputs.startswith(self.dtype)
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
        title="One answer of several",
        text="Singular vectors, eigenvectors and QR factorizations have any sign: they are judged "
        "by the equations that define them.",
        agrees=False,
        kinds=("aten.linalg_svd", "aten.svd", "aten.linalg_eigh", "aten.linalg_qr", "aten.qr"),
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
)
