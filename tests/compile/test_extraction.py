"""PrimFuncs as text for drivers: their host half carried out, their device half generated."""

from __future__ import annotations

import pytest
import tvm
from tvm.script import tirx as T

from tapml_nb.compile.extraction import NotStraight, extract, narrowed
from tapml_nb.compile.kernel import BufferSpec, Kernel, Launch
from tapml_nb.compile.sources import SourcePackage

LARGE = (1 << 63) - 1


@T.prim_func(s_tir=True)
def in_two_rounds(x: T.Buffer((40,), "int64"), y: T.Buffer((40,), "int64")):
    """A workspace, a loop on the host, and two launches in each round."""
    between = T.alloc_buffer((40,), "int64")
    for round in range(2):
        for block in T.thread_binding(5, thread="blockIdx.x"):
            for thread in T.thread_binding(8, thread="threadIdx.x"):
                between[block * 8 + thread] = x[block * 8 + thread] + T.Cast("int64", round)
        for thread in T.thread_binding(40, thread="threadIdx.x"):
            y[thread] = T.min(between[thread], T.int64(LARGE))


def kernel(size: int = 40) -> Kernel:
    specs = (BufferSpec((size,), "int64"), BufferSpec((size,), "int64"))
    return Kernel("k", specs, 1, (), (Launch("run", (0, 1)),), (), (1,))


def module(function=in_two_rounds):
    return tvm.IRModule({"run": function.with_attr("global_symbol", "run")})


def target(kind: str):
    return tvm.target.Target(kind, host="llvm")


def test_the_host_half_is_carried_out():
    package = extract(module(), kernel(), target("opencl"))
    host = package.functions["run"]
    assert host.parameters == 2
    assert host.workspaces == (40 * 8,)
    assert [(launch.grid, launch.block) for launch in host.launches] == [
        ((5, 1, 1), (8, 1, 1)),
        ((1, 1, 1), (40, 1, 1)),
    ] * 2
    rounds = [[a for a in launch.arguments if a in (0, 1)] for launch in host.launches]
    assert rounds == [[0], [], [1], []]
    used = {a[1] for launch in host.launches for a in launch.arguments if isinstance(a, tuple)}
    assert used == {0, 1, 2}
    assert len(package.device) == 2
    assert all("__kernel void" in function.source for function in package.device.values())


def test_webgpu_has_no_wide_integers():
    package = extract(module(), kernel(), target("webgpu"))
    sources = [function.source for function in package.device.values()]
    assert all("i64" not in source and "array<i32>" in source for source in sources)
    reads = {
        argument.writes
        for function in package.device.values()
        for argument in function.arguments
        if argument.buffer
    }
    assert reads == {True, False}


def test_narrowing_leaves_the_module_alone():
    before = module()
    after = narrowed(before)
    assert "int64" in before.script()
    assert "int64" not in after.script()
    assert str(LARGE) not in after.script()
    assert "2147483647" in after.script()


def test_packages_travel_as_text():
    package = extract(module(), kernel(), target("opencl"))
    read = SourcePackage.parse(package.dump())
    assert read.device == package.device
    assert read.functions["run"].launches[0].grid == (5, 1, 1)
    merged = SourcePackage.merged([SourcePackage(), read])
    assert merged == read


def test_what_is_no_row_of_launches_is_refused():
    @T.prim_func(s_tir=True)
    def on_the_host(x: T.Buffer((40,), "int64"), y: T.Buffer((40,), "int64")):
        for i in range(40):
            y[i] = x[i]

    with pytest.raises(NotStraight, match="the host would write into the device's memory"):
        extract(module(on_the_host), kernel(), target("opencl"))
