"""Linear algebra: factorizations, what is solved by them, and what follows from those.

Every matrix is factorized by a kernel of :mod:`~tapml_nb.frontends.torch.rules.matrix_kernels`;
what stands around that is made of Relax operators.  Where an answer is not unique, as of singular
vectors, ours need not be the source's: :mod:`tapml_nb.judge.factorizations` knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tvm import relax, te, tirx

from tapml_nb.frontends.torch.rules import matrix_kernels as kernels
from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    dtype_name,
    dtype_of,
    literal,
    shape_of,
)

_LARGEST = 1024
"""Sizes up to which a matrix is factorized in order: a larger one takes minutes."""

_LARGEST_ITERATED = 512
"""Those up to which one is multiplied or turned many times."""

_DTYPES = ("float32", "float64")


class _Batch:
    """A call on batches of matrices, as kernels see them: with one axis before the matrix."""

    def __init__(self, call: Call, batch: Sequence[int]) -> None:
        self.call = call
        self.shape = list(batch)
        self.size = math.prod(batch)

    def given(self, tensor: Expr, rank: int = 2, most: int = _LARGEST) -> Expr:
        """A tensor whose last axes are a matrix's or, of rank 1, a vector's."""
        shape = shape_of(tensor)
        inner = shape[len(shape) - rank :]
        if max([0, *inner]) > most:
            raise ValueError(f"a matrix of {inner}, of more than {most} rows or columns")
        if shape[: len(shape) - rank] != self.shape:
            tensor = self.call.emit(relax.op.broadcast_to(tensor, [*self.shape, *inner]))
        return self.call.emit(relax.op.reshape(tensor, [self.size, *inner]))

    def back(self, tensor: Expr) -> Expr:
        """A result with the batch's own axes."""
        return self.call.emit(relax.op.reshape(tensor, [*self.shape, *shape_of(tensor)[1:]]))

    def run(self, kernel: Any, name: str, *given: Expr) -> Any:
        """What a kernel makes of tensors: a tensor, or a list of them."""
        results = kernel.params[len(given) :]
        types = [relax.TensorType([*map(int, r.shape)], str(r.dtype)) for r in results]
        function = self.call.importer.block_builder.add_func(kernel, name)
        result = self.call.emit(relax.call_tir(function, list(given), types))
        if len(types) == 1:
            return result
        return [self.call.emit(relax.TupleGetItem(result, k)) for k in range(len(types))]


def _common(*batches: Sequence[int]) -> list[int]:
    return list(np.broadcast_shapes(*(tuple(batch) for batch in batches)))


def _transposed(call: Call, x: Expr) -> Expr:
    axes = list(range(len(shape_of(x))))
    return call.emit(relax.op.permute_dims(x, [*axes[:-2], axes[-1], axes[-2]]))


def _triangle(call: Call, x: Expr, *, upper: bool, unit: bool = False) -> Expr:
    """A triangle of a batch of matrices, beside it zeros; ``unit`` takes the diagonal for ones."""

    def cut(data: te.Tensor) -> te.Tensor:
        zero, one = (tirx.const(number, data.dtype) for number in (0, 1))

        def element(b: Any, i: Any, j: Any) -> Any:
            kept = tirx.Select(j > i if upper else j < i, data(b, i, j), zero)
            return tirx.Select(i == j, one if unit else data(b, i, j), kept)

        return te.compute(data.shape, element)

    return call.compute(cut, x, name="triangle")


def _mirrored(call: Call, x: Expr, *, upper: bool) -> Expr:
    """The symmetric matrices of which one triangle is given."""

    def mirror(data: te.Tensor) -> te.Tensor:
        def element(b: Any, i: Any, j: Any) -> Any:
            inside = j >= i if upper else j <= i
            return tirx.Select(inside, data(b, i, j), data(b, j, i))

        return te.compute(data.shape, element)

    return call.compute(mirror, x, name="mirror")


