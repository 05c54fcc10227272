"""Kept tensors: within a budget in memory, beyond it in a file, and the same bits either way."""

import gc
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

from tapml_nb.budget import parse_budget
from tapml_nb.execute.events import EventStream
from tapml_nb.execute.source import SourceRun
from tapml_nb.execute.storage import Storage
from tapml_nb.frontends.torch import import_torch

KB = 1000


@pytest.fixture
def storage():
    made = Storage(10 * KB)
    yield made
    made.close()


def numbers(seed, size=4 * KB):
    return np.random.default_rng(seed).integers(0, 255, size, np.uint8)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        (1000, 1000),
        ("2 GB", 2 * 10**9),
        ("1.5kb", 1500),
        ("512 MiB", 512 * 2**20),
        ("7", 7),
    ],
)
def test_budgets(text, size):
    assert parse_budget(text) == size


@pytest.mark.parametrize("bad", [0, -1, "2 giga", "", "MB", "0 GB", 1.5, True, "0.1", [1]])
def test_what_is_no_budget_is_refused(bad):
    with pytest.raises(ValueError, match=r"max_memory: .*; give a positive number of bytes"):
        parse_budget(bad)


def test_what_was_not_used_for_longest_goes_first(storage):
    first, second = storage.keep(numbers(1)), storage.keep(numbers(2))
    first.array()
    third = storage.keep(numbers(3))
    assert [kept.held is None for kept in (first, second, third)] == [False, True, False]
    assert storage.resident == 8 * KB
    assert storage.spilled == 4 * KB
    for seed, kept in ((1, first), (2, second), (3, third)):
        np.testing.assert_array_equal(kept.array(), numbers(seed))


def test_without_a_budget_the_array_itself_is_kept():
    array = numbers(1)
    assert Storage().keep(array).array() is array


def test_every_dtype_and_shape_comes_back(storage):
    arrays: list[np.ndarray] = [
        np.array(3.5, np.float32),
        np.zeros((0, 3), np.float32),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        np.array([1.5, np.nan], ml_dtypes.bfloat16),
    ]
    kept = [storage.keep(array) for array in arrays]
    pushed_out = storage.keep(numbers(1, 10 * KB))
    assert pushed_out.held is not None
    for array, one in zip(arrays, kept, strict=True):
        found = one.array()
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        assert found.tobytes() == array.tobytes()


TORCH = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int64]


@pytest.mark.parametrize("dtype", TORCH, ids=str)
def test_what_is_kept_where_a_framework_has_it_comes_back_there(storage, dtype):
    """As on a GPU, but for the device."""
    tensor = (torch.arange(24.0).reshape(2, 3, 4) % 3).to(dtype)
    kept = storage.keep(tensor)
    assert kept.array() is tensor
    assert storage.resident == tensor.nbytes
    pushed_out = storage.keep(numbers(1, 10 * KB))
    assert (kept.held, storage.spilled) == (None, tensor.nbytes)
    assert storage.resident == pushed_out.nbytes
    found = kept.array()
    assert (found.dtype, found.device, found.shape) == (dtype, tensor.device, tensor.shape)
    assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))
    found.zero_()
    assert torch.equal(kept.array().view(torch.uint8), tensor.view(torch.uint8))


def test_a_tensor_is_made_anew_over_memory_that_stayed_where_it_was(program):
    tensor = torch.arange(64.0).reshape(8, 8).t()[2:]
    memory = program.memory(tensor)
    whole = torch.from_numpy(memory.data()).clone()
    found = memory.over(whole)
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()
    assert found.untyped_storage().data_ptr() == whole.data_ptr()
    assert program.memory(found).data().nbytes == 64 * 4


def test_writing_to_what_was_read_changes_nothing(storage):
    kept = storage.keep(numbers(1, 11 * KB))
    assert kept.held is None
    kept.array()[:] = 0
    np.testing.assert_array_equal(kept.array(), numbers(1, 11 * KB))


