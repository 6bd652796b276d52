"""What people type first, from the habit of another library, and where it lives here.

A keyword that does not exist would be Python's own error, which names no remedy.
"""

import dataclasses
import difflib
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

_TOLERANCE = (
    "a tolerance belongs to the solver: solver=ix.{solver}(rtol=1e-8), and atol= in "
    "units of fn"
)
_STEPS = "the bound on the solver's steps is max_steps="
_DERIVATIVE_OF_FN = (
    "JAX differentiates fn by itself. Where fn has a derivative of its own, give fn a "
    "jax.custom_jvp"
)
_BOUNDS = (
    "bounds=(lower, upper) goes to ix.minimize, ix.least_squares and ix.root, and "
    "constraints=[ix.Equal(h), ix.AtLeast(g), ix.AtMost(g)] to the first two; "
    "projections are in ix.projections"
)
_BRACKET = (
    "a root between two ends is ix.root(fn, y0, args, solver=ix.Chandrupatla(lower, "
    "upper)). Elsewhere " + _BOUNDS
)
_WEIGHTS = (
    "weigh the errors in fn: return (model - data) / sigma, or sqrt(weights) * "
    "(model - data), and pass sigma or weights through args"
)
_SOLVERS_OWN = (
    "this belongs to a solver, for example solver=ix.Picard(damping=0.5), "
    "ix.Anderson(history=5, mixing=0.5), ix.Newton(line_search=False)"
)
_DERIVATIVE = (
    "how the solution is differentiated is derivative=: ix.Implicit() (the default, "
    "exact), ix.Unrolled() and others"
)
_LINEAR_SOLVER = (
    "there are two linear solves: that of the steps, "
    "solver=ix.Newton(linear_solver=...), and that of the derivative, "
    "derivative=ix.Implicit(linear_solver=...)"
)
_RESULT = "the Solution has it all: value, aux, status, stats"

#: Keywords of SciPy, jaxopt, optimistix and others, by what to say of them.
_SAYINGS = {
    _TOLERANCE: "tol rtol atol xtol ftol gtol xatol fatol x_tol f_tol g_tol eps "
    "tolerance abs_tol rel_tol reltol abstol",
    _STEPS: "maxiter max_iter maxiters max_iters maxit iterations max_iterations "
    "niter n_iter num_steps maxfev max_nfev max_fun maxfun steps",
    "name the solver: solver=ix.SciPy('BFGS') for a method of SciPy's, ix.{solver}(), "
    "ix.Optax(transformation), or an optimistix solver": "method optimizer optimiser "
    "algorithm alg minimizer minimiser solver_type",
    "progress=True shows a bar, progress=function is called after each step; a "
    "solver's record_history=True keeps the norms": "verbose disp iprint callback "
    "print_every log full_history",
    _DERIVATIVE_OF_FN: "jac jacobian grad gradient fprime fprime2 hess hessian hessp "
    "hessian_vector_product value_and_grad Dfun jac_sparsity vectorized",
    _BOUNDS: "bounds constraints constraint lb ub projection prox nonneg "
    "hyperparams_proj hyperparams_prox",
    _BRACKET: "bracket lower upper x1 xa xb brack interval",
    _WEIGHTS: "sigma weights weight w sample_weight absolute_sigma yerr",
    _SOLVERS_OWN: "damping damp mixing beta history m memory line_search linesearch "
    "step_size stepsize learning_rate lr momentum ridge restart trust_radius "
    "acceleration record_history stepsize_rule decrease_factor",
    _DERIVATIVE: "implicit_diff unroll adjoint differentiate diff backward phantom "
    "implicit",
    _LINEAR_SOLVER: "linear_solver linsolve linear_solve implicit_diff_solve solve "
    "tags",
    "options belong to the solver: ix.SciPy('L-BFGS-B', maxcor=20), "
    "ix.Optimistix(solver, options)": "options solver_options solver_kwargs",
    "on_failure='ignore' returns the best effort instead of raising": "throw "
    "raise_on_failure error_on_nonconvergence",
    "fn that returns (output, aux) is has_aux=True": "aux with_aux",
    "robust losses are ix.least_squares(..., loss=ix.Huber(scale))": "loss f_scale "
    "loss_scale",
    _RESULT: "full_output return_info return_state full_result infodict",
    "the first guess is y0, the second argument": "x0 init init_params initial_guess "
    "guess z0 p0 x u0 initial params0 start",
    "the function is fn, the first argument; it takes (y, args)": "f fun func function "
    "F residual objective optimality_fun",
    "what fn depends on is args, the third argument: one pytree, for example a tuple "
    "or a dict": "params data theta parameters hyperparams kwargs kw p arguments",
    "the dtype is that of y0": "dtype precision",
    "wrap the call in jax.jit": "jit compile",
}
SAYINGS = {word: say for say, words in _SAYINGS.items() for word in words.split()}

