"""A bundle's container: every byte counts."""

import json
import random

import numpy as np
import pytest

from tapml_nb import tensorfile
from tapml_nb.carve.archive import Archive, BundleError, write_archive
from tapml_nb.carve.manifest import tensor_member


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "x.tapml"
    members = [
        (tensor_member("aa"), tensorfile.dump({"data": np.arange(64, dtype=np.float32)})),
        ("units/bb.json", b'{"unit": true}' * 10),
    ]
    write_archive(path, {"name": "x", "tests": []}, members)
    return path


def test_round_trip(bundle):
    archive = Archive(bundle)
    assert archive.manifest["name"] == "x"
    assert archive.tensor("aa").tolist() == list(range(64))
    assert archive.text("units/bb.json").startswith('{"unit"')


def test_any_flipped_byte_is_refused(bundle):
    good = bundle.read_bytes()
    rng = random.Random(0)
    positions = {0, len(good) - 1, *(rng.randrange(len(good)) for _ in range(150))}
    for position in positions:
        bad = bytearray(good)
        bad[position] ^= 1 << rng.randrange(8)
        bundle.write_bytes(bad)
        with pytest.raises(BundleError):
            Archive(bundle)


@pytest.mark.parametrize("member", [tensor_member("aa"), "units/bb.json", "manifest.json"])
def test_the_damaged_member_is_named(bundle, member):
    import zipfile

    with zipfile.ZipFile(bundle) as archive:
        info = archive.getinfo(member)
    data = bytearray(bundle.read_bytes())
    content = info.header_offset + 30 + len(member) + 9
    data[content] ^= 4
    bundle.write_bytes(data)
    with pytest.raises(BundleError, match=f"damaged in '{member}'"):
        Archive(bundle)


def test_a_truncated_file(bundle):
    bundle.write_bytes(bundle.read_bytes()[:-100])
    with pytest.raises(BundleError):
        Archive(bundle)


def test_a_missing_file(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        Archive(tmp_path / "no.tapml")


def test_another_zip_file(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "hello" * 40)
    with pytest.raises(BundleError, match="not a tapml bundle"):
        Archive(tmp_path / "a.zip")


def test_another_schema(tmp_path, monkeypatch):
    monkeypatch.setattr("tapml_nb.carve.archive.SCHEMA", 99)
    write_archive(tmp_path / "y.tapml", {"name": "y", "tests": []}, [])
    monkeypatch.undo()
    with pytest.raises(BundleError, match="schema 99, this version reads 1"):
        Archive(tmp_path / "y.tapml")


def test_a_failed_write_leaves_the_old_file(bundle):
    before = bundle.read_bytes()

    def members():
        yield "units/a.json", b"{}"
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_archive(bundle, {}, members())
    assert bundle.read_bytes() == before
    assert [p.name for p in bundle.parent.iterdir()] == [bundle.name]


def test_the_manifest_is_plain_json(bundle):
    import zipfile

    with zipfile.ZipFile(bundle) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["schema"] == 1
    assert set(manifest["members"]) == {tensor_member("aa"), "units/bb.json"}
