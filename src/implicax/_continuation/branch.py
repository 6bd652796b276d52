"""What comes back from a continuation: the points of a branch, as data."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._core import tree_math
from implicax._core.enumeration import Enumeration
from implicax._core.solution import SolveError, tally


class BranchStatus(Enumeration):
    """How a continuation ended: an array-valued enumeration, as
    [`implicax.Status`][] is.

    ```python
    import implicax as ix

    arch = lambda y, p, a: a * y - y**3 - p
    branch = ix.continuation(arch, 1.0, 0.0, 0.3, 1.0, max_points=2)
    print(branch.status == ix.BranchStatus.max_points_reached)
    ```
    ```text
    True
    ```
    """

    reached_stop = "The branch was followed to the stop."
    turned_back = "The branch turned round and left the range at the other end."
    max_points_reached = (
        "All of max_points were spent before the branch came to an end."
    )
    lost = (
        "No further point of this branch was found, however short the step: it folds "
        "(if method='natural'), branches (another crosses it), ends, or its function "
        "is not smooth there."
    )
    no_start = "No regular solution was found at the start."


_NAMES = ("reached_stop", "turned_back", "max_points_reached", "lost", "no_start")


class Branch(eqx.Module):
    """The solutions along a branch, in order: a pytree of arrays of fixed length.

    Of `max_points` rows the first `count` are used, and the others NaN.

    ```python
    import implicax as ix

    arch = lambda y, p, a: a * y - y**3 - p
    branch = ix.continuation(arch, 1.0, 0.0, 0.3, 1.0)
    print(branch.status == ix.BranchStatus.reached_stop)
    ```
    ```text
    True
    ```
    """

    parameter: Float[Array, " max_points"]
    """The parameter of each point."""
    value: PyTree[Array]
    """The unknown at each point, on a new leading axis."""
    count: Int[Array, ""]
    """How many points there are."""
    folds: Bool[Array, " max_points"]
    """Whether the parameter turned round between the point before and this one."""
    fold_parameter: Float[Array, " max_points"]
    """Where `folds`, the extreme value of the parameter: interpolated, to about the
    fourth power of the distance of the points. [`implicax.fold`][] has all digits, and
    a derivative; the derivative of this one is NaN."""
    status: BranchStatus
    """How the continuation ended."""

    def __repr__(self) -> str:
        if not tree_math.known(self):
            return "Branch(<inside a JAX transformation>)"
        text = f"Branch: {tally(self.status, BranchStatus, _NAMES)}\n"
        if np.ndim(self.count):
            return text + f"  points     {np.asarray(self.count)}"
        used = int(self.count)
        parameter = np.asarray(self.parameter)
        text += f"  points     {used} of at most {parameter.size}"
        if used:
            text += f"\n  parameter  {parameter[0]:.6g} ... {parameter[used - 1]:.6g}"
        folds = np.asarray(self.fold_parameter)[np.asarray(self.folds)]
        if folds.size:
            places = ", ".join(f"{fold:.6g}" for fold in folds)
            text += f"\n  folds      at about {places}"
        return text


class BranchError(SolveError):
    """A branch has no start, or was lost, outside `jax.jit`.

    Nothing is lost with it: `error.branch` has the points that were found.

    ```python
    import implicax as ix

    try:
        ix.continuation(lambda y, p, a: y**2 + 1, 1.0, 0.0, 1.0)
    except ix.BranchError as error:
        print(error.branch.status == ix.BranchStatus.no_start)
    ```
    ```text
    True
    ```
    """

    def __init__(self, branch: Branch):
        self.branch = branch
        advice = (
            "start closer to a solution, or at another parameter: where dF/dy is "
            "singular there is no direction to start in"
            if bool(branch.status == BranchStatus.no_start)
            else "method='arclength' passes folds, and ix.fold locates the one near "
            "branch.value[branch.count - 1]; beyond a point where branches cross, "
            "start again on the one that is wanted"
        )
        super().__init__(
            f"{BranchStatus[branch.status]}\n{branch!r}\n  What to try: {advice}.\n"
            '  The points found are in `error.branch`; on_failure="ignore" returns '
            "them instead of raising."
        )
