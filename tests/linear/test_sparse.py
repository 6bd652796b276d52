"""Sparse Jacobians: patterns, factors on the host, and what is solved by them.

The oracle is the same problem without a pattern, by dense linear algebra.
"""

import concurrent.futures
import functools
import pathlib
import re
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse as jax_sparse

import implicax as ix
from implicax._linear import sparse_lu
from implicax._linear.sparse_lu import SparseLU
from implicax._linear.sparse_matrix import SparseMatrix

from ..asdex_here import needs_asdex

pytestmark = needs_asdex
STATUS = pathlib.Path("/proc/self/status")
N = 30
A = jnp.linspace(1.0, 2.0, N)


def beam(y, a):
    """A nonlinear two-point boundary value problem: three entries in a row."""
    padded = jnp.pad(y, 1)
    return 2 * y - padded[2:] - padded[:-2] + a * y**3 / 10 - 1.0


def ring(y, a):
    """Singular where `a` is zero: any constant may be added."""
    padded = jnp.concatenate([y[-1:], y, y[:1]])
    load = jnp.cos(jnp.arange(y.size, dtype=y.dtype))
    return 2 * y - padded[2:] - padded[:-2] + a * y - load


@functools.cache
def random_matrix(seed=0, n=N):
    """With entries from 1e-12 to 1e12: rows and columns in units of their own."""
    rng = np.random.default_rng(seed)
    matrix = scipy.sparse.random_array(
        (n, n), density=0.15, rng=rng, data_sampler=rng.standard_normal
    ).toarray() + np.diag(3 + rng.uniform(size=n))
    rows, columns = 10.0 ** rng.uniform(-6, 6, (2, n))
    return rows[:, None] * matrix * columns


def formed(matrix):
    sparsity = ix.Sparsity.of(scipy.sparse.csr_array(matrix), matrix.shape[0])
    dense = jnp.asarray(matrix)
    return SparseMatrix.of(lambda t: dense @ t, jnp.zeros(len(matrix)), sparsity)


def to_solution(matrix, b, x):
    """The componentwise backward error of `x`, in units of rounding."""
    size = np.abs(matrix) @ np.abs(x) + np.abs(b)
    return np.max(np.abs(matrix @ x - b) / size) / np.finfo(float).eps


