"""Small problems with closed-form derivatives, shared by the tests.

The unknown is a dict of three arrays of different shapes, `z` its six entries in a row.
The arguments are `x` (shaped like the unknown), a matrix `W` and, in the variant that
is not holomorphic, a matrix `C` that multiplies the conjugate:

    fixed point   z = tanh(W z + C conj(z) + x)
    root          0 = z + q(z) / 4 - W z - C conj(z) - x

with `q(z) = z^3`, or `z^2 conj(z)` in the variant that is not holomorphic. The matrices
are small enough for plain iteration to converge on both, at a rate of about one half.

With the same arguments, and `u = W z + x`, two minima of real functions:

    minimize        sum(|z|^2 / 2 + |u|^4 / 4 - Re(x z))
    least_squares   the errors  z + z^3 / 4 - u  and  tanh(z)

which is strictly convex, and a fit with errors that are far from zero at the solution.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import implicax as ix

SIZE = 6
SHAPES = {"a": (3,), "b": (1, 2), "c": ()}
#: Directions in the space of arguments along which second derivatives are taken.
DIRECTIONS = 3

SOLVERS: dict[str, ix.AbstractSolver] = {
    "Picard": ix.Picard(),
    "Anderson": ix.Anderson(),
    "Broyden": ix.Broyden(),
    "Newton": ix.Newton(),
    "Chord": ix.Chord(),
}
KINDS = ("fixed_point", "root")
MINIMA = ("minimize", "least_squares")
VARIANTS = ("float32", "float64", "complex128", "conjugate")


def restore(z: Any) -> dict[str, Any]:
    """The unknown as a dict, from its entries in a row (NumPy or JAX)."""
    return {"a": z[..., :3], "b": z[..., None, 3:5], "c": z[..., 5]}


def squares(z: Any) -> Any:
    """`|z|^2`, elementwise."""
    return jnp.real(z) ** 2 + jnp.imag(z) ** 2


class Case(NamedTuple):
    """One problem with all that its derivatives are tested on."""

    kind: str
    variant: str
    args: dict[str, Any]
    directions: dict[str, Any]
    """Tangents for `args`, on a new leading axis of length `DIRECTIONS`."""
    cotangent: dict[str, Any]
    weights: Any
    points: Any
    """Two sets of coordinates along the directions, away from zero."""

    @property
    def conjugate(self) -> bool:
        return self.variant == "conjugate"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("complex128" if self.conjugate else self.variant)

    def start(self) -> dict[str, Any]:
        return restore(jnp.zeros(SIZE, self.dtype))

    def fn(self, y: dict[str, Any], args: dict[str, Any]) -> Any:
        """What the user of the library writes."""
        z, _ = ravel_pytree(y)
        x, _ = ravel_pytree(args["x"])
        affine = args["W"] @ z + x
        if self.conjugate:
            affine = affine + args["C"] @ jnp.conj(z)
        if self.kind == "fixed_point":
            return restore(jnp.tanh(affine))
        if self.kind == "minimize":
            linear = jnp.real(x * z)
            return jnp.sum(squares(z) / 2 + squares(affine) ** 2 / 4 - linear)
        cubic = z**2 * (jnp.conj(z) if self.conjugate else z)
        if self.kind == "least_squares":
            return {"near": z + cubic / 4 - affine, "far": jnp.tanh(z)}
        return restore(z + cubic / 4 - affine)

    def solve(
        self, solver: Any, args: Any, y0: Any = None, *, max_steps: int = 256
    ) -> Any:
        """The solution as a dict, with the solver's tolerances."""
        call = getattr(ix, self.kind)
        y0 = self.start() if y0 is None else y0
        return call(self.fn, y0, args, solver=solver, max_steps=max_steps).value

    def along(self, t: Any) -> dict[str, Any]:
        """The arguments displaced by the coordinates `t` along the directions."""
        return jax.tree.map(
            lambda leaf, tangents: (
                leaf + jnp.tensordot(t.astype(leaf.dtype), tangents, axes=1)
            ),
            self.args,
            self.directions,
        )

    def loss(self, y: dict[str, Any]) -> Any:
        """`sum(w |z|^2) / 2 + Re sum(c z)`, a real number."""
        z, _ = ravel_pytree(y)
        c, _ = ravel_pytree(self.cotangent)
        return jnp.sum(self.weights * squares(z)) / 2 + jnp.sum(jnp.real(c * z))


@functools.cache
def make(kind: str, variant: str) -> Case:
    """The case of a kind and a variant; the numbers are the same in every process."""
    rng = np.random.default_rng(7)
    complex_ = variant in ("complex128", "conjugate")
    dtype = np.dtype("complex128" if complex_ else variant)
    real = np.dtype("float64" if complex_ else variant)

    def normal(*shape: int) -> np.ndarray:
        numbers = rng.normal(size=shape)
        if complex_:
            numbers = (numbers + 1j * rng.normal(size=shape)) / np.sqrt(2)
        return numbers

    def arguments(*lead: int) -> dict[str, Any]:
        args = {
            "x": restore(0.5 * normal(*lead, SIZE)),
            "W": 0.4 * normal(*lead, SIZE, SIZE) / np.sqrt(SIZE),
        }
        if variant == "conjugate":
            args["C"] = 0.2 * normal(*lead, SIZE, SIZE) / np.sqrt(SIZE)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), args)

    return Case(
        kind,
        variant,
        arguments(),
        arguments(DIRECTIONS),
        jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), restore(normal(SIZE))),
        jnp.asarray(rng.uniform(0.5, 1.5, SIZE), real),
        jnp.asarray(0.2 * rng.normal(size=(2, DIRECTIONS)), real),
    )
