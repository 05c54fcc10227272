"""Complex numbers: pairs of real ones to every target, judged by their magnitude."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.frontends.program import Unsupported
from tapml_nb.frontends.torch import import_torch
from tapml_nb.frontends.torch.tensors import from_array, to_numpy
from tests.frontends.together import Case, ops_of, session_of

_RANDOM = torch.Generator().manual_seed(0)


def real(*shape):
    return torch.randn(*shape, generator=_RANDOM)


def complex_(*shape):
    return torch.complex(real(*shape), real(*shape))


CASES = {
    "a sum": (lambda a, b: a + b, complex_(3, 4), complex_(4)),
    "a sum with real numbers": (lambda a, b: a + b, complex_(3, 4), real(2, 3, 1)),
    "a scaled sum": (lambda a, b: torch.add(a, b, alpha=2), complex_(3, 4), complex_(4)),
    "a real sum with a number": (lambda x: x + 1j, real(3, 4)),
    "a difference": (lambda a, b: a - b, complex_(3, 4), real(4)),
    "from a number": (lambda z: 1 - z, complex_(3, 4)),
    "a product": (lambda a, b: a * b, complex_(3, 4), complex_(4)),
    "a product with real numbers": (lambda a, b: a * b, complex_(3, 4), real(4)),
    "a product with a number": (lambda z: z * (1 + 2j), complex_(3, 4)),
    "a quotient": (lambda a, b: a / b, complex_(3, 4), complex_(4)),
    "a quotient by real numbers": (lambda a, b: a / b, complex_(3, 4), real(4)),
    "a quotient of real numbers": (lambda a, b: b / a, complex_(3, 4), real(4)),
    "a quotient of large numbers": (lambda a, b: a / b, complex_(3) * 1e30, complex_(3) * 1e30),
    "a reciprocal": (lambda z: 1 / z, complex_(3, 4)),
    "a power": (lambda z: z**3, complex_(3, 4)),
    "an exponential": (lambda z: z.exp(), complex_(3, 4)),
    "a logarithm": (lambda z: z.log(), complex_(3, 4)),
    "signs": (lambda z: (-z, z.sgn()), complex_(3, 4)),
    "a conjugate": (lambda z: (z * z.conj()).real, complex_(3, 4)),
    "magnitude and angle": (lambda z: (z.abs(), z.angle()), complex_(3, 4)),
    "a large magnitude": (lambda z: z.abs(), complex_(3, 4) * 1e30),
    "parts": (lambda z: (z.real * 2, z.imag * 2), complex_(3, 4)),
    "made of parts": (lambda a, b: (torch.complex(a, b), torch.polar(a, b)), real(4), real(4)),
    "a comparison": (lambda a, b: (a == b, a != b), complex_(3), complex_(3)),
    "a choice": (lambda m, a, b: torch.where(m > 0, a, b), real(3, 4), complex_(3, 4), complex_(4)),
    "a total": (lambda z: (z.sum(), z.sum(-1), z.mean(0, keepdim=True)), complex_(3, 4)),
    "a running sum": (lambda z: z.cumsum(1), complex_(3, 4)),
    "a matrix product": (lambda a, b: a @ b, complex_(3, 4), complex_(4, 2)),
    "a batch of them": (lambda a, b: a @ b, complex_(2, 3, 4), complex_(2, 4, 2)),
    "a linear layer": (
        lambda x, w, b: F.linear(x, w, b),
        complex_(3, 4),
        complex_(2, 4),
        complex_(2),
    ),
    "joined": (lambda a, b: torch.cat([a, b], -1) * 1, complex_(3, 4), complex_(3, 2)),
    "stacked": (lambda a, b: torch.stack([a, b], -1), complex_(3, 4), complex_(3, 4)),
    "turned": (lambda z: z.transpose(0, 1).contiguous() * 1, complex_(3, 4)),
    "an adjoint": (lambda z: z.mH.resolve_conj() * 1, complex_(3, 4)),
    "cut": (lambda z: (z[:, 1:3] * 1, z[:, -1] * 1, z[:, ::2] * 1), complex_(3, 4)),
    "split": (lambda z: sum(z.split(2, 1)), complex_(3, 4)),
    "indexed": (lambda z, i: z[i] * 1, complex_(3, 4), torch.tensor([0, 2])),
    "columns": (lambda z, i: z.index_select(1, i), complex_(3, 4), torch.tensor([0, 2])),
    "gathered": (lambda z, i: z.gather(1, i), complex_(3, 4), torch.tensor([[0], [2], [1]])),
    "expanded": (lambda z: z.expand(3, 4, 2) * 1, complex_(4, 2)),
    "squeezed": (lambda z: z.squeeze(1).unsqueeze(-1) * 1, complex_(3, 1, 4)),
    "repeated": (lambda z: z.repeat(2, 3), complex_(3, 4)),
    "flipped": (lambda z: z.flip(1), complex_(3, 4)),
    "rolled": (lambda z: z.roll(1, 1), complex_(3, 4)),
    "padded": (lambda z: F.pad(z, (1, 2, 0, 1)), complex_(3, 4)),
    "masked": (lambda m, z: z.masked_fill(m > 0, 0), real(3, 4), complex_(3, 4)),
    "from real numbers": (lambda x: x.to(torch.complex64) * 1, real(3, 4)),
    "in double precision": (lambda z: z * z, complex_(3, 4).to(torch.complex128)),
    "a spectrum": (lambda x: torch.fft.fft(x), real(3, 8)),
    "half a spectrum": (lambda x: torch.fft.rfft(x), real(3, 8)),
    "from a spectrum": (lambda z: (torch.fft.ifft(z), torch.fft.irfft(z)), complex_(3, 5)),
    "a shifted spectrum": (lambda z: torch.fft.fftshift(torch.fft.fft(z)), complex_(3, 5)),
    "a short-time spectrum": (
        lambda x, w: torch.stft(x, 16, return_complex=True, window=w),
        real(2, 64),
        torch.hann_window(16),
    ),
    "a long convolution": (
        lambda x, k: torch.fft.irfft(torch.fft.rfft(x, n=16) * torch.fft.rfft(k, n=16), n=16),
        real(2, 3, 8),
        real(3, 8),
    ),
    "rotary positions": (
        lambda x, f: torch.view_as_real(
            torch.view_as_complex(x.reshape(2, 5, 3, 4, 2)) * f[:, :, None]
        ).flatten(3),
        real(2, 5, 3, 8),
        torch.polar(torch.ones(2, 5, 4), real(2, 5, 4)),
    ),
}


@pytest.fixture(scope="module")
def session():
    with session_of(CASES) as session:
        session.run()
        yield session


@pytest.mark.parametrize("case", CASES)
def test_it_is_judged_and_right(session, case):
    found = {op: session.report.introduced[op, 0] for op in ops_of(session.report, case)}
    verdicts = {result.verdict for result in found.values()}
    assert Verdict.PASS in verdicts, found
    assert verdicts <= {Verdict.PASS, Verdict.SKIPPED}, found


def test_the_model_runs_on_the_target(session):
    session.offload("*")
    report = session.hybrid()
    assert report.info.outputs is Verdict.PASS
    assert report.info.unobserved.same


def test_people_see_complex_numbers(session):
    op = next(op for op in session.graph.ops if op.scope == "a-product" and "mul" in op.id).id
    source, target = (session.tensor(op, which) for which in ("source", "target"))
    exact, difference = (session.tensor(op, which) for which in ("float64", "difference"))
    assert source.dtype == target.dtype == np.complex64
    assert exact.dtype == difference.dtype == np.complex128
    np.testing.assert_allclose(source, exact, rtol=1e-5)
    np.testing.assert_array_equal(difference, target.astype(np.complex128) - source)
    assert [array.dtype for array in session.inputs(op)] == [np.complex64] * 2


class Product(nn.Module):
    def forward(self, a, b):
        return a * b


def of_three_products(a, b):
    """Gauss's product, which rounds each part by the magnitude of the whole."""
    (ar, ai), (br, bi) = (np.moveaxis(x, -1, 0) for x in (a, b))
    whole = br * (ar + ai)
    return np.stack([whole - ai * (br + bi), whole + ar * (bi - br)], axis=-1)


