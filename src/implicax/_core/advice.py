"""What a person can try, by how a solve ended, and with which solver."""

import re

#: Pieces of advice by status. One that names what is used already is left out.
EQUATIONS = {
    "max_steps_reached": (
        "raise max_steps",
        "loosen rtol",
        "start closer",
        "use ix.Newton()",
        "use ix.Anderson()",
    ),
    "diverged": (
        "start closer",
        "use ix.Newton(), which searches along its steps",
        "damp: ix.Picard(damping=0.5)",
        "a map whose spectral radius exceeds 1 does not contract (ix.certify tells it)",
    ),
    "stagnated": (
        "there may be no solution nearby: start elsewhere, or look for the least "
        "residual with ix.least_squares",
        "follow a solution from an easier problem with ix.continuation",
        "loosen rtol, or use float64, where rounding is what is left",
        "use ix.Newton(): it does not need a map that contracts",
        "use ix.Broyden()",
    ),
    "non_finite": (
        "check fn at the initial guess and at solution.value (the last finite iterate)",
        "start closer",
        "keep the unknowns in the domain by a change of variables (y = exp(z) > 0)",
    ),
    "singular": (
        "there may be no solution nearby: start elsewhere",
        "remove duplicated equations and free directions, or give "
        "linear_solver=ix.MinimumNorm() to ix.Newton and to ix.Implicit, which "
        "determine what can be",
        "use ix.Broyden(), which forms no Jacobian",
        "where dF/dy is singular at the solution, the implicit function theorem gives "
        "no derivative",
    ),
    "not_solved": (
        "tighten the solver's own tolerance",
        "check that it solves the equation that it was given here",
        "give rtol= (digits of y) if fewer digits are enough",
    ),
    "no_sign_change": (
        "give lower and upper at which fn has opposite signs, or neither: a bracket is "
        "then sought from y0",
        "a double root has no sign change: use ix.Newton()",
    ),
    "failed": ("call the solver by itself at this y0 and args, to look closer",),
    "unbounded": (
        "bound the unknowns by a change of variables or a penalty",
        "start elsewhere",
    ),
    "saddle": ("start elsewhere",),
    "degenerate": (
        "the value is right, its derivative does not exist: fix or remove what the "
        "equations leave free",
        "give derivative=ix.Implicit(linear_solver=ix.MinimumNorm()) and "
        'on_failure="ignore" for what they determine',
        "perturb the problem: solutions meet here (ix.fold finds where)",
    ),
    "linear_solve_failed": (
        "where each equation knows few of many unknowns: sparsity='auto'",
        "a preconditioner, ix.Newton(ix.Krylov(...)), or another linear_solver",
        "use ix.Anderson(), which needs none",
    ),
    "infeasible": ("loosen the constraints",),
    "locally_infeasible": (
        "start elsewhere",
        "loosen the constraints, or the bounds",
        "take one constraint off after the other, to see which contradict each other",
    ),
    "not_convex": ("give a convex objective",),
    "kink": (
        "the value is right, and has a derivative to one side only, since a constraint "
        "acts with a multiplier of zero, or nearly: move the data, or take the "
        "derivative of not acting, ix.Implicit()",
    ),
    "wrong_sparsity": (
        'name all places where dF/dy may be other than zero: sparsity="auto" finds '
        "them, and ix.detect_sparsity(problem, y0, args) shows them",
    ),
}

#: Likewise where something is minimised.
MINIMA = {
    "max_steps_reached": (
        "raise max_steps",
        "start closer",
        "loosen rtol",
        "use ix.TrustRegion()",
        "check that the objective is bounded below",
    ),
    "diverged": (
        "start closer",
        "use ix.TrustRegion()",
        "check that the objective is bounded below",
    ),
    "stagnated": (
        "loosen rtol, or use float64, where rounding is what is left",
        "the objective may have a kink at its minimum: smooth it",
        "start elsewhere",
        "use ix.TrustRegion()",
    ),
    "non_finite": EQUATIONS["non_finite"],
    "singular": (
        "start elsewhere",
        "fix or remove variables that the objective does not see",
        "use ix.TrustRegion()",
    ),
    "not_solved": (
        "tighten the solver's own tolerance",
        "check that it minimises what it was given here",
        "use ix.TrustRegion()",
    ),
    "unbounded": (
        "the infimum is not attained: bound the unknowns by a change of variables, or "
        "add a penalty (separated classes need one)",
    ),
    "saddle": ("start elsewhere", "use ix.TrustRegion(), which leaves saddle points"),
    "degenerate": (
        "the value is a minimum, but one of many: fix or remove variables that the "
        "objective does not see, or add a penalty",
        "give derivative=ix.Implicit(linear_solver=ix.MinimumNorm()) and "
        'on_failure="ignore" for what it determines',
    ),
}