def _leading(call: Call, x: Expr, rows: int, columns: int) -> Expr:
    """The upper left part of a batch of matrices."""
    if shape_of(x)[1:] == [rows, columns]:
        return x
    return call.emit(relax.op.strided_slice(x, [1, 2], [0, 0], [rows, columns]))


def _identity(call: Call, size: int, rows: int, columns: int, dtype: str) -> Expr:
    return call.emit(
        relax.op.broadcast_to(literal(np.eye(rows, columns), dtype), [size, rows, columns])
    )


def _taken_rows(call: Call, x: Expr, rows: Expr) -> Expr:
    """The rows of a batch of matrices in another order."""

    def take(data: te.Tensor, order: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda b, i, j: data(b, order(b, i), j))

    return call.compute(take, x, rows, name="rows")


def _returned_rows(call: Call, x: Expr, rows: Expr) -> Expr:
    """The rows of a batch of matrices where they were before :func:`_taken_rows`."""

    def put(data: te.Tensor, order: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, data.shape[1]), "k")
        zero = tirx.const(0, data.dtype)

        def element(b: Any, i: Any, j: Any) -> Any:
            return te.sum(tirx.Select(order(b, k) == i, data(b, k, j), zero), axis=k)

        return te.compute(data.shape, element)

    return call.compute(put, x, rows, name="rows_back")


def _diagonal(call: Call, x: Expr) -> Expr:
    shape = shape_of(x)

    def along(data: te.Tensor) -> te.Tensor:
        return te.compute([shape[0], min(shape[1:])], lambda b, k: data(b, k, k))

    return call.compute(along, x, name="diagonal")


def _scaled_columns(call: Call, x: Expr, factors: Expr) -> Expr:
    return call.emit(relax.op.multiply(x, call.emit(relax.op.expand_dims(factors, 1))))


# Solving with factors


def _substituted(batch: _Batch, a: Expr, b: Expr, *, upper: bool, unit: bool = False) -> Expr:
    size, columns = shape_of(b)[1:]
    kernel = kernels.triangular_solve(
        batch.size, size, columns, dtype_of(b), upper=upper, unit=unit
    )
    return batch.run(kernel, "triangular_solve", a, b)[1]


def _factorized(batch: _Batch, a: Expr, pivoting: bool = True) -> tuple[Expr, Expr, Expr, Expr]:
    """LU: the factors in one matrix, pivots, the rows' order, and info."""
    m, n = shape_of(a)[1:]
    kernel = kernels.lu(batch.size, m, n, dtype_of(a), pivoting)
    lu, pivots, rows, info = batch.run(kernel, "lu", a)
    return lu, pivots, rows, info


def _order(batch: _Batch, pivots: Expr, m: int) -> Expr:
    kernel = kernels.rows_of_pivots(batch.size, shape_of(pivots)[1], m)
    return batch.run(kernel, "rows_of_pivots", pivots)


def _solved(batch: _Batch, lu: Expr, rows: Expr, b: Expr, adjoint: bool = False) -> Expr:
    """X of A X = B, or of its transpose, for the factors of A."""
    call = batch.call
    if not adjoint:
        low = _substituted(batch, lu, _taken_rows(call, b, rows), upper=False, unit=True)
        return _substituted(batch, lu, low, upper=True)
    turned = _transposed(call, lu)
    low = _substituted(batch, turned, b, upper=False)
    return _returned_rows(call, _substituted(batch, turned, low, upper=True, unit=True), rows)


def lu_factor_ex(call: Call, a: Expr, pivot: bool, check: bool) -> tuple[Expr, ...]:
    batch = _Batch(call, shape_of(a)[:-2])
    lu, pivots, _, info = _factorized(batch, batch.given(a), pivot)
    return batch.back(lu), batch.back(pivots), batch.back(info)


