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
from implicax._certificates.newton_correction import newton_corrections
from implicax._core import tree_math
from implicax._core.checks import split_arrays
from implicax._core.domain import View
from implicax._core.keywords import explained
from implicax._core.solution import Solution
from implicax._core.traced_function import TracedFunction, trace
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._core.user_function import call_function
from implicax._derivatives.implicit import Hessian, check_hessian, linearization
from implicax._linear.linear_solve import Auto, LinearSolve
from implicax._linear.linear_solve import linear_solver as check_linear_solver
from implicax._linear.lu import MatVec, factorise, materialize
from implicax._linear.minimum_norm import MinimumNorm
from implicax._linear.spectral_estimates import (
    largest_singular_value,
    no_descent,
    spectral_radius,
)
from implicax._problems.base import AbstractProblem
from implicax._problems.canonical import CanonicalProblem, canonicalize
from implicax._problems.optimality_conditions import OptimalityConditions


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
      and the loss depends on nothing that it leaves free; the condition number is then
      that of the determined part.
    - `hessian`: `"gauss_newton"` certifies the gradient that
      `ix.Implicit(hessian="gauss_newton")` gives: its error bar then holds the bias of
      that approximation.

    **Returns:** a [`implicax.Certificate`][]. Works under `jit` and `vmap`. The cost is
    one Jacobian factorisation (or three Krylov solves beyond 4096 unknowns) and a few
    dozen products.

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
    if not isinstance(choice, Auto | MinimumNorm):
        raise ValueError(
            "linear_solver must be 'auto' or ix.MinimumNorm() here: the evidence "
            "should not depend on the solver that it is about. It is "
            f"{linear_solver!r}."
        )
    value = value.value if isinstance(value, Solution) else value
    canonical, quantity, floating = prepare(loss, problem, value, args, "value")
    check_hessian(hessian)
    linearization(quantity.conditions, hessian)
    quantity = dataclasses.replace(quantity, choice=choice, hessian=hessian)
    return _compiled(quantity, canonical.v0, floating, canonical.view)


class Quantity(eqx.Module):
    """`loss(y, args)` where `y` solves the conditions; everything is an input."""

    conditions: OptimalityConditions = eqx.field(static=True)
    closed_loss: TracedFunction = eqx.field(static=True)
    constants: tuple[list[Array], list[Array]]
    fixed: PyTree[Array]
    """The arrays of `args` that are not floating."""
    data: PyTree[Array]
    """What else the conditions take (`CanonicalProblem.inputs`)."""
    choice: Auto | MinimumNorm = eqx.field(default_factory=Auto)
    hessian: Hessian = eqx.field(static=True, default="exact")

    def loss(self, v: Vector, args: PyTree[Array]) -> Float[Array, ""]:
        return self.closed_loss.output(
            v, (self.constants[1], eqx.combine(args, self.fixed))
        )

    def inputs(self, args: PyTree[Array]) -> PyTree[Array]:
        """What the conditions take at `args`."""
        return self.constants[0], (eqx.combine(args, self.fixed), self.data)

    def residual(self, v: Vector, args: PyTree[Array]) -> Vector:
        return self.conditions.residual(v, self.inputs(args))


def prepare(
    loss: Callable[[Any, Any], Array],
    problem: AbstractProblem,
    y: PyTree,
    args: PyTree,
    name: str,
) -> tuple[CanonicalProblem, Quantity, PyTree[Array]]:
    """The problem and the loss closed at `y` (called `name`), and what of `args` the
    gradient is in."""
    if isinstance(loss, AbstractProblem) or not callable(loss):
        raise TypeError(
            "loss must be a function of (y, args) that returns a real scalar, and it "
            f"is {loss!r}. The order is: loss, problem, {name}, args."
        )
    if not isinstance(problem, AbstractProblem):
        raise TypeError(
            "problem must be ix.Root(F), ix.FixedPoint(f), ix.Minimum(f) or "
            "ix.LeastSquares(r): the certificate needs to know what "
            f"{name} solves. It is {problem!r}."
        )
    canonical = canonicalize(problem, y, args, name)
    if canonical.conditions.structure.reverse_only:
        raise TypeError(
            "fn has a VJP only (a jax.custom_vjp), and the error bar needs "
            "Jacobian-vector products. Give fn a jax.custom_jvp to certify it."
        )
    constants, (arrays, data) = canonical.inputs
    _, others = split_arrays(args)
    floating, fixed = eqx.partition(arrays, eqx.is_inexact_array)

    if not jax.tree.leaves(floating):
        raise ValueError(
            "args holds no floating arrays, so there is no gradient to certify. Pass "
            "what the loss is to be differentiated with respect to through args."
        )

    def real_loss(v: Vector, arrays: PyTree[Array]) -> Array:
        y = canonical.view.from_real(v)
        return _check_loss(call_function(loss, y, eqx.combine(arrays, others), "loss"))

    closed_loss, loss_constants = trace(TracedFunction, real_loss, canonical.v0, arrays)
    both = (constants, loss_constants)
    quantity = Quantity(canonical.conditions, closed_loss, both, fixed, data)
    return canonical, quantity, floating


