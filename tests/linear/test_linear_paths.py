"""The derivative matrix by how `J t = b` is solved, each at a size where it is.

A derivative does not depend on who found the solution, but it does depend on what
solves its linear systems. The oracle is two steps of Newton's method from the solution,
differentiated: exact to second order, by dense linear algebra, and not ours.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicax as ix
from implicax._core.tree_math import in_any_lane
from implicax._linear import linear_solve
from implicax._linear.lu import factorise

from ..asdex_here import needs_asdex
from ..cases import squares
from ..derivative_matrix import (
    ENTRIES,
    PER_SOLVER,
    SCAN_WEIGHTS,
    allowed,
    transformations,
)
from ..oracles import relative_error

#: Above `SMALL` of `_linear/linear_solve.py`, so that matrices are not simply formed.
LARGE, FEW = 132, 5


class Path(NamedTuple):
    """What leads there: a call, its solver, and a linear solver for the derivative."""

    kind: str
    solver: Any
    linear_solver: Any = "auto"
    size: int = LARGE
    sparsity: Any = None


def dense(matvec, b):
    """A linear solver of the user's."""
    matrix = jax.vmap(matvec, out_axes=-1)(jnp.eye(b.size, dtype=b.dtype))
    return jnp.linalg.solve(matrix, b)


PATHS = {
    "direct": Path("root", ix.Newton(), size=FEW),
    "factor reuse": Path("root", ix.Newton()),
    "contraction": Path("fixed_point", ix.Picard()),
    "plain refinement": Path("fixed_point", ix.Anderson()),
    "conjugate gradients": Path("minimize", ix.TrustRegion()),
    "GMRES": Path("root", ix.Newton(), lx.GMRES(rtol=1e-12, atol=1e-12)),
    "the user's": Path("root", ix.Newton(), dense),
    "minimum norm": Path("root", ix.Newton(), ix.MinimumNorm(), size=FEW),
    "sparse": Path("root", ix.Newton(), size=FEW, sparsity="auto"),
    "Krylov": Path("root", ix.Newton(ix.Krylov("ilu")), size=FEW, sparsity="auto"),
}


class Large(NamedTuple):
    """A problem as `tests.cases.Case`, with an array of any size as the unknown."""

    path: Path
    args: Any
    directions: Any
    cotangent: Any
    weights: Any
    points: Any
    dtype: np.dtype

    def start(self):
        return jnp.zeros(self.path.size, self.dtype)

    def fn(self, y, args):
        x, W = args["x"], args["W"]
        affine = W @ y + x
        if self.path.kind == "fixed_point":
            return jnp.tanh(affine)
        if self.path.kind == "minimize":
            energy = jnp.sum(squares(y)) / 2 - jnp.sum((x * y).real)
            return energy + jnp.sum(squares(affine) ** 2) / 4
        return y + y**3 / 4 - affine

    def solve(self, solver, args, y0=None):
        call = getattr(ix, self.path.kind)
        derivative = ix.Implicit(linear_solver=self.path.linear_solver)
        y0 = self.start() if y0 is None else y0
        options = {"derivative": derivative, "sparsity": self.path.sparsity}
        return call(self.fn, y0, args, solver=solver, **options).value

    def along(self, t):
        moved = lambda leaf, d: leaf + jnp.tensordot(t.astype(leaf.dtype), d, axes=1)
        return jax.tree.map(moved, self.args, self.directions)

    def loss(self, y):
        square = jnp.sum(self.weights * squares(y)) / 2
        return square + jnp.sum((self.cotangent * y).real)


