"""Large tensors: how they come to a target's memory, and that no kernel writes to them unseen."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb.compile.kernel import BufferSpec, Kernel, Launch
from tapml_nb.compile.toolchain import link_shared
from tapml_nb.judge.verdict import Verdict
from tapml_nb.numerics import bitwise_equal
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.calls import ChainCall
from tapml_nb.targets.wire.errors import KernelRaised, TargetError, TargetLost
from tapml_nb.targets.wire.pages import (
    LEAST,
    READ_ONLY,
    NamelessFile,
    Pages,
    fill_from,
    read_memory,
)
from tests.targets.serving import serving

N = LEAST  # elements of 4 bytes
A = np.arange(N, dtype=np.float32)


@T.prim_func
def copies(a: T.Buffer((65536,), "float32"), b: T.Buffer((65536,), "float32")):
    for i in range(65536):
        b[i] = a[i]


@T.prim_func
def spoils(a: T.Buffer((65536,), "float32"), b: T.Buffer((65536,), "float32")):
    """One element of its input."""
    for i in range(65536):
        b[i] = a[i]
    a[40000] = T.float32(-1)


@T.prim_func
def spoils_at_once(a: T.Buffer((65536,), "float32"), b: T.Buffer((65536,), "float32")):
    """All of its input, on all threads of TVM's pool."""
    for i in T.parallel(16):
        for j in range(4096):
            b[i * 4096 + j] = a[i * 4096 + j]
            a[i * 4096 + j] = T.float32(-1)


@T.prim_func
def puts_back(a: T.Buffer((65536,), "float32"), b: T.Buffer((65536,), "float32")):
    """Writes to its input what is there, a zero."""
    for i in range(65536):
        b[i] = a[i]
    T.evaluate(T.call_extern("handle", "memset", a.data, 0, T.int64(4)))


@T.prim_func
def spoils_and_raises(a: T.Buffer((65536,), "float32"), b: T.Buffer((65536,), "float32")):
    a[40000] = T.float32(-1)
    b[0] = a[40000]
    assert b[0] > T.float32(0), "it is spoiled"


