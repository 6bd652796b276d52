"""Composite problems: a smooth function and one that has a proximal operator."""

import operator
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.checks import match
from implicax._core.user_function import call_function, takes
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._linear.lu import materialize
from implicax._problems.base import AbstractProblem
from implicax._problems.optimality_conditions import Conditions


class Composite(AbstractProblem):
    """`smooth(y, args) + g(y)` is least, where `g` is known by its proximal operator:
    lasso and its relatives, or a smooth function on a set that has a projection.

    At a solution `y = prox(y - t gradient, args, t)`, for any step length `t > 0`
    (Parikh & Boyd, *Proximal Algorithms*, 2014, sec. 4.2). That is differentiated: so
    the derivative is the one on the support, on the groups that are not zero, or along
    the set. Where the equation has a kink at the solution (an entry is zero and its
    gradient is just as large as it may be) the derivative is one-sided, and
    `degeneracy.weak` tells.

    **Arguments:**

    - `smooth`: takes `(y, args)`, returns a real scalar (or a pair of that and an
      auxiliary output, with `has_aux=True`). It need not be convex.
    - `prox`: takes `(x, args, scaling)`, with `x` like `y`, and returns where
      `|p - x|^2 / 2 + scaling g(p)` is least: one of `ix.prox`, with its strength taken
      from `args`, or a projection, which makes no use of `scaling`.
    - `separable`: whether `prox` treats entries one by one, and takes a `scaling` like
      `x`, a length for each (those of `ix.prox` do, but for `group_lasso`). Then each
      unknown gets a step length of its own, and their units do not matter.

    **Returns** from [`implicax.solve`][]: an [`implicax.CompositeSolution`][]. Its
    solvers are [`implicax.ProximalGradient`][] (the default),
    [`implicax.ProjectedGradient`][], [`implicax.MirrorDescent`][],
    [`implicax.BlockCoordinateDescent`][] and [`implicax.ADMM`][]. Unknowns are real, of
    one precision.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    A, b = jnp.array([[1.0, 2.0], [3.0, 1.0], [0.0, 1.0]]), jnp.array([1.0, 3.0, -1.0])
    lasso = ix.Composite(
        lambda y, strength: jnp.sum((A @ y - b) ** 2) / 2, ix.prox.lasso
    )

    def fit(strength):
        return ix.solve(lasso, jnp.zeros(2), strength).value

    for vector in (fit(2.0), jax.jacobian(fit)(2.0)):
        print(", ".join(f"{number + 0.0:.3f}" for number in vector))
    ```
    ```text
    0.800, 0.000
    -0.100, 0.000
    ```
    """

    structure: ClassVar[JacobianStructure] = JacobianStructure(fixed_point=True)

    smooth: Callable[[Any, Any], Any]
    prox: Callable[[Any, Any, Any], Any]
    separable: bool = eqx.field(static=True, default=False)
    has_aux: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        for name, arguments in (
            ("smooth", "(y, args)"),
            ("prox", "(x, args, scaling)"),
        ):
            function = getattr(self, name)
            if not callable(function) or not takes(function, arguments.count(",") + 1):
                raise TypeError(
                    f"{name} must be a function {arguments}, and it is {function!r}."
                )

    def value(self, y: PyTree, args: PyTree) -> tuple[Array, Any]:
        """The smooth part, and the auxiliary output."""
        output = call_function(self.smooth, y, args, "smooth")
        if self.has_aux and not (isinstance(output, tuple) and len(output) == 2):
            raise TypeError(
                "has_aux=True: smooth must return a pair (output, aux), and it "
                f"returned {type(output).__name__}."
            )
        value: Any = output
        value, aux = output if self.has_aux else (output, None)
        real = eqx.is_array_like(value) and jnp.shape(value) == ()
        if not real or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(
                f"smooth must return a real scalar, and it returned {value!r}. (For a "
                "pair with auxiliary output, pass has_aux=True.)"
            )
        dtype = tree_math.working_dtype(y)
        return jnp.asarray(value).astype(dtype), aux

    def proximal(self, x: PyTree, args: PyTree, scaling: PyTree[Array]) -> PyTree:
        """What `prox` returns, checked."""
        output = call_function(
            lambda x, args: self.prox(x, args, scaling), x, args, "prox"
        )
        return match(output, x, "prox must return a", "point")

    def active_set(self, y0: PyTree, args: PyTree) -> tuple[Array, Any]:
        """The step length of the equation (zero: one of the size that fits), and the
        units of the unknowns where those can differ."""
        del args
        zeros = jax.tree.map(jnp.zeros_like, jax.lax.stop_gradient(y0))
        units = zeros if self.separable else None
        return jnp.zeros((), tree_math.working_dtype(y0)), units

    def conditions(self, y, args):
        return self.conditions_on(self.active_set(y, args), y, args)

    def conditions_on(self, active: Any, y: PyTree, args: PyTree) -> Conditions:
        def value(y: PyTree) -> Array:
            return self.value(y, args)[0]

        def found() -> PyTree:
            if not self.separable:
                return fitting_length(value, y), None
            units = fitting_units(value, y)

            def in_units(x: PyTree) -> Array:
                return value(jax.tree.map(operator.mul, units, x))

            scaled = jax.tree.map(operator.truediv, y, units)
            return fitting_length(in_units, scaled), units

        length, units = active
        length, units = jax.lax.stop_gradient(
            jax.lax.cond(length > 0, lambda: (length, units), found)
        )
        (_, aux), gradient = jax.value_and_grad(
            lambda y: self.value(y, args), has_aux=True
        )(y)
        point = ahead(y, gradient, length, units)
        new = self.proximal(point, args, scalings(length, units))
        residual = tree_math.subtract(y, new)
        return Conditions(residual=residual, aux=aux)


