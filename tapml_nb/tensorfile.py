"""The safetensors file format for NumPy arrays of every dtype, ml_dtypes' included.

The safetensors package has no NumPy view of bfloat16 and float8, which models are full of.  The
format itself is small: an 8-byte little-endian length, a JSON header with dtype, shape and byte
range of every tensor, then the bytes (https://huggingface.co/docs/safetensors).  Files written
here are read by every safetensors library.
"""

from __future__ import annotations

import json
import math
import reprlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tapml_nb.array_api import np_dtype

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
_KEYS = {"dtype", "shape", "data_offsets"}

_LARGEST_HEADER = 100 << 20
"""Bytes; the format's own limit."""


def holds(dtype: np.dtype) -> bool:
    """Whether a file can hold tensors of a dtype."""
    return dtype.name in _CODES


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
        if length > min(len(data) - 8, _LARGEST_HEADER):
            raise ValueError("its header is longer than it may be")
        header = json.loads(data[8 : 8 + length].decode())
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        header.pop("__metadata__", None)
        return {name: _array(data, 8 + length, entry) for name, entry in header.items()}
    except (struct.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a safetensors file: {error}") from None


def _array(data: bytes, base: int, entry: Any) -> np.ndarray:
    if not isinstance(entry, dict) or not set(entry) >= _KEYS:
        raise ValueError(f"a tensor's entry has not {', '.join(sorted(_KEYS))}")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ValueError(f"a tensor's dtype is {reprlib.repr(code)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError("a tensor's shape or its place is no list of sizes")
    dtype = np_dtype(_DTYPES[code])
    begin, end = offsets
    count = math.prod(shape)
    if end - begin != count * dtype.itemsize or base + end > len(data):
        raise ValueError("a tensor's bytes do not fit its shape")
    flat = np.frombuffer(data, dtype, count, base + begin)
    if code == "BOOL" and (flat.view(np.uint8) > 1).any():
        raise ValueError("a boolean is neither true nor false")
    return flat.reshape(shape)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