class TestMatrix:
    def test_it_is_formed_from_few_products(self):
        matrix, count = random_matrix(), []
        sparsity = ix.Sparsity.of(scipy.sparse.csr_array(matrix), N)

        def product(t):
            count.append(t)
            return jnp.asarray(matrix) @ t

        found = SparseMatrix.of(product, jnp.zeros(N), sparsity)
        assert len(count) == 1
        assert sparsity.num_colors < N
        dense = np.zeros((N, N))
        dense[sparsity.rows, sparsity.columns] = found.values
        np.testing.assert_array_equal(dense, matrix)
        assert found.faithful
        x = np.linspace(-1, 1, N)
        np.testing.assert_allclose(found.times(x), matrix @ x, rtol=1e-10)
        np.testing.assert_allclose(
            found.magnitude(x), np.abs(matrix) @ np.abs(x), rtol=1e-12
        )
        np.testing.assert_allclose(
            found.row_sums, np.abs(matrix).sum(axis=1), rtol=1e-12
        )

    @pytest.mark.parametrize("place", [(3, 20), (17, 0), (N - 1, 1)])
    @pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
    def test_a_place_that_is_left_out_is_noticed(self, place, size):
        rng = np.random.default_rng(1)
        matrix = np.diag(rng.uniform(1, 2, N)) + np.diag(np.ones(N - 1), 1)
        pattern = scipy.sparse.csr_array(matrix)
        matrix[place] = size
        dense, sparsity = jnp.asarray(matrix), ix.Sparsity.of(pattern, N)
        for y in (jnp.zeros(N), jnp.full(N, 1e-8), jnp.full(N, 1e8)):
            found = SparseMatrix.of(lambda t: dense @ t, y, sparsity)
            assert not found.faithful

    def test_full_rows_are_products_with_the_transpose(self):
        """Of an arrow: its row would give each column a color of its own."""
        rng = np.random.default_rng(0)
        matrix = np.diag(rng.uniform(1, 2, N))
        matrix[0], matrix[:, 0], matrix[20] = rng.standard_normal((3, N))
        sparsity = ix.Sparsity.of(scipy.sparse.csr_array(matrix), N)
        assert list(sparsity.full_rows) == [0, 20]
        assert sparsity.num_colors == 2
        assert "full_rows=2" in repr(sparsity)
        dense = jnp.asarray(matrix)
        for pattern, product in (
            (sparsity, lambda t: dense @ t),
            (sparsity.transposed, lambda t: dense.T @ t),
        ):
            found = SparseMatrix.of(product, jnp.zeros(N), pattern)
            wanted = np.asarray(product(np.eye(N)))
            came = np.zeros((N, N))
            came[pattern.rows, pattern.columns] = found.values
            np.testing.assert_array_equal(came, wanted)
            assert found.faithful
        back = SparseMatrix.of(lambda t: dense @ t, jnp.zeros(N), sparsity)
        np.testing.assert_array_equal(
            back.transposed().times(np.ones(N)), found.times(np.ones(N))
        )

    def test_a_full_matrix_has_no_full_rows(self):
        everywhere = ix.Sparsity(*np.divmod(np.arange(N * N), N), N)
        assert everywhere.full_rows.size == 0
        assert everywhere.num_colors == N

    def test_a_number_that_is_none_says_nothing_of_the_pattern(self):
        matrix = jnp.eye(N).at[3, 3].set(jnp.nan)
        sparsity = ix.Sparsity.of(scipy.sparse.eye_array(N), N)
        assert SparseMatrix.of(lambda t: matrix @ t, jnp.ones(N), sparsity).faithful