#: What is recommended where a solver is to be named.
_RECOMMENDED = {
    "fixed_point": "Anderson",
    "minimize": "TrustRegion",
    "least_squares": "LevenbergMarquardt",
}


def explained(entry: Callable[_P, _R]) -> Callable[_P, _R]:
    """`entry`, whose errors about unknown keywords and surplus arguments say what to
    do."""
    parameters = inspect.signature(entry).parameters.values()
    named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    known = {p.name for p in parameters}
    name = entry.__name__

    @functools.wraps(entry)
    def call(*args: _P.args, **options: _P.kwargs) -> _R:
        for word in options:
            if word not in known:
                raise TypeError(_unknown(name, word, known))
        if len(args) > len(named):
            raise TypeError(
                f"{name} takes ({', '.join(named)}) in this order, and everything else "
                f"by name (solver=ix.Newton()); {len(args)} arguments came. Several "
                "parameters are one pytree: args=(a, b), and fn takes (y, args)."
            )
        return entry(*args, **options)

    return call


def _unknown(name: str, word: str, known: set[str]) -> str:
    say = SAYINGS.get(word)
    if say == _TOLERANCE and "gradient_rtol" in known:
        say = "how right the gradient is to be is gradient_rtol="
    if say is None:
        close = difflib.get_close_matches(word, known, 1)
        meant = f"did you mean {close[0]}=? " if close else ""
        say = f"{meant}it takes {', '.join(sorted(known))}"
    say = say.replace("{solver}", _RECOMMENDED.get(name, "Newton"))
    return f"{name} has no {word}=: {say}."


#: Fields of every solver, which follow its own.
_BY_NAME = ("line_search", "mixing", "rtol", "atol", "record_history")


def check_solver_call(cls: type, args: tuple, options: dict[str, Any]) -> None:
    """An error, unless this makes a solver of class `cls`, that says how to.

    Tolerances go by name: `(1e-8, 1e-8)` means the tolerances to some, and is damping
    to the next. Of a class with an `__init__` of its own nothing is asked.
    """
    fields = [f.name for f in dataclasses.fields(cls) if f.init]
    if list(inspect.signature(cls.__init__).parameters)[1:] != fields:
        return
    leading = list(itertools.takewhile(lambda name: name not in _BY_NAME, fields))
    for word in options:
        if word not in fields:
            belongs = SAYINGS.get(word)
            say = f"it takes {', '.join(fields)}"
            if belongs == _TOLERANCE:
                say = "tolerances are rtol= and atol="
            elif belongs == _STEPS or word == "max_steps":
                say = "max_steps= goes to the call, beside solver="
            raise TypeError(f"{cls.__name__} has no {word}=: {say}.")
    if len(args) > len(leading):
        by_name = [name for name in fields if name not in leading]
        raise TypeError(
            f"{cls.__name__} takes {', '.join(leading) or 'nothing'} by position, and "
            f"{', '.join(by_name)} by name: ix.{cls.__name__}(rtol=1e-8, atol=1e-8). "
            f"{len(args)} came by position."
        )
