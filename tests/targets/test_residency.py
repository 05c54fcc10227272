"""What a target may take: what goes first, what calls and chains take, and the bound kept."""

from __future__ import annotations

import weakref
from functools import partial

import numpy as np
import pytest
import tvm_ffi
from hypothesis import given
from hypothesis import strategies as st

from tapml_nb.array_api import np_dtype
from tapml_nb.compile.kernel import BufferSpec
from tapml_nb.targets.client.chains import ChainPart
from tapml_nb.targets.client.residency import Footprint, Footprints, Residency
from tapml_nb.targets.devices.tvm_runtime import TvmDevice
from tapml_nb.targets.server.memory import TensorMemory
from tapml_nb.targets.server.runner import KernelRunner
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.calls import CallRequest, ChainCall, ChainRequest
from tapml_nb.targets.wire.errors import BeyondMemory, BeyondTarget
from tapml_nb.targets.wire.recorder import Recorder
from tests.targets import kernels
from tests.targets.conftest import CONSTANT, X


def f32(elements):
    return BufferSpec((elements,), "float32")


def holding(*sizes):
    """Tensors ``t0``, ``t1``, … of so many bytes, used in this order."""
    resident = Residency()
    for k, size in enumerate(sizes):
        resident.note(f"t{k}", BufferSpec((size,), "uint8"))
    return resident


# -- what goes first -------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_goes_first_and_no_more_than_it_takes():
    resident = holding(40, 40, 20)
    assert resident.excess(100, 0, ()) == []
    assert resident.excess(100, 1, ()) == ["t0"]
    assert resident.excess(100, 41, ()) == ["t0", "t1"]
    resident.use(["t0", "never there"])
    assert resident.excess(100, 1, ()) == ["t1"]
    assert resident.excess(100, 1, ["t1"]) == ["t2"]


def test_what_is_spared_goes_before_all_others_and_what_is_pinned_stays():
    resident = holding(40, 40, 20)
    resident.spare(["t2"])
    assert resident.excess(100, 1, ()) == ["t2"]
    resident.note("t2", BufferSpec((20,), "uint8"), pinned=True)
    assert resident.excess(100, 80, ()) == ["t0", "t1"]
    with pytest.raises(BeyondMemory, match="it needs 101 bytes there, and max_memory allows 100"):
        resident.excess(100, 81, ())
    resident.discard(["t2"])
    assert resident.excess(100, 81, ()) == ["t0", "t1"]


def test_a_margin_is_left_as_far_as_there_is_anything_that_may_go():
    resident = holding(40, 40, 20)
    assert resident.excess(100, 0, (), 1) == ["t0"]
    assert resident.excess(100, 0, (), 100) == ["t0", "t1", "t2"]
    assert resident.excess(100, 0, ["t0", "t1", "t2"], 50) == []
    with pytest.raises(BeyondMemory, match="it needs 101 bytes there, and max_memory allows 100"):
        resident.excess(100, 1, ["t0", "t1", "t2"], 50)


def test_the_same_key_counts_once():
    resident = holding(40, 40)
    resident.note("t0", BufferSpec((7,), "uint8"))
    assert resident.nbytes == 47
    assert list(resident) == ["t1", "t0"]


steps = st.lists(
    st.tuples(st.sampled_from(["note", "pin", "use", "spare", "discard"]), st.integers(0, 9)),
    max_size=40,
)


@given(steps, st.integers(1, 300), st.integers(0, 300), st.sets(st.integers(0, 9)))
def test_what_is_left_fits_and_holds_all_that_is_needed(steps, bound, more, needed):
    resident = Residency()
    pinned: set[str] = set()
    for what, number in steps:
        key = f"t{number}"
        if what in ("note", "pin"):
            resident.note(key, BufferSpec((10 * number,), "uint8"), pinned=what == "pin")
            (pinned.add if what == "pin" else pinned.discard)(key)
        else:
            getattr(resident, what)([key])
            pinned -= {key} if what == "discard" else set()
    assert resident.nbytes == sum(spec.nbytes for spec in resident.values())
    staying = {key for key in resident if key in pinned or key in {f"t{n}" for n in needed}}
    least = sum(resident[key].nbytes for key in staying) + more
    if least > bound:
        with pytest.raises(BeyondMemory) as caught:
            resident.excess(bound, more, [f"t{n}" for n in needed])
        assert (caught.value.needed, caught.value.allowed) == (least, bound)
    else:
        going = resident.excess(bound, more, [f"t{n}" for n in needed])
        assert staying.isdisjoint(going)
        resident.discard(going)
        assert resident.nbytes + more <= bound