class TestFactors:
    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("seed", range(5))
    def test_units_of_rows_and_columns_do_not_matter(self, seed, transposed):
        matrix = random_matrix(seed)
        b = np.random.default_rng(seed).standard_normal(N)
        factor = jax.jit(SparseLU.of)(formed(matrix))
        x = jax.jit(lambda f, b: f.solve(b, transposed))(factor, jnp.asarray(b))
        matrix = matrix.T if transposed else matrix
        assert to_solution(matrix, b, np.asarray(x)) < 1e3
        assert not factor.singular

    def test_singular_ones_are_told(self):
        singular = np.array(random_matrix())
        singular[:, 4] = singular[:, 7]
        for matrix in (singular, np.zeros((N, N)), np.diag(np.arange(float(N)))):
            factor = SparseLU.of(formed(matrix))
            assert factor.singular
        graded = np.diag(10.0 ** -np.arange(N))
        assert not SparseLU.of(formed(graded)).singular

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_no_number_stays_none(self, bad):
        matrix = np.eye(N)
        matrix[2, 2] = bad
        factor = SparseLU.of(formed(matrix))
        assert factor.singular
        assert np.isnan(factor.solve(jnp.ones(N), False)).all()

    def test_lost_factors_are_made_again(self):
        b = jnp.ones(N)
        factor = SparseLU.of(formed(random_matrix()))
        before = factor.solve(b, False)
        sparse_lu.THREAD.submit(sparse_lu.STORE.factors.clear).result()
        np.testing.assert_array_equal(factor.solve(b, False), before)

    def test_a_token_of_another_process_is_none_of_ours(self, monkeypatch):
        b = jnp.ones(N)
        factor = SparseLU.of(formed(random_matrix()))
        theirs = sparse_lu._Store()
        monkeypatch.setattr(sparse_lu, "STORE", theirs)
        other = SparseLU.of(formed(np.eye(N)))
        assert (np.asarray(other.token) != np.asarray(factor.token)).any()
        np.testing.assert_allclose(other.solve(b, False), 1)
        exact = np.linalg.solve(random_matrix(), b)
        np.testing.assert_allclose(factor.solve(b, False), exact, rtol=1e-6)

    def test_there_is_room_for_so_many(self, monkeypatch):
        monkeypatch.setattr(sparse_lu, "ROOM", 1000)
        store = sparse_lu._Store()
        monkeypatch.setattr(sparse_lu, "STORE", store)
        factors = [SparseLU.of(formed(random_matrix(seed))) for seed in range(8)]
        assert 1 <= len(store.factors) < 8
        for seed, factor in enumerate(factors):
            x = np.asarray(factor.solve(jnp.ones(N), False))
            assert to_solution(random_matrix(seed), np.ones(N), x) < 1e3

    @pytest.mark.skipif(not STATUS.is_file(), reason="Linux tells how large it is")
    def test_what_is_dropped_is_freed(self, monkeypatch):
        """(SciPy leaks what another thread has made.)"""

        def resident():
            return int(re.search(r"VmRSS:\s+(\d+)", STATUS.read_text())[1]) * 1024

        monkeypatch.setattr(sparse_lu, "ROOM", 1)
        m = 160
        line = scipy.sparse.diags_array(
            [-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m)
        )
        one = scipy.sparse.eye_array(m)
        matrix = (scipy.sparse.kron(line, one) + scipy.sparse.kron(one, line)).tocoo()
        sparsity = ix.Sparsity(matrix.row, matrix.col, m * m)
        values = matrix.tocsc().data

        @jax.jit
        def size(scale):
            given = SparseMatrix(scale * values, sparsity, jnp.ones((), bool))
            return SparseLU.of(given).inverse_size

        for scale in np.linspace(1, 2, 4):  # the allocator has its share
            size(scale)
        before = resident()
        for scale in np.linspace(1, 2, 12):
            size(scale)
        (last,) = sparse_lu.STORE.factors.values()
        assert resident() - before < 4 * 12 * last.nonzeros

    def test_threads_share_them(self):
        solve = jax.jit(lambda a: ix.root(beam, A, a, sparsity="auto").value)
        scales = np.linspace(0.5, 2, 16)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda s: np.asarray(solve(s * A)), scales))
        for scale, value in zip(scales, found, strict=True):
            np.testing.assert_allclose(
                value, ix.root(beam, A, scale * A).value, rtol=1e-11
            )

    def test_right_hand_sides_are_solved_together(self, monkeypatch):
        calls = []
        one = sparse_lu._Factors.solve

        def counted(self, b, transposed):
            calls.append(b.shape)
            return one(self, b, transposed)

        factor = SparseLU.of(formed(random_matrix()))
        monkeypatch.setattr(sparse_lu._Factors, "solve", counted)
        B = jnp.eye(N)
        inverse = jax.vmap(lambda b: factor.solve(b, False), out_axes=1)(B)
        assert calls == [(N, N)]
        exact = np.linalg.inv(random_matrix())
        np.testing.assert_allclose(inverse, exact, rtol=1e-6, atol=0)


