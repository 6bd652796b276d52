"""Weights for which an equilibrium exists, is one, and is found."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core.checks import positive

Norm = Literal["spectral", "frobenius", "infinity"]
_ORDERS = {"spectral": 2, "frobenius": "fro", "infinity": jnp.inf}


def bounded(
    weight: Float[Array, "m n"], bound: float = 0.9, norm: Norm = "spectral"
) -> Float[Array, "m n"]:
    """`weight`, scaled down where its norm is above `bound`.

    The Lipschitz constant of `z -> weight @ z` is then at most `bound`: in the 2-norm
    for `"spectral"` and for `"frobenius"` (which is larger, and costs no
    decomposition), in the maximum norm for `"infinity"`. With slopes of at most one
    (`tanh`, `relu`) `z = tanh(weight @ z + x)` contracts with that constant: it has one
    equilibrium, and plain iteration finds it (Banach 1922).

    **Arguments:**

    - `weight`: a matrix. (For convolutions bound the kernel's absolute sum per output
      channel, which is the `"infinity"` norm of the matrix that it stands for:
      `bounded(kernel.reshape(out, -1), ...)`.)
    - `bound`: positive, and below one for a contraction.

    Call it outside of the cell: inside, it would be computed at each step.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.nn.bounded(jnp.diag(jnp.array([2.0, 1.0])), 0.8))
    ```
    ```text
    [[0.8 0. ]
     [0.  0.4]]
    ```
    """
    if norm not in _ORDERS:
        raise ValueError(
            f"norm must be 'spectral', 'frobenius' or 'infinity', not {norm!r}."
        )
    if jnp.ndim(weight) != 2 or not jnp.issubdtype(weight.dtype, jnp.floating):
        raise ValueError(
            "weight must be a matrix of real floating-point numbers; it is "
            f"{weight.dtype}{list(jnp.shape(weight))}."
        )
    # (Of less than single precision there is no decomposition.)
    low = jnp.finfo(weight.dtype).bits < 32
    precise = weight.astype("float32") if low else weight
    limit = positive("bound")(bound).astype(precise.dtype)
    above = jax.lax.stop_gradient(jnp.linalg.norm(precise, _ORDERS[norm])) > limit
    # Within the bound the weight is as it was, and so are its derivatives: a norm has
    # none at zero, and that of a matrix whose singular values are equal no second ones.
    distinct = jnp.diag(1 + jnp.arange(max(weight.shape), dtype=precise.dtype))
    smooth = jnp.where(above, precise, distinct[: weight.shape[0], : weight.shape[1]])
    factor = jnp.where(above, limit / jnp.linalg.norm(smooth, _ORDERS[norm]), 1)
    return weight * factor.astype(weight.dtype)


class Monotone(eqx.Module):
    """A matrix `W = (1 - margin) I - A'A + B - B'` (Winston & Kolter 2020, eq. 10).

    `z = relu(W z + x)` then has one equilibrium, whatever `A` and `B` are, and however
    large `W` is: `I - W` is strongly monotone, with modulus `margin`. So it is for
    every monotone activation with slopes of at most one. Plain iteration need not
    converge; `ix.Anderson` mostly does, `ix.Newton` does.

    **Arguments:**

    - `size`: the number of unknowns.
    - `margin`: positive; the equilibrium moves by at most `1 / margin` times the change
      of `x`.
    - `key`: for the initial entries of `A` and `B`.

    `Monotone(...)(z)` is `W @ z`, `.weight` is `W`.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    linear = ix.nn.Monotone(4, 0.5, key=jax.random.key(0))
    symmetric = (linear.weight + linear.weight.T) / 2
    print(bool(jnp.linalg.eigvalsh(symmetric)[-1] <= 0.5 + 1e-5))
    ```
    ```text
    True
    ```
    """

    symmetric: Float[Array, "n n"]
    skew: Float[Array, "n n"]
    margin: float = eqx.field(static=True)

    def __init__(
        self, size: int, margin: float = 0.5, *, key: Array, dtype: str | None = None
    ):
        if not margin > 0:
            raise ValueError(f"margin must be positive, not {margin!r}.")
        one, other = jax.random.split(key)
        scale = jax.nn.initializers.glorot_normal()
        self.symmetric = scale(one, (size, size), dtype or float)
        self.skew = scale(other, (size, size), dtype or float)
        self.margin = float(margin)

    @property
    def weight(self) -> Float[Array, "n n"]:
        """`W`."""
        A, B = self.symmetric, self.skew
        one = jnp.eye(A.shape[0], dtype=A.dtype)
        return (1 - self.margin) * one - A.T @ A + B - B.T

    def __call__(self, z: Float[Array, " n"]) -> Float[Array, " n"]:
        """`W @ z`."""
        return self.weight @ z