def test_room_in_the_file_is_used_again_but_not_while_somebody_looks(storage):
    looked_at = storage.keep(numbers(1, 11 * KB)).array()
    other = storage.keep(numbers(2, 11 * KB))
    np.testing.assert_array_equal(looked_at, numbers(1, 11 * KB))
    size = storage.size
    del looked_at
    gc.collect()
    again = storage.keep(numbers(3, 11 * KB))
    assert storage.size == size, "in the place of the first"
    np.testing.assert_array_equal(other.array(), numbers(2, 11 * KB))
    np.testing.assert_array_equal(again.array(), numbers(3, 11 * KB))
    assert storage.spilled == 22 * KB


def test_a_folder_that_cannot_be_written_costs_memory_not_the_run(storage, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(UserWarning, match=r"max_memory: .*No space left on device"):
        kept = storage.keep(numbers(1, 11 * KB))
    np.testing.assert_array_equal(kept.array(), numbers(1, 11 * KB))
    assert storage.keep(numbers(2, 11 * KB)).held is not None


CRASHING = """
import os, signal, sys
import numpy as np
from tapml_nb.execute.storage import Storage
storage = Storage(1)
kept = storage.keep(np.zeros(1 << 20))
assert storage.size >= 1 << 23 and kept.held is None
print(len(os.listdir(os.environ["TMPDIR"])), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_a_process_that_was_killed(tmp_path):
    command = [sys.executable, "-c", CRASHING]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout == "0\n", f"not even a name is there, ever: {done.stderr}"
    assert list(tmp_path.iterdir()) == []


class Views(torch.nn.Module):
    """Operators that go by strides and offsets, views that share memory, and a buffer that every
    step changes."""

    seen: torch.Tensor

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(64, 64))
        self.register_buffer("seen", torch.zeros(64, 64))

    def forward(self, x):
        y = x @ self.weight
        self.seen.add_(y)
        parts = y.chunk(4, dim=-1)
        turned = parts[1].transpose(0, 1)
        wide = parts[2][:1].expand(64, 16)
        return turned @ parts[3], torch.as_strided(y, (8, 8), (3, 2), 5).sum(0), wide + parts[0]


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return import_torch(Views().eval(), [(torch.randn(64, 64),), (torch.randn(64, 64),)])


def source_run(program, budget):
    run = SourceRun(program, EventStream(), Storage(budget))
    run.complete()
    return run


@pytest.mark.parametrize("budget", [1, 20 * KB, 10**9])
def test_tensors_come_back_alike_to_the_stride(program, budget):
    plain, limited = source_run(program, None), source_run(program, budget)
    assert len(program.mutations) == 1
    for step in (0, 1):
        assert list(limited.values(step)) == list(plain.values(step))
        for value, tensor in plain.values(step).items():
            found = limited.values(step)[value]
            assert torch.equal(found, tensor), value
            assert found.stride() == tensor.stride(), value
            assert found.dtype == tensor.dtype
    limited.storage.close()


def test_memory_counts_once_and_what_is_the_users_own_does_not(program):
    run = source_run(program, 10**9)
    values, memory = run.values(0), run.program.memory
    product = next(op.outputs[0] for op in program.graph.ops if op.kind == "aten.matmul")
    address = memory(values[product]).address
    assert sum(memory(values[v]).address == address for v in values) > 4, "chunks and their views"
    # In each step the product, the buffer, another product, and two sums, each once.
    assert run.storage.resident == 2 * 4 * (64 * 64 + 64 * 64 + 16 * 16 + 8 + 64 * 16)


def test_at_most_the_budget_and_what_one_operator_makes_is_resident(program):
    run = source_run(program, 20 * KB)
    assert run.storage.peak <= 20 * KB + 64 * 64 * 4
    assert run.storage.spilled > 0
    run.storage.close()
