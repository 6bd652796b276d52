"""The primer from beginning to end, as data."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax

from ._certifying import Certified, certify
from ._differentiating import Differentiated, differentiate
from ._exact import exact
from ._failing import Failed, fail
from ._problem import load
from ._solving import Solved, solve
from ._timing import Timed, measure


@dataclass(frozen=True)
class Primer:
    """Everything that was found."""

    solved: Solved
    differentiated: Differentiated
    certified: Certified
    timed: Timed
    failed: Failed

    def figures(self) -> dict[str, Any]:
        """Every figure, ready for `json.dump`."""
        solved, differentiated, timed = self.solved, self.differentiated, self.timed
        counts = {
            f"{run.name.lower()}_iterations": run.classic_count for run in solved.runs
        }
        return {
            **counts,
            "library_iterations": {
                run.name.lower(): {"float32": run.count32, "float64": run.count64}
                for run in solved.runs
            },
            "newton_vs_picard": solved.difference,
            "z_star": solved.z32.tolist(),
            "jacobian_error": solved.jacobian_error,
            "implicit_vs_unrolled": differentiated.implicit_vs_unrolled,
            "implicit_vs_central": differentiated.implicit_vs_central,
            "derivative_errors": {
                row.name: row.vs_exact for row in differentiated.rows
            },
            "wrong_formula_norm": differentiated.wrong_formula_norm,
            "derivative_norm": differentiated.derivative_norm,
            "certificate": [asdict(entry) for entry in self.certified.table],
            "speedup_eager": timed.speedup_eager,
            "speedup_eager_with_solve": timed.speedup_eager_with_solve,
            "speedup_compiled_forward": timed.speedup_compiled_forward,
            "speedup_compiled_reverse": timed.speedup_compiled_reverse,
            "seconds": asdict(timed),
            "current_generator": {
                "picard": self.failed.status,
                "spectral_radius": self.failed.spectral_radius,
                "newton_iterations": self.failed.newton_count,
                "newton_error": self.failed.newton_error,
            },
        }


def run(show: Callable[[Any], None] = lambda found: None) -> Primer:
    """Compute every step; `show` is called with each as soon as it is done.

    In float64 where it is not said otherwise, and on the CPU: ten unknowns would keep
    no other device busy.
    """

    def shown(found: Any) -> Any:
        show(found)
        return found

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        former = load("former")
        solution = exact(former)
        return Primer(
            shown(solve(former, solution)),
            shown(differentiate(former, solution)),
            shown(certify(former, solution)),
            shown(measure(former)),
            shown(fail()),
        )
