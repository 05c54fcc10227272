"""Kernels of linear algebra: textbook algorithms (G. Golub and C. Van Loan, *Matrix Computations*,
4th ed.), each in order inside a matrix, and beside each other over the matrices of a batch.

Each function makes a PrimFunc for one size.  Its buffers have one axis for the batch before those
of the matrix; inputs come first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

SWEEPS = 30
"""Jacobi's method goes through all pairs this often at most; six or ten times do.

It turns by an angle as Rutishauser does, by the tangent of half of it, so that what a small angle
rounds is small, too (*The Jacobi Method for Real Symmetric Matrices*, 1966)."""


def _epsilon(dtype: str) -> float:
    return float(np.finfo(dtype).eps)


def lu(batch: int, m: int, n: int, dtype: str, pivoting: bool) -> Any:
    """Gaussian elimination by the largest element of each column (§3.4): the factors in one
    matrix, the pivots, from 1 as in LAPACK, the rows' permutation, and which pivot is 0, or 0."""
    least = min(m, n)
    zero = tirx.const(0, dtype)

    @T.prim_func(s_tir=True, private=True)
    def factorize(
        a: T.Buffer((batch, m, n), dtype),
        lu: T.Buffer((batch, m, n), dtype),
        pivots: T.Buffer((batch, least), "int32"),
        rows: T.Buffer((batch, m), "int32"),
        info: T.Buffer((batch,), "int32"),
    ):
        for b in range(batch):
            with T.sblock("matrix"):
                v = T.axis.spatial(batch, b)
                T.reads(a[v, 0:m, 0:n])
                T.writes(lu[v, 0:m, 0:n], pivots[v, 0:least], rows[v, 0:m], info[v])
                info[v] = 0
                for i in range(m):
                    rows[v, i] = i
                    for j in range(n):
                        lu[v, i, j] = a[v, i, j]
                for k in range(least):
                    pivots[v, k] = k
                    if pivoting:
                        for i in range(k + 1, m):
                            if T.abs(lu[v, i, k]) > T.abs(lu[v, pivots[v, k], k]):
                                pivots[v, k] = i
                    if pivots[v, k] != k:
                        other: T.let = pivots[v, k]
                        row: T.let = rows[v, k]
                        rows[v, k] = rows[v, other]
                        rows[v, other] = row
                        for j in range(n):
                            above: T.let = lu[v, k, j]
                            lu[v, k, j] = lu[v, other, j]
                            lu[v, other, j] = above
                    pivots[v, k] = pivots[v, k] + 1
                    if lu[v, k, k] == zero:
                        if info[v] == 0:
                            info[v] = k + 1
                    else:
                        for i in range(k + 1, m):
                            lu[v, i, k] = lu[v, i, k] / lu[v, k, k]
                            for j in range(k + 1, n):
                                lu[v, i, j] = lu[v, i, j] - lu[v, i, k] * lu[v, k, j]

    return factorize


def rows_of_pivots(batch: int, least: int, m: int) -> Any:
    """The permutation of m rows that exchanging them one after the other makes."""

    @T.prim_func(s_tir=True, private=True)
    def permutation(pivots: T.Buffer((batch, least), "int32"), rows: T.Buffer((batch, m), "int32")):
        for b in range(batch):
            with T.sblock("matrix"):
                v = T.axis.spatial(batch, b)
                T.reads(pivots[v, 0:least])
                T.writes(rows[v, 0:m])
                for i in range(m):
                    rows[v, i] = i
                for k in range(least):
                    row: T.let = rows[v, k]
                    rows[v, k] = rows[v, pivots[v, k] - 1]
                    rows[v, pivots[v, k] - 1] = row

    return permutation


