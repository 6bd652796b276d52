"""How well a fit determines its parameters."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from . import _tree
from ._close import close
from ._conditions import NormalEquations
from ._keywords import explained
from ._lu import materialise
from ._problem import AbstractProblem


class Covariance(eqx.Module):
    """The covariance of the parameters of a fit. All fields are arrays."""

    matrix: Float[Array, "n n"]
    """Of the parameters in a row, as `jax.flatten_util.ravel_pytree` lays out a real
    `y`; the real and imaginary part of a complex one next to each other."""
    standard_errors: PyTree[Array]
    """The roots of its diagonal, with the structure of `y` (of a complex parameter, the
    errors of its real and imaginary part)."""
    residual_standard_deviation: Float[Array, ""]
    """`sqrt(sum e^2 / (m - n))` for `m` errors and `n` parameters."""

    def __repr__(self) -> str:
        if not _tree.known(self) or self.matrix.ndim > 2:
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


@explained
def covariance(
    problem: AbstractProblem,
    value: PyTree,
    args: PyTree = None,
    *,
    absolute_sigma: bool = False,
) -> Covariance:
    """The covariance `s^2 (J^T J)^-1` of the parameters of a least-squares fit.

    `J` is the Jacobian of the errors at the fit and `s` the standard deviation of the
    errors (Seber & Wild, *Nonlinear Regression*, 1989, sec. 2.1.2): what NIST certifies
    as the standard deviations of its regressions. Computed from a QR decomposition, so
    no condition number is squared; differentiable in `value` and `args`.

    **Arguments:**

    - `problem`: [`implicax.LeastSquares`][] with plain squares.
    - `value`: the fit, `solution.value`.
    - `args`: the pytree that `problem` takes.
    - `absolute_sigma`: whether the errors come divided by their known standard
      deviations, so that `s = 1`; otherwise it is estimated from the fit.

    **Returns:** a [`implicax.Covariance`][].

    **Raises:** `ValueError` where the errors do not determine the parameters (fewer
    errors than parameters; a Jacobian without full rank, outside `jit`; NaN inside).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    t = jnp.arange(5.0)
    line = ix.LeastSquares(lambda y, data: y["level"] + y["slope"] * t - data)
    data = jnp.array([1.1, 2.9, 5.2, 7.1, 8.8])
    fit = ix.least_squares(line.fn, {"level": 0.0, "slope": 1.0}, data)
    print(ix.covariance(line, fit.value, data))
    ```
    ```text
    Covariance of 2 parameters
      standard errors  {'level': '0.1356', 'slope': '0.05538'}
      residual         0.1751
    ```
    """
    if not issubclass(problem.conditions, NormalEquations):
        raise TypeError(
            "problem must be ix.LeastSquares(fn): the covariance is that of the "
            f"parameters of a fit. It is {problem!r}."
        )
    if getattr(problem, "loss", None) is not None:
        raise TypeError(
            "The covariance s^2 (J^T J)^-1 holds for plain squares, and this fit has a "
            "robust loss. Leave the loss out, or resample (bootstrap) the data."
        )
    closed = close(problem, value, args, "value")
    conditions: Any = closed.conditions
    v, inputs = closed.v0, closed.inputs
    errors, push = jax.linearize(lambda v: conditions.errors(v, inputs)[0], v)
    m, n = _tree.size(errors), _tree.size(v)
    if m <= n and not (absolute_sigma and m == n):
        raise ValueError(
            f"{m} errors do not determine {n} parameters and their scatter: a fit "
            "needs more errors than parameters."
        )
    jacobian = materialise(push, v)
    # Columns of unit length: parameters of different units do not lose digits.
    scale = jnp.linalg.norm(jacobian, axis=0)
    upper = jnp.linalg.qr(jacobian / scale[None, :], mode="r")
    inverse = jax.scipy.linalg.solve_triangular(upper, jnp.eye(n, dtype=upper.dtype))
    inverse = inverse / scale[:, None]
    deviation = jnp.sqrt(jnp.sum(_tree.ravel(errors)[0] ** 2) / max(m - n, 1))
    factor = jnp.ones_like(deviation) if absolute_sigma else deviation
    # A parameter that the errors do not see leaves a pivot in the rounding errors.
    pivots = jnp.abs(jnp.diagonal(upper))
    lost = ~jnp.all(pivots > n * jnp.finfo(upper.dtype).eps * jnp.max(pivots))
    if not _tree.traced(lost) and bool(lost):
        raise ValueError(
            "The Jacobian of the errors has not full rank at value: some combination "
            "of the parameters does not change the fit, and has no finite error. Fix "
            "or remove a parameter."
        )
    inverse = jnp.where(lost, jnp.nan, factor * inverse)
    matrix = inverse @ inverse.T
    _, unravel = _tree.ravel(v)
    errors_of_parameters = unravel(jnp.sqrt(jnp.diagonal(matrix)))
    return Covariance(matrix, closed.view.from_real(errors_of_parameters), deviation)
