"""How the errors of a least-squares problem are weighed: robust losses.

With errors `e`, a scale `s` and a function `rho`, the objective is

    1/2 sum_i s^2 rho(e_i^2 / s^2),

which is `1/2 sum e_i^2` for small errors (`rho(0) = 0`, `rho'(0) = 1`); large ones
count less. (Triggs et al. 2000, *Bundle Adjustment: A Modern Synthesis*, sec. 4.3;
Holland & Welsch 1977, table 1.)
"""

import abc
import functools
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.checks import positive
from implicax._core.tree_math import Vector


class AbstractLoss(eqx.Module):
    """Base of the losses: `scale` is the size of an error that is still an inlier.

    `scale` is an array: a loss may be differentiated with respect to it.
    """

    scale: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def rho(self, z: Array) -> Array:
        """`rho`, elementwise, of `z = (e / scale)^2`."""

    def each(self, error: Array) -> Array:
        """What each error contributes to the objective."""
        scale = self.scale.astype(error.dtype)
        return scale**2 * self.rho((error / scale) ** 2) / 2

    def cost(self, errors: Vector) -> Float[Array, ""]:
        """The objective."""
        dtype = tree_math.working_dtype(errors)
        terms = [jnp.sum(self.each(e)).astype(dtype) for e in jax.tree.leaves(errors)]
        return functools.reduce(operator.add, terms)

    def slopes(self, errors: Vector) -> Vector:
        """The derivative of the objective in each error."""
        return jax.grad(self.cost)(errors)

    def curvatures(self, errors: Vector) -> Vector:
        """The second derivative of the objective in each error (there are no mixed
        ones)."""
        ones = jax.tree.map(jnp.ones_like, errors)
        return jax.jvp(self.slopes, (errors,), (ones,))[1]

    def weights(self, errors: Vector) -> Vector:
        """What weighs each error in a Gauss-Newton model: the curvature, where that is
        at least a tenth of `slope / error` (Triggs et al. 2000, sec. 4.3)."""

        def weight(slope: Array, curvature: Array, error: Array) -> Array:
            known = error != 0
            ratio = jnp.where(known, slope / jnp.where(known, error, 1), 1)
            return jnp.maximum(curvature, 0.1 * ratio)

        slopes, curvatures = self.slopes(errors), self.curvatures(errors)
        return jax.tree.map(weight, slopes, curvatures, errors)


class Squares(AbstractLoss):
    """Plain least squares: `rho(z) = z`."""

    scale: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)

    def rho(self, z: Array) -> Array:
        return z

    def each(self, error: Array) -> Array:
        return error**2 / 2


class Huber(AbstractLoss):
    """Quadratic up to `scale`, linear beyond: `rho(z) = z`, then `2 sqrt(z) - 1`.

    Convex (Huber 1964). The second derivative jumps at `scale`: a solution with an
    error of exactly that size has one-sided derivatives only.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    data = jnp.array([1.0, 1.1, 0.9, 1.0, 9.0])
    fit = ix.least_squares(lambda y, d: y - d, 0.0, data, loss=ix.Huber(0.1))
    print(f"{fit.value:.3f}")
    ```
    ```text
    1.033
    ```
    """

    scale: Float[Array, ""] = eqx.field(converter=positive("scale"), default=1.0)

    def rho(self, z: Array) -> Array:
        inlier = z <= 1
        return jnp.where(inlier, z, 2 * jnp.sqrt(jnp.where(inlier, 1, z)) - 1)


class SoftL1(AbstractLoss):
    """Huber's loss without the corner: `rho(z) = 2 (sqrt(1 + z) - 1)`. Convex.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    data = jnp.array([1.0, 1.1, 0.9, 9.0])
    fit = ix.least_squares(lambda y, d: y - d, 1.0, data, loss=ix.SoftL1(0.2))
    print(f"{fit.value:.2f}")
    ```
    ```text
    1.09
    ```
    """

    scale: Float[Array, ""] = eqx.field(converter=positive("scale"), default=1.0)

    def rho(self, z: Array) -> Array:
        return 2 * z / (1 + jnp.sqrt(1 + z))


class Cauchy(AbstractLoss):
    """`rho(z) = log(1 + z)`: outliers hardly pull. Not convex.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    data = jnp.array([1.0, 1.1, 0.9, 9.0])
    fit = ix.least_squares(lambda y, d: y - d, 1.0, data, loss=ix.Cauchy(0.2))
    print(f"{fit.value:.2f}")
    ```
    ```text
    1.00
    ```
    """

    scale: Float[Array, ""] = eqx.field(converter=positive("scale"), default=1.0)

    def rho(self, z: Array) -> Array:
        return jnp.log1p(z)


class Welsch(AbstractLoss):
    """`rho(z) = 1 - exp(-z)`: far outliers do not pull at all. Not convex.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    data = jnp.array([1.0, 1.1, 0.9, 9.0])
    fit = ix.least_squares(lambda y, d: y - d, 1.0, data, loss=ix.Welsch(0.2))
    print(f"{fit.value:.2f}")
    ```
    ```text
    1.00
    ```
    """

    scale: Float[Array, ""] = eqx.field(converter=positive("scale"), default=1.0)

    def rho(self, z: Array) -> Array:
        return -jnp.expm1(-z)


class Tukey(AbstractLoss):
    """Tukey's biweight: `rho(z) = (1 - (1 - z)^3) / 3` up to `scale`, constant beyond.

    Outliers do not pull at all. Not convex (Beaton & Tukey 1974).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    data = jnp.array([1.0, 1.1, 0.9, 9.0])
    fit = ix.least_squares(lambda y, d: y - d, 1.0, data, loss=ix.Tukey(0.2))
    print(f"{fit.value:.2f}")
    ```
    ```text
    1.00
    ```
    """

    scale: Float[Array, ""] = eqx.field(converter=positive("scale"), default=1.0)

    def rho(self, z: Array) -> Array:
        # The same, expanded: nothing cancels where z is small.
        z = jnp.minimum(z, 1)
        return z * (1 - z + z**2 / 3)