def cholesky(batch: int, n: int, dtype: str) -> Any:
    """The lower factor (§4.2) of what the lower triangle holds, and which leading minor is not
    positive, or 0; there it ends, and the rest is as it was."""
    zero = tirx.const(0, dtype)

    @T.prim_func(s_tir=True, private=True)
    def factorize(
        a: T.Buffer((batch, n, n), dtype),
        factor: T.Buffer((batch, n, n), dtype),
        info: T.Buffer((batch,), "int32"),
    ):
        for b in range(batch):
            with T.sblock("matrix"):
                v = T.axis.spatial(batch, b)
                T.reads(a[v, 0:n, 0:n])
                T.writes(factor[v, 0:n, 0:n], info[v])
                info[v] = 0
                for i, j in T.grid(n, n):
                    factor[v, i, j] = T.if_then_else(j <= i, a[v, i, j], zero)
                for k in range(n):
                    if info[v] == 0:
                        for j in range(k):
                            factor[v, k, k] = factor[v, k, k] - factor[v, k, j] * factor[v, k, j]
                        if factor[v, k, k] > zero:
                            factor[v, k, k] = T.sqrt(factor[v, k, k])
                            for i in range(k + 1, n):
                                for j in range(k):
                                    factor[v, i, k] = (
                                        factor[v, i, k] - factor[v, i, j] * factor[v, k, j]
                                    )
                                factor[v, i, k] = factor[v, i, k] / factor[v, k, k]
                        else:
                            info[v] = k + 1

    return factorize


def triangular_solve(
    batch: int, n: int, columns: int, dtype: str, *, upper: bool, unit: bool
) -> Any:
    """Substitution (§3.1), forwards or backwards; ``unit`` takes the diagonal for ones.

    Beside the solution stand sums as they were last: with one result, TVM's schedules for GPUs take
    this for a product with a vector, and fail."""

    @T.prim_func(s_tir=True, private=True)
    def substitute(
        a: T.Buffer((batch, n, n), dtype),
        right: T.Buffer((batch, n, columns), dtype),
        sums: T.Buffer((batch, columns), dtype),
        x: T.Buffer((batch, n, columns), dtype),
    ):
        for b, c in T.grid(batch, columns):
            with T.sblock("column"):
                v, w = T.axis.remap("SS", [b, c])
                T.reads(a[v, 0:n, 0:n], right[v, 0:n, w])
                T.writes(sums[v, w], x[v, 0:n, w])
                for step in range(n):
                    i: T.let = T.if_then_else(upper, n - 1 - step, step)
                    sums[v, w] = right[v, i, w]
                    for back in range(step):
                        j: T.let = T.if_then_else(upper, n - 1 - back, back)
                        sums[v, w] = sums[v, w] - a[v, i, j] * x[v, j, w]
                    x[v, i, w] = sums[v, w] if unit else sums[v, w] / a[v, i, i]

    return substitute


def householder_qr(batch: int, m: int, n: int, dtype: str) -> Any:
    """Reflections that make a matrix triangular (§5.2), in LAPACK's form: R and below it the
    vectors, whose first element is 1, in one matrix; and their factors."""
    least = min(m, n)
    zero = tirx.const(0, dtype)

    @T.prim_func(s_tir=True, private=True)
    def factorize(
        a: T.Buffer((batch, m, n), dtype),
        qr: T.Buffer((batch, m, n), dtype),
        tau: T.Buffer((batch, least), dtype),
    ):
        for b in range(batch):
            with T.sblock("matrix"):
                v = T.axis.spatial(batch, b)
                T.reads(a[v, 0:m, 0:n])
                T.writes(qr[v, 0:m, 0:n], tau[v, 0:least])
                largest = T.sblock_alloc_buffer((1,), dtype, scope="local")
                sum_ = T.sblock_alloc_buffer((1,), dtype, scope="local")
                for i, j in T.grid(m, n):
                    qr[v, i, j] = a[v, i, j]
                for k in range(least):
                    largest[0] = zero
                    for i in range(k + 1, m):
                        largest[0] = T.max(largest[0], T.abs(qr[v, i, k]))
                    tau[v, k] = zero
                    if largest[0] > zero:
                        largest[0] = T.max(largest[0], T.abs(qr[v, k, k]))
                        sum_[0] = zero
                        for i in range(k, m):
                            part: T.let = qr[v, i, k] / largest[0]
                            sum_[0] = sum_[0] + part * part
                        norm: T.let = largest[0] * T.sqrt(sum_[0])
                        beta: T.let = T.if_then_else(qr[v, k, k] < zero, norm, -norm)
                        tau[v, k] = (beta - qr[v, k, k]) / beta
                        divisor: T.let = qr[v, k, k] - beta
                        for i in range(k + 1, m):
                            qr[v, i, k] = qr[v, i, k] / divisor
                        qr[v, k, k] = beta
                        for j in range(k + 1, n):
                            sum_[0] = qr[v, k, j]
                            for i in range(k + 1, m):
                                sum_[0] = sum_[0] + qr[v, i, k] * qr[v, i, j]
                            sum_[0] = sum_[0] * tau[v, k]
                            qr[v, k, j] = qr[v, k, j] - sum_[0]
                            for i in range(k + 1, m):
                                qr[v, i, j] = qr[v, i, j] - sum_[0] * qr[v, i, k]

    return factorize