def _unpacked(batch: _Batch, lu: Expr, rows: Expr) -> tuple[Expr, Expr, Expr]:
    call, (m, n) = batch.call, shape_of(lu)[1:]
    least = min(m, n)
    eye = _identity(call, batch.size, m, m, dtype_of(lu))
    lower = _triangle(call, _leading(call, lu, m, least), upper=False, unit=True)
    upper = _triangle(call, _leading(call, lu, least, n), upper=True)
    return batch.back(_returned_rows(call, eye, rows)), batch.back(lower), batch.back(upper)


def lu(call: Call, a: Expr, pivot: bool) -> tuple[Expr, ...]:
    batch = _Batch(call, shape_of(a)[:-2])
    factors, _, rows, _ = _factorized(batch, batch.given(a), pivot)
    return _or_nothing(call, _unpacked(batch, factors, rows))


def lu_unpack(call: Call, lu: Expr, pivots: Expr, data: bool, rows: bool) -> tuple[Expr, ...]:
    batch = _Batch(call, shape_of(lu)[:-2])
    order = _order(batch, batch.given(pivots, 1), shape_of(lu)[-2])
    return _or_nothing(call, _unpacked(batch, batch.given(lu), order))


def _or_nothing(call: Call, results: Sequence[Expr]) -> tuple[Expr, ...]:
    """Results, but for those of which PyTorch was not asked, which have no elements."""
    return tuple(
        result if value.numel() else _filled(call, value, 0)
        for result, value in zip(results, call.values, strict=True)
    )


def lu_solve(call: Call, lu: Expr, pivots: Expr, b: Expr, left: bool, adjoint: bool) -> Expr:
    batch = _Batch(call, _common(shape_of(lu)[:-2], shape_of(b)[:-2]))
    order = _order(batch, batch.given(pivots, 1), shape_of(lu)[-1])
    factors, right = batch.given(lu), batch.given(b)
    if left:
        return batch.back(_solved(batch, factors, order, right, adjoint))
    x = _solved(batch, factors, order, _transposed(call, right), not adjoint)
    return batch.back(_transposed(call, x))


def solve_ex(call: Call, a: Expr, b: Expr, left: bool, check: bool) -> tuple[Expr, ...]:
    shapes = shape_of(a), shape_of(b)
    vector = len(shapes[1]) == 1 or (
        len(shapes[0]) - 1 == len(shapes[1]) and shapes[0][:-1] == shapes[1]
    )
    right = call.emit(relax.op.expand_dims(b, -1)) if vector else b
    batch = _Batch(call, _common(shapes[0][:-2], shape_of(right)[:-2]))
    # What is factorized has the batch of A alone: PyTorch gives the factors as they are.
    own = _Batch(call, shapes[0][:-2])
    matrix = own.given(a)
    lu, pivots, rows, info = _factorized(own, matrix if left else _transposed(call, matrix))
    factors = batch.given(own.back(lu))
    order = batch.given(own.back(rows), 1)
    given = batch.given(right)
    x = _solved(batch, factors, order, given if left or vector else _transposed(call, given))
    x = batch.back(x if left or vector else _transposed(call, x))
    x = call.emit(relax.op.squeeze(x, -1)) if vector else x
    return x, own.back(lu), own.back(pivots), own.back(info)


def inv_ex(call: Call, a: Expr, check: bool) -> tuple[Expr, Expr]:
    batch, n = _Batch(call, shape_of(a)[:-2]), shape_of(a)[-1]
    lu, _, rows, info = _factorized(batch, batch.given(a))
    eye = _identity(call, batch.size, n, n, dtype_of(a))
    return batch.back(_solved(batch, lu, rows, eye)), batch.back(info)


def _odd(call: Call, pivots: Expr) -> Expr:
    """1, or -1 for matrices whose rows were exchanged an odd number of times."""
    n = shape_of(pivots)[1]
    own = literal(np.arange(1, n + 1)[None], "int32")
    moved = call.emit(relax.op.astype(relax.op.not_equal(pivots, own), "int32"))
    count = call.emit(relax.op.sum(moved, 1))
    two = relax.const(2, "int32")
    rest = call.emit(
        relax.op.subtract(count, relax.op.multiply(two, relax.op.floor_divide(count, two)))
    )
    return call.emit(relax.op.subtract(relax.const(1, "int32"), relax.op.multiply(two, rest)))