def scalings(length: Array, units: Any) -> Any:
    """What the proximal operator takes for its scaling."""
    if units is None:
        return length
    return jax.tree.map(lambda unit: length * unit**2, units)


def ahead(
    y: PyTree[Array], gradient: PyTree[Array], length: Array, units: Any
) -> PyTree[Array]:
    """The point that the proximal operator is taken of."""
    scaling = scalings(length, units)
    if units is None:
        return tree_math.subtract(y, tree_math.scaled(length, gradient))
    return tree_math.subtract(y, jax.tree.map(operator.mul, scaling, gradient))


def fitting_length(value: Callable[[Any], Array], y: PyTree) -> Array:
    """One over the curvature of `value` at `y`, along its gradient."""
    y = jax.lax.stop_gradient(y)
    gradient = jax.grad(value)
    slope = gradient(y)
    size = tree_math.max_norm(slope)
    sloping = size > 0
    unit = jnp.where(sloping, 1 / jnp.where(sloping, size, 1), 0)
    # (Along what is nowhere zero, where the gradient is.)
    along = jax.tree.map(lambda leaf: jnp.where(sloping, leaf * unit, 1), slope)
    _, bent = jax.jvp(gradient, (y,), (along,))
    curvature = tree_math.two_norm(bent) / tree_math.two_norm(along)
    curved = jnp.isfinite(curvature) & (curvature > 0)
    flat = jnp.where(sloping, jnp.maximum(tree_math.max_norm(y), 1) * unit, 1)
    return jnp.where(curved, 1 / jnp.where(curved, curvature, 1), flat)


def fitting_units(value: Callable[[Any], Array], y: PyTree) -> PyTree[Array]:
    """Units of the unknowns in which the curvature along each is one."""
    y = jax.lax.stop_gradient(y)
    flat, unravel = tree_math.ravel(y)
    _, product = jax.linearize(jax.grad(value), y)
    curvature = jnp.abs(jnp.diag(materialize(product, y)))
    known = jnp.isfinite(curvature) & (curvature > 0)
    rest = jnp.where(known, curvature, jnp.inf).min()
    rest = jnp.where(jnp.isfinite(rest), rest, 1)
    units = 1 / jnp.sqrt(jnp.where(known, curvature, rest))
    return unravel(units.astype(flat.dtype))