def certificate(
    quantity: Quantity, v: Vector, args: PyTree[Array], view: View
) -> Certificate:
    """The certificate of the gradient of `quantity` in `args`, at `v`."""
    loss, residual = quantity.loss, quantity.residual
    here, product = jax.linearize(lambda v: residual(v, args), v)
    _, pullback = jax.vjp(lambda v: residual(v, args), v)

    def transposed(u: Vector) -> Vector:
        return pullback(u)[0]

    factor = matrix = minimum = None
    units = jax.tree.map(jnp.ones_like, v)
    symmetric = quantity.conditions.structure.positive_definite
    if isinstance(quantity.choice, Auto) and tree_math.num_unknowns(v) <= DENSE_LIMIT:
        matrix = materialize(product, v)
        factor = factorise(matrix)
    if matrix is not None and symmetric:
        # Cholesky's factorisation exists for positive definite matrices only.
        minimum = jnp.all(jnp.isfinite(jnp.linalg.cholesky(matrix)))
        # Variables of different units do not make a minimum ill-conditioned. Scaled
        # to a unit diagonal, the condition number is within a factor of n of the
        # least that any scaling gives (van der Sluis 1969, thm 4.1).
        _, unravel = tree_math.ravel(v)
        diagonal = jnp.abs(jnp.diagonal(matrix))
        units = unravel(jnp.where(diagonal > 0, diagonal**-0.5, 1))
    elif symmetric:
        minimum = no_descent(product, v)
    solve = LinearSolve(quantity.choice, factor, quantity.conditions.structure)

    def correct(b: Vector) -> Vector:
        """`J^-1 b`, for its size."""
        if factor is not None:
            return factor.solve(b, False)
        return solve.approximately(product, b, False)

    def gradient(v: Vector) -> tuple[PyTree[Array], Vector]:
        """`g(v)` and the adjoint `u`."""
        by_y, by_args = jax.grad(loss, argnums=(0, 1))(v, args)
        _, pullback_y = jax.vjp(lambda v: residual(v, args), v)
        u = solve.transposed(lambda u: pullback_y(u)[0], by_y)
        _, pullback_args = jax.vjp(lambda args: residual(v, args), args)
        return tree_math.subtract(by_args, pullback_args(u)[0]), u

    def biased(v: Vector) -> tuple[PyTree[Array], Vector]:
        """`g(v)` and `u`, with the Gauss-Newton matrix for the Hessian."""
        by_y, by_args = jax.grad(loss, argnums=(0, 1))(v, args)
        inputs = quantity.inputs(args)
        part = linearization(quantity.conditions, quantity.hessian)(v, inputs)
        u = dataclasses.replace(solve, approximate_inverse=None).transposed(part, by_y)
        _, pullback_args = jax.vjp(lambda args: residual(v, args), args)
        return tree_math.subtract(by_args, pullback_args(u)[0]), u

    delta = jax.tree.map(jnp.negative, solve.approximately(product, here, False))
    tangent = jax.tree.map(_varied, args)
    pushed = jax.jvp(lambda args: residual(v, args), (args,), (tangent,))[1]
    correction = newton_corrections(
        lambda v: residual(v, args),
        lambda v: loss(v, args),
        correct,
        v,
        delta,
        correct(pushed),
    )
    (g, u), (change, _) = jax.jvp(gradient, (v,), (delta,))

    by_y = jax.grad(loss)(v, args)
    remainder = tree_math.subtract(by_y, transposed(u))
    _, pullback_args = jax.vjp(lambda args: residual(v, args), args)
    missing = pullback_args(solve.approximately(transposed, remainder, True))[0]
    change = tree_math.subtract(change, missing)
    corrected = tree_math.add(g, change)

    moved = tree_math.subtract(gradient(correction.target)[0], g)
    if quantity.hessian == "gauss_newton":
        exact, (g, u) = g, biased(v)
        bias = tree_math.subtract(exact, g)
        change, moved = tree_math.add(change, bias), tree_math.add(moved, bias)
        remainder = tree_math.subtract(by_y, transposed(u))
    moved = tree_math.subtract(moved, missing)
    error = jnp.maximum(_modulus(change), _modulus(moved))
    errors = jax.tree.map(
        lambda x, y: jnp.maximum(jnp.abs(x), jnp.abs(y)), change, moved
    )
    elastic = elasticity(errors, corrected, args)
    size = _modulus(corrected)
    norm_by_y = tree_math.two_norm(_multiplied(by_y, units))
    norm_remainder = tree_math.two_norm(_multiplied(remainder, units))
    condition = _condition_number(solve, product, transposed, units)
    relative = jnp.where(error == 0, 0, error / size)
    adjoint = norm_remainder / jnp.where(norm_by_y > 0, norm_by_y, 1)
    radius = None
    if quantity.conditions.structure.fixed_point:
        radius = spectral_radius(lambda t: tree_math.subtract(t, product(t)), v)
    return Certificate(
        gradient=g,
        gradient_error=error,
        relative_gradient_error=relative,
        gradient_errors=errors,
        elasticity_error=elastic.error,
        worst=elastic.worst,
        corrected_gradient=corrected,
        solution_error=tree_math.two_norm(delta),
        contraction=correction.contraction,
        residual=tree_math.two_norm(here),
        adjoint=view.from_real(u),
        adjoint_residual=adjoint,
        condition_number=condition,
        smooth=correction.smooth,
        spectral_radius=radius,
        minimum=minimum,
        eps=jnp.asarray(tree_math.coarsest_eps(v), condition.dtype),
    )