# -- what a call takes -----------------------------------------------------------------------------


class CountingDevice(TvmDevice):
    """The CPU, with its memory from NumPy and counted for as long as it lives."""

    def __init__(self):
        super().__init__(tvm_ffi.device("cpu", 0))
        self.now = self.peak = 0

    def new(self, shape, dtype):
        size = int(np.prod(shape, dtype=np.int64)) * np_dtype(dtype).itemsize
        if not size:
            return super().new(shape, dtype)
        room = np.empty(size + 64, np.uint8)
        begin = -room.ctypes.data % 64
        self._count(room, size)
        return self.view(tvm_ffi.from_dlpack(room[begin : begin + size]), shape, dtype)

    def snapshot(self, tensor):
        copy = super().snapshot(tensor)
        self._count(copy, copy.nbytes)
        return copy

    def _count(self, array, size):
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(array, self._forget, size)

    def _forget(self, size):
        self.now -= size


@pytest.fixture
def runner(library):
    """A runner on a counting device that holds what the kernels need."""
    device = CountingDevice()
    memory = TensorMemory(device)
    runner = KernelRunner(memory, Recorder())
    runner.load(str(library), list(kernels.PLANS.values()), lambda work: work())
    tensors = {"x": X, "constant": CONSTANT, "matrix": X.reshape(2, 4)}
    tensors["b"] = X.astype(np_dtype("bfloat16"))
    for key, array in tensors.items():
        data = array.reshape(-1).view(np.uint8)
        memory.put(key, array.shape, array.dtype.name, partial(np.copyto, src=data))
    return runner, device


@pytest.mark.parametrize(
    ("kernel", "given", "outputs"),
    [
        ("add_one", "x", 1),
        ("erratic", "x", 1),
        ("views", "matrix", 2),
        ("double_and_sign", "b", 2),
        ("nothing", "x", 2),
    ],
)
@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_a_call_takes_what_its_footprint_says_at_most(runner, kernel, given, outputs, repeats):
    runner, device = runner
    footprint = Footprint.of(kernels.PLANS[kernel])
    keys = tuple(f"y{k}" for k in range(outputs))
    before = device.peak = device.now
    request = CallRequest(kernel, (given,), keys, ((),) * outputs, 10.0, repeats)
    result = runner.call(request, lambda work: work())
    taken, foreseen = device.peak - before, footprint.of_call(repeats, False)
    assert taken <= foreseen
    if all(result.deterministic):  # then it need not be run once more
        assert taken == foreseen - footprint.results
    else:
        assert taken == foreseen
    last = 2 - all(result.deterministic)
    assert device.now - before == last * footprint.results, "its outputs, and nothing else"


def test_a_chain_takes_what_is_counted_at_most(runner):
    runner, device = runner
    footprints, resident = Footprints(), Residency()
    footprints.know(kernels.PLANS.values())
    for key, spec in {"x": f32(8), "constant": f32(8)}.items():
        resident.note(key, spec)
    calls = (
        ChainCall("add_one", ("x",), ("a",)),
        ChainCall(None, ("a",), ("m",), shape=(2, 4), dtype="float32"),
        ChainCall("views", ("m",), ("turned", "sum")),
        ChainCall("add_one", ("sum",), ("end",)),
    )
    part = ChainPart(footprints, resident.__getitem__).then(*calls)
    assert set(part.outside) == {"x", "constant"}
    assert part.made["turned"] == BufferSpec((4, 2), "float32")
    before = device.peak = device.now
    request = ChainRequest(calls, ("end", "turned"), 10.0, False, ((), ()))
    runner.chain(request, lambda work: work())
    assert 0 < device.peak - before <= part.bytes_beside(resident)
    missing = part.bytes_beside(Residency()) - part.bytes_beside(resident)
    assert missing == f32(16).nbytes, "what would have to be sent"


