"""What is known not to be solved, solver by solver, with the defaults of each.

`KNOWN[library][solver]` names each problem whose verdict is not "solved": "failed"
(also where the solver says that it did not converge), "local" (it stops at a published
minimum that is not the least), "parameters only" (of a regression, six digits of them
but not of their standard deviations), "degenerate" (the minimum is found, and said to
have no derivative). The tests hold these lists in both directions.
"""

from collections.abc import Mapping

from benchmarks._judge import Verdict

Verdicts = Mapping[str, Verdict]


def failed(*names: str) -> dict[str, Verdict]:
    return dict.fromkeys(names, "failed")


#: Trust-region steps lead from the standard start into the other minimum.
LOCAL: Verdicts = {"mgh02-freudenstein-roth": "local", "mgh26-trigonometric": "local"}
#: Their Hessians are singular at zero, where all unknowns are: there is no derivative,
#: and nothing to compare an error of the unknowns with.
DEGENERATE: Verdicts = {
    "mgh13-powell-singular": "degenerate",
    "mgh22-powell-singular": "degenerate",
}
#: Likewise as equations.
DEGENERATE_ROOTS: Verdicts = dict.fromkeys(
    (
        "nl02-powell-singular",
        "nl19-sample-19",
        "mgh13-powell-singular",
        "mgh22-powell-singular",
    ),
    "degenerate",
)
#: Its residual, 1e-13, is the rounding of its data: double precision leaves less than
#: six digits of the residual's size, and with it of the standard deviations.
ROUNDED: Verdicts = {"Lanczos1": "parameters only"}

#: Ordered from the general solver to the special one.
KNOWN: dict[str, dict[str, Verdicts]] = {
    "root": {
        "default": DEGENERATE_ROOTS,
        "Newton": {
            **DEGENERATE_ROOTS,
            # The first correction is a thousand times too long for the last equation,
            # a product, and of another sign than what leads to the solution.
            **failed("nl08-brown-almost-linear", "mgh27-brown-almost-linear"),
        },
        # It minimises the residual and has no leap out of a local minimum.
        "LevenbergMarquardt": {
            "nl19-sample-19": "degenerate",
            **failed(
                "nl01-rosenbrock",
                # Squares of residuals below 1e-28 say nothing any more.
                "nl02-powell-singular",
                "nl11-trigonometric",
                "nl15-square-root",
                "nl16-square-root",
                "nl21-freudenstein-roth",
                "mgh02-freudenstein-roth",
                "mgh13-powell-singular",
                "mgh22-powell-singular",
                "mgh26-trigonometric",
            ),
        },
        # Not line-searched from here on.
        "Broyden": failed(
            "nl01-rosenbrock",
            "nl02-powell-singular",
            "nl03-powell-badly-scaled",
            "nl04-wood",
            "nl11-trigonometric",
            "nl16-square-root",
            "nl21-freudenstein-roth",
            "mgh02-freudenstein-roth",
            "mgh03-powell-badly-scaled",
            "mgh13-powell-singular",
            "mgh22-powell-singular",
            "mgh26-trigonometric",
        ),
        "Chord": failed(
            "nl01-rosenbrock",
            "nl02-powell-singular",
            "nl03-powell-badly-scaled",
            "nl04-wood",
            "nl05-helical-valley",
            "nl08-brown-almost-linear",
            "nl11-trigonometric",
            "nl12-variably-dimensioned",
            "nl15-square-root",
            "nl16-square-root",
            "nl18-sample-18",
            "nl19-sample-19",
            "nl20-scalar",
            "mgh03-powell-badly-scaled",
            "mgh07-helical-valley",
            "mgh13-powell-singular",
            "mgh22-powell-singular",
            "mgh26-trigonometric",
            "mgh27-brown-almost-linear",
        ),
        # For maps that nearly contract, which few of these are.
        "Anderson": failed(
            "nl01-rosenbrock",
            "nl02-powell-singular",
            "nl03-powell-badly-scaled",
            "nl04-wood",
            "nl05-helical-valley",
            "nl06-watson-gradient",
            "nl08-brown-almost-linear",
            "nl11-trigonometric",
            "nl12-variably-dimensioned",
            "nl13-broyden-tridiagonal",
            "nl14-broyden-banded",
            "nl17-dennis-schnabel",
            "nl19-sample-19",
            "nl20-scalar",
            "nl21-freudenstein-roth",
            "nl22-boggs",
            "mgh01-rosenbrock",
            "mgh02-freudenstein-roth",
            "mgh03-powell-badly-scaled",
            "mgh07-helical-valley",
            "mgh13-powell-singular",
            "mgh21-rosenbrock",
            "mgh22-powell-singular",
            "mgh26-trigonometric",
            "mgh27-brown-almost-linear",
            "mgh30-broyden-tridiagonal",
            "mgh31-broyden-banded",
        ),
    },
    "least_squares": {
        "default": {**LOCAL, **DEGENERATE},
        "LevenbergMarquardt": {**LOCAL, **DEGENERATE},
        "TrustRegion": {**LOCAL, **DEGENERATE, **failed("mgh18-biggs")},
    },
    "minimum": {"default": {**LOCAL, **DEGENERATE, **failed("mgh18-biggs")}},
    "nist_1": {
        "default": {**ROUNDED, **failed("MGH17")},
        "LevenbergMarquardt": {**ROUNDED, **failed("MGH17")},
        "TrustRegion": {**ROUNDED, **failed("Bennett5", "Eckerle4", "MGH10", "MGH17")},
    },
    "nist_2": {
        "default": ROUNDED,
        "LevenbergMarquardt": ROUNDED,
        # Lanczos': another local minimum, of two exponentials.
        "TrustRegion": failed("Bennett5", "Lanczos1", "Lanczos2", "Lanczos3"),
    },
}

#: Singular at the published solution, but not at the one that the default finds.
UNFLAGGED = {"root": ("nl20-scalar",)}
#: Not singular, yet the certificate refuses: the adjoint system is not solved well
#: enough (`Bennett5`), or there is no solution to certify (`MGH17` from start 1).
REFUSED = {
    "nist_1": ("Bennett5", "MGH17"),
}
