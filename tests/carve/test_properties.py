"""Bundles of anything: they come back as they were, and no damage goes unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tapml_nb import tensorfile
from tapml_nb.carve.archive import Archive, BundleError, write_archive
from tapml_nb.carve.manifest import tensor_member

names = st.text("abcdef0123456789", min_size=2, max_size=8)
dtypes = st.sampled_from(["bool", "int8", "int64", "float16", "float32", "float64"])
tensors = dtypes.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_side=0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def good(folder: Path) -> bytes:
    """A small bundle."""
    tensor = tensorfile.dump({"data": np.arange(6, dtype=np.float32)})
    members = [(tensor_member("aa"), tensor), ("units/bb.json", b'{"unit": true}')]
    write_archive(folder / "good.tapml", {"name": "x", "tests": []}, members)
    return (folder / "good.tapml").read_bytes()


@given(st.dictionaries(names, tensors, max_size=3), st.dictionaries(names, st.text(), max_size=3))
def test_round_trip(folder, tensors, texts):
    path = folder / "x.tapml"
    members = [
        (tensor_member(name), tensorfile.dump({"data": tensor})) for name, tensor in tensors.items()
    ] + [(f"units/{name}.json", text.encode()) for name, text in texts.items()]
    write_archive(path, {"name": "x", "tests": []}, members)
    archive = Archive(path)
    for name, tensor in tensors.items():
        back = archive.tensor(name)
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert back.tobytes() == tensor.tobytes()
    for name, text in texts.items():
        assert archive.text(f"units/{name}.json") == text
    archive.close()


def refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(BundleError):
        Archive(path)


@given(st.data(), st.binary(min_size=1, max_size=8))
def test_any_change_is_refused(folder, good, data, new):
    place = data.draw(st.integers(0, len(good) - len(new)))
    changed = good[:place] + new + good[place + len(new) :]
    if changed != good:
        refused(folder / "changed.tapml", changed)


@given(st.data(), st.binary(min_size=1, max_size=8))
def test_bytes_too_many_or_too_few_are_refused(folder, good, data, new):
    place = data.draw(st.integers(0, len(good)))
    refused(folder / "longer.tapml", good[:place] + new + good[place:])
    refused(folder / "shorter.tapml", good[: min(place, len(good) - 1)])


@given(st.binary(max_size=300))
def test_anything_else_is_no_bundle(folder, data):
    refused(folder / "anything.tapml", data)
