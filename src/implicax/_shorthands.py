"""`fixed_point`, `root`, `minimize` and `least_squares`: short for `solve`."""

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import PyTree

from implicax._core.failure import OnFailure
from implicax._core.keywords import explained
from implicax._core.solution import Solution, Y
from implicax._derivatives.base import AbstractDerivative
from implicax._problems.fixed_point import FixedPoint
from implicax._problems.least_squares import LeastSquares
from implicax._problems.losses import AbstractLoss
from implicax._problems.minimum import Minimum
from implicax._problems.root import Root
from implicax._solve import solve
from implicax._solvers.progress import Listener


@explained
def fixed_point(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    sparsity: Any = None,
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Solve `y = fn(y, args)` and make the solution differentiable.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns the next iterate: structure, shapes and dtypes of
      `y`. Arrays that it closes over are differentiated too.
    - `y0`: the initial guess: a scalar or any pytree of floating or complex arrays. The
      derivative with respect to it is exactly zero.
    - `args`: any pytree; its arrays are differentiated.
    - `solver`: [`implicax.Picard`][], [`implicax.Anderson`][], [`implicax.Broyden`][],
      [`implicax.Newton`][], [`implicax.Chord`][] or your own; [`implicax.SciPy`][]; any
      optimistix root finder, fixed-point, least-squares or minimising solver. `None`
      means `Anderson()`: one evaluation per step, far fewer steps than plain iteration,
      and it survives many maps that do not contract.
    - `derivative`: `None` means [`implicax.Implicit`][], the exact one.
    - `max_steps`: the bound on the solver's steps.
    - `has_aux`: whether `fn` returns `(iterate, aux)`.
    - `sparsity`: where `dF/dy` may be other than zero, for thousands to a million
      unknowns: `"auto"` finds it, or an [`implicax.Sparsity`][].
    - `on_failure`: `"raise"`: outside `jit` a [`implicax.ConvergenceError`][], under
      `jit` and `vmap` NaN in value and derivative of the failed lanes only.
      `"ignore"`: the best effort, and `solution.status` tells.
    - `progress`: `True` shows a bar (needs tqdm), a function is called with an
      [`implicax.Progress`][] after each step (or evaluation, of other libraries).

    **Returns:** a [`implicax.Solution`][].

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cosine(a):
        return ix.fixed_point(lambda y, a: jnp.cos(a * y), jnp.asarray(0.5), a).value

    print(f"{cosine(1.0):.4f} {jax.grad(cosine)(1.0):.4f}")
    ```
    ```text
    0.7391 -0.2975
    ```
    """
    return solve(
        FixedPoint(fn, has_aux, sparsity=sparsity),
        y0,
        args,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
        progress=progress,
    )


@explained
def root(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    sparsity: Any = None,
    bounds: Any = None,
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Solve `fn(y, args) = 0` and make the solution differentiable.

    **Arguments:** as [`implicax.fixed_point`][], with these differences:

    - `fn`: takes `(y, args)`, returns the residual: as many numbers as `y` has, in the
      same dtype, and best in the structure and shapes of `y`.
    - `solver`: `None` means [`implicax.Newton`][]`(retry=True)`: line-searched, and
      where that does not get there, with damped steps from `y0` again (beyond 512 real
      unknowns [`implicax.LevenbergMarquardt`][]; with `sparsity`, once).
    - `bounds`: a pair `(lower, upper)`, each a number, `None`, or a pytree like `y0`:
      `fn` is evaluated strictly between them, until the last steps. `None` as solver
      then means [`implicax.NonlinearInteriorPoint`][].

    **Returns:** a [`implicax.Solution`][].

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def square_root(a):
        return ix.root(lambda y, a: y**2 - a, jnp.asarray(1.0), a).value

    print(f"{square_root(2.0):.4f} {jax.grad(square_root)(2.0):.4f}")
    ```
    ```text
    1.4142 0.3536
    ```
    """
    return solve(
        Root(fn, has_aux, sparsity=sparsity, bounds=bounds),
        y0,
        args,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
        progress=progress,
    )


@explained
def minimize(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    sparsity: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Minimise `fn(y, args)` over `y` and make the minimum differentiable.

    **Arguments:** as [`implicax.root`][], with these differences:

    - `fn`: takes `(y, args)`, returns a real scalar.
    - `solver`: `None` means [`implicax.TrustRegion`][]: Newton's method with the exact
      Hessian, which leaves saddle points and needs few steps. Also
      [`implicax.Optax`][] of any optax transformation, [`implicax.SciPy`][]`("BFGS")`
      and the like, and any optimistix minimiser. Solvers of equations
      ([`implicax.Newton`][], ...) find a stationary point, which may be a maximum.
      With bounds or constraints it means [`implicax.NonlinearInteriorPoint`][];
      [`implicax.SciPy`][]`("SLSQP")` and others know them too.
    - `bounds`: a pair `(lower, upper)`, each a number, `None`, or a pytree like `y0`.
    - `constraints`: a list of [`implicax.Equal`][]`(h)`, [`implicax.AtLeast`][]`(g)`
      and [`implicax.AtMost`][]`(g)`, each of a function `(y, args)`: equal to zero, at
      least, at most zero.

    **Returns:** a [`implicax.Solution`][]; the minimum value is `solution.objective`.
    Its derivative is exact and takes no linear solve (the envelope theorem); that of
    `solution.value` takes one, with the exact Hessian. With bounds or constraints it is
    an [`implicax.ConstrainedSolution`][], with multipliers in `dual`.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def rosenbrock(y, a):
        return (a - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2

    def minimum(a):
        return ix.minimize(rosenbrock, jnp.array([-1.2, 1.0]), a).value

    print(minimum(1.0).round(3), jax.jacobian(minimum)(1.0).round(3))
    ```
    ```text
    [1. 1.] [1. 2.]
    ```
    """
    within: Any = {"bounds": bounds, "constraints": constraints}
    return solve(
        Minimum(fn, has_aux, sparsity=sparsity, **within),
        y0,
        args,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
        progress=progress,
    )


@explained
def least_squares(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    loss: AbstractLoss | None = None,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    sparsity: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Minimise `1/2 sum |fn(y, args)|^2` over `y`; the fit is differentiable.

    **Arguments:** as [`implicax.root`][], with these differences:

    - `fn`: takes `(y, args)`, returns the errors: any pytree of arrays.
    - `loss`: how errors are weighed: `None` for plain squares, or a robust one such as
      [`implicax.Huber`][]`(scale)`; see [`implicax.LeastSquares`][].
    - `solver`: `None` means [`implicax.LevenbergMarquardt`][]`(retry=True)`: where
      that does not get there, from `y0` again by the exact Hessian. Others as in
      [`implicax.minimize`][], and any optimistix least-squares solver.
    - `bounds`, `constraints`: as of [`implicax.minimize`][].

    **Returns:** a [`implicax.Solution`][]; half the (weighed) sum of squares is
    `solution.objective`. The derivative uses the exact Hessian, not its Gauss-Newton
    part. [`implicax.covariance`][] has the standard errors.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    t = jnp.array([0.0, 1.0, 2.0, 3.0])

    def errors(y, data):
        return y["height"] * jnp.exp(-y["rate"] * t) - data

    def rate(data):
        start = {"height": 1.0, "rate": 1.0}
        return ix.least_squares(errors, start, data).value["rate"]

    data = jnp.array([2.0, 1.2, 0.8, 0.5])
    print(f"{rate(data):.3f} {jax.grad(rate)(data)[1]:.3f}")
    ```
    ```text
    0.468 -0.136
    ```
    """
    within: Any = {"bounds": bounds, "constraints": constraints}
    return solve(
        LeastSquares(fn, has_aux, sparsity=sparsity, loss=loss, **within),
        y0,
        args,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
        progress=progress,
    )
