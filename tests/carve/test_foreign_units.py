"""Units out of a file that anybody may have written: TVM's reader is C++, and text can crash it."""

from __future__ import annotations

import json
import zipfile

import pytest

import tapml_nb as tapml
from tapml_nb import Bundle, Verdict
from tapml_nb.carve.archive import write_archive
from tests.models import two_layers


@pytest.fixture(scope="module")
def carved(tmp_path_factory):
    path = tmp_path_factory.mktemp("carved") / "whole.tapml"
    with tapml.debug(*two_layers()) as session:
        session.run()
        session.carve(path)
    return path


def rewritten(path, target, op, change):
    """A bundle with one operator's unit changed, sealed as any other."""
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        members = {n: archive.read(n) for n in archive.namelist() if n != "manifest.json"}
    (key,) = {test["unit"] for test in manifest["tests"] if test["op"] == op}
    name = f"units/{key}.json"
    members[name] = change(members[name].decode()).encode()
    for gone in ("schema", "members"):
        manifest.pop(gone)
    write_archive(target, manifest, members.items())
    return Bundle.open(target)


def crashing(text):
    """A node that is its own child: TVM 0.27 ends with SIGSEGV."""
    data = json.loads(text)
    number, node = next(
        (k, n) for k, n in enumerate(data["nodes"]) if n["type"] == "ffi.Array" and n.get("data")
    )
    node["data"][0] = number
    return json.dumps(data)


BROKEN = {
    "crashes": (crashing, "TVM cannot read the unit: its reader crashed (signal SIGSEGV)"),
    "truncated": (lambda text: text[: len(text) // 2], "TVM cannot read the unit: "),
    "no module": (lambda text: '{"root_index": 0, "nodes": [{"type": "None"}]}', "TVM cannot read"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_one_that_cannot_be_read_costs_its_own_operator(carved, tmp_path, how):
    change, says = BROKEN[how]
    bundle = rewritten(carved, tmp_path / "changed.tapml", "act/silu", change)
    report = bundle.replay()
    assert report.verdict("act/silu") is Verdict.COMPILE_ERROR
    assert says in report.introduced["act/silu", 0].message
    assert report.verdict("first/linear") is Verdict.PASS
    assert report.verdict("second/linear") is Verdict.PASS
    if how == "crashes":
        with pytest.raises(ValueError, match="cannot be read"):
            bundle.repro("act/silu", tmp_path / "repro.py")


def test_the_same_bundle_written_anew_passes(carved, tmp_path):
    assert rewritten(carved, tmp_path / "same.tapml", "act/silu", lambda text: text).replay().ok


def test_kernels_are_those_of_the_session_that_carved(carved):
    """The text stands for the module: nothing is compiled again for the same target."""
    assert Bundle.open(carved).replay().info.compiled == 0


def test_this_process_reads_none(carved, monkeypatch):
    import tvm

    monkeypatch.setattr(tvm.ir, "load_json", None)
    assert Bundle.open(carved).replay().ok


def test_a_bundle_of_a_bundle(carved, tmp_path):
    from tapml_nb.api import open_session
    from tapml_nb.carve.archive import Archive
    from tapml_nb.carve.program import CarvedProgram

    with open_session(CarvedProgram(Archive(carved)), "llvm") as session:
        session.run()
        again = session.carve(tmp_path / "again.tapml")
    assert again.replay().ok
