"""TVM's own LibCompareVMInstrument on the same kernels, at two tolerances.

The instrument copies the arguments of a kernel to the target, runs the kernel of the same name
there, and calls ``tvm.testing.assert_allclose`` on the last argument, as it stands in
``tvm/relax/testing/lib_comparator.py``.  Here the two results are at hand, so that assertion is
made on them: the source's is the reference, which is kinder to it than TVM's own kernel would be,
for that may be wrong as well.  Two of its limits are left out in its favour: it skips kernels whose
name fusion has changed, and stops at the first one that raises.

A kernel that crashes or hangs takes the instrument's process with it; that counts as raised.
"""

from __future__ import annotations

import numpy as np

TOLERANCES = ((1e-5, 1e-5), (1e-3, 1e-2))
"""``(rtol, atol)``: the class's defaults, and those of mlc-llm's ``tests/debug/compare_lib.py``."""


def raises(target: np.ndarray | None, source: np.ndarray) -> tuple[bool, bool]:
    """Whether it raises, at each of the tolerances; ``target`` is None where there is none."""
    if target is None:
        return True, True
    from tvm.testing import assert_allclose

    answers: list[bool] = []
    for rtol, atol in TOLERANCES:
        try:
            wide = (np.float64 if a.dtype.kind not in "iub" else a.dtype for a in (target, source))
            assert_allclose(
                *(a.astype(t) for a, t in zip((target, source), wide, strict=True)),
                rtol=rtol,
                atol=atol,
            )
            answers.append(False)
        except AssertionError:
            answers.append(True)
    return answers[0], answers[1]
