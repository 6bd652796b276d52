"""Error bars on implicit derivatives.

Let `y` approximate the solution `y*` of `F(y, a) = 0`, and let

    g(y) = dl/da - (dF/da)^T u,    (dF/dy)^T u = dl/dy,

all evaluated at `y`: the implicit gradient of the loss `l(y*(a), a)`, were `y` the
solution. One Newton correction `delta = -(dF/dy)^-1 F(y)` leads to `y*` up to second
order, so

    g(y*) - g(y) = g'(y) delta + O(|y* - y|^2):

one directional derivative of the gradient map is the error, to first order, and the
gradient corrected by it has an error of second order. What the adjoint's own linear
residual `r = dl/dy - (dF/dy)^T u` contributes, `-(dF/da)^T (dF/dy)^-T r`, is added, so
that rounding in an ill-conditioned adjoint shows too.

Where `g'(y)` happens to vanish (an odd `F` at `y = 0`) a derivative alone would see no
error at all. So the gradient is evaluated after two corrections too, and the error bar
is the larger of the two: they agree wherever first order means anything. Whether it
does, the corrections themselves tell (`newton_correction.py`).
"""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicax._certificates.certificate import Certificate
from implicax._certificates.elasticity import elasticity
from implicax._certificates.implicit_gradient import implicit_gradient
from implicax._certificates.linearised import Linearised
from implicax._certificates.newton_correction import newton_corrections
from implicax._certificates.quantity import Quantity, prepare
from implicax._core import tree_math
from implicax._core.domain import View
from implicax._core.keywords import explained
from implicax._core.solution import Solution
from implicax._core.tree_math import Vector
from implicax._derivatives.implicit import Hessian, check_hessian, linearization
from implicax._linear.krylov import Krylov
from implicax._linear.linear_solve import Auto
from implicax._linear.linear_solve import linear_solver as check_linear_solver
from implicax._linear.minimum_norm import MinimumNorm
from implicax._problems.base import AbstractProblem


@explained
def certify(
    loss: Callable[[Any, Any], Array],
    problem: AbstractProblem,
    value: PyTree | Solution,
    args: PyTree,
    *,
    linear_solver: Any = "auto",
    hessian: Hessian = "exact",
) -> Certificate:
    """Check the implicit gradient of `loss` at `value`, and put an error bar on it.

    **Arguments:**

    - `loss`: takes `(y, args)`, returns a real scalar: the quantity differentiated.
    - `problem`: [`implicax.Root`][], [`implicax.FixedPoint`][],
      [`implicax.Minimum`][] or [`implicax.LeastSquares`][]: what `value` solves.
    - `value`: the solution, converged or not (it is most useful where it is not): a
      pytree, or the [`implicax.Solution`][] that holds it.
    - `args`: the pytree that `problem` and `loss` take; the gradient is in its floating
      arrays.
    - `linear_solver`: `"auto"`, or [`implicax.MinimumNorm`][] where `dF/dy` is singular
      and the loss depends on nothing that it leaves free (the condition number is then
      that of the determined part), or [`implicax.Krylov`][] where it is too large to be
      factorised.
    - `hessian`: `"gauss_newton"` certifies the gradient that
      `ix.Implicit(hessian="gauss_newton")` gives: its error bar then holds the bias of
      that approximation.

    **Returns:** a [`implicax.Certificate`][]. Works under `jit` and `vmap`. The cost is
    one factorisation of the Jacobian (up to 128 unknowns two eliminations and a
    decomposition more, beyond 4096 Krylov solves instead) and a few dozen products.

    **Raises:** `TypeError` or `ValueError` for bad input, as the solvers do.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.FixedPoint(lambda y, a: jnp.cos(a * y))
    a = jnp.asarray(1.0)
    rough = ix.fixed_point(problem.fn, jnp.asarray(0.5), a, solver=ix.Picard(rtol=1e-3))
    certificate = ix.certify(lambda y, a: y, problem, rough.value, a)
    print(f"{certificate.gradient:.6f} off by {certificate.gradient_error:.1e}")
    print(f"{certificate.corrected_gradient:.6f}")
    ```
    ```text
    -0.297812 off by 3.4e-04
    -0.297474
    ```
    """
    choice = check_linear_solver(linear_solver)
    if not isinstance(choice, Auto | Krylov | MinimumNorm):
        raise ValueError(
            "linear_solver must be 'auto', ix.Krylov() or ix.MinimumNorm() here: the "
            "evidence should not depend on the solver that it is about. It is "
            f"{linear_solver!r}."
        )
    value = value.unknown if isinstance(value, Solution) else value
    canonical, quantity, floating = prepare(loss, problem, value, args, "value")
    check_hessian(hessian)
    linearization(quantity.conditions, hessian)
    quantity = dataclasses.replace(quantity, choice=choice, hessian=hessian)
    return _compiled(quantity, canonical.v0, floating, canonical.view)


