"""Which targets work here, and what the others lack."""

import pytest
import tvm

from tapml_nb import Target
from tapml_nb.targets.client.availability import check_all, resolve


def test_every_kind_says_whether_it_works_and_why_not():
    states = {state.kind: state for state in check_all()}
    assert states["llvm"].works
    assert states["c"].works
    assert all(state.reason for state in states.values())


def test_a_target_of_tvms_own_is_what_is_compiled_for():
    spec, tvm_target = resolve(tvm.target.Target({"kind": "llvm", "mcpu": "haswell"}))
    assert spec.kind == "llvm"
    assert "haswell" in str(tvm_target)


def test_what_tvm_rejects_is_said_in_one_line():
    with pytest.raises(ValueError, match="TVM rejects") as caught:
        resolve(Target("llvm", tvm_target={"kind": "no such kind"}))
    assert "\n" not in str(caught.value)


def test_without_a_c_compiler_cpus_and_cuda_do_not_work(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    works = {state.kind for state in check_all() if state.works}
    assert works == {"opencl", "webgpu"}  # whose drivers compile for themselves
    with pytest.raises(ValueError, match="install gcc or clang"):
        resolve("llvm")


def test_a_target_elsewhere_needs_no_driver_here(monkeypatch):
    monkeypatch.setattr("tapml_nb.targets.client.availability._FOUND", {})
    monkeypatch.setenv("OCL_ICD_VENDORS", "/nonexistent")
    with pytest.raises(ValueError, match="cannot be used here: there is no OpenCL device 0"):
        resolve("opencl")
    spec, tvm_target = resolve(Target("opencl", rpc="127.0.0.1:9000/key"))
    assert spec.kind == tvm_target.kind.name == "opencl"
