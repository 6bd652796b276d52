"""The certificate: what was checked of one gradient, and how a person reads it."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from . import _tree

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
    adjoint: PyTree[Array]
    """The solution `u` of `(dF/dy)^T u = dl/dy`, with the structure of `value`."""
    adjoint_residual: Float[Array, ""]
    """`|dl/dy - (dF/dy)^T u| / |dl/dy|`, scaled likewise."""
    condition_number: Float[Array, ""]
    """Estimated 2-norm condition number of `dF/dy`, of a Hessian scaled to a unit
    diagonal; infinite where it is singular."""
    spectral_radius: Float[Array, ""] | None
    """Of the map's Jacobian at `value` (fixed points only, else `None`). Below one,
    plain iteration converges, at this rate."""
    minimum: Bool[Array, ""] | None
    """Whether the Hessian is positive definite: a minimum, not a saddle point or a
    maximum. `None` for equations and where the Hessian was not formed."""
    ok: Bool[Array, ""]
    """Whether the theorem's hypotheses hold numerically, a minimum is one, and the
    error bar is small enough to be trusted: all finite, condition number below
    `1 / (100 eps)`, adjoint residual below `sqrt(eps)`, relative gradient error below
    1e-2."""

    def __repr__(self) -> str:
        if not _tree.known(self):
            return "Certificate(<inside a JAX transformation>)"
        if self.ok.ndim:
            return f"Certificate: a batch of {self.ok.shape}, {int(self.ok.sum())} ok"
        return _report(self)


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
            "the adjoint system was not solved: scale the equations, or use float64; "
            "where dF/dy is singular, the loss depends on what it leaves free; of the "
            "Gauss-Newton matrix this is the bias",
        ),
        (
            "gradient",
            f"relative error about {relative:.1e}",
            relative <= TRUSTED_ERROR,
            "tighten the solver's rtol/atol or raise max_steps; corrected_gradient has "
            "the square of this error where it is well below one",
        ),
    ]
    if c.minimum is not None:
        curved = bool(c.minimum)
        verdict = "positive definite" if curved else "not positive definite"
        advice = (
            "this is a saddle point, a maximum, or a minimum that is flat in some "
            "direction: start elsewhere, or use ix.TrustRegion"
        )
        checks.insert(2, ("minimum", f"the Hessian is {verdict}", curved, advice))
    lines = ["Certificate: " + ("ok" if bool(c.ok) else "NOT ok")]
    advised = False
    for name, text, holds, advice in checks:
        lines.append(f"  {'ok ' if holds else 'NO '} {name:<9} {text}")
        if not holds and not advised:
            lines.append(f"      {'':<9} -> {advice}")
            advised = True
    if c.spectral_radius is not None:
        radius = float(c.spectral_radius)
        verdict = "contracts"
        if abs(radius - 1) <= eps**0.5:
            verdict = "on the edge: a direction is left free, or nearly"
        elif radius > 1:
            verdict = "does NOT contract (Newton does not mind)"
        lines.append(f"      map       spectral radius {radius:.4f}: {verdict}")
    return "\n".join(lines)