def det(call: Call, a: Expr) -> tuple[Expr, ...]:
    batch = _Batch(call, shape_of(a)[:-2])
    lu, pivots, _, _ = _factorized(batch, batch.given(a))
    sign = call.emit(cast(_odd(call, pivots), dtype_of(a)))
    product = call.emit(relax.op.prod(_diagonal(call, lu), 1))
    result = call.emit(relax.op.multiply(product, sign))
    return batch.back(result), batch.back(lu), batch.back(pivots)


def slogdet(call: Call, a: Expr) -> tuple[Expr, ...]:
    batch = _Batch(call, shape_of(a)[:-2])
    lu, pivots, _, _ = _factorized(batch, batch.given(a))
    diagonal = _diagonal(call, lu)
    signs = call.emit(relax.op.prod(call.emit(relax.op.sign(diagonal)), 1))
    sign = call.emit(relax.op.multiply(signs, cast(_odd(call, pivots), dtype_of(a))))
    sizes = call.emit(relax.op.log(call.emit(relax.op.abs(diagonal))))
    size = call.emit(relax.op.sum(sizes, 1))
    return batch.back(sign), batch.back(size), batch.back(lu), batch.back(pivots)


def triangular(call: Call, a: Expr, b: Expr, upper: bool, left: bool, unit: bool) -> Expr:
    batch = _Batch(call, _common(shape_of(a)[:-2], shape_of(b)[:-2]))
    matrix, right = batch.given(a), batch.given(b)
    if left:
        return batch.back(_substituted(batch, matrix, right, upper=upper, unit=unit))
    turned, right = _transposed(call, matrix), _transposed(call, right)
    x = _substituted(batch, turned, right, upper=not upper, unit=unit)
    return batch.back(_transposed(call, x))


def triangular_solve(
    call: Call, b: Expr, a: Expr, upper: bool, transpose: bool, unit: bool
) -> tuple[Expr, Expr]:
    batch = _Batch(call, _common(shape_of(a)[:-2], shape_of(b)[:-2]))
    matrix, right = batch.given(a), batch.given(b)
    turned = _transposed(call, matrix) if transpose else matrix
    x = _substituted(batch, turned, right, upper=upper != transpose, unit=unit)
    return batch.back(x), batch.back(matrix)


def cholesky_ex(call: Call, a: Expr, upper: bool, check: bool = False) -> tuple[Expr, Expr]:
    batch, n = _Batch(call, shape_of(a)[:-2]), shape_of(a)[-1]
    matrix = batch.given(a)
    kernel = kernels.cholesky(batch.size, n, dtype_of(a))
    given = _transposed(call, matrix) if upper else matrix
    factor, info = batch.run(kernel, "cholesky", given)
    factor = _transposed(call, factor) if upper else factor
    return batch.back(factor), batch.back(info)


def cholesky(call: Call, a: Expr, upper: bool) -> Expr:
    return cholesky_ex(call, a, upper)[0]


def _solved_by_cholesky(batch: _Batch, factor: Expr, b: Expr, upper: bool) -> Expr:
    turned = _transposed(batch.call, factor)
    lower = turned if upper else factor
    low = _substituted(batch, lower, b, upper=False)
    return _substituted(batch, factor if upper else turned, low, upper=True)


def cholesky_solve(call: Call, b: Expr, factor: Expr, upper: bool) -> Expr:
    batch = _Batch(call, _common(shape_of(factor)[:-2], shape_of(b)[:-2]))
    return batch.back(_solved_by_cholesky(batch, batch.given(factor), batch.given(b), upper))