def reflect(
    batch: int, m: int, n: int, columns: int, count: int, dtype: str, *, transposed: bool
) -> Any:
    """The product of Q, of which the first ``count`` reflections are given in LAPACK's form, or of
    its transpose, and a matrix."""

    @T.prim_func(s_tir=True, private=True)
    def multiply(
        qr: T.Buffer((batch, m, n), dtype),
        tau: T.Buffer((batch, count), dtype),
        c: T.Buffer((batch, m, columns), dtype),
        sums: T.Buffer((batch, columns), dtype),
        result: T.Buffer((batch, m, columns), dtype),
    ):
        for b, j in T.grid(batch, columns):
            with T.sblock("column"):
                v, w = T.axis.remap("SS", [b, j])
                T.reads(qr[v, 0:m, 0:n], tau[v, 0:count], c[v, 0:m, w])
                T.writes(sums[v, w], result[v, 0:m, w])
                for i in range(m):
                    result[v, i, w] = c[v, i, w]
                for step in range(count):
                    k: T.let = T.if_then_else(transposed, step, count - 1 - step)
                    sums[v, w] = result[v, k, w]
                    for below in range(m - 1 - k):
                        i: T.let = k + 1 + below
                        sums[v, w] = sums[v, w] + qr[v, i, k] * result[v, i, w]
                    sums[v, w] = sums[v, w] * tau[v, k]
                    result[v, k, w] = result[v, k, w] - sums[v, w]
                    for below in range(m - 1 - k):
                        i: T.let = k + 1 + below
                        result[v, i, w] = result[v, i, w] - sums[v, w] * qr[v, i, k]

    return multiply


@T.macro
def _turn(matrix, one, other, sine, tau):
    """Turn two elements by an angle, of which the sine and, ``tau``, the tangent of half of it are
    given.  (``half`` is a word of OpenCL's, and TVM keeps names.)"""
    left: T.let = matrix[one]
    right: T.let = matrix[other]
    matrix[one] = left - sine * (right + tau * left)
    matrix[other] = right + sine * (left - tau * right)