def _varied(datum: Array) -> Array:
    """A datum as a change of itself: by a different part for each of them."""
    parts = 1 + jnp.cos(jnp.arange(datum.size, dtype=datum.real.dtype)) / 4
    change = datum * parts.reshape(datum.shape).astype(datum.dtype)
    return jnp.where(jnp.isfinite(datum), change, 0)


def _multiplied(x: Vector, units: Vector) -> Vector:
    return jax.tree.map(operator.mul, x, units)


def _condition_number(
    solve: LinearSolve, product: MatVec, transposed: MatVec, units: Vector
) -> Float[Array, ""]:
    """Of `U J U`, with `U` the diagonal matrix of the units."""

    def divided(x: Vector) -> Vector:
        return jax.tree.map(operator.truediv, x, units)

    size = largest_singular_value(
        lambda x: _multiplied(product(_multiplied(x, units)), units),
        lambda x: _multiplied(transposed(_multiplied(x, units)), units),
        units,
    )
    size_of_inverse = largest_singular_value(
        lambda x: divided(solve.approximately(product, divided(x), False)),
        lambda x: divided(solve.approximately(transposed, divided(x), True)),
        units,
    )
    condition = size * size_of_inverse
    return jnp.where(jnp.isfinite(condition), condition, jnp.inf)


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _compiled(
    quantity: Quantity, v: Vector, args: PyTree[Array], view: View
) -> Certificate:
    return certificate(quantity, v, args, view)


def _check_loss(value: Any) -> Array:
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            "loss must return a real scalar, and it returned "
            f"{value.dtype}{list(value.shape)}."
        )
    return value


def _modulus(x: PyTree[Array]) -> Float[Array, ""]:
    """The Euclidean norm of a pytree that may hold complex arrays."""
    return tree_math.two_norm(
        [part for leaf in jax.tree.leaves(x) for part in _parts(leaf)]
    )


def _parts(leaf: Array) -> tuple[Array, ...]:
    return (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
