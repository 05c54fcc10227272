"""Why operators of the zoo do not pass on llvm: every cause once, with a repro of TVM alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.zoo.measure import Finding


@dataclass(frozen=True)
class Explanation:
    """A cause of findings.

    Attributes:
        title: the cause in a few words.
        text: what happens, and where.
        repro: a call of :func:`benchmarks.zoo.stock.check` that shows it.
        kinds: ATen ops that it explains.
        verdicts: with which verdicts.
        says: what the finding's message contains.
    """

    title: str
    text: str
    repro: str
    kinds: Sequence[str]
    verdicts: Sequence[str]
    says: str

    def explains(self, finding: Finding) -> bool:
        """Whether a finding is of this cause."""
        return (
            finding.kind in self.kinds
            and finding.verdict in self.verdicts
            and self.says in finding.message
        )


EXPLANATIONS = (
    Explanation(
        title="Integers meet fractions",
        text="TVM's importer converts a Python number to the dtype of the tensor that it meets: "
        "0.5 becomes 0 beside an integer, and what PyTorch makes a floating-point tensor stays "
        "one of integers. Positions and frequencies of rotary and sinusoidal embeddings are "
        "computed so. There is `workarounds=['integer_promotion']`.",
        repro="check(lambda x: x * -0.5, torch.arange(4))",
        kinds=("aten.mul", "aten.div", "aten.rsub", "aten.add", "aten.sub"),
        verdicts=("FAIL",),
        says="the target's result is int64",
    ),
    Explanation(
        title="Running sums of booleans",
        text="The importer leaves out that PyTorch adds booleans up as integers; Relax's `cumsum` "
        "of booleans then reaches LLVM as an addition of booleans, which TVM cannot generate. "
        "transformers finds packed sequences so, which makes it part of most language models; "
        "compiled as a whole, none of them compiles. `workarounds=['integer_cumsum']`.",
        repro="check(lambda x: x.cumsum(0), torch.tensor([True, False, True]))",
        kinds=("aten.cumsum",),
        verdicts=("COMPILE_ERROR",),
        says="CreateAdd",
    ),
    Explanation(
        title="Running sums of narrow integers",
        text="PyTorch adds integers up as int64; the importer keeps their dtype. "
        "`workarounds=['integer_cumsum']`.",
        repro="check(lambda x: x.cumsum(0), torch.arange(4, dtype=torch.int32))",
        kinds=("aten.cumsum",),
        verdicts=("FAIL",),
        says="the target's result is int32",
    ),
    Explanation(
        title="Powers of integers",
        text="`2.0 ** positions`: the importer converts the base to the exponent's integer dtype, "
        "and TVM's `power` takes floating-point numbers only. `workarounds=['integer_promotion']`.",
        repro="check(lambda x: 2.0**x, torch.arange(4))",
        kinds=("aten.pow",),
        verdicts=("COMPILE_ERROR",),
        says="power only applies to float",
    ),
    Explanation(
        title="Negative positions",
        text="`x[:, -1]`, `x[:, [-1]]`: the importer makes a `take` of index -1, which reads what "
        "lies before the row. `workarounds=['negative_index']`.",
        repro="check(lambda x: x[:, -1], torch.randn(2, 64, 3))",
        kinds=("aten.select", "aten.index"),
        verdicts=("FAIL", "NONDETERMINISTIC", "NONFINITE"),
        says="",  # anything may lie there
    ),
    Explanation(
        title="Tensors full of infinity",
        text="`torch.full_like(x, -torch.inf)`: for infinity and NaN alone, `topi.full` looks for "
        "a word in the dtype, which is no string any more.",
        repro="check(lambda x: x + torch.full_like(x, -torch.inf), torch.randn(4))",
        kinds=("aten.full_like", "aten.full"),
        verdicts=("COMPILE_ERROR",),
        says="argument of type 'PrimType' is not iterable",
    ),
    Explanation(
        title="Several index tensors",
        text="`products[:, row, column]`: PyTorch walks along both index tensors at once; the "
        "importer takes every row with every column. `workarounds=['negative_index']` puts this "
        "right, too.",
        repro="check(lambda x: x[:, [0, 1], [1, 2]], torch.randn(2, 3, 3))",
        kinds=("aten.index",),
        verdicts=("FAIL",),
        says="the target's result is",
    ),
    Explanation(
        title="Comparisons of booleans",
        text="`mask > 0`: the importer makes the number a boolean, too, and LLVM has no order of "
        "booleans that TVM could generate.",
        repro="check(lambda x: x > 0, torch.tensor([True, False]))",
        kinds=("aten.gt", "aten.ge", "aten.lt", "aten.le"),
        verdicts=("COMPILE_ERROR",),
        says="(in tvm::codegen::CodeGenLLVM::Create",
    ),
    Explanation(
        title="Softplus of negative numbers",
        text="`topi.nn.softplus` is log(1 + exp(x)) as it stands: where exp(x) is small, its "
        "digits are lost in the sum, all of them below -17. PyTorch uses `log1p`. State spaces "
        "compute their time steps so, most of which are small.",
        repro="check(lambda x: 1e6 * torch.nn.functional.softplus(x), torch.tensor([-12.0]))",
        kinds=("aten.softplus",),
        verdicts=("FAIL",),
        says="noise floors",
    ),
)
