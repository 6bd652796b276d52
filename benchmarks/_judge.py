"""What counts as solved, the same for every solver, ours or not."""

from typing import Literal

import numpy as np

from benchmarks.problems import Problem, Regression

Verdict = Literal["solved", "local", "parameters only", "degenerate", "failed"]

#: The largest residual of a root.
ROOT = 1e-8
#: Six digits, of NIST's certified eleven.
DIGITS = 1e-6
#: Relative to a published minimum, which was cut after six digits; absolute where the
#: minimum is zero.
RELATIVE, ABSOLUTE = 1e-5, 1e-10


def judge(problem: Problem, value, output) -> Verdict:
    """What a solver's answer `value` is worth, with `output = fn(value, args)`.

    "local" is one of the published minima that are not the least.
    """
    value, output = np.asarray(value), np.asarray(output)
    if not (np.all(np.isfinite(value)) and np.all(np.isfinite(output))):
        return "failed"
    if problem.kind == "root":
        return "solved" if np.max(np.abs(output)) <= ROOT else "failed"
    if isinstance(problem, Regression):
        return "solved" if agree(value, problem.solution) else "failed"
    objective = float(output if problem.kind == "minimum" else np.sum(output**2))
    if reached(objective, problem.minimum):
        return "solved"
    if any(reached(objective, minimum) for minimum in problem.local_minima):
        return "local"
    return "failed"


def judge_regression(problem: Regression, value, standard_errors) -> Verdict:
    """Of the parameters and of their standard deviations."""
    if not agree(np.asarray(value), problem.solution):
        return "failed"
    agrees = agree(np.asarray(standard_errors), problem.standard_deviations)
    return "solved" if agrees else "parameters only"


def agree(found, certified) -> bool:
    return bool(np.all(np.abs(found - certified) <= DIGITS * np.abs(certified)))


def reached(objective: float, minimum: float) -> bool:
    if minimum == 0.0:
        return objective <= ABSOLUTE
    return abs(objective - minimum) <= RELATIVE * abs(minimum)
