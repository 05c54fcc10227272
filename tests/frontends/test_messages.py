"""What of an error reaches a report: one line, in which the reason is not cut off."""

from __future__ import annotations

import pytest

from tapml_nb.frontends.program import first_line, last_line

WRITTEN_OUT = (
    'ir.Op(span=None, ty=None, name="relax.log", op_type=ir.FuncType(arg_types=[], ret=None), '
    'arguments=[ir.ArgumentInfo(name="x", type_info="Tensor (a tensor", description="it\\n")], '
    "support_level=10)"
)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (f"{WRITTEN_OUT} takes floating-point numbers", "relax.log takes floating-point numbers"),
        (f"it has [{WRITTEN_OUT}, {WRITTEN_OUT}] twice", "it has [relax.log, relax.log] twice"),
        (
            f"a call of ir.Op(\n  inner={WRITTEN_OUT},\n  name='relax.exp'\n) fails",
            "a call of relax.exp fails",
        ),
        ("ir.Op(span=None, ty=ir.FuncType(", "an operator"),  # cut by TVM
        ("Op(name) is left (as it is)", "Op(name) is left (as it is)"),
    ],
)
def test_an_operator_that_is_written_out_has_its_name(message, line):
    assert first_line(ValueError(message)) == line
    assert last_line(ValueError(f"a trace\n{message}")) == line


def test_the_reason_is_not_cut_off():
    long = WRITTEN_OUT.replace("level=10", f"level={'1' * 400}")
    assert last_line(ValueError(f"{long} takes floats")) == "relax.log takes floats"
