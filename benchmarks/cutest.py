"""Who solves the CUTEst problems, and who only says so.

    python -m benchmarks.cutest
    python -m benchmarks.cutest --every 10 --limit 60

The unconstrained minimisations and the nonlinear equations of CUTEst (Gould, Orban &
Toint, 2015) with at most 100 unknowns, in the definitions of sif2jax: as many equations
as unknowns are a root to find, otherwise the sum of their squares is to be minimised;
bounds are left out. Implicax with no option set, SciPy and optimistix with tolerances
of 1e-10, all with exact derivatives.

Each answer is judged by itself, not by what its solver says (`benchmarks._verify`), and
then held against what the solver says. *Wrong* is the one that matters: said to be
converged, and is not. A worker process takes one problem after the other; where one
takes longer than `--limit` seconds it is ended, and a new one goes on with the next.
What is done is kept in `.cache/`, so an interrupted run is resumed. Writes
`cutest.json`, `cutest.md` and `cutest.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import select
import statistics
import subprocess
import sys
import types
import warnings

import jax
import jax.flatten_util
import numpy as np
import optimistix as optx
import scipy.optimize

import implicax as ix
from benchmarks import _report
from benchmarks._verify import Verified, best_known, verify

KINDS = ("root", "least_squares", "minimum")
LARGEST = 100
TIGHT, STEPS = 1e-10, 512
OURS = "implicax"
#: Nothing is timed, and programs compile four times as fast without optimisation.
QUICK = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
}
PROGRESS = pathlib.Path(".cache/cutest.jsonl")
#: Sums of squares whose least value sif2jax 0.0.8 takes to be zero, and is not.
NOT_ZERO = ("LUKSAN16LS",)
OUTCOMES = ("right", "right, not said", "refused", "wrong", "failed")


def library():
    """The problems by name, and whether they are equations.

    Importing `sif2jax` as a whole builds the matrices of its constrained problems too,
    for minutes. So its own two `__init__` files are not run.
    """
    found = importlib.util.find_spec("sif2jax")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("This benchmark needs sif2jax: pip install sif2jax")
    root = pathlib.Path(found.submodule_search_locations[0])
    for name, path in (("sif2jax", root), ("sif2jax.cutest", root / "cutest")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    problems = {}
    for kind in ("unconstrained_minimisation", "nonlinear_equations"):
        module = importlib.import_module(f"sif2jax.cutest._{kind}")
        for problem in getattr(module, f"{kind}_problems"):
            problems[problem.name] = problem, kind == "nonlinear_equations"
    return problems


class Problem:
    """One of theirs, as a function of one array."""

    def __init__(self, theirs, equations):
        self.name, self.known = theirs.name, None
        y0, back = jax.flatten_util.ravel_pytree(theirs.y0)
        self.y0 = np.asarray(y0, np.float64)
        if equations:

            def residual(y, args=None):
                del args
                both = theirs.constraint(back(y))
                return jax.flatten_util.ravel_pytree(both[0])[0]

            rows = jax.eval_shape(residual, self.y0).size
            self.kind = "root" if rows == self.y0.size else "least_squares"
            self.fn = residual
        else:
            self.kind = "minimum"
            self.fn = lambda y, args=None: theirs.objective(back(y), theirs.args)
            if self.name not in NOT_ZERO:
                self.known = theirs.expected_objective_value


def ours(problem):
    call = {
        "root": ix.root,
        "least_squares": ix.least_squares,
        "minimum": ix.minimize,
    }[problem.kind]
    found = call(problem.fn, problem.y0, on_failure="ignore")
    said = bool(found.status == ix.Status.converged)
    return found.value, said, int(found.stats.evaluations)


def scipys(problem):
    fn = jax.jit(problem.fn)
    evaluate = lambda y: np.asarray(fn(y))  # noqa: E731
    if problem.kind == "minimum":
        gradient, hessian = jax.jit(jax.grad(fn)), jax.jit(jax.hessian(fn))
        found = scipy.optimize.minimize(
            evaluate, problem.y0, jac=lambda y: np.asarray(gradient(y)),
            hess=lambda y: np.asarray(hessian(y)), method="trust-exact",
            options={"gtol": TIGHT},
        )  # fmt: skip
        return found.x, bool(found.success), int(found.nfev)
    columns = jax.jit(jax.jacfwd(fn))
    jacobian = lambda y: np.asarray(columns(y))  # noqa: E731
    if problem.kind == "root":
        options = {"xtol": TIGHT}
        found = scipy.optimize.root(evaluate, problem.y0, jac=jacobian, options=options)
        return found.x, bool(found.success), int(found.nfev)
    method = "lm" if evaluate(problem.y0).size >= problem.y0.size else "trf"
    found = scipy.optimize.least_squares(
        evaluate, problem.y0, jac=jacobian, method=method, x_scale="jac",
        ftol=TIGHT, xtol=TIGHT, gtol=TIGHT,
    )  # fmt: skip
    return found.x, found.status > 0, int(found.nfev)


def optimistixs(problem):
    call, solver = {
        "root": (optx.root_find, optx.Dogleg(TIGHT, TIGHT)),
        "least_squares": (optx.least_squares, optx.LevenbergMarquardt(TIGHT, TIGHT)),
        "minimum": (optx.minimise, optx.BFGS(TIGHT, TIGHT)),
    }[problem.kind]
    found = call(problem.fn, solver, problem.y0, max_steps=STEPS, throw=False)
    said = bool(found.result == optx.RESULTS.successful)
    return found.value, said, int(found.stats["num_steps"])


CONTESTANTS = {OURS: ours, "SciPy": scipys, "optimistix": optimistixs}


def attempt(name, theirs, equations):
    """What all make of one problem."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        problem = Problem(theirs, equations)
        if problem.y0.size > LARGEST:
            return None
        row = {"name": name, "kind": problem.kind, "unknowns": problem.y0.size}
        answers, errors = {}, {}
        for contestant, solve in CONTESTANTS.items():
            try:
                value, said, evaluations = solve(problem)
                value = np.asarray(value, np.float64)
                answers[contestant] = verify(problem, value), said, evaluations
            except Exception as error:
                errors[contestant] = f"{type(error).__name__}: {str(error)[:200]}"
    least = best_known(problem, [verified for verified, *_ in answers.values()])
    for contestant, (verified, said, evaluations) in answers.items():
        row[contestant] = {
            "outcome": outcome(verified, said, least),
            "evaluations": evaluations,
            "value": verified.objective,
            "error": verified.error,
        }
    for contestant, error in errors.items():
        row[contestant] = {"outcome": "failed", "evaluations": None, "says": error}
    return row


