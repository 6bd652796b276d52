"""What comes back from a solve: data, and an honest word on how it went."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._core import tree_math
from implicax._core.advice import EQUATIONS, advice
from implicax._core.enumeration import Enumeration


class Status(Enumeration):
    """How a solve ended: an array-valued enumeration (one value per `vmap` lane).

    `solution.status == ix.Status.converged` is a boolean array; `status.name` is the
    name of a single status (of a batch, an array of names), `ix.Status[status]` its
    text.

    ```python
    import implicax as ix

    none = ix.root(lambda y, a: y**2 + a, 1.0, 2.0, on_failure="ignore")
    print(none.status == ix.Status.converged)
    ```
    ```text
    False
    ```
    """

    converged = "The estimated error of each unknown is within the tolerance."
    max_steps_reached = "The unknowns were still changing after max_steps."
    diverged = "The residual grew beyond 1e8 times its first value."
    stagnated = "The residual stopped falling before the unknowns were known."
    non_finite = "The function returned NaN or infinity."
    singular = "The Jacobian dF/dy is singular to working precision."
    not_solved = "The value that the solver returned does not solve the equation."
    failed = "The solver gave no answer."
    no_sign_change = "The function has the same sign at both ends of the bracket."
    unbounded = "The objective falls, or levels off, towards infinity: no minimum."
    saddle = "The gradient is zero at a point that is no minimum."
    degenerate = (
        "The solution is not isolated, or dF/dy is singular at it: there is no "
        "derivative."
    )
    linear_solve_failed = "A linear system of a step could not be solved."
    infeasible = "Nothing satisfies the constraints: there is a proof."
    locally_infeasible = "The constraints cannot be met near here."
    not_convex = "The objective has a direction of negative curvature."
    kink = "The solution is at a kink: its derivatives are one-sided."
    wrong_sparsity = "The Jacobian has entries at places that sparsity= leaves out."


class Stats(eqx.Module):
    """Counts and sizes of one solve. All fields are arrays.

    ```python
    import implicax as ix

    stats = ix.root(lambda y, a: y**2 - a, 1.0, 2.0).stats
    print(stats.steps, stats.evaluations, stats.error < 1e-5)
    ```
    ```text
    3 4 True
    ```
    """

    steps: Int[Array, "..."]
    """Solver steps taken; -1 where the solver is not ours and does not tell."""
    evaluations: Int[Array, "..."]
    """Evaluations of the residual (those inside Jacobian products not counted)."""
    residual_norm: Float[Array, "..."]
    """The largest absolute component of `F` at the value returned."""
    error: Float[Array, "..."]
    """The largest estimated relative error of an unknown, those that are zero left out;
    infinite where the solve has not converged."""
    residual_history: Float[Array, "... max_steps_plus_1"] | None
    """The residual norm after each step, NaN after the last; `None` unless the solver
    was made with `record_history=True`."""


#: What others call the parts of a solution.
_ELSEWHERE = {
    "x": "value",
    "params": "value",
    "y": "value",
    "root": "value",
    "fun": "objective",
    "message": "status.name",
    "result": "status.name",
    "nit": "stats.steps",
    "steps": "stats.steps",
    "nfev": "stats.evaluations",
    "residual": "stats.residual_norm",
    "error": "stats.residual_norm",
    "state": "stats",
}


if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Y = TypeVar("Y", default=Array)
else:
    Y = TypeVar("Y")


class Solution(eqx.Module, Generic[Y]):
    """A solution as plain data: it passes through `jax.jit` and `jax.vmap`.

    ```python
    import implicax as ix

    solution = ix.root(lambda y, a: y**2 - a, 1.0, 2.0)
    print(solution.converged, f"{solution.value:.4f}")
    ```
    ```text
    True 1.4142
    ```
    """

    value: Y
    """The unknown `y`, with the structure of the initial guess."""
    aux: Any
    """The auxiliary output of `fn` *at the solution* (differentiable), or `None`."""
    status: Status
    """How the solve ended."""
    stats: Stats
    """Steps, evaluations, final residual norm, optional history."""
    objective: Float[Array, "..."] | None = None
    """What was minimised, at the minimum (differentiable); `None` for equations."""

    @property
    def kind(self) -> str:
        """What was solved: equations, a minimum, or a program."""
        return "equations" if self.objective is None else "minimum"

    @property
    def unknown(self) -> PyTree:
        """What the conditions are about."""
        return self.value

    @property
    def converged(self) -> Bool[Array, "..."]:
        """Whether the solve converged: `status == ix.Status.converged`."""
        return self.status == Status.converged

    @property
    def success(self) -> Bool[Array, "..."]:
        """SciPy's word for `converged`."""
        return self.converged

    if not TYPE_CHECKING:  # which would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            here = _ELSEWHERE.get(name)
            where = "" if here is None else f". It is solution.{here} here"
            raise AttributeError(f"A Solution has no {name!r}{where}.")

    def __repr__(self) -> str:
        if not tree_math.known((self.status, self.stats)):
            return "Solution(<inside a JAX transformation>)"
        leaves = _arrays(self.value)
        kinds = dict.fromkeys(str(leaf.dtype) for leaf in leaves)
        dtypes = f" ({', '.join(kinds)})" if tree_math.known(leaves) else ""
        shown = jax.tree.map(lambda leaf: _Shown(_short(leaf)), self.value)
        told = np.all(np.asarray(self.stats.steps) >= 0)
        steps = _short(self.stats.steps) if told else "not told"
        return (
            f"Solution: {describe(self.status)}{self._known_to()}\n"
            f"  value     {shown}{dtypes}\n"
            f"  steps     {steps}"
            f" ({_short(self.stats.evaluations)} evaluations)\n"
            + (
                f"  residual  {_short(self.stats.residual_norm)}"
                if self.objective is None
                else f"  objective {_short(self.objective)}\n"
                f"  gradient  {_short(self.stats.residual_norm)}"
            )
        )

    def _known_to(self) -> str:
        """How right the unknowns are."""
        error = self.stats.error
        if np.ndim(error) or not np.isfinite(error):
            return ""
        return f", unknowns to about {max(float(error), _eps(self.value)):.0e}"