def certificate(
    quantity: Quantity, v: Vector, args: PyTree[Array], view: View
) -> Certificate:
    """The certificate of the gradient of `quantity` in `args`, at `v`."""

    def residual(v: Vector) -> Vector:
        return quantity.residual(v, args)

    here, product = jax.linearize(residual, v)
    _, pullback = jax.vjp(residual, v)
    structure = quantity.conditions.structure
    jacobian = Linearised.of(
        product, lambda u: pullback(u)[0], v, quantity.choice, structure
    )
    delta = jax.tree.map(jnp.negative, jacobian.correct(here))
    tangent = jax.tree.map(_varied, args)
    pushed = jax.jvp(lambda args: quantity.residual(v, args), (args,), (tangent,))[1]
    correction = newton_corrections(
        residual,
        lambda v: quantity.loss(v, args),
        jacobian.correct,
        v,
        delta,
        jacobian.correct(pushed),
    )
    gradient = implicit_gradient(quantity, jacobian, args, delta, correction.target)
    units = jacobian.units
    spectrum = jacobian.spectrum(units)
    in_units = [jax.tree.map(operator.mul, x, units) for x in gradient.adjoint_equation]
    distance, residual_norm, left, right = tree_math.two_norms(delta, here, *in_units)
    error, moved, size = tree_math.two_norms(
        *map(_parts, (gradient.change, gradient.moved, gradient.corrected))
    )
    error = jnp.maximum(error, moved)
    rounding = None
    if gradient.rounding is not None:
        lost = tree_math.two_norm(_parts(gradient.rounding))
        # (Of a gradient that is exactly zero there are no digits to lose.)
        rounding = jnp.where(size == 0, 0, lost / size)
    elastic = elasticity(gradient.errors, gradient.corrected, args)
    return Certificate(
        gradient=gradient.value,
        gradient_error=error,
        relative_gradient_error=jnp.where(error == 0, 0, error / size),
        gradient_errors=gradient.errors,
        elasticity_error=elastic.error,
        rounding_error=rounding,
        worst=elastic.worst,
        corrected_gradient=gradient.corrected,
        solution_error=distance,
        contraction=correction.contraction,
        residual=residual_norm,
        adjoint=view.from_real(gradient.adjoint),
        adjoint_residual=left / jnp.where(right > 0, right, 1),
        condition_number=spectrum.condition_number,
        smooth=correction.smooth,
        spectral_radius=spectrum.radius,
        minimum=spectrum.minimum,
        eps=jnp.asarray(tree_math.coarsest_eps(v), tree_math.working_dtype(v)),
        margin=_margin(quantity, v, args, jacobian),
    )


def _margin(
    quantity: Quantity, v: Vector, args: PyTree[Array], jacobian: Linearised
) -> Float[Array, ""] | None:
    """How large a change of the data, relative to their size, changes the active set:
    what must stay positive, over how fast it falls, to first order."""
    conditions = quantity.conditions
    if not conditions.has_strict:
        return None
    change = jax.tree.map(_nudged, args)
    pushed = jax.jvp(lambda args: quantity.residual(v, args), (args,), (change,))[1]
    moved = jax.tree.map(jnp.negative, jacobian.correct(pushed))
    positive, rates = jax.jvp(
        lambda v, args: conditions.strict(v, quantity.inputs(args)),
        (v, args),
        (moved, change),
    )
    margins = [
        jnp.where(rate == 0, jnp.where(left > 0, jnp.inf, left), left / jnp.abs(rate))
        for left, rate in zip(*map(jax.tree.leaves, (positive, rates)), strict=True)
    ]
    return jnp.min(jnp.concatenate([margin.ravel() for margin in margins]))


def _nudged(datum: Array) -> Array:
    """A datum as a change of itself; or, where it is zero, of what is beside it."""
    eps = jnp.finfo(datum.dtype).eps
    size = tree_math.max_abs(jnp.where(jnp.isfinite(datum), datum, 0))
    least = eps**0.5 * jnp.where(size > 0, size, 1)
    return _varied(datum) + _varied(jnp.full_like(datum, least.astype(datum.dtype)))


def _varied(datum: Array) -> Array:
    """A datum as a change of itself: by a different part for each of them."""
    parts = 1 + jnp.cos(jnp.arange(datum.size, dtype=datum.real.dtype)) / 4
    change = datum * parts.reshape(datum.shape).astype(datum.dtype)
    return jnp.where(jnp.isfinite(datum), change, 0)


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _compiled(
    quantity: Quantity, v: Vector, args: PyTree[Array], view: View
) -> Certificate:
    return certificate(quantity, v, args, view)


def _parts(x: PyTree[Array]) -> list[Array]:
    """The real arrays of a pytree that may hold complex ones."""
    return [part for leaf in jax.tree.leaves(x) for part in _real(leaf)]


def _real(leaf: Array) -> tuple[Array, ...]:
    return (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