def outcome(verified: Verified, said: bool, least: float) -> str:
    if verified.right(least):
        return "right" if said else "right, not said"
    return "wrong" if said else "refused"


def work(names):
    """In the worker: one line of JSON for each problem."""
    everything = library()
    print(json.dumps(None), flush=True)
    for name in names:
        print(json.dumps(attempt(name, *everything[name])), flush=True)
        jax.clear_caches()


def measure(names, limit, progress, how=("benchmarks.cutest",), tell=None):
    """All rows, by name, as `work` in a module (and its first arguments) prints them:
    `None` for what is too large."""
    rows = {}
    if progress.is_file():
        lines = progress.read_text().splitlines()
        rows = dict(json.loads(line) for line in lines)
    progress.parent.mkdir(parents=True, exist_ok=True)
    while todo := [name for name in names if name not in rows]:
        command = [sys.executable, "-m", how[0], "--work", *how[1:], *todo]
        worker = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | QUICK
        )
        assert worker.stdout is not None
        # The first line tells that the problems are imported.
        for name in [None, *todo]:
            patience = limit if name else 600
            ready, _, _ = select.select([worker.stdout], [], [], patience)
            line = worker.stdout.readline() if ready else ""
            if name is None:
                if not line:
                    worker.kill()
                    raise SystemExit("The worker did not start.")
                continue
            why = f"more than {limit} s" if not ready else "the process died"
            rows[name] = json.loads(line) if line else {"name": name, "failed": why}
            with progress.open("a") as file:
                file.write(json.dumps([name, rows[name]]) + "\n")
            said = (tell or short)(rows[name])
            print(len(rows), "of", len(names), name, said, flush=True)
            if not line:
                break
        worker.kill()
        worker.wait()
    return {name: rows[name] for name in names}


