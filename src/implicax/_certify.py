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
error at all. So the gradient is evaluated at `y + delta` too, and the error bar is the
larger of the two: they agree wherever first order means anything.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from . import _tree
from ._conditions import Computation, Conditions, close, split_arrays, trace
from ._linear import DENSE_LIMIT, Auto, LinearSolve
from ._lu import factorise, materialise
from ._problem import AbstractProblem
from ._spectrum import largest_singular_value, spectral_radius
from ._tree import Vector

#: First-order error bars are trusted up to this relative size.
TRUSTED_ERROR = 1e-2


class Certificate(eqx.Module):
    """The a-posteriori evidence for one gradient. All fields are arrays."""

    gradient: PyTree[Array]
    """The implicit gradient at `value`, with the structure of `args` (`None` in the
    place of leaves that are not floating arrays)."""
    gradient_error: Float[Array, ""]
    """Estimated Euclidean norm of the error of `gradient`."""
    relative_gradient_error: Float[Array, ""]
    """The same, relative to the norm of `corrected_gradient`."""
    corrected_gradient: PyTree[Array]
    """`gradient` plus its estimated error: its own error is of second order."""
    solution_error: Float[Array, ""]
    """`|delta|`, the estimated Euclidean norm of `y* - y`."""
    residual: Float[Array, ""]
    """`|F(y)|`."""
    adjoint_residual: Float[Array, ""]
    """`|dl/dy - (dF/dy)^T u| / |dl/dy|`."""
    condition_number: Float[Array, ""]
    """Estimated 2-norm condition number of `dF/dy`; infinite where it is singular."""
    spectral_radius: Float[Array, ""] | None
    """Of the map's Jacobian at `value` (fixed points only, else `None`). Below one,
    plain iteration converges, at this rate."""
    ok: Bool[Array, ""]
    """Whether the theorem's hypotheses hold numerically and the error bar is small
    enough to be trusted: all finite, condition number below `1 / (100 eps)`, adjoint
    residual below `sqrt(eps)`, relative gradient error below 1e-2."""

    def __repr__(self) -> str:
        if _tree.traced(self.ok):
            return "Certificate(<inside a JAX transformation>)"
        if self.ok.ndim:
            return f"Certificate: a batch of {self.ok.shape}, {int(self.ok.sum())} ok"
        return _report(self)


def certify(
    loss: Callable[[Any, Any], Array],
    problem: AbstractProblem,
    value: PyTree,
    args: PyTree,
) -> Certificate:
    """Check the implicit gradient of `loss` at `value`, and put an error bar on it.

    **Arguments:**

    - `loss`: takes `(y, args)`, returns a real scalar: the quantity differentiated.
    - `problem`: [`implicax.Root`][] or [`implicax.FixedPoint`][]: what `value` solves.
    - `value`: the solution, converged or not (it is most useful where it is not).
    - `args`: the pytree that `problem` and `loss` take; the gradient is in its floating
      arrays.

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
    -0.297247 off by 2.3e-04
    -0.297474
    ```
    """
    if not isinstance(problem, AbstractProblem):
        raise TypeError(
            "problem must be ix.Root(F) or ix.FixedPoint(f): certify needs to know "
            f"which equation value solves. It is {problem!r}."
        )
    closed = close(problem, value, args, "value")
    if closed.conditions.reverse_only:
        raise TypeError(
            "fn has a VJP only (a jax.custom_vjp), and the error bar needs "
            "Jacobian-vector products. Give fn a jax.custom_jvp to certify it."
        )
    constants, arrays = closed.inputs
    _, others = split_arrays(args)
    floating, fixed = eqx.partition(arrays, eqx.is_inexact_array)

    if not jax.tree.leaves(floating):
        raise ValueError(
            "args holds no floating arrays, so there is no gradient to certify. Pass "
            "what the loss is to be differentiated with respect to through args."
        )

    def real_loss(v: Vector, arrays: PyTree[Array]) -> Array:
        y = closed.view.from_real(v)
        return _check_loss(loss(y, eqx.combine(arrays, others)))

    closed_loss, loss_constants = trace(Computation, real_loss, closed.v0, arrays)
    return _certificate(
        closed.conditions,
        closed_loss,
        closed.v0,
        floating,
        (constants, loss_constants, fixed),
        problem.fixed_point,
    )


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _certificate(
    conditions: Conditions,
    closed_loss: Computation,
    v: Vector,
    args: PyTree[Array],
    given: tuple[list[Array], list[Array], PyTree[Array]],
    fixed_point: bool,
) -> Certificate:
    constants, loss_constants, fixed = given

    def loss(v: Vector, args: PyTree[Array]) -> Array:
        return closed_loss(v, (loss_constants, eqx.combine(args, fixed)))

    def residual(v: Vector, args: PyTree[Array]) -> Vector:
        return conditions.residual(v, (constants, eqx.combine(args, fixed)))

    here, product = jax.linearize(lambda v: residual(v, args), v)
    _, pullback = jax.vjp(lambda v: residual(v, args), v)

    def transposed(u: Vector) -> Vector:
        return pullback(u)[0]

    dense = _tree.size(v) <= DENSE_LIMIT
    factor = factorise(materialise(product, v)) if dense else None
    solve = LinearSolve(Auto(), factor, fixed_point)

    def gradient(v: Vector) -> tuple[PyTree[Array], Vector]:
        """`g(v)` and the adjoint `u`."""
        by_y, by_args = jax.grad(loss, argnums=(0, 1))(v, args)
        _, pullback_y = jax.vjp(lambda v: residual(v, args), v)
        u = solve.transposed(lambda u: pullback_y(u)[0], by_y)
        _, pullback_args = jax.vjp(lambda args: residual(v, args), args)
        return _tree.subtract(by_args, pullback_args(u)[0]), u

    delta = jax.tree.map(jnp.negative, solve(product, here))
    (g, u), (change, _) = jax.jvp(gradient, (v,), (delta,))

    by_y = jax.grad(loss)(v, args)
    remainder = _tree.subtract(by_y, transposed(u))
    _, pullback_args = jax.vjp(lambda args: residual(v, args), args)
    missing = pullback_args(solve.transposed(transposed, remainder))[0]
    change = _tree.subtract(change, missing)
    corrected = _tree.add(g, change)

    moved = _tree.subtract(gradient(_tree.add(v, delta))[0], g)
    error = jnp.maximum(_modulus(change), _modulus(_tree.subtract(moved, missing)))
    size = _modulus(corrected)
    norm_by_y, norm_remainder = _tree.norm(by_y), _tree.norm(remainder)
    smallest = largest_singular_value(
        lambda x: solve(product, x), lambda x: solve.transposed(transposed, x), v
    )
    condition = largest_singular_value(product, transposed, v) * smallest
    condition = jnp.where(jnp.isfinite(condition), condition, jnp.inf)
    relative = jnp.where(error == 0, 0, error / size)
    adjoint = norm_remainder / jnp.where(norm_by_y > 0, norm_by_y, 1)
    eps = jnp.finfo(condition.dtype).eps
    radius = None
    if fixed_point:
        radius = spectral_radius(lambda t: _tree.subtract(t, product(t)), v)
    ok = (
        (condition < 1 / (100 * eps))
        & (adjoint <= jnp.sqrt(eps))
        & (relative <= TRUSTED_ERROR)
        & jnp.isfinite(error)
    )
    return Certificate(
        gradient=g,
        gradient_error=error,
        relative_gradient_error=relative,
        corrected_gradient=corrected,
        solution_error=_tree.norm(delta),
        residual=_tree.norm(here),
        adjoint_residual=adjoint,
        condition_number=condition,
        spectral_radius=radius,
        ok=ok,
    )


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
    return _tree.norm([part for leaf in jax.tree.leaves(x) for part in _parts(leaf)])