FUNCTIONS = {f.__name__: f for f in (copies, spoils, spoils_at_once, puts_back, spoils_and_raises)}
SPEC = BufferSpec((N,), "float32")
HALVES = BufferSpec((2, N // 2), "float32")
SPOILS = Launch("spoils", (1, 2))
PLANS = [
    *(Kernel(n, (SPEC, SPEC), 1, (), (Launch(n, (0, 1)),), (), (1,)) for n in FUNCTIONS),
    Kernel("turns", (SPEC, HALVES), 1, (), (), ((1, 0),), (1,)),
    Kernel("spoils a view", (HALVES, SPEC, SPEC), 1, (), (SPOILS,), ((1, 0),), (2,)),
    Kernel("spoils a constant", (SPEC,) * 3, 1, ("c",), (SPOILS,), (), (2,)),
]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The functions in a shared library."""
    folder: Path = tmp_path_factory.mktemp("large")
    module = tvm.IRModule({n: f.with_attr("global_symbol", n) for n, f in FUNCTIONS.items()})
    tvm.tirx.build(module, tvm.target.Target("llvm")).write_to_file(str(folder / "large.o"))
    link_shared([folder / "large.o"], folder / "large.so", platform.machine())
    return folder / "large.so"


@pytest.fixture
def open_large(no_threads_or_descriptors_left, large):
    """Makes sessions with the kernels and the tensor ``a``."""
    made = []

    def make(target):
        session = TargetSession(target)
        made.append(session)
        session.load(large, PLANS)
        session.put("a", A)
        return session

    yield make
    for session in made:
        session.close()


@pytest.fixture
def session(open_large):
    return open_large(Target("llvm", timeout=20))


def maps(session: TargetSession) -> list[str]:
    """The files that a target's process has mapped as tensors."""
    lines = Path(f"/proc/{session.platform['pid']}/maps").read_text().splitlines()
    return [line.split()[1] for line in lines if "tapml-tensor" in line]


# -- on their way ----------------------------------------------------------------------------------


def test_a_tensor_is_mapped_and_nobody_may_write_to_it(session):
    assert maps(session) == ["r--p"]
    before = session.held()
    session.put("b", A + 1)
    session.put("small", A[:10])
    assert len(maps(session)) == 2
    assert session.held() == before + A.nbytes + 40
    assert bitwise_equal(session.fetch("b"), A + 1)
    session.call("copies", ["a"], ["c"])
    session.drop(["a", "b", "c"])
    assert not maps(session)
    assert session.held() == 40


def test_without_leave_to_look_into_a_process_it_comes_over_the_line(session):
    channel = session.connection.service.channel
    channel._looks_into = os.getppid() if os.getuid() else 1 << 22  # which nobody may, or is none
    assert bitwise_equal(session.fetch("a"), A)
    assert not channel._looks_into
    assert bitwise_equal(session.fetch("a"), A)


def test_memory_of_another_process(session):
    found = np.zeros(N, np.float32)
    header = session.connection.service.channel._ask({"do": "get", "key": "a", "look": True})
    process, data = session.platform["pid"], found.view(np.uint8)
    assert read_memory(process, header["address"], data)
    assert bitwise_equal(found, A)
    assert not read_memory(process, header["address"], np.zeros(1 << 40 >> 10, np.uint8))
    assert not read_memory(process, 8, data)


@pytest.mark.parametrize("dtype", ["bool", "int8", "float16", "bfloat16", "float64", "uint64"])
def test_every_dtype_and_odd_sizes(session, dtype):
    sent = (np.arange(LEAST + 1) % 2).astype(tapml.array_api.np_dtype(dtype)).reshape(1, -1)
    session.put("t", sent)
    assert len(maps(session)) == 2
    assert bitwise_equal(session.fetch("t"), sent)


def test_a_dtype_that_the_target_lacks(session):
    with pytest.raises(TargetError, match="complex64"):
        session.put("t", np.zeros(N, np.complex64))
    assert session.call("copies", ["a"], ["b"], [["a"]]).equals == (0,)
    assert session.restarts == 0


def test_without_room_for_a_file_it_goes_over_the_line(session):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEAST, limits[1]))
    try:
        session.put("b", A + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(maps(session)) == 1
    assert bitwise_equal(session.fetch("b"), A + 1)
    assert session.call("spoils", ["b"], ["c"]).overwritten == ("b",)
    session.put("d", A)
    assert len(maps(session)) == 2


def test_what_the_target_cannot_open_goes_over_the_line(session, monkeypatch):
    monkeypatch.setattr(NamelessFile, "path", "/proc/self/fd/none")
    session.put("b", A + 1)
    assert len(maps(session)) == 1
    assert bitwise_equal(session.fetch("b"), A + 1)


def test_a_process_that_may_have_no_more_memory(session):
    pid = session.platform["pid"]
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    room = used + 3 * A.nbytes
    resource.prlimit(pid, resource.RLIMIT_AS, (room, room))
    session.put("b", A)
    with pytest.raises(TargetError, match="no room for 2621440 bytes"):
        session.put("c", np.tile(A, 10))
    session.drop(["b"])
    assert session.call("copies", ["a"], ["b"], [["a"]]).equals == (0,)


def test_a_client_elsewhere_names_no_files(nothing_left, large):
    with serving() as server, TargetSession(Target("llvm", rpc=server.at(server.port))) as session:
        session.load(large, PLANS)
        session.put("a", A)
        assert not maps(session)  # and yet it can only be read
        assert session.call("spoils", ["a"], ["b"]).overwritten == ("a",)
        request = {"do": "put", "key": "t", "shape": [N], "dtype": "float32", "path": "/etc/group"}
        connection: Any = session.connection
        with pytest.raises(TargetError, match="no client of this machine"):
            connection.service.channel._ask(request)


def test_a_device_with_memory_of_its_own(no_threads_or_descriptors_left):
    with TargetSession(Target("opencl")) as session:
        session.put("a", A)
        assert bitwise_equal(session.fetch("a"), A)


def test_a_file_is_what_it_was_when_it_was_made():
    with NamelessFile(memoryview(A).cast("B")) as file, open(file.path, "rb") as there:
        with pytest.raises(PermissionError):
            os.truncate(file.path, 1)
        with pytest.raises(PermissionError), open(file.path, "r+b", buffering=0) as other:
            other.write(b"x")
        array = np.asarray(Pages(A.nbytes, there.fileno())).view(np.float32)
        array[0] = 7  # in this process's own memory
        again = np.empty_like(A)
        fill_from(there.fileno(), memoryview(again).cast("B"))
        assert bitwise_equal(again, A)
        with pytest.raises(OSError, match="the file has ended"):
            fill_from(there.fileno(), memoryview(bytearray(A.nbytes + 1)))
    assert not Path(file.path).exists()
    assert np.array_equal(array[1:], A[1:])


def test_pages_are_kept_as_long_as_an_array_needs_them():
    pages = Pages(LEAST)
    array = np.asarray(pages)[10:]
    address, _ = pages.address, pages.protect(READ_ONLY)
    mapped = f"{address:x}-"
    del pages
    assert mapped in Path("/proc/self/maps").read_text()
    assert not array.any()
    del array
    assert mapped not in Path("/proc/self/maps").read_text()


# -- kernels that write to their inputs ------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["spoils", "spoils_at_once", "puts_back"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_write_into_an_input_is_seen(session, kernel, repeats):
    result = session.call(kernel, ["a"], ["b"], repeats=repeats)
    assert result.overwritten == ("a",)
    assert not session.resident("a")
    session.put("a", A)
    assert bitwise_equal(session.fetch("a"), A)
    result = session.call("copies", ["a"], ["b"], ["a"])
    assert (result.overwritten, result.equals) == ((), (0,))
    assert session.restarts == 0


def test_it_is_seen_each_time(session):
    """The first call may be harmless, and its pages be opened and closed again."""
    for _ in range(3):
        assert session.call("copies", ["a"], ["b"], ["a"], repeats=1).overwritten == ()
        assert session.call("spoils", ["a"], ["b"], repeats=1).overwritten == ("a",)
        session.put("a", A)


def test_all_keys_of_what_was_written_to_are_gone(session):
    session.call("turns", ["a"], ["halves"])
    result = session.call("spoils a view", ["halves"], ["b"])
    assert sorted(result.overwritten) == ["a", "halves"]
    assert not session.resident("a")


def test_in_a_chain(session):
    honest = [ChainCall("copies", ("a",), ("b",)), ChainCall("copies", ("b",), ("c",))]
    assert not session.chain(honest, ["c"]).overwritten
    assert bitwise_equal(session.fetch("c"), A)
    spoiled = session.chain([ChainCall("spoils", ("a",), ("b",)), honest[1]], ["c"])
    assert spoiled.overwritten == ("a",)
    session.put("a", A)
    view = ChainCall(None, ("a",), ("v",), shape=(2, N // 2), dtype="float32")
    spoiled = session.chain([view, ChainCall("spoils a view", ("v",), ("b",))], ["b"])
    assert spoiled.overwritten == ("a",)


def test_what_a_kernel_spoils_before_it_raises_is_blamed_on_no_other(session):
    with pytest.raises(KernelRaised, match="it is spoiled"):
        session.call("spoils_and_raises", ["a"], ["b"])
    with pytest.raises(TargetLost, match="not there any more"):
        session.call("copies", ["a"], ["b"])
    session.put("a", A)
    assert session.call("copies", ["a"], ["b"], ["a"]).overwritten == ()


def test_a_write_into_anything_else_ends_the_process_and_is_named(session):
    session.put("c", A + 1)
    with pytest.raises(TargetLost, match="it writes into a tensor that is none of its own") as lost:
        session.call("spoils a constant", ["a"], ["b"])
    assert (lost.value.reason, lost.value.running) == ("crash", "spoils a constant")


def test_in_guarded_memory(open_large):
    session = open_large(Target("llvm", timeout=20, guard=True))
    assert session.call("copies", ["a"], ["b"], ["a"]).overwritten == ()
    assert session.call("spoils", ["a"], ["b"]).overwritten == ("a",)
    session.put("a", A)
    assert bitwise_equal(session.fetch("a"), A)


@T.prim_func(s_tir=True)
def relu_in_place(x: T.Buffer((128, 256), "float32"), y: T.Buffer((128, 256), "float32")):
    """ReLU, of its input as well."""
    for i, j in T.grid(128, 256):
        x[i, j] = T.max(x[i, j], T.float32(0))
        y[i, j] = x[i, j]


class Gate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.act = torch.nn.ReLU()

    def forward(self, x):
        return self.act(x) + x


def test_the_verdict(kernel_cache, nothing_left):
    torch.manual_seed(0)
    with tapml.debug(Gate().eval(), (torch.randn(128, 256),)) as session:
        assert session.run().ok
        session.override("act", relu_in_place)
        report = session.run()
        result = report.introduced["act/relu", 0]
        assert result.verdict is Verdict.FAIL
        assert result.message == "it writes into its own input 0, which it may only read"
        assert report.verdict("add") is Verdict.PASS
        assert report.info.restarts == 0
        session.offload("*")
        unobserved = session.hybrid().info.unobserved
        assert not unobserved.same
        assert unobserved.message.endswith("it begins at act/relu: it writes to its own inputs")