def orthogonal_columns(batch: int, m: int, n: int, dtype: str) -> Any:
    """One-sided Jacobi (§8.6.3): rotations that make the columns of a matrix orthogonal.  Gives
    the columns, the product of the rotations, and the columns' norms, the largest first."""
    zero, one, two = (tirx.const(number, dtype) for number in (0, 1, 2))
    negligible = tirx.const(_epsilon(dtype) * math.sqrt(m), dtype)

    @T.prim_func(s_tir=True, private=True)
    def rotate(
        a: T.Buffer((batch, m, n), dtype),
        columns: T.Buffer((batch, m, n), dtype),
        rotation: T.Buffer((batch, n, n), dtype),
        norms: T.Buffer((batch, n), dtype),
        work: T.Buffer((batch, m, n), dtype),
        turned: T.Buffer((batch, n, n), dtype),
    ):
        for b in range(batch):
            with T.sblock("matrix"):
                v = T.axis.spatial(batch, b)
                T.reads(a[v, 0:m, 0:n])
                T.writes(
                    columns[v, 0:m, 0:n],
                    rotation[v, 0:n, 0:n],
                    norms[v, 0:n],
                    work[v, 0:m, 0:n],
                    turned[v, 0:n, 0:n],
                )
                largest = T.sblock_alloc_buffer((1,), dtype, scope="local")
                sums = T.sblock_alloc_buffer((3,), dtype, scope="local")
                active = T.sblock_alloc_buffer((1,), "int32", scope="local")
                place = T.sblock_alloc_buffer((1,), "int32", scope="local")
                largest[0] = zero
                for i, j in T.grid(m, n):
                    largest[0] = T.max(largest[0], T.abs(a[v, i, j]))
                if largest[0] == zero:
                    largest[0] = one
                for i, j in T.grid(m, n):
                    work[v, i, j] = a[v, i, j] / largest[0]
                for i, j in T.grid(n, n):
                    turned[v, i, j] = T.if_then_else(i == j, one, zero)
                active[0] = 1
                for _ in range(SWEEPS):
                    if active[0] == 1:
                        active[0] = 0
                        for p in range(n):
                            for q in range(p + 1, n):
                                for k in range(3):
                                    sums[k] = zero
                                for i in range(m):
                                    sums[0] = sums[0] + work[v, i, p] * work[v, i, p]
                                    sums[1] = sums[1] + work[v, i, q] * work[v, i, q]
                                    sums[2] = sums[2] + work[v, i, p] * work[v, i, q]
                                bound: T.let = T.sqrt(sums[0]) * T.sqrt(sums[1])
                                if T.abs(sums[2]) > negligible * bound:
                                    active[0] = 1
                                    ratio: T.let = (sums[1] - sums[0]) / (two * sums[2])
                                    root: T.let = one / (T.abs(ratio) + T.sqrt(one + ratio * ratio))
                                    t: T.let = T.if_then_else(ratio < zero, -root, root)
                                    c: T.let = one / T.sqrt(one + t * t)
                                    s: T.let = c * t
                                    tau: T.let = s / (one + c)
                                    for i in range(m):
                                        _turn(work, (v, i, p), (v, i, q), s, tau)
                                    for i in range(n):
                                        _turn(turned, (v, i, p), (v, i, q), s, tau)
                for j in range(n):
                    sums[0] = zero
                    for i in range(m):
                        sums[0] = sums[0] + work[v, i, j] * work[v, i, j]
                    # The norms of the columns as they are stay in a row of the rotation's place.
                    rotation[v, 0, j] = T.sqrt(sums[0])
                for j in range(n):
                    norms[v, j] = rotation[v, 0, j]
                for j in range(n):
                    place[0] = 0
                    for k in range(n):
                        larger: T.let = norms[v, k] > norms[v, j]
                        if larger or (norms[v, k] == norms[v, j] and k < j):
                            place[0] = place[0] + 1
                    for i in range(m):
                        columns[v, i, place[0]] = work[v, i, j] * largest[0]
                    for i in range(n):
                        rotation[v, i, place[0]] = turned[v, i, j]
                for j in range(n):
                    sums[0] = zero
                    for i in range(m):
                        part: T.let = columns[v, i, j] / largest[0]
                        sums[0] = sums[0] + part * part
                    norms[v, j] = T.sqrt(sums[0]) * largest[0]

    return rotate


def symmetric_eigen(batch: int, n: int, dtype: str) -> Any:
    """Jacobi's method (§8.5) for a symmetric matrix: its eigenvalues, the least first, and their
    vectors as columns."""
    zero, one, two = (tirx.const(number, dtype) for number in (0, 1, 2))
    negligible = tirx.const(_epsilon(dtype) / 4, dtype)

    @T.prim_func(s_tir=True, private=True)
    def diagonalize(
        a: T.Buffer((batch, n, n), dtype),
        values: T.Buffer((batch, n), dtype),
        vectors: T.Buffer((batch, n, n), dtype),
        work: T.Buffer((batch, n, n), dtype),
        turned: T.Buffer((batch, n, n), dtype),
    ):
        for b in range(batch):
            with T.sblock("matrix"):
                v = T.axis.spatial(batch, b)
                T.reads(a[v, 0:n, 0:n])
                T.writes(
                    values[v, 0:n],
                    vectors[v, 0:n, 0:n],
                    work[v, 0:n, 0:n],
                    turned[v, 0:n, 0:n],
                )
                largest = T.sblock_alloc_buffer((1,), dtype, scope="local")
                active = T.sblock_alloc_buffer((1,), "int32", scope="local")
                place = T.sblock_alloc_buffer((1,), "int32", scope="local")
                largest[0] = zero
                for i, j in T.grid(n, n):
                    largest[0] = T.max(largest[0], T.abs(a[v, i, j]))
                    turned[v, i, j] = T.if_then_else(i == j, one, zero)
                if largest[0] == zero:
                    largest[0] = one
                for i, j in T.grid(n, n):
                    work[v, i, j] = a[v, i, j] / largest[0]
                active[0] = 1
                for _ in range(SWEEPS):
                    if active[0] == 1:
                        active[0] = 0
                        for p in range(n):
                            for q in range(p + 1, n):
                                # All elements are 1 at most.
                                if T.abs(work[v, p, q]) > negligible:
                                    active[0] = 1
                                    ratio: T.let = (work[v, q, q] - work[v, p, p]) / (
                                        two * work[v, p, q]
                                    )
                                    root: T.let = one / (T.abs(ratio) + T.sqrt(one + ratio * ratio))
                                    t: T.let = T.if_then_else(ratio < zero, -root, root)
                                    c: T.let = one / T.sqrt(one + t * t)
                                    s: T.let = c * t
                                    tau: T.let = s / (one + c)
                                    for i in range(n):
                                        _turn(work, (v, i, p), (v, i, q), s, tau)
                                    for i in range(n):
                                        _turn(work, (v, p, i), (v, q, i), s, tau)
                                    work[v, p, q] = zero
                                    work[v, q, p] = zero
                                    for i in range(n):
                                        _turn(turned, (v, i, p), (v, i, q), s, tau)
                for j in range(n):
                    place[0] = 0
                    for k in range(n):
                        smaller: T.let = work[v, k, k] < work[v, j, j]
                        if smaller or (work[v, k, k] == work[v, j, j] and k < j):
                            place[0] = place[0] + 1
                    values[v, place[0]] = work[v, j, j] * largest[0]
                    for i in range(n):
                        vectors[v, i, place[0]] = turned[v, i, j]

    return diagonalize