#: Likewise of programs.
PROGRAMS = {
    "max_steps_reached": (
        "raise max_steps",
        "loosen rtol: ix.InteriorPoint(rtol=1e-8)",
        "use float64",
    ),
    "stagnated": (
        "loosen rtol: ix.InteriorPoint(rtol=1e-8)",
        "use float64, where rounding is what is left",
        "remove constraints that nearly repeat each other",
    ),
    "unbounded": (
        "bound the unknowns that solution.ray moves",
        "check the sign of q",
    ),
    "infeasible": (
        "loosen the constraints that solution.farkas weighs: together they contradict "
        "each other",
        "give slack: an unknown that a constraint may be passed by, at a price",
    ),
    "not_convex": (
        "P must be positive semidefinite: check its sign, or add to its diagonal",
    ),
}

#: Likewise of minima and fits with bounds or constraints.
CONSTRAINED = {
    "max_steps_reached": (
        "raise max_steps",
        "start closer",
        "check that the objective is bounded below where the constraints hold",
        "use ix.SciPy('SLSQP')",
    ),
    "stagnated": (
        "start elsewhere",
        "check that constraints have no kinks, and gradients other than zero where "
        "they hold",
        "use float64, where rounding is what is left",
    ),
    "non_finite": (
        "check fn and the constraints at the initial guess",
        "bound the unknowns to where fn is defined: they stay strictly inside",
    ),
    "unbounded": ("bound the unknowns, or add a constraint",),
    "saddle": ("start elsewhere",),
}

#: Likewise of composite problems.
COMPOSITE = {
    "max_steps_reached": (
        "raise max_steps",
        "separable=True, if the proximal operator treats entries one by one",
        "use ix.ADMM(), where the smooth part is ill-conditioned",
        "check that the objective is bounded below",
    ),
    "stagnated": (
        "start elsewhere, where smooth is finite",
        "check that prox is the proximal operator of one function, at each scaling",
        "use float64, where rounding is what is left",
    ),
    "non_finite": ("check smooth and its gradient at the initial guess",),
    "singular": (
        "there are many solutions, or none: remove what the objective does not see, or "
        "add a penalty",
        "unknowns in units far apart: separable=True, or other units",
    ),
    "saddle": ("start elsewhere",),
}

#: Likewise of cone programs.
CONES = {
    "max_steps_reached": ("raise max_steps",),
    "stagnated": (
        "the minimum may not be attained, or constraints may leave no room inside: "
        "move them apart, or bound the unknowns",
        "tighten the solver: ix.Clarabel(options={'tol_gap_rel': 1e-10})",
        "scale unknowns and constraints, and use float64",
    ),
    "non_finite": ("check the data for NaN and infinity",),
    "unbounded": (
        "bound the unknowns that solution.ray moves",
        "check the sign of q",
    ),
    "infeasible": (
        "loosen the constraints that solution.farkas weighs: together they contradict "
        "each other",
    ),
    "not_convex": PROGRAMS["not_convex"],
}


def advice(status: str, used: str, kind: str) -> str:
    """What to try after `status`, to somebody whose solver is called `used` and whose
    problem is one of equations, a minimum, a program, with constraints, ..."""
    own = {
        "minimum": MINIMA,
        "program": PROGRAMS,
        "constrained": CONSTRAINED,
        "composite": COMPOSITE,
        "cones": CONES,
    }
    pieces = own.get(kind, EQUATIONS).get(status)
    pieces = EQUATIONS[status] if pieces is None else pieces
    names = set(re.findall(r"\w+", used))
    fresh = [p for p in pieces if not names & set(re.findall(r"use ix\.(\w+)", p))]
    return "; ".join(fresh)