def cholesky_inverse(call: Call, factor: Expr, upper: bool) -> Expr:
    batch, n = _Batch(call, shape_of(factor)[:-2]), shape_of(factor)[-1]
    eye = _identity(call, batch.size, n, n, dtype_of(factor))
    return batch.back(_solved_by_cholesky(batch, batch.given(factor), eye, upper))


# Reflections


def _reflections(batch: _Batch, a: Expr) -> tuple[Expr, Expr]:
    m, n = shape_of(a)[1:]
    kernel = kernels.householder_qr(batch.size, m, n, dtype_of(a))
    qr, tau = batch.run(kernel, "householder_qr", a)
    return qr, tau


def _reflected(batch: _Batch, qr: Expr, tau: Expr, c: Expr, transposed: bool = False) -> Expr:
    (m, n), count, columns = shape_of(qr)[1:], shape_of(tau)[1], shape_of(c)[2]
    kernel = kernels.reflect(batch.size, m, n, columns, count, dtype_of(c), transposed=transposed)
    return batch.run(kernel, "reflect", qr, tau, c)[1]


def geqrf(call: Call, a: Expr) -> tuple[Expr, Expr]:
    batch = _Batch(call, shape_of(a)[:-2])
    qr, tau = _reflections(batch, batch.given(a))
    return batch.back(qr), batch.back(tau)


def qr(call: Call, a: Expr, mode: str) -> tuple[Expr, Expr]:
    batch, (m, n) = _Batch(call, shape_of(a)[:-2]), shape_of(a)[-2:]
    rows = m if mode == "complete" else min(m, n)
    factors, tau = _reflections(batch, batch.given(a))
    upper = _triangle(call, _leading(call, factors, rows, n), upper=True)
    if mode == "r":
        return _filled(call, call.values[0], 0), batch.back(upper)
    eye = _identity(call, batch.size, m, rows, dtype_of(a))
    return batch.back(_reflected(batch, factors, tau, eye)), batch.back(upper)


def householder_product(call: Call, a: Expr, tau: Expr) -> Expr:
    batch, (m, n) = _Batch(call, shape_of(a)[:-2]), shape_of(a)[-2:]
    eye = _identity(call, batch.size, m, n, dtype_of(a))
    return batch.back(_reflected(batch, batch.given(a), batch.given(tau, 1), eye))


def ormqr(call: Call, a: Expr, tau: Expr, c: Expr, left: bool, transpose: bool) -> Expr:
    if 0 in shape_of(tau)[-1:]:  # no reflection
        return c
    batch = _Batch(call, shape_of(c)[:-2])
    factors, count, given = batch.given(a), batch.given(tau, 1), batch.given(c)
    if left:
        return batch.back(_reflected(batch, factors, count, given, transpose))
    turned = _reflected(batch, factors, count, _transposed(call, given), not transpose)
    return batch.back(_transposed(call, turned))


# Eigenvalues and singular values


def _eigen(batch: _Batch, a: Expr) -> tuple[Expr, Expr]:
    n = shape_of(a)[1]
    kernel = kernels.symmetric_eigen(batch.size, n, dtype_of(a))
    values, vectors, _, _ = batch.run(kernel, "symmetric_eigen", a)
    return values, vectors


def eigh(call: Call, a: Expr, triangle: str, vectors: bool) -> tuple[Expr, ...]:
    batch = _Batch(call, shape_of(a)[:-2])
    symmetric = _mirrored(
        call, batch.given(a, most=_LARGEST_ITERATED), upper=triangle.upper() == "U"
    )
    values, columns = _eigen(batch, symmetric)
    return _or_nothing(call, (batch.back(values), batch.back(columns)))


def _orthogonal(batch: _Batch, a: Expr) -> tuple[Expr, Expr, Expr]:
    """Of a matrix that is not wide, columns that are orthogonal, what they were multiplied with
    for that, and the singular values, which are their lengths."""
    m, n = shape_of(a)[1:]
    kernel = kernels.orthogonal_columns(batch.size, m, n, dtype_of(a))
    columns, v, values, _, _ = batch.run(kernel, "orthogonal_columns", a)
    return columns, v, values