links = st.lists(
    st.tuples(st.sampled_from(["x", "constant", "w0", "w1", "w2"]), st.booleans()), min_size=1
)


@given(links, st.integers(0, 600), st.sets(st.sampled_from(["x", "w0", "w1"])))
def test_a_part_of_a_chain_has_as_many_calls_as_have_room(links, bound, pinned):
    """One at least, and of the others as many as fit, each part counted by itself from nothing."""
    footprints, resident = Footprints(), Residency()
    footprints.know(kernels.PLANS.values())
    for key in ("x", "constant", "w0"):
        resident.note(key, f32(8), pinned=key in pinned)
    for key in pinned - {"x", "w0"}:
        resident.note(key, f32(8), pinned=True)
    for key in ("elsewhere", "idle"):
        resident.note(key, f32(100))
    calls, last = [], "x"
    for number, (outside, goes_on) in enumerate(links):
        calls.append(ChainCall("add_one", (last if goes_on else outside,), (f"made{number}",)))
        last = f"made{number}"
    empty = ChainPart(footprints, lambda key: resident.get(key, f32(8)))

    def takes(count):
        part = empty.then(*calls[:count])
        there = {key for key in part.outside if key in resident} | resident._pinned
        return part.bytes_beside(resident) + sum(resident[key].nbytes for key in there)

    fitting = [count for count in range(1, len(calls) + 1) if takes(count) <= bound]
    part = empty.as_far_as_fits(calls, resident, bound)
    assert len(part.calls) == max(fitting, default=1)
    assert part.bytes_beside(resident) == empty.then(*part.calls).bytes_beside(resident)


def test_who_makes_room_looks_no_further_than_it_takes():
    class Watched(Residency):
        def __iter__(self):
            for key in super().__iter__():
                seen.append(key)
                yield key

    seen: list[str] = []
    resident = Watched()
    for number in range(100):
        resident.note(f"t{number}", f32(1))
    assert resident.excess(resident.nbytes, 4, ["t0"]) == ["t1"]
    assert seen == ["t0", "t1", "t2"]


def test_a_kernel_with_open_sizes_takes_what_its_inputs_say():
    spec = BufferSpec(("n", 4), "float32")
    plan = kernels.unary("open", spec)
    footprints = Footprints()
    footprints.know([plan])
    found = footprints.at("open", [BufferSpec((3, 4), "float32")], ())
    assert (found.outputs, found.inputs, found.own) == ((BufferSpec((3, 4), "float32"),), 48, 48)
    assert footprints.at("open", [BufferSpec((3, 5), "float32")], ()) == Footprint()
    assert footprints.at("open", [], ()) == Footprint()
    assert footprints.at("unknown", [], ()) == Footprint()


# -- a session with a bound ------------------------------------------------------------------------

BOUND = 12 * X.nbytes


@pytest.fixture
def bounded(open_session):
    return open_session(Target("llvm", timeout=10, max_memory=BOUND))


def test_the_target_never_holds_more(bounded):
    for k in range(40):
        bounded.put(f"t{k}", X + k)
        assert bounded.held() <= BOUND
    assert bounded.resident("t39")
    assert not bounded.resident("t0")
    assert bounded.peak_bytes <= BOUND
    assert np.array_equal(bounded.fetch("t39"), X + 39)


def test_what_is_spared_is_the_first_to_go(bounded):
    bounded.drop(["x", "constant"])
    for k in range(12):
        bounded.put(f"t{k}", X)
    bounded.spare(["t11", "never there"])
    bounded.put("more", X)
    assert not bounded.resident("t11")
    assert all(bounded.resident(f"t{k}") for k in range(11))