class TestPattern:
    matrix = scipy.sparse.diags_array([1.0, 1.0, 1.0], offsets=[-1, 0, 1], shape=(N, N))

    @pytest.mark.parametrize(
        "given",
        [
            "auto",
            matrix,
            matrix.tocsr(),
            scipy.sparse.csc_matrix(matrix),
            jax_sparse.BCOO.from_scipy_sparse(matrix.tocoo()),
            ix.Sparsity(*np.divmod(np.flatnonzero(matrix.toarray()), N), N),
            # More than there is, and twice the same.
            ix.Sparsity(
                np.tile(np.arange(N), 5),
                np.concatenate(
                    [np.clip(np.arange(N) + k, 0, N - 1) for k in range(-2, 3)]
                ),
                N,
            ),
        ],
        ids=["auto", "dia", "csr", "csc", "bcoo", "places", "more"],
    )
    def test_all_ways_to_say_it(self, given):
        found = ix.root(beam, jnp.zeros(N), A, sparsity=given)
        exact = ix.root(beam, jnp.zeros(N), A)
        np.testing.assert_allclose(found.value, exact.value, rtol=1e-12)

    def test_the_diagonal_counts_as_there(self):
        off = ix.Sparsity(np.arange(1, N), np.arange(N - 1), N)
        assert off.nonzeros == 2 * N - 1
        assert not off.symmetric
        assert off.transposed.transposed == off
        assert off.num_colors == 2

    @pytest.mark.parametrize(
        ("given", "kind", "words"),
        [
            ("no", ValueError, "'auto'"),
            (np.eye(N), TypeError, "ndarray"),
            (scipy.sparse.eye_array(N + 1), ValueError, "its shape is"),
            (scipy.sparse.random_array((N, 2)), ValueError, "its shape is"),
            (ix.Sparsity([0], [0], 3), ValueError, "3 unknowns"),
        ],
    )
    def test_what_is_none(self, given, kind, words):
        with pytest.raises(kind, match=words):
            ix.root(beam, jnp.zeros(N), A, sparsity=given)

    @pytest.mark.parametrize(
        ("arguments", "kind", "words"),
        [
            (([0, 3], [0, 1], 3), ValueError, "between 0 and 2"),
            (([-1], [0], 3), ValueError, "such as -1"),
            (([0.5], [0], 3), TypeError, "integers"),
            (([0, 1], [0], 3), ValueError, "2 rows and 1 columns"),
            (([], [], 0), ValueError, "number of unknowns"),
            (([[0]], [[0]], 3), TypeError, "shape"),
        ],
    )
    def test_places_that_are_none(self, arguments, kind, words):
        with pytest.raises(kind, match=words):
            ix.Sparsity(*arguments)

    def test_a_matrix_does_not_say_which_part_of_a_complex_number(self):
        z = jnp.zeros(N // 2, complex)
        with pytest.raises(TypeError, match="two for each"):
            ix.root(lambda z, a: z - a, z, 1.0 + 0j, sparsity=self.matrix)

    def test_without_asdex(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "asdex", None)
        with pytest.raises(ImportError, match=r"implicax\[sparse\]"):
            ix.root(lambda y, a: y - 7 * a, A, A, sparsity="auto")


class TestDetection:
    def test_ends_of_edges_are_seen_as_arguments_and_as_constants(self):
        first, second = np.array([0, 1, 2, 3]), np.array([1, 2, 3, 4])

        def flow(y, args):
            first, second, a = args
            along = jnp.tanh(y[first] - y[second])
            return (
                a * y + jnp.zeros(5).at[first].add(along).at[second].add(-along) - 1.0
            )

        def closed(y, a):
            return flow(y, (first, second, a))

        a = jnp.linspace(1.0, 2.0, 5)
        pattern = ix.detect_sparsity(ix.Root(closed), jnp.zeros(5), a)
        assert pattern.nonzeros == 13
        assert pattern.num_colors == 3
        ends = tuple(map(jnp.asarray, (first, second)))
        assert pattern == ix.detect_sparsity(ix.Root(flow), jnp.zeros(5), (*ends, a))
        # Other edges are another pattern of the same computation, ...
        other = ends[0], ends[1].at[3].set(0)
        assert pattern != ix.detect_sparsity(ix.Root(flow), jnp.zeros(5), (*other, a))
        for edges in (ends, other):
            found = ix.root(flow, jnp.zeros(5), (*edges, a), sparsity="auto")
            exact = ix.root(flow, jnp.zeros(5), (*edges, a))
            np.testing.assert_allclose(found.value, exact.value, rtol=1e-12)
        # ... and inside `jit` they may be any.
        solve = jax.jit(
            lambda ends: ix.root(flow, jnp.zeros(5), (*ends, a), sparsity="auto")
        )
        np.testing.assert_allclose(solve(other).value, exact.value, rtol=1e-12)

    def test_where_it_fails_it_says_why_and_goes_on(self):
        def inner(y, a):
            return y - jnp.linalg.solve(jnp.eye(N) + jnp.outer(a, a) / 100, a)

        with pytest.warns(UserWarning, match="custom_linear_solve.*goes on without"):
            found = ix.root(inner, jnp.zeros(N), A, sparsity="auto")
        np.testing.assert_allclose(
            found.value, ix.root(inner, jnp.zeros(N), A).value, rtol=1e-12
        )
        with pytest.raises(RuntimeError, match="custom_linear_solve"):
            ix.detect_sparsity(ix.Root(inner), jnp.zeros(N), A)

    def test_once_for_each_computation(self, monkeypatch):
        import asdex

        calls = []
        find = asdex.jacobian_sparsity
        monkeypatch.setattr(
            asdex, "jacobian_sparsity", lambda *a: calls.append(1) or find(*a)
        )
        for scale in (1.0, 2.0, 3.0):
            ix.root(
                lambda y, a: beam(y, a) + y**5, jnp.zeros(N), scale * A, sparsity="auto"
            )
        assert len(calls) == 1

    def test_a_pytree_with_complex_numbers(self):
        def fn(y, a):
            z, x = y["z"], y["x"]
            return {
                "z": z + jnp.roll(z, 1) ** 2 / 4 - a * jnp.conj(z) / 3 - 1.0,
                "x": x**3 + x - z.real - 1.0,
            }

        y0 = {"z": jnp.zeros(5, complex), "x": jnp.zeros(5)}
        found = ix.root(fn, y0, 0.3 + 0.2j, sparsity="auto")
        exact = ix.root(fn, y0, 0.3 + 0.2j)
        for name in y0:
            np.testing.assert_allclose(found.value[name], exact.value[name], rtol=1e-11)


def loss(call, fn, y0, **options):
    return lambda a: jnp.sum(jnp.sin(call(fn, y0, a, **options).value))


class TestDerivatives:
    """(All transformations on this path: `test_linear_paths.py`.)"""

    def test_the_last_factors_serve_all_columns(self, monkeypatch):
        def jacobian(**options):
            return jax.jacrev(lambda a: ix.root(beam, jnp.zeros(N), a, **options).value)

        exact = jacobian()(A)
        jax.block_until_ready(ix.root(beam, jnp.zeros(N), A, sparsity="auto").value)
        made = []
        factors = sparse_lu._Host._factors
        monkeypatch.setattr(
            sparse_lu._Host, "_factors", lambda *a: made.append(1) or factors(*a)
        )
        steps = ix.root(beam, jnp.zeros(N), A, sparsity="auto").stats.steps
        assert len(made) == steps
        made.clear()
        found = jacobian(sparsity="auto")(A)
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-13)
        assert len(made) == steps

    @pytest.mark.parametrize(
        ("call", "fn"),
        [
            (ix.fixed_point, lambda y, a: jnp.tanh(0.5 * jnp.roll(y, 1) + a)),
            (
                ix.minimize,
                lambda y, a: (
                    jnp.sum((y[1:] - y[:-1]) ** 2 + y[1:] ** 4) + jnp.sum((y - a) ** 2)
                ),
            ),
            (
                ix.least_squares,
                lambda y, a: jnp.concatenate([y[1:] ** 2 - y[:-1], 2 * (y - a)]),
            ),
        ],
    )
    @pytest.mark.parametrize("solver", [None, ix.Newton()])
    def test_other_problems(self, call, fn, solver):
        a, y0 = jnp.linspace(0.1, 1, 140), jnp.full(140, 0.3)
        options = {"solver": solver, "sparsity": "auto"}
        exact = jax.grad(loss(call, fn, y0))(a)
        found = jax.grad(loss(call, fn, y0, **options))(a)
        np.testing.assert_allclose(found, exact, rtol=1e-8)

    def test_a_pattern_that_the_solver_did_not_use(self):
        """The derivative factorises by itself."""

        def solve(sparsity):
            @ix.implicit(ix.Root(ring, sparsity=sparsity))
            def solver(y0, a):
                return jnp.linalg.solve(jax.jacfwd(ring)(y0, a), -ring(0 * y0, a))

            return lambda a: jnp.sum(jnp.sin(solver(jnp.zeros(140), a).value))

        assert abs(jax.grad(solve("auto"))(0.7) - jax.grad(solve(None))(0.7)) < 1e-11

    def test_through_time_steps(self):
        """Implicit Euler steps of a reaction and diffusion, in a scan."""

        def step(u, old_and_rate):
            old, rate = old_and_rate
            padded = jnp.pad(u, 1)
            laplace = padded[2:] + padded[:-2] - 2 * u
            return u - old - 0.1 * (laplace + rate * u * (1 - u))

        def final(rate, **options):
            def body(u, _):
                return ix.root(step, u, (u, rate), **options).value, None

            start = jnp.exp(-(jnp.linspace(-2, 2, N) ** 2))
            u, _ = jax.lax.scan(body, start, None, length=20)
            return jnp.sum(u**2)

        found = jax.jit(jax.value_and_grad(functools.partial(final, sparsity="auto")))
        exact = jax.jit(jax.value_and_grad(final))
        np.testing.assert_allclose(found(1.5), exact(1.5), rtol=1e-11)

    def test_a_stationary_distribution(self):
        """`d = P(a)^T d`, singular, with one equation replaced by `sum(d) = 1`: that
        one knows all unknowns."""
        n = 200
        place = np.arange(n)
        up, down, far = (place + 1) % n, np.maximum(place - 1, 0), 7 * place % n

        def balance(d, a):
            p = 0.4 * jax.nn.sigmoid(a)
            moved = jnp.zeros(n).at[up].add(p * d).at[down].add(0.3 * d)
            rest = d - moved.at[far].add((0.7 - p) * d)
            return rest.at[0].set(jnp.sum(d) - 1)

        a, d0 = jnp.sin(jnp.arange(n, dtype=float)), jnp.full(n, 1 / n)
        pattern = ix.detect_sparsity(ix.Root(balance), d0, a)
        assert list(pattern.full_rows) == [0]
        assert pattern.num_colors < 20

        def mean(a, **options):
            d = ix.root(balance, d0, a, **options).value
            return d @ jnp.arange(n, dtype=float)

        found = jax.value_and_grad(functools.partial(mean, sparsity="auto"))(a)
        exact = jax.value_and_grad(mean)(a)
        for one, other in zip(found, exact, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)

    def test_steps_have_no_derivative(self):
        with pytest.raises(TypeError, match="sparse factorisation"):
            ix.root(beam, A, A, sparsity="auto", derivative=ix.Unrolled(), max_steps=5)