def matrix_exponential(batch: int, n: int, dtype: str) -> Any:
    """Scaling and squaring (§9.3.1) of Taylor's sum.  Eighteen terms are exact up to the bounds of
    P. Bader, S. Blanes and F. Casas, *Computing the Matrix Exponential with an Optimized Taylor
    Polynomial Approximation* (2019)."""
    zero, one, half = (tirx.const(number, dtype) for number in (0, 1, 0.5))
    bound = tirx.const(3.01 if dtype == "float32" else 1.09, dtype)
    terms = 18
    halvings = 1 - int(np.finfo(dtype).minexp)

    @T.prim_func(s_tir=True, private=True)
    def exponentiate(
        a: T.Buffer((batch, n, n), dtype),
        result: T.Buffer((batch, n, n), dtype),
        scaled: T.Buffer((batch, n, n), dtype),
        product: T.Buffer((batch, n, n), dtype),
    ):
        for b in range(batch):
            with T.sblock("matrix"):
                v = T.axis.spatial(batch, b)
                T.reads(a[v, 0:n, 0:n])
                T.writes(result[v, 0:n, 0:n], scaled[v, 0:n, 0:n], product[v, 0:n, 0:n])
                norm = T.sblock_alloc_buffer((1,), dtype, scope="local")
                sum_ = T.sblock_alloc_buffer((1,), dtype, scope="local")
                factor = T.sblock_alloc_buffer((1,), dtype, scope="local")
                halved = T.sblock_alloc_buffer((1,), "int32", scope="local")
                norm[0] = zero
                for j in range(n):
                    sum_[0] = zero
                    for i in range(n):
                        sum_[0] = sum_[0] + T.abs(a[v, i, j])
                    norm[0] = T.max(norm[0], sum_[0])
                factor[0] = one
                halved[0] = 0
                for _ in range(halvings):
                    if norm[0] * factor[0] > bound:
                        factor[0] = factor[0] * half
                        halved[0] = halved[0] + 1
                for i, j in T.grid(n, n):
                    scaled[v, i, j] = a[v, i, j] * factor[0]
                    result[v, i, j] = T.if_then_else(i == j, one, zero)
                for step in range(terms):
                    for i, j in T.grid(n, n):
                        product[v, i, j] = zero
                        for k in range(n):
                            product[v, i, j] = product[v, i, j] + scaled[v, i, k] * result[v, k, j]
                    for i, j in T.grid(n, n):
                        term: T.let = product[v, i, j] / T.cast(terms - step, dtype)
                        result[v, i, j] = T.if_then_else(i == j, one, zero) + term
                for step in range(halvings):
                    if step < halved[0]:
                        for i, j in T.grid(n, n):
                            product[v, i, j] = zero
                            for k in range(n):
                                product[v, i, j] = (
                                    product[v, i, j] + result[v, i, k] * result[v, k, j]
                                )
                        for i, j in T.grid(n, n):
                            result[v, i, j] = product[v, i, j]

    return exponentiate
