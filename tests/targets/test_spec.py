"""What people may say of a target, and what they are told when it is wrong."""

import math

import pytest
import tvm

from tapml_nb.targets.spec import Target


def test_the_short_forms():
    assert Target.of("llvm") == Target("llvm")
    assert Target.of(Target("c", timeout=2)) == Target("c", timeout=2)
    made = Target.of(tvm.target.Target({"kind": "llvm", "mcpu": "skylake"}))
    assert (made.kind, made.tvm_target.attrs["mcpu"]) == ("llvm", "skylake")
    with pytest.raises(TypeError, match=r"a int; give one of 'llvm'"):
        Target.of(3)


def test_an_unknown_kind_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown kind 'lvm'; did you mean 'llvm'"):
        Target("lvm")
    with pytest.raises(ValueError, match="unknown kind 'abacus'; there are 'llvm'"):
        Target("abacus")


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "30", None])
def test_a_timeout_is_a_positive_number(timeout):
    with pytest.raises(ValueError, match=r"timeout is .*; give seconds above 0"):
        Target("llvm", timeout=timeout)


def test_an_address_has_host_port_and_key():
    assert Target("llvm", rpc="board:9090/secret").address == ("board", 9090, "secret")
    assert Target("llvm", rpc="[::1]:9090/s/t").address == ("::1", 9090, "s/t")
    assert Target("llvm", rpc="board:9090").address == ("board", 9090, "")


@pytest.mark.parametrize("rpc", ["board", "board:", ":9090", "board:http/key", "board:99999/key"])
def test_an_address_that_is_none(rpc):
    with pytest.raises(ValueError, match="give 'host:port/key'"):
        Target("llvm", rpc=rpc)


def test_a_tracker_and_a_proxy():
    tracker = Target("llvm", rpc="tracker://host:9190/key")
    assert (tracker.scheme, tracker.address) == ("tracker", ("host", 9190, "key"))
    proxy = Target("llvm", rpc="proxy://host:9090/key")
    assert (proxy.scheme, proxy.address) == ("proxy", ("host", 9090, "key"))
    assert Target("llvm", rpc="host:9090").scheme == ""


def test_a_browser_is_one_device_of_one_kind():
    target = Target("webgpu", rpc="browser")
    assert (target.local, target.members) == (True, [target])
    for wrong in (
        {"kind": "llvm"},
        {"kind": "webgpu", "device": 1},
        {"kind": "webgpu", "workers": 2},
    ):
        with pytest.raises(ValueError, match="rpc is 'browser'; a page is one device of kind"):
            Target(**wrong, rpc="browser")


@pytest.mark.parametrize("size", ["6 giga", 0, -1, 1.5, True])
def test_memory_is_a_positive_number_of_bytes(size):
    with pytest.raises(ValueError, match=r"^target: max_memory: .*; give a positive number"):
        Target("llvm", max_memory=size)


def test_memory_in_words():
    assert Target("llvm").bound is None
    assert Target("llvm", max_memory="6 GB").bound == 6 * 10**9
    several = Target("cuda", max_memory="1 MiB", workers=2)
    assert [member.bound for member in several.members] == [2**20] * 2


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (Target("llvm"), ["llvm"]),
        (Target("llvm", workers=2), ["llvm, worker 0", "llvm, worker 1"]),
        (Target("cuda", workers=2, device=1), ["cuda:1", "cuda:2"]),
        (Target("llvm", rpc="board:9090/key"), ["llvm at board:9090/key"]),
    ],
)
def test_devices_have_names(target, names):
    assert target.device_names == names
    assert len(target.members) == len(names)
