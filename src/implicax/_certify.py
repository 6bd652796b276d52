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
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from . import _tree
from ._conditions import close, split_arrays
from ._linear import DENSE_LIMIT, LinearSolve
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
    value: PyTree[Array],
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
    closed = close(problem, value, args)
    conditions, view, v = closed.conditions, closed.view, closed.v0
    constants, arrays = closed.inputs
    _, others = split_arrays(args)
    floating, fixed = eqx.partition(arrays, eqx.is_inexact_array)

    if not jax.tree.leaves(floating):
        raise ValueError(
            "args holds no floating arrays, so there is no gradient to certify. Pass "
            "what the loss is to be differentiated with respect to through args."
        )

    def combined(floating: PyTree[Array]) -> PyTree[Array]:
        return eqx.combine(floating, fixed)

    def real_loss(v: Vector, floating: PyTree[Array]) -> Array:
        y = view.from_real(v)
        return _check_loss(loss(y, eqx.combine(combined(floating), others)))

    def residual(v: Vector, floating: PyTree[Array]) -> Vector:
        return conditions.residual(v, (constants, combined(floating)))

    return _certificate(real_loss, residual, v, floating, problem.fixed_point)


def _certificate(
    loss: Callable[[Vector, PyTree[Array]], Array],
    residual: Callable[[Vector, PyTree[Array]], Vector],
    v: Vector,
    args: PyTree[Array],
    fixed_point: bool,
) -> Certificate:
    here, product = jax.linearize(lambda v: residual(v, args), v)
    _, pullback = jax.vjp(lambda v: residual(v, args), v)

    def transposed(u: Vector) -> Vector:
        return pullback(u)[0]

    dense = _tree.size(v) <= DENSE_LIMIT
    factor = factorise(materialise(product, v)) if dense else None
    solve = LinearSolve("auto", factor, fixed_point)

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

    error, size = _modulus(change), _modulus(corrected)
    norm_by_y, norm_remainder = _tree.norm(by_y), _tree.norm(remainder)
    smallest = largest_singular_value(
        lambda x: solve(product, x), lambda x: solve.transposed(transposed, x), v
    )
    condition = largest_singular_value(product, transposed, v) * smallest
    condition = jnp.where(jnp.isfinite(condition), condition, jnp.inf)
    relative = error / jnp.where(size > 0, size, 1)
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
    """What was checked, what holds, what does not, what to do."""
    eps = float(jnp.finfo(c.condition_number.dtype).eps)
    condition, relative = float(c.condition_number), float(c.relative_gradient_error)
    adjoint = float(c.adjoint_residual)
    checks = [
        (
            "gradient",
            f"relative error about {relative:.1e}",
            relative <= TRUSTED_ERROR,
            "tighten the solver's rtol/atol or raise max_steps; corrected_gradient has "
            "the square of this error where it is well below one",
        ),
        (
            "solution",
            f"|F(y)| = {float(c.residual):.1e}, |y* - y| about "
            f"{float(c.solution_error):.1e}",
            bool(np.isfinite(c.solution_error)),
            "the value is not finite, or dF/dy is singular at it",
        ),
        (
            "Jacobian",
            f"dF/dy is invertible: condition number about {condition:.1e}",
            condition < 1 / (100 * eps),
            "dF/dy is singular to working precision: the implicit function theorem "
            "does not apply. Remove duplicated equations and free directions, or use "
            "float64",
        ),
        (
            "adjoint",
            f"relative residual {adjoint:.1e}",
            adjoint <= eps**0.5,
            "the adjoint system was not solved: see the condition number, scale the "
            "equations, or use float64",
        ),
    ]
    lines = ["Certificate: " + ("ok" if bool(c.ok) else "NOT ok")]
    for name, text, holds, advice in checks:
        lines.append(f"  {'ok ' if holds else 'NO '} {name:<9} {text}")
        if not holds:
            lines.append(f"      {'':<9} -> {advice}")
    if c.spectral_radius is not None:
        radius = float(c.spectral_radius)
        verdict = (
            "contracts" if radius < 1 else "does NOT contract (Newton does not mind)"
        )
        lines.append(f"      map       spectral radius {radius:.4f}: {verdict}")
    return "\n".join(lines)