def _singular(batch: _Batch, a: Expr, full: bool = False) -> tuple[Expr, Expr, Expr]:
    """U, the singular values and V: of a wide matrix those of its transpose, exchanged."""
    call, (m, n) = batch.call, shape_of(a)[1:]
    if m < n:
        right, values, left = _singular(batch, _transposed(call, a), full)
        return left, values, right
    columns, v, values = _orthogonal(batch, a)
    # The columns are U's but for their length, which may be 0: reflections complete them.
    factors, tau = _reflections(batch, columns)
    eye = _identity(call, batch.size, m, m if full else n, dtype_of(a))
    q = _reflected(batch, factors, tau, eye)

    def turn(data: te.Tensor, diagonal: te.Tensor) -> te.Tensor:
        zero = tirx.const(0, data.dtype)

        def element(b: Any, i: Any, j: Any) -> Any:
            inside = tirx.min(j, n - 1)
            flipped = tirx.all(j < n, diagonal(b, inside) < zero)
            return tirx.Select(flipped, -data(b, i, j), data(b, i, j))

        return te.compute(data.shape, element)

    return call.compute(turn, q, _diagonal(call, factors), name="signs"), values, v


def svd(call: Call, a: Expr, full: bool, vectors: bool, driver: str | None) -> tuple[Expr, ...]:
    batch, (m, n) = _Batch(call, shape_of(a)[:-2]), shape_of(a)[-2:]
    matrix = batch.given(a, most=_LARGEST_ITERATED)
    if not vectors:
        left, _, right = call.values
        values = _orthogonal(batch, _transposed(call, matrix) if m < n else matrix)[2]
        return _filled(call, left, 0), batch.back(values), _filled(call, right, 0)
    u, values, v = _singular(batch, matrix, full)
    return batch.back(u), batch.back(values), batch.back(_transposed(call, v))


def pinv(call: Call, a: Expr, atol: Any, rtol: Any, hermitian: bool) -> Expr:
    batch, (m, n), dtype = _Batch(call, shape_of(a)[:-2]), shape_of(a)[-2:], dtype_of(a)
    matrix = batch.given(a, most=_LARGEST_ITERATED)
    if hermitian:
        values, u = _eigen(batch, _mirrored(call, matrix, upper=False))
        v = u
    else:
        u, values, v = _singular(batch, matrix)
    sizes = call.emit(relax.op.abs(values))
    largest = call.emit(relax.op.max(sizes, 1, True))
    bound = _bound(batch, largest, atol, rtol, max(m, n), dtype)
    kept = call.emit(relax.op.greater(sizes, bound))
    one, zero = (relax.const(number, dtype) for number in (1, 0))
    # What is left out is not divided by: it may be 0.
    divisors = call.emit(relax.op.where(kept, values, one))
    inverses = call.emit(relax.op.where(kept, call.emit(relax.op.divide(one, divisors)), zero))
    scaled = _scaled_columns(call, v, inverses)
    return batch.back(call.emit(relax.op.matmul(scaled, _transposed(call, u))))


def _bound(batch: _Batch, largest: Expr, atol: Any, rtol: Any, size: int, dtype: str) -> Expr:
    """What singular values count as 0 up to, for each matrix, with an axis for them."""
    call = batch.call

    def tensor(number: Any) -> Expr:
        if not isinstance(number, relax.Expr):
            return call.emit(
                relax.op.full([batch.size, 1], relax.const(float(number), dtype), dtype)
            )
        wide = call.emit(cast(number, dtype))
        each = call.emit(relax.op.broadcast_to(wide, batch.shape))
        return call.emit(relax.op.reshape(each, [batch.size, 1]))

    usual = tensor(float(np.finfo(dtype).eps) * size)
    absolute = tensor(0 if atol is None else atol)
    if rtol is None:
        # One that is given, and is not 0, stands alone.
        positive = call.emit(relax.op.greater(absolute, relax.const(0, dtype)))
        relative = call.emit(relax.op.where(positive, tensor(0), usual))
    else:
        relative = tensor(rtol)
    scaled = call.emit(relax.op.multiply(relative, largest))
    return call.emit(relax.op.maximum(absolute, scaled))


