"""Who solves the constrained problems of CUTEst, and who only says so.

    python -m benchmarks.nonlinear_programs
    python -m benchmarks.nonlinear_programs --largest 100 --limit 120

The minimisations with bounds or constraints of CUTEst (Gould, Orban & Toint, 2015), in
the definitions of sif2jax, with so many unknowns and constraints at most. (In some of
these a sign differs from the original; all contestants get the same.) Implicax with no
option set; SciPy's `SLSQP` and `trust-constr` with exact derivatives and tight
tolerances. An answer is *right* where it is feasible and stationary to 1e-8, by
multipliers that a bounded least-squares fit finds (`kkt` below), whatever its solver
says. *Wrong* is what is said to be converged and is off by more than 1e-6. Problems are
taken by a worker process, as in `benchmarks.cutest`. Writes `nonlinear_programs.json`,
`.md` and `.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import argparse
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import pathlib
import statistics
import sys
import types
import warnings

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import implicax as ix
from benchmarks import _report, cutest

FOLDERS = ("bounded_minimisation", "constrained_minimisation")
#: Importing these builds matrices for minutes.
SLOW = ("_mss_base", "haifal", "mss1", "mss2", "mss3")
RIGHT, WRONG = 1e-8, 1e-6
#: A constraint acts from this slack on, relative.
ACTS = 1e-6
STEPS = 1000
PROGRESS = pathlib.Path(".cache/nonlinear_programs.jsonl")


def modules():
    """The names of the files with problems; see `benchmarks.cutest.library`."""
    found = importlib.util.find_spec("sif2jax")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("This benchmark needs sif2jax: pip install sif2jax")
    root = pathlib.Path(found.submodule_search_locations[0])
    for name, path in (("sif2jax", root), ("sif2jax.cutest", root / "cutest")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    for folder in FOLDERS:
        for path in sorted((root / "cutest" / f"_{folder}").glob("*.py")):
            if not path.stem.startswith("__") and path.stem not in SLOW:
                yield f"sif2jax.cutest._{folder}.{path.stem}"


def problems_in(name):
    """The problems of one file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(name)
        for kind in vars(module).values():
            own = inspect.isclass(kind) and kind.__module__ == name
            if own and hasattr(kind, "objective") and not inspect.isabstract(kind):
                yield kind()


class Problem:
    """One of theirs, as functions of one array."""

    def __init__(self, theirs):
        self.name = theirs.name
        floats = jax.tree.map(lambda x: jnp.asarray(x, float), theirs.y0)
        self.y0, back = jax.flatten_util.ravel_pytree(floats)
        n = self.y0.size
        bounds = getattr(theirs, "bounds", None) or (-jnp.inf, jnp.inf)
        self.lower, self.upper = (
            np.broadcast_to(jax.flatten_util.ravel_pytree(side)[0], n).astype(float)
            for side in bounds
        )
        self.objective = lambda y: jnp.asarray(
            theirs.objective(back(y), theirs.args), float
        ).reshape(())

        def part(which):
            def values(y):
                found = theirs.constraint(back(y))[which]
                return jnp.asarray(jax.flatten_util.ravel_pytree(found)[0], float)

            has = hasattr(theirs, "constraint")
            return values if has and jax.eval_shape(values, self.y0).size else None

        self.equal, self.more = part(0), part(1)

    @property
    def size(self):
        parts = [f for f in (self.equal, self.more) if f is not None]
        rows = sum(jax.eval_shape(part, self.y0).size for part in parts)
        return max(self.y0.size, rows)

    @property
    def bounded(self):
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())


def kkt(problem, x):
    """What is left of the conditions, relative: of feasibility, and of stationarity
    with the best multipliers of the right signs."""
    gradient = np.asarray(jax.grad(problem.objective)(x))
    rows, left, low, high = [], [0.0], [], []
    for values, equal in ((problem.equal, True), (problem.more, False)):
        if values is None:
            continue
        c, J = np.asarray(values(x)), np.asarray(jax.jacfwd(values)(x))
        size = 1 + np.abs(J) @ np.abs(x)
        left.append(np.abs(c / size).max() if equal else np.maximum(-c / size, 0).max())
        acts = np.full(c.shape, True) if equal else c <= ACTS * size
        rows.append(J[acts])
        low += [-np.inf if equal else 0.0] * int(acts.sum())
        high += [np.inf] * int(acts.sum())
    size = 1 + np.abs(x)
    for side, sign in ((problem.lower, 1.0), (problem.upper, -1.0)):
        gap = np.where(np.isfinite(side), sign * (x - side) / size, np.inf)
        left.append(max(-gap.min(), 0.0))
        acts = gap <= ACTS
        rows.append(sign * np.eye(x.size)[acts])
        low += [0.0] * int(acts.sum())
        high += [np.inf] * int(acts.sum())
    matrix = np.concatenate(rows)
    norms = np.linalg.norm(matrix, axis=1)
    matrix = matrix[norms > 0] / norms[norms > 0, None]
    sides = np.asarray(low)[norms > 0], np.asarray(high)[norms > 0]
    t = np.zeros(0)
    if len(matrix):
        t = scipy.optimize.lsq_linear(matrix.T, gradient, sides, tol=1e-15).x
    rest = np.abs(gradient - matrix.T @ t).max()
    return float(max(*left, rest / (1 + np.abs(gradient).max())))


def ours(problem):
    constraints = []
    if problem.equal is not None:
        constraints.append(ix.Equal(lambda y, a: problem.equal(y)))
    if problem.more is not None:
        constraints.append(ix.AtLeast(lambda y, a: problem.more(y)))
    found = ix.minimize(
        lambda y, a: problem.objective(y),
        problem.y0,
        bounds=(problem.lower, problem.upper) if problem.bounded else None,
        constraints=constraints,
        on_failure="ignore",
    )
    return found.value, bool(found.converged), found.status.name