class TestVerdicts:
    def test_a_wrong_pattern_is_told_and_never_used(self):
        pattern = scipy.sparse.diags_array([1.0, 1.0], offsets=[0, 1], shape=(N, N))
        with pytest.raises(ix.ConvergenceError, match="sparsity= leaves out"):
            ix.root(beam, jnp.zeros(N), A, sparsity=pattern)

        def inside(a):
            return jnp.sum(ix.root(beam, jnp.zeros(N), a, sparsity=pattern).value)

        value, gradient = jax.jit(jax.value_and_grad(inside))(A)
        assert np.isnan(value)
        assert np.isnan(gradient).all()

    @pytest.mark.parametrize(("n", "refused"), [(N, False), (140, True)])
    def test_a_derivative_by_a_wrong_pattern_is_refused(self, n, refused):
        """(A small matrix is formed as a whole.)"""
        a, y0 = jnp.linspace(1.0, 2.0, n), jnp.zeros(n)
        value = ix.root(beam, y0, a).value
        problem = ix.Root(beam, sparsity=scipy.sparse.eye_array(n))
        found = ix.implicit(problem, on_failure="ignore")(lambda y0, a: value)
        assert found(y0, a).status.name == "wrong_sparsity"
        gradient = jax.grad(lambda a: jnp.sum(found(y0, a).value))(a)
        if refused:
            assert np.isnan(gradient).all()
        else:
            exact = jax.grad(lambda a: jnp.sum(ix.root(beam, y0, a).value))(a)
            np.testing.assert_allclose(gradient, exact, rtol=1e-9)

    @pytest.mark.parametrize("solver", [ix.Picard(), ix.Anderson(), ix.Broyden()])
    def test_answers_of_many_unknowns_are_confirmed(self, solver):
        """A map that contracts slowly in one direction, and is hardly off there."""
        n = 600
        slow = jnp.where(jnp.arange(n) == 77, 1 - 1e-7, 0.3)

        def fn(y, a):
            return slow * y + (1 - slow) * a * jnp.cos(jnp.roll(y, 1) / 10)

        y0, options = jnp.zeros(n), {"solver": solver, "on_failure": "ignore"}
        found = ix.fixed_point(fn, y0, 1.0, sparsity="auto", **options)
        exact = ix.fixed_point(fn, y0, 1.0, solver=ix.Newton()).value
        right = np.allclose(found.value, exact, rtol=1e-8)
        assert right or not found.converged
        pattern = scipy.sparse.eye_array(n)
        wrong = ix.fixed_point(fn, y0, 1.0, sparsity=pattern, **options)
        assert not wrong.converged
        fast = ix.fixed_point(
            lambda y, a: a * jnp.cos(jnp.roll(y, 1)) / 3,
            y0,
            1.0,
            sparsity=pattern,
            **options,
        )
        assert fast.status.name == "wrong_sparsity"

    def test_answers_of_others_are_judged_by_exact_corrections(self):
        n = 700
        a = jnp.linspace(1.0, 2.0, n)
        right = ix.root(beam, jnp.zeros(n), a, sparsity="auto").value
        for off, status in ((0.0, "converged"), (1e-4, "not_solved")):
            value = right.at[350].add(off * right[350])
            problem = ix.Root(beam, sparsity="auto")
            judged = ix.implicit(problem, on_failure="ignore")(lambda y0, a, v=value: v)
            assert judged(jnp.zeros(n), a).status.name == status
        problem = ix.Root(beam, sparsity=scipy.sparse.eye_array(n))
        judged = ix.implicit(problem, on_failure="ignore")(lambda y0, a: right)
        assert judged(jnp.zeros(n), a).status.name == "wrong_sparsity"

    def test_one_singular_lane_of_many(self):
        a = np.linspace(0.5, 2.0, 64)
        a[17] = 0.0
        lanes = jax.vmap(lambda a: ix.root(ring, jnp.zeros(N), a, sparsity="auto"))
        found = lanes(a)
        assert found.status.name[17] == "singular"
        assert np.isnan(found.value[17]).all()
        others = np.arange(64) != 17
        assert found.converged[others].all()
        exact = jax.vmap(lambda a: ix.root(ring, jnp.zeros(N), a).value)(a)
        np.testing.assert_allclose(found.value[others], exact[others], rtol=1e-11)

        def weighted(a):
            return jnp.sum(lanes(a).value[others])

        gradient = jax.grad(weighted)(a)
        exact = jax.vmap(
            jax.grad(lambda a: jnp.sum(ix.root(ring, jnp.zeros(N), a).value))
        )
        np.testing.assert_allclose(gradient[others], exact(a)[others], rtol=1e-9)

    @pytest.mark.parametrize("seed", range(6))
    def test_units_and_starts_do_not_matter(self, seed):
        """Converged is said of every unknown, in whatever units it is."""
        rng = np.random.default_rng(seed)
        rows, columns = 10.0 ** rng.uniform(-9, 9, (2, N))

        def fn(y, a):
            return rows * beam(y / columns, a)

        start = columns * 10.0 ** rng.uniform(-3, 3, N)
        found = ix.root(fn, start, A, sparsity="auto", on_failure="ignore")
        exact = columns * ix.root(beam, jnp.zeros(N), A).value
        assert found.converged
        np.testing.assert_allclose(found.value, exact, rtol=1e-11)

    def test_no_solution_is_told(self):
        def fn(y, a):
            return beam(y, a) ** 2 + 1.0

        found = ix.root(fn, jnp.zeros(N), A, sparsity="auto", on_failure="ignore")
        assert not found.converged

    def test_nan_in_one_of_many(self):
        def fn(y, a):
            bad = jnp.where(jnp.arange(y.size) == 4321, jnp.nan, 0.0)
            return beam(y, a) + bad

        y0, a = jnp.zeros(5000), jnp.ones(5000)
        found = ix.root(fn, y0, a, sparsity="auto", on_failure="ignore")
        assert found.status == ix.Status.non_finite
        right = ix.root(beam, y0, a, sparsity="auto")
        assert right.converged
        assert right.stats.error < 1e-11

    def test_float32(self):
        narrow = jnp.float32
        found = ix.root(beam, jnp.zeros(N, narrow), A.astype(narrow), sparsity="auto")
        assert found.value.dtype == narrow
        exact = ix.root(beam, jnp.zeros(N), A).value
        np.testing.assert_allclose(found.value, exact, rtol=3e-6)

    @pytest.mark.parametrize("off", [0.0, 1e-3])
    def test_certificates_are_the_dense_ones(self, off):
        value = ix.root(beam, jnp.zeros(N), A).value * (1 + off)

        def certificate(problem):
            return ix.certify(lambda y, a: jnp.sum(y**2), problem, value, A)

        found = certificate(ix.Root(beam, sparsity="auto"))
        dense = certificate(ix.Root(beam))
        assert found.ok
        assert dense.ok
        np.testing.assert_allclose(found.gradient, dense.gradient, rtol=1e-10)
        exact = np.linalg.cond(jax.jacfwd(beam)(value, A))
        assert 0.5 * exact <= found.condition_number <= 1.01 * exact
        if off:
            np.testing.assert_allclose(
                found.gradient_error, dense.gradient_error, rtol=1e-6
            )

    def test_certificates_of_minima_do_not_depend_on_units(self):
        units = 10.0 ** np.linspace(-4, 4, N)

        def energy(y, a):
            y = y / units
            return jnp.sum((y[1:] - y[:-1]) ** 2) + jnp.sum((y - a) ** 4 + y**2)

        value = ix.minimize(energy, jnp.zeros(N), A).value
        certificate = {
            sparsity: ix.certify(
                lambda y, a: jnp.sum(y / units),
                ix.Minimum(energy, sparsity=sparsity),
                value,
                A,
            )
            for sparsity in (None, "auto")
        }
        dense, found = certificate[None].condition_number, certificate["auto"]
        assert found.ok
        assert 0.5 * dense <= found.condition_number <= 1.01 * dense

    def test_no_certificate_of_a_wrong_pattern(self):
        pattern = scipy.sparse.eye_array(N)
        value = ix.root(beam, jnp.zeros(N), A).value
        problem = ix.Root(beam, sparsity=pattern)
        assert not ix.certify(lambda y, a: jnp.sum(y**2), problem, value, A).ok

    def test_on_a_sphere_there_is_no_pattern(self):
        class Line(ix.AbstractDomain):
            def zero(self, y):
                return y

            def retract(self, y, d):
                return y + d

        with pytest.raises(TypeError, match="domain"):
            ix.Root(beam, domain=Line(), sparsity="auto")


def test_nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ix.root(beam, jnp.zeros(N), 3 * A, sparsity="auto")