def matrix_exp(call: Call, a: Expr) -> Expr:
    batch, n = _Batch(call, shape_of(a)[:-2]), shape_of(a)[-1]
    kernel = kernels.matrix_exponential(batch.size, n, dtype_of(a))
    return batch.back(batch.run(kernel, "matrix_exp", batch.given(a, most=_LARGEST_ITERATED))[0])


# Nothing


def _filled(call: Call, value: torch.Tensor, number: float) -> Expr:
    return call.emit(literal(np.full(value.shape, number), dtype_name(value.dtype)))


def _eyes(value: torch.Tensor) -> np.ndarray:
    return np.broadcast_to(np.eye(*value.shape[-2:]), value.shape)


def _of_matrices(rule: Rule, of_nothing: Sequence[float | str] = ()) -> Rule:
    """A rule for matrices of floating-point numbers, on those without elements as well: what comes
    of them is a number for each result, or ``eye``, and else 0."""

    def convert(call: Call, *arguments: Any) -> Any:
        tensors = [a for a in arguments if isinstance(a, relax.Expr)]
        dtype = next((d for d in map(dtype_of, tensors) if d not in (*_DTYPES, "int32")), None)
        if dtype:
            raise ValueError(f"linear algebra of {dtype}")
        values = call.values
        empty = any(0 in shape_of(t) for t in tensors) and rule is not ormqr
        if not empty and any(value.numel() for value in values):
            return rule(call, *arguments)
        results = []
        for k, value in enumerate(values):
            number = of_nothing[k] if k < len(of_nothing) else 0
            array = _eyes(value) if number == "eye" else np.full(value.shape, number)
            results.append(call.emit(literal(array, dtype_name(value.dtype))))
        return results[0] if isinstance(call.node.meta["val"], torch.Tensor) else tuple(results)

    return convert


_RULES: dict[str, Callable[..., Any]] = {
    "linalg_lu_factor_ex.default": lu_factor_ex,
    "linalg_lu_solve.default": lu_solve,
    "_linalg_solve_ex.default": solve_ex,
    "linalg_inv_ex.default": inv_ex,
    "linalg_solve_triangular.default": triangular,
    "triangular_solve.default": triangular_solve,
    "linalg_cholesky_ex.default": cholesky_ex,
    "cholesky.default": cholesky,
    "cholesky_solve.default": cholesky_solve,
    "cholesky_inverse.default": cholesky_inverse,
    "geqrf.default": geqrf,
    "linalg_householder_product.default": householder_product,
    "ormqr.default": ormqr,
    "_linalg_eigh.default": eigh,
    "linalg_pinv.atol_rtol_tensor": pinv,
    "linalg_pinv.atol_rtol_float": pinv,
    "linalg_matrix_exp.default": matrix_exp,
}

RULES: dict[str, Rule] = {
    **{f"aten.{name}": _of_matrices(rule) for name, rule in _RULES.items()},
    "aten.linalg_lu.default": _of_matrices(lu, ["eye", "eye", 0]),
    "aten.lu_unpack.default": _of_matrices(lu_unpack, ["eye", "eye", 0]),
    "aten.linalg_qr.default": _of_matrices(qr, ["eye", 0]),
    "aten._linalg_svd.default": _of_matrices(svd, ["eye", 0, "eye"]),
    "aten._linalg_det.default": _of_matrices(det, [1]),
    "aten._linalg_slogdet.default": _of_matrices(slogdet, [1, 0]),
}