def scipys(method):
    def solve(problem):
        def on_host(fn):
            fast = jax.jit(fn)
            return lambda y: np.asarray(fast(y))

        def bent(values):
            fast = jax.jit(jax.hessian(lambda y, v: v @ values(y)))
            return lambda y, v: np.asarray(fast(y, jnp.asarray(v)))

        constraints = [
            scipy.optimize.NonlinearConstraint(
                on_host(values), 0, high, on_host(jax.jacfwd(values)), bent(values)
            )
            for values, high in ((problem.equal, 0), (problem.more, np.inf))
            if values is not None
        ]
        second, options = {}, {"maxiter": STEPS, "ftol": 1e-14}
        if method == "trust-constr":
            second = {"hess": on_host(jax.hessian(problem.objective))}
            options = {"maxiter": STEPS, "gtol": 1e-10, "xtol": 1e-14}
        found = scipy.optimize.minimize(
            on_host(problem.objective),
            np.asarray(problem.y0),
            jac=on_host(jax.grad(problem.objective)),
            bounds=scipy.optimize.Bounds(problem.lower, problem.upper),
            constraints=constraints,
            method=method,
            options=options,
            **second,
        )
        # (trust-constr says so with 1 and 2.)
        said = found.status in (1, 2) if second else found.success
        return found.x, bool(said), " ".join(str(found.message).split())[:80]

    return solve


CONTESTANTS = {
    "implicax": ours,
    "SLSQP": scipys("SLSQP"),
    "trust-constr": scipys("trust-constr"),
}


def attempt(theirs, largest):
    """What all make of one problem."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        problem = Problem(theirs)
        bare = problem.equal is None and problem.more is None and not problem.bounded
        if problem.size > largest or bare:
            return None
        row = {"name": problem.name, "unknowns": int(problem.y0.size)}
        for contestant, solve in CONTESTANTS.items():
            try:
                value, said, says = solve(problem)
                value = np.asarray(value, np.float64)
                left = kkt(problem, value) if np.isfinite(value).all() else np.inf
                row[contestant] = {
                    "outcome": outcome(left, said),
                    "left": left,
                    "objective": float(problem.objective(value)),
                    "says": says,
                }
            except Exception as error:
                says = f"{type(error).__name__}: {str(error)[:200]}"
                row[contestant] = {"outcome": "failed", "left": None, "says": says}
    return row


def outcome(left, said):
    if left <= RIGHT or (said and left <= WRONG):
        return "right" if said else "right, not said"
    return "wrong" if said else "refused"


def work(names, largest):
    """In the worker: one line of JSON for each file."""
    list(modules())
    print(json.dumps(None), flush=True)
    for name in names:
        try:
            rows = [attempt(theirs, largest) for theirs in problems_in(name)]
        except Exception as error:
            rows = []
            print(name, error, file=sys.stderr)
        print(json.dumps([row for row in rows if row]), flush=True)
        jax.clear_caches()


def short(rows):
    if isinstance(rows, dict):
        return rows["failed"]
    said = (f"{k}: {row[k]['outcome']}" for row in rows for k in CONTESTANTS)
    return ", ".join(said) or "none"


def table(rows):
    lines = []
    for contestant in CONTESTANTS:
        found = [row[contestant]["outcome"] for row in rows]
        numbers = [str(found.count(kind)) for kind in cutest.OUTCOMES]
        left = [row[contestant]["left"] for row in rows]
        right = [x for x, o in zip(left, found, strict=True) if o == "right"]
        lines.append([contestant, *numbers, statistics.median(right or [np.nan])])
    return _report.markdown(["", *cutest.OUTCOMES, "median left, of right"], lines)


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--largest", type=int, default=12, help="unknowns, constraints")
    parser.add_argument("--every", type=int, default=1, help="one file of so many")
    parser.add_argument("--limit", type=float, default=60, help="seconds a file")
    parser.add_argument("--progress", type=pathlib.Path, default=PROGRESS)
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        largest, *names = options.work
        work(names, int(largest))
        return
    names = list(modules())[:: options.every]
    how = "benchmarks.nonlinear_programs", str(options.largest)
    found = cutest.measure(names, options.limit, options.progress, how, short)
    rows = [row for part in found.values() if isinstance(part, list) for row in part]
    late = [name for name, part in found.items() if isinstance(part, dict)]
    version = importlib.metadata.version("sif2jax")
    wrong = cutest.named(rows, ("wrong",), CONTESTANTS)
    refused = cutest.named(rows, ("refused", "failed"), CONTESTANTS)
    part = f"One file in {options.every} only. " if options.every > 1 else ""
    text = (
        f"{part}The bounded and constrained minimisations of sif2jax {version} with at "
        f"most {options.largest} unknowns and as many constraints, {len(rows)} in all; "
        f"SciPy {scipy.__version__} with exact derivatives. *Right*: feasible and "
        "stationary to 1e-8 (to 1e-6 where it is said to be), and said to be; *not "
        "said*: the solver does not say so; *refused*: neither; *wrong*: said to be, "
        f"and is not; *failed*: an exception.\n\n{table(rows)}\n\n"
        f"Wrong:\n\n{wrong}\n\n"
        f"Refused or failed:\n\n{refused}\n\n"
        f"Not finished in time: {', '.join(late) or 'none'}."
    )
    title = "Nonlinear programs: solved, and said to be solved"
    record = {"rows": rows, "late": late}
    output = options.output
    figure = cutest.draw(rows, CONTESTANTS)
    _report.save(output, "nonlinear_programs", title, record, text, figure)
    options.progress.unlink()


if __name__ == "__main__":
    main()
