"""Bundles from anybody: whatever is wrong with one is a BundleError, and costs no memory."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tapml_nb as tapml
from tapml_nb import Bundle, BundleError, cli, tensorfile
from tapml_nb.carve.archive import _HEX, _MARK
from tapml_nb.carve.manifest import tensor_member
from tapml_nb.carve.program import CarvedProgram
from tests.models import two_layers


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The members of a bundle, by name."""
    path = tmp_path_factory.mktemp("good") / "good.tapml"
    model, (x,) = two_layers()
    with tapml.debug(model, [(x,), (3 * x,)]) as session:
        session.run()
        session.carve(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def seal(data):
    return data[:-_HEX] + hashlib.sha256(data[:-_HEX]).hexdigest().encode()


def pack(members, compression=zipfile.ZIP_STORED):
    """A bundle of (name, content) pairs, sealed as by somebody who knows how."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
        archive.comment = _MARK + b"0" * _HEX
    return seal(file.getvalue())


def with_manifest(good, change):
    """The bundle after a change to its manifest; its digests are those of its members."""
    manifest = json.loads(good["manifest.json"])
    changed = change(manifest)
    manifest = manifest if changed is None else changed
    return pack((good | {"manifest.json": json.dumps(manifest).encode()}).items())


def with_member(good, name, content):
    """The bundle with another content of a member, and its digest."""
    manifest = json.loads(good["manifest.json"])
    manifest["members"][name] = hashlib.sha256(content).hexdigest()
    return pack((good | {name: content, "manifest.json": json.dumps(manifest).encode()}).items())


def read(path):
    """Everything that a bundle can be asked without running it."""
    bundle = Bundle.open(path)
    repr(bundle), len(bundle), dict(bundle.versions)
    tests = list(bundle)
    frame = bundle.frame()
    program = CarvedProgram(bundle._archive)
    for step in range(program.steps):
        values = program.bind(step, {})
        for op in program.graph.ops:
            if (op.id, step) in program._tests:
                program.run(op.id, values)
                program.run_exact(op.id, values)
    for test in bundle._tests:
        if test["unit"]:
            bundle.unit(test["unit"])
    assert len(frame) == len(tests) == len(bundle)
    return bundle


def test_the_honest_bundle_is_read(good, tmp_path):
    path = tmp_path / "b.tapml"
    path.write_bytes(with_manifest(good, lambda manifest: None))
    bundle = read(path)
    assert bundle.versions["tapml_nb"] == tapml.__version__
    assert bundle.versions["apache-tvm"].startswith("0.27")
    assert bundle.replay().ok


def test_a_bundle_of_before_versions_were_recorded(good, tmp_path):
    def older(manifest):
        del manifest["versions"]
        for test in manifest["tests"]:
            for key in ("members", "scalars", "numbers", "conversion"):
                del test[key]

    path = tmp_path / "old.tapml"
    path.write_bytes(with_manifest(good, older))
    assert read(path).versions == {}


def change(path, value):
    """Sets what is at a path in the manifest."""

    def apply(manifest):
        at = manifest
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = value

    return apply


def delete(*path):
    def apply(manifest):
        at = manifest
        for part in path[:-1]:
            at = at[part]
        del at[path[-1]]

    return apply


def twice(manifest):
    manifest["tests"].append(manifest["tests"][0])


def another_maker(manifest):
    first, second = manifest["tests"][:2]
    second["outputs"] = copy.deepcopy(first["outputs"])


def backwards(manifest):
    manifest["tests"][:3] = manifest["tests"][:3][::-1]


MALFORMED = {
    "a step far away": (change(("tests", 0, "step"), 10**9), "there are 3 steps"),
    "a step that is true": (change(("tests", 3, "step"), True), r"tests\[3\]\.step is True"),
    "a step before the first": (change(("tests", 0, "step"), -1), "whole number from 0"),
    "a step with a fraction": (change(("tests", 0, "step"), 1.0), "whole number from 0"),
    "a step beyond 64 bits": (change(("tests", 0, "step"), 2**64), "whole number from 0"),
    "a schema that is true": (change(("schema",), True), "has schema True"),
    "a schema of later": (change(("schema",), 2), "written by tapml_nb .* apache-tvm"),
    "no schema": (delete("schema"), "has schema None"),
    "a list": (lambda manifest: [], "has schema None"),
    "no name": (delete("name"), "name is missing"),
    "a name that is a number": (change(("name",), 5), "name is 5, and should be text"),
    "no tests": (delete("tests"), "tests is missing"),
    "no members": (delete("members"), "members is missing"),
    "a test that is none": (change(("tests", 0), None), r"tests\[0\] is None"),
    "a line without a file": (delete("tests", 0, "source", "file"), "source.file is missing"),
    "a negative line": (change(("tests", 0, "source", "line"), -5), "source.line is -5"),
    "an input without a tensor": (
        delete("tests", 0, "inputs", 0, "tensor"),
        r"inputs\[0\]\.tensor is missing",
    ),
    "a tensor elsewhere": (
        change(("tests", 0, "inputs", 0, "tensor"), "../../etc/passwd"),
        "key in hexadecimal",
    ),
    "a tensor that is not there": (
        change(("tests", 0, "inputs", 0, "tensor"), "ab"),
        "there is no tensor ab",
    ),
    "a delta that is not there": (
        change(("tests", 0, "outputs", 0, "delta"), "ab"),
        "there is no tensor ab",
    ),
    "a unit that is not there": (change(("tests", 0, "unit"), "ab"), "there is no unit ab"),
    "neither unit nor reason": (change(("tests", 0, "unit"), None), "neither a unit nor a reason"),
    "a verdict that is none": (change(("tests", 0, "verdict"), "FINE"), "should be a verdict"),
    "a constant that is a list": (
        change(("tests", 0, "constants"), {"dim": [1]}),
        r"constants\['dim'\] is \[1\]",
    ),
    "a digest that is none": (
        lambda m: m["members"].update({next(iter(m["members"])): "x"}),
        "a SHA-256 in hexadecimal",
    ),
    "a member that is not there": (
        lambda m: m["members"].update({tensor_member("ab"): "0" * 64}),
        "it lists, and the file lacks",
    ),
    "the same test twice": (twice, "and so is one before it"),
    "two operators of one result": (another_maker, "computes|there twice|two tensors"),
    "a result before its operator": (backwards, "before the operator that computes it"),
    "other inputs in another step": (
        change(("tests", 3, "inputs", 0, "value"), "elsewhere"),
        "other inputs or outputs in another step",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_manifest(good, tmp_path, spoil, words):
    path = tmp_path / "b.tapml"
    path.write_bytes(with_manifest(good, spoil))
    with pytest.raises(BundleError, match=words):
        Bundle.open(path)


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b'{"a":' * 100_000, b'{"schema": 1', b"\xff\xfe{}", b"9" * 5000, b""],
    ids=["lists", "objects", "half", "no text", "digits", "nothing"],
)
def test_a_manifest_that_is_no_json(good, tmp_path, text):
    path = tmp_path / "b.tapml"
    path.write_bytes(pack((good | {"manifest.json": text}).items()))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(path)


class TestContainer:
    def refused(self, tmp_path, data, words):
        path = tmp_path / "b.tapml"
        path.write_bytes(data)
        with pytest.raises(BundleError, match=words):
            Bundle.open(path)

    def test_compressed_members(self, good, tmp_path):
        self.refused(tmp_path, pack(good.items(), zipfile.ZIP_DEFLATED), "is compressed")

    def test_a_bomb_takes_no_memory(self, good, tmp_path):
        """A file that holds nearly nothing and says it holds 256 MB."""
        path = tmp_path / "bomb.tapml"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("manifest.json", "w") as member:
                for _ in range(64):
                    member.write(b" " * (4 << 20))
            archive.comment = _MARK + b"0" * _HEX
        path.write_bytes(seal(path.read_bytes()))
        code = (
            "import resource, sys\n"
            "from tapml_nb import Bundle, BundleError\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try: Bundle.open(sys.argv[1])\n"
            "except BundleError as error: print(error)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        words, grown = done.stdout.splitlines()
        assert "is compressed" in words
        assert int(grown) < 64 << 10  # kilobytes

    def test_a_member_larger_than_the_file(self, good, tmp_path):
        data = bytearray(pack(good.items()))
        entry = data.find(b"PK\1\2")
        struct.pack_into("<II", data, entry + 20, 2**31, 2**31)
        self.refused(tmp_path, seal(bytes(data)), "is larger than the file")

    def test_names_that_are_there_twice(self, good, tmp_path):
        data = pack([*good.items(), ("manifest.json", good["manifest.json"])])
        self.refused(tmp_path, data, "is there twice")

    @pytest.mark.parametrize("name", ["../../evil", "tensors/", "notes.txt", "é\u202e"])
    def test_members_that_nobody_listed(self, good, tmp_path, name):
        self.refused(tmp_path, pack([*good.items(), (name, b"x")]), "the file holds unlisted")

    def test_no_manifest(self, good, tmp_path):
        rest = [item for item in good.items() if item[0] != "manifest.json"]
        self.refused(tmp_path, pack(rest), r"has no manifest\.json")

    def test_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(BundleError, match="it is no file"):
                Bundle.open(path)


def first_tensor(good):
    return next(name for name in good if name.startswith("tensors/"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "longer than it may be"),
        (struct.pack("<Q", 250_000) + b'{"a":' * 50_000, "not a safetensors file"),
        (tensorfile.dump({"other": np.zeros(2, np.float32)}), "holds no tensor 'data'"),
    ],
    ids=["nothing", "length", "depth", "name"],
)
def test_a_malformed_tensor(good, tmp_path, content, words):
    path = tmp_path / "b.tapml"
    path.write_bytes(with_member(good, first_tensor(good), content))
    bundle = Bundle.open(path)
    for look in (lambda: list(bundle), bundle.frame, bundle.replay):
        with pytest.raises(BundleError, match=words):
            look()


def test_a_member_that_is_not_what_the_manifest_says(good, tmp_path):
    path = tmp_path / "b.tapml"
    name = first_tensor(good)
    swapped = next(n for n in reversed(good) if n.startswith("tensors/"))
    path.write_bytes(pack((good | {name: good[swapped]}).items()))
    with pytest.raises(BundleError, match="it is not what the manifest says"):
        list(Bundle.open(path))


def test_a_difference_of_another_shape_takes_no_memory(good, tmp_path):
    """A row and a column would make a table."""
    manifest = json.loads(good["manifest.json"])
    delta = manifest["tests"][0]["outputs"][0]["delta"]
    wide = tensorfile.dump({"data": np.zeros((1 << 20, 1, 1), np.float32)})
    path = tmp_path / "b.tapml"
    path.write_bytes(with_member(good, tensor_member(delta), wide))
    bundle = Bundle.open(path)
    with pytest.raises(BundleError, match="no difference to float32"):
        list(bundle)


def test_what_changes_after_it_was_opened(good, tmp_path):
    path = tmp_path / "b.tapml"
    data = pack(good.items())
    path.write_bytes(data)
    bundle = Bundle.open(path)
    with path.open("r+b") as file:
        file.truncate(len(data) // 3)
    with pytest.raises(BundleError, match=r"cannot be read|not what the manifest says"):
        list(bundle)


ODD = [None, True, -1, 1.5, 2**64, float("nan"), "", "\0", "\ud800", "../x", [], {}, [[]], {"a": 1}]


def mutated(good, rng):
    """The bundle with a few things changed: bytes, the directory, the manifest, a tensor."""
    kind = rng.choice(["bytes", "directory", "manifest", "manifest", "tensor"])
    if kind in ("bytes", "directory"):
        data = bytearray(pack(good.items()))
        first = data.find(b"PK\1\2") if kind == "directory" else 0
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(first, len(data) - _HEX)] = rng.choice([0, 1, 127, 255])
        return seal(bytes(data))
    if kind == "manifest":

        def spoil(manifest):
            at, step = manifest, None
            while isinstance(at, dict | list) and at and (step is None or rng.random() < 0.85):
                holder = at
                step = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
                at = holder[step]
            if rng.random() < 0.2:
                del holder[step]
            else:
                holder[step] = rng.choice(ODD)

        return with_manifest(good, spoil)
    name = rng.choice([name for name in good if name.startswith("tensors/")])
    content = good[name]
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    part = rng.choice(["dtype", "shape", "data_offsets"])
    header["data"][part] = rng.choice([*ODD, [0, 2**63], [-1], [2**40, 2**40], [True, 1], ["4"]])
    text = json.dumps(header).encode()
    return with_member(good, name, struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_hundreds_of_mutations(good, tmp_path):
    path = tmp_path / "b.tapml"
    refused = 0
    for seed in range(400):
        path.write_bytes(mutated(good, random.Random(seed)))
        try:
            read(path)
        except BundleError:
            refused += 1
    assert 200 < refused < 400  # and no other exception


@pytest.mark.parametrize("command", ["report", "replay"])
def test_the_command_line_says_it_in_one_line(good, tmp_path, capsys, command):
    paths = [tmp_path / f"{k}.tapml" for k in range(3)]
    paths[0].write_bytes(with_manifest(good, change(("tests", 0, "step"), 10**9)))
    paths[1].write_bytes(with_member(good, first_tensor(good), b"x"))
    paths[2].write_bytes(Path(__file__).read_bytes())
    for path in paths:
        assert cli.main([command, str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("tapml: ")
        assert error.count("\n") == 1


def test_another_tvm_is_told(good, tmp_path):
    path = tmp_path / "b.tapml"
    path.write_bytes(with_manifest(good, change(("versions", "apache-tvm"), "0.25.0")))
    with pytest.warns(UserWarning, match=r"carved with TVM 0\.25\.0, and this is 0\.27"):
        assert Bundle.open(path).replay().ok
