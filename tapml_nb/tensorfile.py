"""The safetensors file format for NumPy arrays of every dtype, ml_dtypes' included.

The safetensors package has no NumPy view of bfloat16 and float8, which models are full of.  The
format itself is small: an 8-byte little-endian length, a JSON header with dtype, shape and byte
range of every tensor, then the bytes (https://huggingface.co/docs/safetensors).  Files written
here are read by every safetensors library.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tapml_nb.numerics import np_dtype

_CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}
_DTYPES = {code: name for name, code in _CODES.items()}


def dump(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of a safetensors file.

    Raises:
        TypeError: for a dtype that the format does not know.
    """
    header: dict[str, object] = {}
    chunks: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        if array.dtype.name not in _CODES:
            raise TypeError(f"{name}: safetensors has no dtype {array.dtype.name}")
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


def parse(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; they share its memory and are read-only.

    Raises:
        ValueError: if the bytes are not such a file.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        return {name: _array(data, 8 + length, entry) for name, entry in header.items()}
    except (struct.error, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a safetensors file: {error}") from None


def _array(data: bytes, base: int, entry: Mapping[str, Any]) -> np.ndarray:
    dtype = np_dtype(_DTYPES[entry["dtype"]])
    shape = tuple(int(n) for n in entry["shape"])
    begin, end = entry["data_offsets"]
    count = math.prod(shape)
    if end - begin != count * dtype.itemsize or base + end > len(data):
        raise ValueError("a tensor's bytes do not fit its shape")
    return np.frombuffer(data, dtype, count, base + begin).reshape(shape)