def test_a_call_makes_room_for_itself_and_keeps_what_it_reads(bounded):
    bounded.put("right", X + 1)
    for k in range(20):
        bounded.put(f"t{k}", X)
    bounded.put("x", X)
    bounded.put("right", X + 1)
    result = bounded.call("add_one", ["x"], ["y"], [["right"]])
    assert result.equals == (0,)
    assert bounded.resident("x")
    assert bounded.resident("right")
    assert not bounded.resident("t10")
    assert not bounded.resident("y")  # it is there, under another key
    bounded.call("add_one", ["x"], ["y"])
    beside = bounded.held() - X.nbytes  # y itself
    assert beside + 4 * X.nbytes <= BOUND, "a copy of x, two results, and one more if they differ"
    bounded.call("erratic", ["x"], ["y"])
    assert np.array_equal(bounded.fetch("y#1"), X)
    assert not np.array_equal(bounded.fetch("y"), X)
    assert bounded.peak_bytes <= BOUND


def test_what_does_not_fit_even_alone_is_refused_with_both_sizes(bounded):
    before = bounded.bytes_sent
    with pytest.raises(BeyondTarget, match=f"needs 400 bytes there, and max_memory allows {BOUND}"):
        bounded.put("large", np.zeros(100, np.float32))
    assert bounded.bytes_sent == before
    bounded.put("x", X)
    repeats = BOUND // X.nbytes
    with pytest.raises(BeyondMemory) as caught:
        bounded.call("add_one", ["x"], ["y"], repeats=repeats)
    assert caught.value.needed == (repeats + 3) * X.nbytes
    assert bounded.call("add_one", ["x"], ["y"]).deterministic == (True,)


def test_room_is_made_for_all_of_a_call_before_anything_is_sent(bounded):
    for k in range(20):
        bounded.put(f"t{k}", X)
    before = bounded.bytes_sent
    tensors = {"x": lambda: X, "right": lambda: X + 1}
    bounded.reserve("add_one", ["x"], tensors, repeats=2)
    assert bounded.bytes_sent == before
    left = [key for key in bounded.connection.resident if key.startswith("t")]
    for key, array in tensors.items():
        bounded.put(key, array())
    bounded.call("add_one", ["x"], ["y"], [["right"]])
    assert [key for key in bounded.connection.resident if key.startswith("t")] == left
    with pytest.raises(BeyondMemory):
        bounded.reserve("add_one", ["x"], tensors, repeats=20)


def test_a_chain_in_parts_is_the_chain(bounded):
    """None of them takes more than there may be, and what a later one reads stays until then."""
    calls = [ChainCall("add_one", ("x",), ("a0",))]
    calls += [ChainCall("add_one", (f"a{k}",), (f"a{k + 1}",)) for k in range(30)]
    calls += [ChainCall("add_one", ("a0",), ("late",))]
    outgoing = {"x": lambda: X}
    bounded.drop(["x"])
    parts = []
    for part, staying in bounded.parts(calls, ["a30", "late"], outgoing):
        for key in part.outside:
            if key in outgoing and not bounded.resident(key):
                bounded.put(key, outgoing[key]())
        bounded.chain(part.calls, staying)
        assert bounded.held() <= BOUND
        parts.append(part)
    assert len(parts) > 2
    assert [call for part in parts for call in part.calls] == calls
    assert np.array_equal(bounded.fetch("a30"), X + 31)
    assert np.array_equal(bounded.fetch("late"), X + 2)
    assert not bounded.resident("a0")
    assert bounded.peak_bytes <= BOUND


def test_without_a_bound_a_chain_is_one_part(session):
    calls = [ChainCall("add_one", ("x",), ("a",)), ChainCall("add_one", ("a",), ("b",))]
    ((part, staying),) = session.parts(calls, ["b"], {})
    assert (list(part.calls), list(staying)) == (calls, ["b"])
    session.chain(part.calls, staying)
    assert np.array_equal(session.fetch("b"), X + 2)
    assert session.peak_bytes >= session.held()
