"""What people write for a target."""

import pytest
import tvm

from tapml_nb import Target
from tapml_nb.targets.availability import check_all, resolve


def test_short_names_and_tvm_targets():
    assert Target.of("llvm") == Target("llvm")
    own = Target.of(tvm.target.Target({"kind": "llvm", "mcpu": "haswell"}))
    assert own.kind == "llvm"
    assert "haswell" in str(resolve(own)[1])
    assert Target.of(own) is own


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Target("lvm"), "did you mean 'llvm'"),
        (lambda: Target("llvm", timeout=0), "give seconds above 0"),
        (lambda: Target("llvm", rpc="nowhere"), "host:port/key"),
        (lambda: Target("llvm", rpc="tracker://host:1/key"), "host:port/key"),
        (lambda: resolve(Target("llvm", tvm_target={"kind": "no"})), "TVM rejects"),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_something_else_altogether():
    with pytest.raises(TypeError, match="target: a float"):
        Target.of(1.5)


def test_every_kind_says_whether_it_works_and_why_not():
    states = {state.kind: state for state in check_all()}
    assert states["llvm"].works
    assert states["c"].works
    assert all(state.reason for state in states.values())


def test_an_address():
    assert Target("llvm", rpc="board:9090/secret").address == ("board", 9090, "secret")