def _arrays(value: PyTree) -> list[Array]:
    """The leaves that are unknowns: all but a module's functions."""
    return [leaf for leaf in jax.tree.leaves(value) if not callable(leaf)]


def _eps(value: PyTree) -> float:
    """The rounding unit of the least precise leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in _arrays(value))


class _Shown(str):
    """Text that shows without quotation marks inside a pytree."""

    __repr__ = str.__str__


def describe(status: Status) -> str:
    """A concrete status in words; for a batch, how many lanes ended in which way."""
    return tally(status, Status, ("converged", *EQUATIONS))


def tally(status: Any, kind: Any, names: tuple[str, ...]) -> str:
    """Likewise for any enumeration with these names."""
    counts = {
        name.replace("_", " "): int(np.sum(status == getattr(kind, name)))
        for name in names
    }
    batch = np.ndim(status == getattr(kind, names[0])) > 0
    return ", ".join(
        f"{count} {name}" if batch else name for name, count in counts.items() if count
    )


def _short(x: Any) -> str:
    """An array on one line; a long one, or one without values, by its shape and dtype.
    (Under `jax.grad` outside `jit`, the value of a solution has none, and its status
    has.)"""
    if callable(x):
        return getattr(x, "__name__", type(x).__name__)
    known = tree_math.known(x)
    values: Any = np.asarray(x) if known else x
    if values.size > 12 or not known:
        return f"{values.dtype}{list(values.shape)}"
    return np.array2string(values, precision=6, max_line_width=10_000).replace("\n", "")


class SolveError(RuntimeError):
    """An error with what was found: it can be pickled (so it comes back from another
    process) and copied."""

    def __reduce__(self) -> Any:
        return _raised, (type(self), self.args), self.__dict__


def _raised(kind: type[RuntimeError], args: tuple) -> RuntimeError:
    """An error without its making: the text is made."""
    return kind.__new__(kind, *args)


class ConvergenceError(SolveError):
    """A solve did not converge, outside `jax.jit`.

    The text says what happened, the last residual, and what to try. Nothing is lost:
    `error.solution` is the best effort, as `on_failure="ignore"` would return it.

    ```python
    import implicax as ix

    try:
        ix.root(lambda y, a: y**2 + a, 1.0, 2.0)
    except ix.ConvergenceError as error:
        print(error.solution.converged)
    ```
    ```text
    False
    ```
    """

    def __init__(self, solution: Solution[Any], solver: str, message: str = ""):
        self.solution = solution
        name = describe(solution.status)
        text = Status[solution.status]
        steps = int(solution.stats.steps)
        after = f" after {steps} steps" if steps >= 0 else ""
        reason, kind = name.replace(" ", "_"), "Residual norm"
        if solution.kind != "equations":
            kind = "Largest component of the gradient"
        super().__init__(
            f"{solver} did not converge ({name}): {text}\n"
            f"  {kind} {float(solution.stats.residual_norm):.3e}{after}.\n"
            f"{message and f'  It says: {message}' + chr(10)}"
            f"  What to try: {advice(reason, solver, solution.kind)}.\n"
            '  The best iterate is in `error.solution`; on_failure="ignore" returns '
            "it instead of raising."
        )
