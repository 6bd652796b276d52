"""How well a fit determines its parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._core import tree_math
from implicax._core.keywords import explained
from implicax._core.solution import Solution
from implicax._core.tree_math import Vector
from implicax._linear.lu import materialize
from implicax._problems.base import AbstractProblem
from implicax._problems.canonical import canonicalize
from implicax._problems.least_squares import LeastSquares


class Covariance(eqx.Module):
    """The covariance of the parameters of a fit. All fields are arrays.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    mean = ix.LeastSquares(lambda y, data: y - data)
    data = jnp.array([1.0, 2.0, 3.0])
    spread = ix.covariance(mean, 2.0, data)
    print(f"{spread.standard_errors:.4f}")
    ```
    ```text
    0.5774
    ```
    """

    matrix: Float[Array, "n n"]
    """Of the parameters in a row, as `jax.flatten_util.ravel_pytree` lays out a real
    `y`; the real and imaginary part of a complex one next to each other."""
    standard_errors: PyTree[Array]
    """The roots of its diagonal, with the structure of `y` (of a complex parameter, the
    errors of its real and imaginary part)."""
    residual_standard_deviation: Float[Array, ""]
    """`sqrt(sum e^2 / (m - n))` for `m` errors and `n` parameters."""

    def __repr__(self) -> str:
        if not tree_math.known(self) or self.matrix.ndim > 2:
            return f"Covariance({self.matrix.shape})"

        def short(x: Array) -> str:
            return np.array2string(
                np.asarray(x), formatter={"all": lambda number: f"{number:.4g}"}
            )

        shown = jax.tree.map(short, self.standard_errors)
        return (
            f"Covariance of {self.matrix.shape[-1]} parameters\n"
            f"  standard errors  {shown}\n"
            f"  residual         {float(self.residual_standard_deviation):.4g}"
        )


#: A value is a fit where it is at most this part of its standard errors away from the
#: least of the linearised errors: the *relative offset* of Bates & Watts (1981, *A
#: relative offset orthogonality convergence criterion*, Technometrics 23), who ask for
#: 1e-3 of a solver.
FITTED = 1e-2


@explained
def covariance(
    problem: AbstractProblem,
    value: PyTree | Solution,
    args: PyTree = None,
    *,
    absolute_sigma: bool = False,
    observations: Any = None,
) -> Covariance:
    """The covariance `s^2 (J^T J)^-1` of the parameters of a least-squares fit.

    `J` is the Jacobian of the errors at the fit and `s` the standard deviation of the
    errors (Seber & Wild, *Nonlinear Regression*, 1989, sec. 2.1.2): what NIST certifies
    as the standard deviations of its regressions. Computed from a QR decomposition, so
    no condition number is squared; differentiable in `value` and `args`.

    **Arguments:**

    - `problem`: [`implicax.LeastSquares`][] with plain squares.
    - `value`: the fit: a pytree, or the [`implicax.Solution`][] that holds it.
    - `args`: the pytree that `problem` takes.
    - `absolute_sigma`: whether the errors come divided by their known standard
      deviations, so that `s = 1`; otherwise it is estimated from the fit.
    - `observations`: which of the errors are observations, or how many: `None` for all
      of them, a number, or an array of truth values with the shape of the errors (a
      pytree of such, where they are one). Where data are missing, and `fn` returns zero
      for them, pass for example `~jnp.isnan(data)`.

    **Returns:** a [`implicax.Covariance`][].

    **Raises:** `ValueError` where the errors do not determine the parameters (fewer
    observations than parameters; a Jacobian without full rank), and where `value` is no
    fit: where it is away from the least of the linearised errors by more than 1e-2
    standard errors and by more than `sqrt(eps)` of itself, or where the sum of squares
    is no minimum. Inside `jit`, where Python cannot raise, NaN.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    t = jnp.arange(5.0)
    line = ix.LeastSquares(lambda y, data: y["level"] + y["slope"] * t - data)
    data = jnp.array([1.1, 2.9, 5.2, 7.1, 8.8])
    fit = ix.least_squares(line.fn, {"level": 0.0, "slope": 1.0}, data)
    print(ix.covariance(line, fit, data))
    ```
    ```text
    Covariance of 2 parameters
      standard errors  {'level': '0.1356', 'slope': '0.05538'}
      residual         0.1751
    ```
    """
    value = value.value if isinstance(value, Solution) else value
    if not isinstance(problem, LeastSquares):
        raise TypeError(
            "problem must be ix.LeastSquares(fn), where fn(y, args) returns the errors "
            "of the fit: the covariance is that of its parameters. It is "
            f"{problem!r}."
        )
    _check_squares(problem)
    canonical = canonicalize(problem, value, args, "value")
    conditions: Any = canonical.conditions
    v, inputs = canonical.v0, canonical.inputs
    pytree, push = jax.linearize(lambda v: conditions.errors(v, inputs)[0], v)
    errors, jacobian = tree_math.ravel(pytree)[0], materialize(push, v)
    seen, m = _observations(observations, pytree)
    n = tree_math.num_unknowns(v)
    if not tree_math.traced(m) and m <= n and not (absolute_sigma and m == n):
        raise ValueError(
            f"{m} observations do not determine {n} parameters and their scatter: a "
            "fit needs more observations than parameters."
        )
    if seen is not None:
        errors = jnp.where(seen, errors, 0)
        jacobian = jnp.where(seen[:, None], jacobian, 0)
    # Columns of unit length: parameters of different units do not lose digits.
    scale = jnp.linalg.norm(jacobian, axis=0)
    orthogonal, upper = jnp.linalg.qr(jacobian / scale[None, :])
    inverse = jax.scipy.linalg.solve_triangular(upper, jnp.eye(n, dtype=upper.dtype))
    # A parameter that the errors do not see leaves a pivot in the rounding errors.
    pivots = jnp.abs(jnp.diagonal(upper))
    eps = float(jnp.finfo(upper.dtype).eps)
    lost = ~jnp.all(pivots > n * eps * jnp.max(pivots))
    _refuse(
        lost,
        "The Jacobian of the errors has not full rank at value: some combination "
        "of the parameters does not change the fit, and has no finite error. Fix "
        "or remove a parameter.",
    )
    inverse = inverse / scale[:, None]
    freedom = jnp.maximum(jnp.asarray(m, errors.dtype) - n, 1)
    deviation = jnp.sqrt(jnp.sum(errors**2) / freedom)
    away = ~_fitted(v, errors, orthogonal, inverse, scale, freedom, absolute_sigma)
    _refuse(
        away,
        "value is no fit: the least sum of squares is more than a hundredth of a "
        "standard error away. Pass the solution of ix.least_squares, and check that it "
        "converged.",
    )

    def errors_at(v: Vector) -> Array:
        errors, _ = tree_math.ravel(conditions.errors(v, inputs)[0])
        return errors if seen is None else jnp.where(seen, errors, 0)

    peak = _curved_down(errors_at, v, scale)
    _refuse(
        peak,
        "value is no fit: the sum of squares falls from there in some direction (a "
        "saddle point or a maximum). Start ix.least_squares elsewhere.",
    )
    few = jnp.asarray(m, errors.dtype) < n + (0 if absolute_sigma else 1)
    factor = 1.0 if absolute_sigma else deviation
    inverse = jnp.where(lost | away | peak | few, jnp.nan, factor * inverse)
    matrix = inverse @ inverse.T
    _, unravel = tree_math.ravel(v)
    errors_of_parameters = unravel(jnp.sqrt(jnp.diagonal(matrix)))
    return Covariance(matrix, canonical.view.from_real(errors_of_parameters), deviation)


def _check_squares(problem: LeastSquares) -> None:
    """An error unless it is a sum of plain squares in a vector space."""
    if problem.loss is not None:
        raise TypeError(
            "The covariance s^2 (J^T J)^-1 holds for plain squares, and this fit has a "
            "robust loss. Leave the loss out, or resample (bootstrap) the data."
        )
    if problem.domain is not None:
        raise TypeError(
            "The covariance is that of parameters in a vector space, and this fit has "
            "a domain. Parametrise the domain, or resample (bootstrap) the data."
        )


def _fitted(
    v: Vector,
    errors: Float[Array, " m"],
    orthogonal: Float[Array, "m n"],
    inverse: Float[Array, "n n"],
    scale: Float[Array, " n"],
    freedom: Float[Array, ""],
    absolute_sigma: bool,
) -> Bool[Array, ""]:
    """Whether the parameters are where the linearised errors are least: to a part of
    their standard errors, or to rounding."""
    n, eps = scale.size, jnp.finfo(scale.dtype).eps
    along = orthogonal.T @ errors
    beyond = jnp.linalg.norm(errors - orthogonal @ along) / jnp.sqrt(freedom)
    unit = jnp.ones_like(beyond) if absolute_sigma else beyond
    close = jnp.linalg.norm(along) <= FITTED * n**0.5 * unit
    # What they change in the errors, and what the parameters as they are do.
    step = scale * jnp.abs(inverse @ along)
    effect = scale * jnp.abs(tree_math.ravel(v)[0])
    rounding = 100 * n * eps * jnp.max(effect)
    return close | jnp.all(step <= jnp.maximum(eps**0.5 * effect, rounding))


def _curved_down(
    errors: Callable[[Vector], Array], v: Vector, scale: Float[Array, " n"]
) -> Bool[Array, ""]:
    """Whether the sum of squares falls in some direction, to second order."""
    gradient = jax.grad(lambda v: jnp.sum(errors(v) ** 2) / 2)
    hessian = materialize(jax.linearize(gradient, v)[1], v)
    curvatures = jnp.linalg.eigvalsh(hessian / scale[:, None] / scale[None, :])
    eps = float(jnp.finfo(scale.dtype).eps)
    return ~(curvatures[0] >= -(eps**0.5) * jnp.abs(curvatures[-1]))


def _refuse(flag: Bool[Array, ""], why: str) -> None:
    """An error, where one can be raised."""
    if not tree_math.traced(flag) and bool(flag):
        raise ValueError(why)


def _observations(
    given: Any, errors: Vector
) -> tuple[Bool[Array, " m"] | None, int | Int[Array, ""]]:
    """Which of the errors are observations (`None`: all), and how many."""
    m = tree_math.num_unknowns(errors)
    if given is None:
        return None, m
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        if not 0 < given <= m:
            raise ValueError(
                f"observations must be between 1 and the number of errors, {m}, and it "
                f"is {given}."
            )
        return None, int(given)
    leaves, masks = jax.tree.leaves(errors), jax.tree.leaves(given)
    shapes = [np.shape(mask) for mask in masks]
    boolean = all(jnp.result_type(mask) == jnp.bool_ for mask in masks)
    # (The real and the imaginary part of a complex error come last.)
    fits = len(leaves) == len(masks) and all(
        leaf.shape in (shape, (*shape, 2))
        for leaf, shape in zip(leaves, shapes, strict=True)
    )
    if not (boolean and fits):
        raise ValueError(
            "observations must be None, how many of the errors are observations, or "
            "truth values of the shape of the errors, "
            f"{[leaf.shape for leaf in leaves]}, and it is {given!r}."
        )
    numpy = np if not any(map(tree_math.traced, masks)) else jnp
    flat = numpy.concatenate(
        [
            numpy.broadcast_to(
                numpy.reshape(mask, shape + (1,) * (leaf.ndim - len(shape))), leaf.shape
            ).ravel()
            for mask, shape, leaf in zip(masks, shapes, leaves, strict=True)
        ]
    )
    count = flat.sum()
    return jnp.asarray(flat), count if tree_math.traced(count) else int(count)
