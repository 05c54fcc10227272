"""Our safetensors files are everybody's safetensors files."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from tapml_nb import tensorfile

DTYPES = [
    *("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_round_trip(dtype, shape):
    array = np.ones(shape).astype(dtype)
    back = tensorfile.parse(tensorfile.dump({"a": array, "b": array}))
    assert list(back) == ["a", "b"]
    assert back["b"].dtype == array.dtype
    assert back["b"].shape == shape
    assert back["b"].tobytes() == array.tobytes()


def test_the_safetensors_library_reads_them():
    array = np.arange(6).reshape(2, 3)
    data = tensorfile.dump({"x": array.astype(ml_dtypes.bfloat16), "y": array})
    read = safetensors.torch.load(data)
    assert read["x"].dtype == torch.bfloat16
    assert read["x"].float().tolist() == read["y"].float().tolist() == array.tolist()


def test_we_read_theirs():
    data = safetensors.torch.save({"x": torch.arange(4, dtype=torch.bfloat16)}, {"by": "them"})
    assert tensorfile.parse(data)["x"].astype(float).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("data", [b"", b"12345678", b"\x02" + b"\0" * 7 + b"[]", b"\xff" * 20])
def test_anything_else_is_refused(data):
    with pytest.raises(ValueError, match="not a safetensors file"):
        tensorfile.parse(data)


def test_a_dtype_it_does_not_know():
    with pytest.raises(TypeError, match="complex128"):
        tensorfile.dump({"x": np.zeros(1, np.complex128)})
