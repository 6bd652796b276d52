"""The certificate: what was found out about one gradient, what is asked of it, and how
a person reads that."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._core import tree_math

#: First-order error bars are trusted up to this relative size.
TRUSTED_ERROR = 1e-2
#: Corrections are trusted that are followed by one of at most this part of their size:
#: half of what it is at a double root, and a third of what it is where `F` levels off
#: towards infinity.
TRUSTED_CONTRACTION = 1 / 8


class Certificate(eqx.Module):
    """The a-posteriori evidence for one gradient. All fields are arrays.

    ```python
    import implicax as ix

    square = ix.Root(lambda y, a: y**2 - a)
    certificate = ix.certify(lambda y, a: y, square, 1.414, 2.0)
    print(certificate.ok, f"{certificate.corrected_gradient:.5f}")
    ```
    ```text
    True 0.35355
    ```
    """

    gradient: PyTree[Array]
    """The implicit gradient at `value`, with the structure of `args` (`None` in the
    place of leaves that are not floating arrays)."""
    gradient_error: Float[Array, ""]
    """Estimated Euclidean norm of the error of `gradient`."""
    relative_gradient_error: Float[Array, ""]
    """The same, relative to the norm of `corrected_gradient`."""
    gradient_errors: PyTree[Array]
    """The estimated error of each component of `gradient`, with its structure."""
    elasticity_error: Float[Array, ""]
    """The largest error of an elasticity `a_i dl/da_i`, relative to the largest
    elasticity: an error without units, which none of the components hides from."""
    rounding_error: Float[Array, ""] | None
    """What rounding errors of `value` and of the adjoint make of `gradient`, about,
    relative to the norm of `corrected_gradient`; `None` where no Jacobian is formed."""
    worst: Int[Array, ""]
    """The component with that error, by its place in the raveled `gradient`."""
    corrected_gradient: PyTree[Array]
    """`gradient` plus its estimated error: its own error is of second order."""
    solution_error: Float[Array, ""]
    """`|delta|`, the estimated Euclidean norm of `y* - y`."""
    contraction: Float[Array, ""]
    """How large the Newton correction after `delta` is, relative to `delta`, each entry
    relative to its own unknown. What rounding leaves counts as zero."""
    residual: Float[Array, ""]
    """`|F(y)|`."""
    adjoint: PyTree[Array]
    """The solution `u` of `(dF/dy)^T u = dl/dy`, with the structure of `value`."""
    adjoint_residual: Float[Array, ""]
    """`|dl/dy - (dF/dy)^T u| / |dl/dy|`, scaled likewise."""
    condition_number: Float[Array, ""]
    """In the 2-norm, of `dF/dy`, or of a Hessian scaled to a unit diagonal (an estimate
    beyond 128 unknowns); infinite where that is singular to working precision."""
    smooth: Bool[Array, ""]
    """Whether neither a kink nor a jump of `F` or of the loss was seen around `y`."""
    spectral_radius: Float[Array, ""] | None
    """Of the map's Jacobian at `value` (fixed points only, else `None`). Below one,
    plain iteration converges, at this rate."""
    minimum: Bool[Array, ""] | None
    """Whether no direction of negative curvature was found at what should be a minimum;
    `None` for equations."""
    eps: Float[Array, ""]
    """The rounding unit of the least precise unknown."""
    margin: Float[Array, ""] | None = None
    """By how much of their size the data may change, to first order, until a constraint
    begins or ceases to act; `None` where there are no constraints. At zero (strict
    complementarity fails) derivatives are one-sided."""

    @property
    def checks(self) -> dict[str, Any]:
        """What is asked of a gradient that deserves trust, by name, and whether it
        holds: truth values, arrays like the fields."""
        return {check.name: check.holds for check in _checks(self)}

    @property
    def ok(self) -> Any:
        """Whether all checks hold: the hypotheses of the theorem, numerically, and an
        error bar that is small enough to be trusted. A truth value, an array."""
        first, *others = self.checks.values()
        for holds in others:
            first = first & holds
        return first

    def __repr__(self) -> str:
        if not tree_math.known(self):
            return "Certificate(<inside a JAX transformation>)"
        if self.condition_number.ndim:
            ok = np.asarray(self.ok)
            return f"Certificate: a batch of {ok.shape}, {int(ok.sum())} ok"
        return _report(self)


class _Check(NamedTuple):
    name: str
    holds: Any
    message: Callable[[], str]
    advice: str


def _checks(c: Certificate) -> list[_Check]:
    """All that is asked of a certificate: the verdict and the report are made of this.

    A comparison with NaN is false, and so is each check that rests on one.
    """
    invertible = c.condition_number < 1 / (100 * c.eps)
    correct = (c.relative_gradient_error <= TRUSTED_ERROR) & (
        c.elasticity_error <= TRUSTED_ERROR
    )
    if c.rounding_error is not None:
        correct = correct & (c.rounding_error <= TRUSTED_ERROR)
    checks = [
        _Check(
            "solution",
            c.residual < np.inf,
            lambda: f"|F(y)| = {c.residual:.1e}" + _distance(c),
            "fn is not finite at the value given: solve again, from elsewhere",
        ),
        _Check(
            "Jacobian",
            invertible,
            lambda: (
                f"condition number of dF/dy about {c.condition_number:.1e}"
                + ("" if invertible else f": {_singularity(c)}")
            ),
            "the implicit function theorem needs an invertible dF/dy: remove what is "
            "duplicated or left free (or pass linear_solver=ix.MinimumNorm()), scale "
            "the equations and the unknowns, or use float64",
        ),
    ]
    if c.minimum is not None:
        checks.append(
            _Check(
                "minimum",
                c.minimum & invertible,
                lambda: (
                    "whether the Hessian is positive definite is lost in rounding"
                    if not invertible
                    else f"the Hessian is {'' if c.minimum else 'not '}"
                    "positive definite"
                ),
                "this is a saddle point, a maximum, or a minimum that is flat in some "
                "direction: start elsewhere, or use ix.TrustRegion",
            )
        )
    if c.margin is not None:
        checks.append(_active(c, c.margin))
    return [
        *checks,
        _Check(
            "Newton",
            c.contraction <= TRUSTED_CONTRACTION,
            lambda: f"the second correction of y is {c.contraction:.1e} of the first",
            "Newton's correction does not lead nearer to a solution: y is too far from "
            "one (solve more accurately, or from elsewhere), or there is none nearby",
        ),
        _Check(
            "smooth",
            c.smooth,
            lambda: (
                "no kink, no jump seen around y"
                if c.smooth
                else "a kink, a jump or a wrong derivative of F or the loss at y"
            ),
            "at a kink there is no derivative: smooth it (ix.SoftL1 for an absolute "
            "value, say), or ask for the derivative on one side of it",
        ),
        _Check(
            "adjoint",
            c.adjoint_residual <= c.eps**0.5,
            lambda: f"relative residual {c.adjoint_residual:.1e}",
            "the adjoint system was not solved: scale the equations, or use float64; "
            "where dF/dy is singular, the loss depends on what it leaves free; of the "
            "Gauss-Newton matrix this is the bias",
        ),
        _Check(
            "gradient",
            correct,
            lambda: f"relative error about {c.relative_gradient_error:.1e}" + _where(c),
            "tighten the solver's rtol/atol or raise max_steps; corrected_gradient has "
            "the square of this error where it is well below one",
        ),
    ]


def _active(c: Certificate, margin: Any) -> _Check:
    """Of problems with constraints."""
    return _Check(
        "active",
        margin > c.eps**0.5,
        lambda: (
            "constraints act as they do until data change by about "
            f"{margin:.1e} of their size"
            if margin < np.inf
            else "constraints act as they do, to first order, for all data"
        ),
        "a constraint acts with a multiplier of zero, or nearly: the derivative is that"
        " to one side, and another to the other",
    )


def _distance(c: Certificate) -> str:
    known = bool(c.solution_error < np.inf)
    return f", |y* - y| about {c.solution_error:.1e}" if known else ""


def _singularity(c: Certificate) -> str:
    """What to call a condition number that is too large."""
    if c.condition_number < np.inf:
        return f"too ill-conditioned for {c.condition_number.dtype}"
    return "singular to working precision"


def _worst(c: Certificate) -> str:
    """The component that is worst, where there are several."""
    place, total = int(c.worst), 0
    name = ""
    for path, leaf in jax.tree_util.tree_flatten_with_path(c.gradient)[0]:
        if total <= place < total + leaf.size:
            index = np.unravel_index(place - total, leaf.shape)
            name = f"args{jax.tree_util.keystr(path)}{[*map(int, index)] or ''}"
        total += leaf.size
    return f", {c.elasticity_error:.1e} in {name}" if total > 1 else ""


def _where(c: Certificate) -> str:
    """Where the error is, and where it is one of rounding."""
    if c.rounding_error is None or c.rounding_error <= TRUSTED_ERROR:
        return _worst(c)
    rounding = f"{c.rounding_error:.1e}, which no tolerance mends"
    remedy = "scale the equations and the unknowns, or use float64"
    return _worst(c) + f", and of rounding about {rounding}: {remedy}"


def _report(c: Certificate) -> str:
    """What was checked, what holds, what does not, and what to do about the first."""
    c = jax.tree.map(np.asarray, c)
    lines = ["Certificate: " + ("ok" if c.ok else "NOT ok")]
    advised = False
    for name, holds, message, advice in _checks(c):
        lines.append(f"  {'ok ' if holds else 'NO '} {name:<9} {message()}")
        # A cause comes before its effects: only the first failure gets advice.
        if not holds and not advised:
            lines.append(f"      {'':<9} -> {advice}")
            advised = True
    if c.spectral_radius is not None:
        radius = c.spectral_radius
        verdict = "contracts"
        if abs(radius - 1) <= c.eps**0.5:
            verdict = "on the edge: a direction is left free, or nearly"
        elif radius > 1:
            verdict = "does NOT contract (Newton does not mind)"
        lines.append(f"      map       spectral radius {radius:.4f}: {verdict}")
    return "\n".join(lines)
