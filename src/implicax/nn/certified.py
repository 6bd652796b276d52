"""Training with an eye on the certificate: an optax transformation around another."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._certificates.certificate import Certificate
from implicax._core import tree_math
from implicax._core.checks import positive
from implicax._core.optional import library

Policy = Literal["skip", "correct", "warn"]
#: What a tolerance is multiplied by after a certificate that is not ok, and the least
#: that it becomes, in rounding units.
TIGHTER, FINEST = 0.1, 10.0


class CertifiedState(NamedTuple):
    """What [`implicax.nn.certified`][] carries, and has to log: all of it is arrays."""

    inner: Any
    """The state of the optimiser inside."""
    ok: Bool[Array, ""]
    """Whether the last certificate was ok, in all lanes."""
    relative_gradient_error: Float[Array, ""]
    """Its error bar, the largest of all lanes."""
    spectral_radius: Float[Array, ""]
    """Of the cell, the largest of all lanes; NaN of other problems."""
    skipped: Int[Array, ""]
    """How many updates were left out so far."""
    rtol: Float[Array, ""]
    """The tolerance to solve with next: a tenth of what it was after each certificate
    that is not ok."""


def certified(optimiser: Any, policy: Policy = "skip", *, rtol: Any = 1e-4) -> Any:
    """`optimiser`, which heeds the certificate of each gradient.

    `update(gradient, state, params, certificate=...)` takes an
    [`implicax.Certificate`][] besides, of the whole batch or (by `vmap`) of some of its
    samples, and where it is not ok,

    - `policy="skip"` leaves the parameters and the optimiser's state as they are;
    - `policy="correct"` steps along `certificate.corrected_gradient`, always, and
      leaves the update out where Newton's correction cannot be trusted either (of a
      single certificate whose `args` are the parameters);
    - `policy="warn"` prints a line, and steps.

    `state.rtol` is the tolerance to solve with, `ix.Anderson(rtol=state.rtol)`, which
    is tightened each time; the rest of the state is what to log.

    **Arguments:**

    - `optimiser`: an optax transformation (`implicax[optax]`).
    - `rtol`: the first tolerance.

    **Raises:** `ValueError` for an unknown policy, `TypeError` without a certificate.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp
    import optax

    problem = ix.FixedPoint(lambda z, w: jnp.tanh(w * z + 1.0))
    loss = lambda z, w: (z - 0.8) ** 2
    optimiser = ix.nn.certified(optax.adam(0.05), "correct")

    w = jnp.asarray(0.5)
    state = optimiser.init(w)
    for _ in range(100):
        solver = ix.Picard(rtol=state.rtol)
        z = ix.fixed_point(problem.fn, 0.0, w, solver=solver).value
        certificate = ix.certify(loss, problem, z, w)
        gradient = certificate.gradient
        update, state = optimiser.update(gradient, state, w, certificate=certificate)
        w = optax.apply_updates(w, update)
    print(f"{w:.2f} {z:.2f} {state.skipped}")
    ```
    ```text
    0.12 0.80 0
    ```
    """
    optax = library("optax", "ix.nn.certified")
    if policy not in get_args(Policy):
        raise ValueError(f"policy must be 'skip', 'correct' or 'warn', not {policy!r}.")
    first = positive("rtol")(rtol)
    optimiser = optax.with_extra_args_support(optimiser)

    def init(params: PyTree) -> CertifiedState:
        unknown = jnp.full((), jnp.nan, first.dtype)
        yes, none = jnp.ones((), bool), jnp.zeros((), jnp.int32)
        return CertifiedState(
            optimiser.init(params), yes, unknown, unknown, none, first
        )

    def update(
        gradient: PyTree,
        state: CertifiedState,
        params: PyTree = None,
        *,
        certificate: Certificate | None = None,
        **extra: Any,
    ) -> tuple[PyTree, CertifiedState]:
        if not isinstance(certificate, Certificate):
            raise TypeError(
                "update takes the certificate of the gradient, certificate="
                f"ix.certify(loss, problem, z, params), and it got {certificate!r}."
            )
        ok = jnp.all(jnp.asarray(certificate.ok))
        goes = ok
        if policy == "correct":
            gradient, goes = _corrected(gradient, certificate)
        elif policy == "warn":
            _warn(ok, certificate)
            goes = jnp.ones((), bool)
        updates, inner = optimiser.update(gradient, state.inner, params, **extra)
        # (Zero times NaN is NaN: an update that is left out is selected away.)
        updates = tree_math.where(goes, updates, jax.tree.map(jnp.zeros_like, updates))
        radius = certificate.spectral_radius
        dtype = first.dtype
        finest = FINEST * jnp.finfo(dtype).eps
        tighter = jnp.maximum(TIGHTER * state.rtol, finest)
        return updates, CertifiedState(
            tree_math.where(goes, inner, state.inner),
            ok,
            jnp.max(certificate.relative_gradient_error).astype(dtype),
            jnp.asarray(jnp.nan if radius is None else jnp.max(radius), dtype),
            state.skipped + jnp.where(goes, 0, 1).astype(jnp.int32),
            jnp.where(ok, state.rtol, tighter).astype(dtype),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _corrected(
    gradient: PyTree, certificate: Certificate
) -> tuple[PyTree, Bool[Array, ""]]:
    """The gradient with its error taken off, and whether that can be trusted: all but
    the size of the error is as it should be."""
    if jnp.ndim(certificate.gradient_error):
        raise TypeError(
            "policy='correct' takes one certificate, of the whole loss, and it got a "
            "batch of them. Use policy='skip'."
        )
    corrected = certificate.corrected_gradient
    if jax.tree.structure(corrected) != jax.tree.structure(gradient):
        raise TypeError(
            "policy='correct' takes a certificate whose args are the parameters: its "
            f"gradient is {jax.tree.structure(corrected)}, and that of the parameters "
            f"{jax.tree.structure(gradient)}."
        )
    others = [holds for name, holds in certificate.checks.items() if name != "gradient"]
    corrected = jax.tree.map(lambda c, g: c.astype(g.dtype), corrected, gradient)
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(corrected)]
    return corrected, jnp.all(jnp.stack([*map(jnp.asarray, others), *finite]))


def _warn(ok: Bool[Array, ""], certificate: Certificate) -> None:
    error = jnp.max(certificate.relative_gradient_error)

    def say() -> None:
        jax.debug.print(
            "implicax: the certificate is not ok, relative error {error:.1e}",
            error=error,
        )

    jax.lax.cond(ok, lambda: None, say)
