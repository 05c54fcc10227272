"""One sample through a session: what is noted of it."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tapml_nb as tapml
from benchmarks.suites.records import FAULTY, Judged, Raised, Record
from benchmarks.suites.sample import Sample
from benchmarks.suites.ties import breaks_ties
from tapml_nb.compile.trouble import CompilerTrouble
from tapml_nb.execute.given import ModelChanged
from tapml_nb.frontends.program import FrontendError
from tapml_nb.frontends.torch.tensors import from_array
from tapml_nb.frontends.torch.workarounds import WORKAROUNDS
from tapml_nb.graph import Op
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import Verdict
from tapml_nb.numerics import is_float
from tapml_nb.session import Session
from tapml_nb.targets.wire.errors import TargetError, TargetLost

_DOCUMENTED = (
    *(ValueError, TypeError, FrontendError),  # of debug()
    *(ModelChanged, CompilerTrouble, TargetError, TargetLost),  # of run()
)

_RAN = (
    *(Verdict.PASS, Verdict.SKIPPED, Verdict.FAIL),
    *(Verdict.NONFINITE, Verdict.NONDETERMINISTIC),
)
"""Verdicts on values, which can be looked at."""


def measure(sample: Sample, group: str, of: int, key: str) -> Record:
    """Judge every operator of a sample, and compare its values by PyTorch's own tolerances.

    Where one is faulty, all are judged once more with all workarounds in force.
    """
    begin = time.perf_counter()
    raised: list[Raised] = []
    ops = _taken(sample, raised, [])
    mended: list[Judged] = []
    if isinstance(sample.model, torch.nn.Module) and any(op.verdict in FAULTY for op in ops):
        mended = _taken(sample, raised, [workaround.name for workaround in WORKAROUNDS])
    seconds = time.perf_counter() - begin
    return Record(
        sample.name, group, of, key, "", tuple(raised), tuple(ops), seconds, tuple(mended)
    )


def _taken(sample: Sample, raised: list[Raised], workarounds: list[str]) -> list[Judged]:
    """A sample's operators through a session; what that raises is noted."""
    ops: list[Judged] = []
    try:
        session = tapml.debug(
            sample.model,
            sample.inputs,
            target="llvm",
            name=sample.name,
            workarounds=workarounds,
        )
    except Exception as error:
        raised.append(_raised("debug", error))
    else:
        with session:
            try:
                session.run()
            except Exception as error:
                raised.append(_raised("run", error))
            ops = [_judged(session, op, raised) for op in session.graph.ops if not op.host]
    return ops


def _raised(out_of: str, error: Exception) -> Raised:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(tapml.__file__).parent in Path(frame.filename).parents
    return Raised(
        out_of,
        type(error).__name__,
        " ".join(str(error).split())[:400],
        ours and isinstance(error, _DOCUMENTED),
        f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.name}",
    )


def _judged(session: Session, op: Op, raised: list[Raised]) -> Judged:
    """An operator's record; what ``tensor()`` raises is noted, too."""
    values = session.graph.values
    result = session.report.introduced.get((op.id, 0), OpResult(op.id, 0, Verdict.UNKNOWN))
    undefined = result.verdict is Verdict.SKIPPED and result.statistics is None
    agrees, beyond, tied = None, False, False
    if result.verdict in _RAN and not undefined:
        try:
            agrees, beyond, tied = _compared(session, op)
        except Exception as error:
            raised.append(_raised("tensor", error))
    return Judged(
        op.kind,
        str(result.verdict),
        result.ratio,
        " ".join(result.message.split())[:400],
        str(result.diagnosis.pattern) if result.diagnosis else "",
        not undefined,
        agrees,
        beyond,
        ", ".join(str(values[v].spec) for v in op.inputs)[:200],
        tied,
    )


def _compared(session: Session, op: Op) -> tuple[bool | None, bool, bool]:
    """``agrees``, ``beyond`` and ``tied`` of :class:`Judged`."""
    apart = beyond = other = False
    for k in range(len(op.outputs)):
        target, source = (session.tensor(op.id, which, output=k) for which in ("target", "source"))
        if not close(target, source):
            apart = True
            beyond = beyond or is_beyond(target, source, session.tensor(op.id, "float64", output=k))
            given = session.inputs(op.id)
            tied = given and breaks_ties(op.kind, op.constants, given[0], target, source)
            other = other or not tied
    return not apart, beyond, apart and not other


def close(target: np.ndarray, source: np.ndarray) -> bool:
    """Whether two tensors agree by ``torch.testing.assert_close``, with its tolerances for the
    dtype; integers have to be the same."""
    if target.dtype != source.dtype or target.shape != source.shape:
        return False
    if not (is_float(source.dtype) or source.dtype.kind == "c"):
        return np.array_equal(target, source)
    try:
        torch.testing.assert_close(_tensor(target), _tensor(source), equal_nan=True)
    except AssertionError:
        return False
    return True


def is_beyond(target: np.ndarray, source: np.ndarray, exact: np.ndarray) -> bool:
    """Whether a target that is not close to the source is farther from the exact result than the
    source's largest error and the dtype's tolerances explain."""
    if target.dtype != source.dtype or target.shape != source.shape:
        return True
    if not (is_float(source.dtype) or source.dtype.kind == "c"):
        return True
    dtype = _tensor(source).dtype
    rtol, atol = torch.testing._comparison.default_tolerances(dtype)
    wide: Any = np.complex128 if source.dtype.kind == "c" else np.float64
    t, s, e = (x.astype(wide) for x in (target, source, exact))
    finite = np.isfinite(t) & np.isfinite(s) & np.isfinite(e)
    same = (t == s) | (np.isnan(t) & np.isnan(s))
    if not np.all(finite | same):
        return True
    own = np.abs(s - e)[finite].max(initial=0.0)
    return bool(np.any(np.abs(t - e)[finite] > own + atol + rtol * np.abs(e)[finite]))


def _tensor(array: np.ndarray) -> torch.Tensor:
    tensor = from_array(array, torch.empty(0))
    return (
        tensor.float() if tensor.element_size() == 1 else tensor
    )  # float8, which has no tolerance