def short(row):
    if row is None:
        return "too large"
    if "failed" in row:
        return row["failed"]
    return ", ".join(f"{name}: {row[name]['outcome']}" for name in CONTESTANTS)


def counts(rows, contestant):
    found = [row[contestant]["outcome"] for row in rows]
    return {outcome: found.count(outcome) for outcome in OUTCOMES}


def table(done):
    header = ["", "problems", *OUTCOMES, "median evaluations"]
    lines = []
    for kind in KINDS:
        rows = [row for row in done if row["kind"] == kind]
        for contestant in CONTESTANTS:
            own = [row[contestant] for row in rows]
            spent = [o["evaluations"] for o in own if o["outcome"] == "right"]
            median = statistics.median(spent) if spent else float("nan")
            numbers = [str(n) for n in counts(rows, contestant).values()]
            label = f"{kind.replace('_', ' ')}: {contestant}"
            lines.append([label, str(len(rows)), *numbers, median])
    return _report.markdown(header, lines)


def named(done, outcomes, contestants=None):
    lines = []
    for contestant in contestants or CONTESTANTS:
        names = [r["name"] for r in done if r[contestant]["outcome"] in outcomes]
        lines.append(f"- {contestant}: {', '.join(names) or 'none'}")
    return "\n".join(lines)


def draw(done, contestants=None):
    names = list(contestants or CONTESTANTS)

    def figure(plt):
        made, axis = plt.subplots(figsize=(8, 2.4), layout="constrained")
        left = np.zeros(len(names))
        colors = ("C2", "#a6d8a8", "0.8", "C3", "0.4")
        for label, color in zip(OUTCOMES, colors, strict=True):
            width = [counts(done, name)[label] for name in names]
            axis.barh(names, width, left=left, color=color, label=label)
            left += width
        axis.invert_yaxis()
        axis.set_xlabel("problems")
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return made

    return figure


def write(output, rows, every):
    done = [row for row in rows.values() if row and "failed" not in row]
    late = [row["name"] for row in rows.values() if row and "failed" in row]
    part = f"One problem in {every} only. " if every > 1 else ""
    version = importlib.metadata.version("sif2jax")
    text = (
        f"{part}The unconstrained and nonlinear-equation problems with at most "
        f"{LARGEST} unknowns of sif2jax {version}. Implicax with no option set; SciPy "
        f"{scipy.__version__} (`hybr`, `lm`, `trust-exact`) and optimistix (`Dogleg`, "
        "`LevenbergMarquardt`, `BFGS`) with tolerances of 1e-10. *Right*: a solution, "
        "as `benchmarks/_verify.py` sees it, and said to be one; *not said*: the "
        "solver does not say so; *refused*: no solution, and not said to be one; "
        "*wrong*: no solution, and said to be one; *failed*: an exception. "
        "Evaluations as each solver counts them, over what is right."
        f"\n\n{table(done)}\n\n"
        f"Wrong:\n\n{named(done, ('wrong',))}\n\n"
        f"Refused or failed:\n\n{named(done, ('refused', 'failed'))}\n\n"
        f"Not finished in time: {', '.join(late) or 'none'}."
    )
    record = {"rows": {row["name"]: row for row in done}, "late": late}
    title = "CUTEst: solved, and said to be solved"
    _report.save(output, "cutest", title, record, text, draw(done))


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--every", type=int, default=1, help="one problem of so many")
    parser.add_argument("--limit", type=float, default=180, help="seconds a problem")
    parser.add_argument("--progress", type=pathlib.Path, default=PROGRESS)
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    names = sorted(library())[:: options.every]
    rows = measure(names, options.limit, options.progress)
    write(options.output, rows, options.every)
    options.progress.unlink()


if __name__ == "__main__":
    main()
