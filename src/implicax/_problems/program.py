"""Programs: an objective over what linear constraints allow, as data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._linear.kkt import Rows

#: Two sides, either of which may be missing.
Sides = tuple[Array | None, Array | None]


class Dual(eqx.Module):
    """The multipliers of a program's constraints, each `None` where there are none.

    What the least value gains as a constraint is moved: with `L = f + u^T (A x - b) +
    z^T (G x - h) + w^T x`, at a solution `dL/dx = 0`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    solution = ix.quadratic_program(jnp.eye(2), jnp.zeros(2), bounds=(1.0, None))
    print(solution.dual.bounds)
    ```
    ```text
    [-1. -1.]
    ```
    """

    equality: Float[Array, "..."] | None = None
    """Of `A x = b`: either sign."""
    inequality: Float[Array, "..."] | None = None
    """Of `G x <= h`: positive at the upper side, negative at the lower one, zero where
    neither is reached."""
    bounds: Float[Array, "..."] | None = None
    """Of the bounds on `x`, likewise."""


class Program(eqx.Module):
    """Minimise `x^T P x / 2 + q^T x` where `A x = b`, `G x <= h` and `x` is in bounds.

    **Arguments:** as of [`implicax.quadratic_program`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    program = ix.Program(None, jnp.array([1.0, 2.0]), bounds=(0.0, 1.0))
    print(program.q)
    ```
    ```text
    [1. 2.]
    ```
    """

    P: Float[Array, "n n"] | None
    q: Float[Array, " n"]
    A: Float[Array, "p n"] | None
    b: Float[Array, " p"] | None
    G: Float[Array, "m n"] | None
    h: Sides
    """The lower and the upper side of `G x`."""
    bounds: Sides
    """The lower and the upper bound on `x`."""

    def __init__(
        self,
        P: Any,
        q: Any,
        *,
        A: Any = None,
        b: Any = None,
        G: Any = None,
        h: Any = None,
        bounds: Any = None,
    ):
        read = Reader(q)
        n = read.n
        self.q = read.array("q", q, (n,))
        self.P = symmetric(read.array("P", P, (n, n)))
        self.A = read.array("A", A, (None, n))
        self.b = read.array("b", b, _rows_of(self.A), partner=("A", A))
        self.G = read.array("G", G, (None, n))
        self.h = read.sides("h", h, _rows_of(self.G), partner=("G", G))
        self.bounds = read.sides("bounds", bounds, (n,))

    @property
    def rows(self) -> Rows:
        """All constraints: `A`, below it `G`, below it the identity."""
        parts = [part for part in (self.A, self.G) if part is not None]
        empty = jnp.zeros((0, self.q.size), self.q.dtype)
        matrix = jnp.concatenate(parts) if parts else empty
        return Rows(matrix, self.bounds != (None, None))

    @property
    def limits(self) -> tuple[Array, Array]:
        """What each row must lie between."""
        n = self.q.size
        pairs = []
        if self.b is not None:
            pairs.append((self.b, self.b))
        if self.G is not None:
            pairs.append(self._open(self.h, self.G.shape[0]))
        if self.bounds != (None, None):
            pairs.append(self._open(self.bounds, n))
        if not pairs:
            return jnp.zeros(0, self.q.dtype), jnp.zeros(0, self.q.dtype)
        lower, upper = (jnp.concatenate(side) for side in zip(*pairs, strict=True))
        return lower, upper

    def _open(self, sides: Sides, count: int) -> tuple[Array, Array]:
        lower, upper = sides
        infinite = jnp.full(count, jnp.inf, self.q.dtype)
        return (
            -infinite if lower is None else lower,
            infinite if upper is None else upper,
        )

    def gradient(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """Of the objective."""
        return self.q if self.P is None else self.P @ x + self.q

    def objective(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        quadratic = 0 if self.P is None else x @ (self.P @ x) / 2
        return quadratic + self.q @ x

    def split(self, t: Float[Array, " rows"]) -> Dual:
        """One number for each row, by kind of constraint."""
        counts = {
            "equality": 0 if self.A is None else self.A.shape[0],
            "inequality": 0 if self.G is None else self.G.shape[0],
            "bounds": 0 if self.bounds == (None, None) else self.q.size,
        }
        start, parts = 0, {}
        for kind, count in counts.items():
            if count:
                parts[kind] = t[start : start + count]
            start += count
        return Dual(**parts)

    def join(self, dual: Dual) -> Float[Array, " rows"]:
        parts = jax.tree.leaves(dual)
        return jnp.concatenate(parts) if parts else jnp.zeros(0, self.q.dtype)

    def sides(
        self, x: Float[Array, " n"], t: Float[Array, " rows"]
    ) -> tuple[Array, Array]:
        """Which rows hold with equality, at their lower and at their upper side."""
        x, t, program = jax.lax.stop_gradient((x, t, self))
        lower, upper = program.limits
        share, slack_below, slack_above = _shares(program, x, t)
        fixed = lower == upper
        return (
            ~fixed & (t < 0) & (share > slack_below),
            fixed | ((t > 0) & (share > slack_above)),
        )


def _shares(program: Program, x: Array, t: Array) -> tuple[Array, Array, Array]:
    """How much there is at `x` and `t` of each multiplier, and of each slack to the
    lower and to the upper side, without units: a multiplier as the largest part that it
    is of an equation of stationarity, a slack (negative where the side is passed) as a
    part of the terms of its row."""
    rows, (lower, upper) = program.rows, program.limits
    sizes = rows.magnitude()
    terms = jnp.abs(program.q) + sizes.transposed(jnp.abs(t))
    if program.P is not None:
        terms = terms + jnp.abs(program.P) @ jnp.abs(x)
    per_term = _part(jnp.ones_like(terms), terms)
    largest = tree_math.max_abs(sizes.matrix * per_term[None], 1)
    if rows.box:
        largest = jnp.concatenate([largest, per_term])
    value, size = rows(x), sizes(jnp.abs(x))
    return (
        largest * jnp.abs(t),
        _slack(value - lower, size, lower),
        _slack(upper - value, size, upper),
    )


def _slack(slack: Array, size: Array, limit: Array) -> Array:
    known = jnp.isfinite(limit)
    size = size + jnp.where(known, jnp.abs(limit), 0)
    return jnp.where(known, _part(slack, size), jnp.inf)


def _part(x: Array, of: Array) -> Array:
    return jnp.where(of == 0, 0, x / jnp.where(of == 0, 1, of))


class Reader:
    """Reads the arrays of a program, in one precision."""

    def __init__(self, q: Any):
        if not eqx.is_array_like(q) and not isinstance(q, list | tuple):
            raise TypeError(f"q must be a vector, and it is {q!r}.")
        q = jnp.asarray(q)
        if q.ndim != 1 or q.size == 0:
            raise ValueError(
                "q must be a vector, one number for each unknown, and its shape is "
                f"{q.shape}."
            )
        self.n = q.size
        floating = jnp.issubdtype(q.dtype, jnp.floating)
        self.dtype = q.dtype if floating else jnp.result_type(float)

    def array(
        self,
        name: str,
        value: Any,
        shape: tuple[int | None, ...],
        partner: tuple[str, Any] | None = None,
        infinite: bool = False,
    ) -> Any:
        if partner is not None and (value is None) != (partner[1] is None):
            missing, given = (name, partner[0])[:: 1 if value is None else -1]
            raise TypeError(f"{given} comes with {missing}, and {missing} is missing.")
        if value is None:
            return None
        array = jnp.asarray(value)
        if jnp.iscomplexobj(array) or array.dtype == bool:
            raise TypeError(f"{name} must be real, and its dtype is {array.dtype}.")
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        if floating and not array.weak_type and array.dtype != self.dtype:
            raise TypeError(
                f"{name} must be of the precision of q, {self.dtype}, and it is "
                f"{array.dtype}."
            )
        array = array.astype(self.dtype)
        if array.ndim == 0 and len(shape) == 1:
            array = jnp.broadcast_to(array, (shape[0] or 1,))
        wanted = tuple(
            a if b is None else b for a, b in zip(array.shape, shape, strict=False)
        )
        if array.ndim != len(shape) or array.shape != wanted:
            said = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(
                f"{name} must have shape ({said}), and it has shape {array.shape}. "
                "(q has one number for each unknown; a batch goes through jax.vmap.)"
            )
        if not tree_math.traced(array):
            values = np.asarray(array)
            if np.isnan(values).any() or not (infinite or np.isfinite(values).all()):
                raise ValueError(f"{name} is not finite: it holds NaN or infinity.")
        return array

    def sides(
        self,
        name: str,
        value: Any,
        shape: tuple[int | None, ...],
        partner: tuple[str, Any] | None = None,
    ) -> Sides:
        """A pair `(lower, upper)`, or, of constraints, the upper side alone."""
        if partner is not None and not isinstance(value, tuple):
            upper = self.array(name, value, shape, partner, infinite=True)
            return None, upper
        if value is None:
            return None, None
        if not isinstance(value, tuple) or len(value) != 2:
            raise TypeError(
                f"{name} must be a pair (lower, upper), each a number, an array or "
                f"None, and it is {value!r}."
            )
        lower, upper = (
            self.array(f"{name}[{k}]", side, shape, infinite=True)
            for k, side in enumerate(value)
        )
        if lower is not None and upper is not None:
            _check_order(name, lower, upper)
        return lower, upper


def _rows_of(matrix: Array | None) -> tuple[int | None]:
    return (None,) if matrix is None else (matrix.shape[0],)


def _check_order(name: str, lower: Array, upper: Array) -> None:
    if tree_math.traced(lower) or tree_math.traced(upper):
        return
    crossed = np.asarray(lower) > np.asarray(upper)
    if crossed.any():
        place = int(np.argmax(crossed))
        raise ValueError(
            f"{name}: the lower side must not be above the upper one, and at {place} "
            f"it is {float(lower[place])} above {float(upper[place])}."
        )


def symmetric(P: Array | None) -> Array | None:
    """`P`, made symmetric: of another matrix only that part counts."""
    if P is None:
        return None
    if not tree_math.traced(P):
        values = np.asarray(P)
        eps = float(jnp.finfo(P.dtype).eps)
        if np.abs(values - values.T).max() > eps**0.5 * np.abs(values).max():
            raise ValueError(
                "P must be symmetric, and it is not. (x^T P x is that of (P + P.T) / 2;"
                " of a triangle, add the other one.)"
            )
    return (P + P.T) / 2