class Oracle(Large):
    """The same, solved by Newton's method on the real view."""

    def solve(self, solver, args, y0=None):
        del solver
        residual = self.fn
        if self.path.kind == "fixed_point":
            residual = lambda y, args: y - self.fn(y, args)

        def real(v, args):
            if self.dtype.kind != "c":
                if self.path.kind == "minimize":
                    return jax.grad(self.fn)(v, args)
                return residual(v, args)
            both = lambda v: jax.lax.complex(v[: v.size // 2], v[v.size // 2 :])
            if self.path.kind == "minimize":
                return jax.grad(lambda v: self.fn(both(v), args))(v)
            out = residual(both(v), args)
            return jnp.concatenate([out.real, out.imag])

        def newton(v, _):
            return v - jnp.linalg.solve(jax.jacfwd(real)(v, args), real(v, args)), None

        n = self.path.size * (2 if self.dtype.kind == "c" else 1)
        v = jnp.zeros(n, self.weights.dtype)
        v = jax.lax.stop_gradient(jax.lax.scan(newton, v, None, length=12)[0])
        v = newton(newton(v, None)[0], None)[0]
        return jax.lax.complex(v[: n // 2], v[n // 2 :]) if n > self.path.size else v


@functools.cache
def make(name: str, variant: str, kind: type = Large) -> Any:
    rng, path = np.random.default_rng(3), PATHS[name]
    dtype = np.dtype(variant)
    if dtype.kind == "c":
        path = path._replace(size=path.size // 2 + 1)
    n, real = path.size, np.dtype("float32" if variant == "float32" else "float64")

    def normal(*shape):
        numbers = rng.normal(size=shape)
        if dtype.kind == "c":
            numbers = (numbers + 1j * rng.normal(size=shape)) / np.sqrt(2)
        return numbers

    def arguments(*lead):
        W = 0.3 * normal(*lead, n, n) / np.sqrt(n)
        both = {"x": 0.5 * normal(*lead, n), "W": W}
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), both)

    args, directions = arguments(), arguments(3)
    return kind(
        path,
        args,
        directions,
        jnp.asarray(normal(n), dtype),
        jnp.asarray(rng.uniform(0.5, 1.5, n), real),
        jnp.asarray(rng.normal(size=(SCAN_WEIGHTS.size, 3)) / 10, real),
        dtype,
    )


VARIANTS = ("float64", "float32", "complex128")


#: What the oracle computes, and of which entries that is the value.
SAME = {
    "value": ("value",),
    "vjp": ("vjp",),
    "jacfwd": ("jacfwd", "jacrev"),
    "forward_over_forward": tuple(e for e in ENTRIES if "_over_" in e),
    "vmap_of_grad": ("vmap_of_grad", "grad_in_scan"),
}


def asked(variant: str) -> tuple[str, ...]:
    return ENTRIES if variant == "float64" else PER_SOLVER


@functools.cache
def expected(name: str, variant: str) -> dict[str, Any]:
    double = "float64" if variant == "float32" else variant
    case = make(name, double, Oracle)
    if variant == "float32":  # the numbers of the single precision case, as exact
        narrow = lambda x: jnp.asarray(x, jnp.float32).astype(jnp.float64)
        arrays = jax.tree.map(narrow, tuple(case[1:-1]))
        case = Oracle(case.path, *arrays, case.dtype)
    if variant != "float64":
        return transformations(case, None, asked(variant))
    # Each number once: a derivative is what it is, whichever way it is asked for.
    found = transformations(case, None, tuple(SAME))
    names = {name: source for source, names in SAME.items() for name in names}
    every = {name: found[source] for name, source in names.items()}
    weighted = SCAN_WEIGHTS[:, None] * found["vmap_of_grad"]
    jvp = found["jacfwd"][..., 0]
    return every | {"jvp": jvp, "grad_of_vmap": weighted, "grad_of_scan": weighted}


@functools.cache
def computed(name: str, variant: str) -> dict[str, Any]:
    return transformations(make(name, variant), PATHS[name].solver, asked(variant))


class Paths:
    """The tests of one path. A class is what pytest-xdist's `loadscope` keeps in one
    process, so that each program is compiled once."""

    name: str

    def pytest_generate_tests(self, metafunc):
        cases = [(v, entry) for v in VARIANTS for entry in asked(v)]
        metafunc.parametrize(("variant", "entry"), cases)

    def test_entry(self, variant, entry):
        came = computed(self.name, variant)[entry]
        wanted = expected(self.name, variant)[entry]
        assert relative_error(came, wanted) <= allowed(variant)


class TestDirect(Paths):
    name = "direct"


class TestFactorReuse(Paths):
    name = "factor reuse"


class TestContraction(Paths):
    name = "contraction"


class TestPlainRefinement(Paths):
    name = "plain refinement"


class TestConjugateGradients(Paths):
    name = "conjugate gradients"


class TestGMRES(Paths):
    name = "GMRES"


class TestTheUsers(Paths):
    name = "the user's"


class TestMinimumNorm(Paths):
    name = "minimum norm"


@needs_asdex
class TestSparse(Paths):
    name = "sparse"


@needs_asdex
class TestKrylov(Paths):
    name = "Krylov"


REVERSE = {
    "vjp": lambda f, x: jax.vjp(f, x)[1](jnp.cos(x))[0],
    "jacrev": lambda f, x: jax.jacrev(f)(x),
    "vmap_of_grad": lambda f, x: jax.vmap(jax.grad(lambda x: jnp.sum(f(x) ** 2)))(
        jnp.stack([x, 2 * x])
    ),
}


@pytest.mark.parametrize("entry", REVERSE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reverse_only(entry, dtype):
    """Where `fn` has a VJP and no JVP."""

    @jax.custom_vjp
    def cube(y):
        return y**3

    cube.defvjp(lambda y: (y**3, y), lambda y, g: (3 * y**2 * g,))
    x = jnp.linspace(0.5, 2.0, LARGE, dtype=dtype)
    solve = lambda x: ix.root(lambda y, x: cube(y) + y - x, x, x).value
    exact = lambda x: 2 * jnp.sinh(jnp.arcsinh(1.5 * np.sqrt(3) * x) / 3) / np.sqrt(3)
    exact = lambda x, f=exact: f(x.astype("float64"))
    wanted = REVERSE[entry](exact, x.astype("float64"))
    came = jax.jit(lambda x: REVERSE[entry](solve, x))(x)
    assert relative_error(came, wanted) <= (1e-4 if dtype == "float32" else 1e-8)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_factors_at_hand_serve_both_directions(mode, monkeypatch):
    """Without the last resort, which would put a wrong transpose right, at its cost."""
    n, rng = LARGE, np.random.default_rng(0)
    J = jnp.asarray(rng.normal(size=(n, n)) + 10 * np.eye(n))
    b = jnp.asarray(rng.normal(size=n))

    def none(product, b, one=1.0):
        del product, one
        nan = jnp.full_like(b, jnp.nan)
        return linear_solve._Answer(nan, jnp.ones((), bool), jnp.zeros((), bool))

    monkeypatch.setattr(linear_solve, "_direct", none)
    solve = linear_solve.LinearSolve(linear_solve.Auto(), factorise(J))

    def t(b):
        return solve(lambda t: J @ t, b)

    exact = np.linalg.solve(J if mode == "forward" else J.T, b)
    got = t(b) if mode == "forward" else jax.vjp(t, b)[1](b)[0]
    np.testing.assert_allclose(got, exact, rtol=1e-10)


@pytest.mark.parametrize("sparsity", [None, pytest.param("auto", marks=needs_asdex)])
@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
def test_all_columns_take_one_matrix(jacobian, sparsity):
    """Many right-hand sides have one matrix: also where the last resort is prepared."""
    n = 200
    x = jnp.linspace(1.0, 2.0, n)

    def fn(y, x):
        return y + y**3 / 4 - jnp.roll(y, 1) / 3 - x

    def solve(x):
        return ix.root(fn, jnp.zeros(n), x, sparsity=sparsity).value

    compiled = jax.jit(jacobian(solve)).lower(x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20 * 8 * n**2
    y = solve(x)
    exact = np.linalg.inv(jax.jacfwd(fn)(y, x))
    assert relative_error(compiled(x), exact) < 1e-10


def test_a_flag_of_any_lane():
    def found(flag, weight):
        return jnp.where(in_any_lane(flag), weight, -weight)

    flags, weights = np.array([False, True, False]), np.arange(1.0, 4.0)
    assert (jax.vmap(found)(flags, weights) == weights).all()
    assert (jax.vmap(found)(flags & False, weights) == -weights).all()
    one = jax.vmap(lambda flag: in_any_lane(flag), out_axes=None)
    assert one(flags)
    both = jax.vmap(jax.vmap(found, (0, None)), (0, 0))
    grid = np.stack([flags, flags & False])
    assert (both(grid, weights[:2]) > 0).all()
