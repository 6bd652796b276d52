"""SciPy's methods: what each one takes, and when it should stop."""

from typing import Any

import numpy as np

#: `scipy.optimize.root`: the option that limits the steps.
ROOT = {
    "hybr": "maxfev",
    "lm": "maxiter",
    "broyden1": "maxiter",
    "broyden2": "maxiter",
    "anderson": "maxiter",
    "linearmixing": "maxiter",
    "diagbroyden": "maxiter",
    "excitingmixing": "maxiter",
    "krylov": "maxiter",
    "df-sane": "maxfev",
}

#: `scipy.optimize.minimize`: which derivatives it takes, and what limits the steps.
MINIMIZE = {
    "Nelder-Mead": ("", "maxiter"),
    "Powell": ("", "maxiter"),
    "CG": ("gradient", "maxiter"),
    "BFGS": ("gradient", "maxiter"),
    "Newton-CG": ("products", "maxiter"),
    "L-BFGS-B": ("gradient", "maxiter"),
    "TNC": ("gradient", "maxfun"),
    "COBYLA": ("", "maxiter"),
    "COBYQA": ("", "maxiter"),
    "SLSQP": ("gradient", "maxiter"),
    "trust-constr": ("products", "maxiter"),
    "dogleg": ("Hessian", "maxiter"),
    "trust-ncg": ("products", "maxiter"),
    "trust-krylov": ("products", "maxiter"),
    "trust-exact": ("Hessian", "maxiter"),
}

#: `scipy.optimize.least_squares`.
LEAST_SQUARES = ("trf", "dogbox", "lm")

#: Of linear programs.
PROGRAMS = ("linprog",)

#: Which of them know bounds, and which know constraints too.
CONSTRAINED = ("SLSQP", "trust-constr", "COBYQA", "COBYLA")
BOUNDED = ("L-BFGS-B", "TNC", *CONSTRAINED, "Nelder-Mead", "Powell")
BOUNDED_FITS = ("trf", "dogbox")


def tolerances(
    method: str, eps: float, x0: np.ndarray, gradient: np.ndarray
) -> dict[str, Any]:
    """When to stop, in the units of the problem.

    SciPy's own tolerances are absolute, and most methods stop where the objective has
    settled to `ftol`. Near a minimum it is flat: there `y` has settled to `sqrt(ftol)`
    only, which is too coarse for derivatives. So the gradient decides, which has to
    fall to `eps**(2/3)` of its first value, and the objective not at all; where a
    method does not look at the gradient, `y` decides.
    """
    tight = eps ** (2 / 3)
    slope = tight * float(np.abs(gradient).max())
    length = tight * float(np.abs(x0).max() or 1.0)
    # `least_squares` warns of less, and takes `None` for never.
    fit = {"ftol": None, "xtol": tight, "gtol": slope if slope > 3e-16 else None}
    return {
        "Nelder-Mead": {"xatol": length, "fatol": np.inf},
        "Powell": {"xtol": tight, "ftol": eps},
        "Newton-CG": {"xtol": length},
        "L-BFGS-B": {"gtol": slope, "ftol": 0.0},
        "TNC": {"gtol": slope, "xtol": 0.0, "ftol": 0.0},
        "COBYLA": {"tol": length},
        "COBYQA": {"final_tr_radius": length},
        "SLSQP": {"ftol": eps**2},
        # In the rounding errors of the objective its radius collapses to NaN.
        "trust-krylov": {"gtol": 0.1 * eps**0.5 * float(np.abs(gradient).max())},
        "trust-constr": {"gtol": slope, "xtol": eps * length},
        "trf": fit,
        "dogbox": fit,
        "lm": {"ftol": 2 * eps, "xtol": tight, "gtol": 2 * eps},
    }.get(method, {"gtol": slope})