def _parts(leaf: Array) -> tuple[Array, ...]:
    return (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)


def _report(c: Certificate) -> str:
    """What was checked, what holds, what does not, and what to do about the first."""
    dtype = c.condition_number.dtype
    eps = float(jnp.finfo(dtype).eps)
    condition, relative = float(c.condition_number), float(c.relative_gradient_error)
    adjoint, residual = float(c.adjoint_residual), float(c.residual)
    distance = float(c.solution_error)
    invertible = condition < 1 / (100 * eps)
    if np.isfinite(condition):
        verdict = f"too ill-conditioned for {dtype}"
        remedy = "scale the equations and the unknowns, or use float64"
    else:
        verdict = "singular to working precision"
        remedy = "remove duplicated equations and free directions"
    # A cause comes before its effects: only the first failure gets advice.
    checks = [
        (
            "solution",
            f"|F(y)| = {residual:.1e}"
            + (f", |y* - y| about {distance:.1e}" if np.isfinite(distance) else ""),
            bool(np.isfinite(residual) and (np.isfinite(distance) or not invertible)),
            "fn is not finite at the value given: solve again, from elsewhere",
        ),
        (
            "Jacobian",
            f"condition number of dF/dy about {condition:.1e}"
            + ("" if invertible else f": {verdict}"),
            invertible,
            f"the implicit function theorem needs an invertible dF/dy: {remedy}",
        ),
        (
            "adjoint",
            f"relative residual {adjoint:.1e}",
            adjoint <= eps**0.5,
            "the adjoint system was not solved: scale the equations, or use float64",
        ),
        (
            "gradient",
            f"relative error about {relative:.1e}",
            relative <= TRUSTED_ERROR,
            "tighten the solver's rtol/atol or raise max_steps; corrected_gradient has "
            "the square of this error where it is well below one",
        ),
    ]
    lines = ["Certificate: " + ("ok" if bool(c.ok) else "NOT ok")]
    advised = False
    for name, text, holds, advice in checks:
        lines.append(f"  {'ok ' if holds else 'NO '} {name:<9} {text}")
        if not holds and not advised:
            lines.append(f"      {'':<9} -> {advice}")
            advised = True
    if c.spectral_radius is not None:
        radius = float(c.spectral_radius)
        verdict = (
            "contracts" if radius < 1 else "does NOT contract (Newton does not mind)"
        )
        lines.append(f"      map       spectral radius {radius:.4f}: {verdict}")
    return "\n".join(lines)
