"""ONNX's own node tests: a model of one node, or few, for every case that its standard describes.

Those that spell an operator out in others (``_expanded``) are left out.  A group is one model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from onnx import TensorProto, numpy_helper

from benchmarks.suites.sample import Sample


def groups() -> list[str]:
    """The names of the tests."""
    return list(_cases())


def samples(group: str) -> Sequence[Sample]:
    """The model of a test with its inputs."""
    case = _cases()[group]
    return [Sample(group, case.model, tuple(map(_array, case.data_sets[0][0])))]


def _array(value: Any) -> Any:
    """An input as an array; sequences and optional ones that are missing as they are."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


@cache
def _cases() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return {c.name.removeprefix("test_"): c for c in cases if "_expanded" not in c.name}