def faulty(change):
    def kernel(a, b):
        result = of_three_products(a.astype(np.float64), b.astype(np.float64))
        change(result)
        return result.astype(np.float32)

    return kernel


def scale(result):
    result *= 1.0001


def conjugate(result):
    result[5, 3, 1] *= -1


def swap(result):
    result[...] = result[..., ::-1].copy()


@pytest.mark.parametrize("change", [scale, conjugate, swap])
def test_a_fault_is_seen_and_honest_rounding_is_not(change):
    a = complex_(64, 32)
    b = torch.polar(1 + real(64, 32).abs(), -a.angle() + 1e-2 * real(64, 32))  # nearly real
    with tapml.debug(Product().eval(), (a, b)) as session:
        assert session.run().verdict("mul") is Verdict.PASS
        session.override("mul", of_three_products)
        assert session.run("mul").verdict("mul") is Verdict.PASS
        session.override("mul", faulty(change))
        report = session.run("mul")
        assert report.verdict("mul") is Verdict.FAIL, report.introduced["mul", 0]


@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128])
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_a_tensor_and_its_parts(dtype):
    tensor = complex_(3, 4).to(dtype).conj().transpose(0, 1)
    parts = to_numpy(tensor)
    assert parts.shape == (4, 3, 2)
    assert parts.dtype == np.dtype(str(dtype.to_real()).removeprefix("torch."))
    again = from_array(parts, tensor.resolve_conj())
    assert again.dtype is dtype
    assert torch.equal(torch.view_as_real(again), torch.view_as_real(tensor.resolve_conj()))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_complex_numbers_in_half_precision():
    with tapml.debug(Case(torch.view_as_complex).eval(), (real(4, 2).half(),)) as session:
        report = session.run()
        (op,) = session.graph.ops
        assert report.verdict(op.id) in (Verdict.PASS, Verdict.SKIPPED)
        assert session.tensor(op.id).dtype == np.complex64
        assert session.tensor(op.id, "float64").dtype == np.complex128


def test_a_bundle_keeps_them(tmp_path):
    model = Case(lambda a, b: (a @ b).abs()).eval()
    with tapml.debug(model, (complex_(3, 4), complex_(4, 2))) as session:
        session.run()
        replayed = session.carve(tmp_path / "complex.tapml").replay()
    assert {replayed.verdict(op) for op in (op.id for op in replayed.graph.ops)} == {Verdict.PASS}


def test_what_has_no_rule_says_so():
    program = import_torch(Case(lambda z: z.asinh()).eval(), (complex_(3),))
    values = program.bind(0, {})
    (op,) = program.graph.ops
    values.update(zip(op.outputs, program.run(op.id, values), strict=True))
    with pytest.raises(Unsupported, match=r"no rule for aten\.asinh"):
        program.unit(op.id, values)
