"""Who solves the problems of the literature, and how fast: performance profiles.

    python -m benchmarks.profile
    python -m benchmarks.profile --every 12 --seconds 0.01

The 36 roots, 62 least-squares problems and 35 minimisations of `benchmarks.problems`,
from the published starts: implicax with no option set, peers with tolerances of 1e-10,
512 steps (SciPy: its own limit) and exact derivatives. An answer counts if it is right,
whatever its solver says: a residual of 1e-8, the six first certified digits of NIST, or
a published minimum (1e-5 relative; 1e-10 where it is zero). What raises is not solved.

A profile (Dolan and Moré, Math. Program. 91, 2002) shows the fraction of problems that
a solver solves with at most t times the cost of the best. Beside it stand the error
bars of the gradients of all our solutions (`benchmarks._error_bars`). Writes
`profile.json`, `profile.md` and `profile.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import dataclasses
import itertools
import statistics
import warnings

import jax
import numpy as np
import scipy

from benchmarks import _report, problems
from benchmarks._contestants import BY_KIND, OURS
from benchmarks._error_bars import certificate, error_bars
from benchmarks._judge import judge
from benchmarks.problems import nist

LABELS = {
    "root": "roots",
    "least_squares": "least squares",
    "minimum": "minimisation",
}
#: Certificates are not timed, and compile four times as fast without optimisation.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def distinct(roots):
    """Without those that two libraries share."""
    seen = {}
    for problem in roots:
        seen.setdefault((problem.fn, problem.y0.tobytes()), problem)
    return list(seen.values())


def library():
    fits = problems.mgh.problems()
    fits += nist.problems() if nist.FOLDER.is_dir() else []
    return {
        "root": distinct(problems.roots()),
        "least_squares": fits,
        "minimum": problems.minimisations(),
    }


def attempt(run, problem, seconds):
    """One solver on one problem; `None` for what it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(problem, seconds)
    except Exception as error:
        print(f"  {type(error).__name__}: {str(error)[:200]}", flush=True)
        return None


def measure(kind, chosen, seconds):
    """Of each solver, one row for each problem; and the error bars of ours."""
    rows, bars = {name: {} for name in BY_KIND[kind]}, []
    for problem in chosen:
        print(problem.name, flush=True)
        for name, run in BY_KIND[kind].items():
            found = attempt(run, problem, seconds)
            verdict = "failed"
            row = {"compile_s": None, "evaluations": None, "ms": None}
            if found is not None:
                output = problem.fn(found.value, problem.args)
                verdict = judge(problem, found.value, output)
                row = {
                    "compile_s": found.compiling,
                    "evaluations": found.evaluations,
                    "ms": 1e3 * found.seconds,
                }
            rows[name][problem.name] = row | {"verdict": verdict}
            if name == OURS and found is not None and verdict != "failed":
                program = certificate(problem.kind, problem.fn)
                quick = jax.jit(program, compiler_options=QUICK)
                bar = dataclasses.asdict(error_bars(problem, found.value, quick))
                del bar["gradient"]
                bars.append(bar)
        jax.clear_caches()
    return rows, bars


def is_solved(row):
    return row["verdict"] != "failed"


def costs(rows, cost):
    """Solvers by problems: the cost over the best one's, infinite if not solved."""
    table = np.asarray(
        [
            [max(row[cost], 1e-9) if is_solved(row) else np.inf for row in own.values()]
            for own in rows.values()
        ]
    )
    best = table.min(axis=0)
    return table / np.where(np.isfinite(best), best, 1.0)


def summary(results):
    header = ["solver", "problems", "solved", "not the least minimum",
              "solved, implicax does not", "implicax solves, not solved",
              "median evaluations", "median time, ms", "median compile, s"]  # fmt: skip
    lines = []
    for label, rows in results.items():
        reference = rows[OURS]
        for name, own in rows.items():
            done = [row for row in own.values() if is_solved(row)]
            pairs = [(row, reference[problem]) for problem, row in own.items()]
            compiled = [row["compile_s"] for row in own.values() if row["compile_s"]]
            medians = [
                statistics.median(row[key] for row in done) if done else float("nan")
                for key in ("evaluations", "ms")
            ]
            lines.append(
                [
                    f"{label}: {name}",
                    str(len(own)),
                    str(len(done)),
                    str(sum(row["verdict"] == "local" for row in done)),
                    str(sum(is_solved(a) and not is_solved(b) for a, b in pairs)),
                    str(sum(is_solved(b) and not is_solved(a) for a, b in pairs)),
                    *medians,
                    statistics.median(compiled) if compiled else float("nan"),
                ]
            )
    return _report.markdown(header, lines)


def misses(results):
    """Which ones, by name."""
    lines = []
    for label, rows in results.items():
        for name, own in rows.items():
            missed = [problem for problem, row in own.items() if not is_solved(row)]
            lines.append(f"- {label}, {name}: {', '.join(missed) or 'none'}")
    return "\n".join(lines)


def distribution(bars):
    header = ["library", "gradients", "exact", "not ok", "ratios",
              *[f"{100 * q:g} %" for q in QUANTILES], "within 2x, %"]  # fmt: skip
    lines = []
    for label, own in bars.items():
        ratios = np.asarray([r for one in own for r in one["ratios"]])
        within = np.mean((ratios >= 0.5) & (ratios <= 2.0)) if ratios.size else np.nan
        quantiles = np.quantile(ratios, QUANTILES) if ratios.size else [np.nan] * 7
        lines.append(
            [
                label,
                str(5 * len(own)),
                str(sum(one["exact"] for one in own)),
                str(sum(one["distrusted"] + (not one["ok"]) for one in own)),
                str(ratios.size),
                *map(float, quantiles),
                100 * float(within),
            ]
        )
    return _report.markdown(header, lines)


def flags(bars):
    everyone = [one for own in bars.values() for one in own]
    flagged = sorted({one["name"] for one in everyone if not one["ok"]})
    singular = sorted({one["name"] for one in everyone if one["singular"]})
    missed = sorted({one["name"] for one in everyone if one["singular"] and one["ok"]})
    far = sorted(
        {
            one["name"]
            for one in everyone
            if any(not 0.5 <= r <= 2.0 for r in one["ratios"])
        }
    )
    return (
        f"Not `ok` at the solution: {', '.join(flagged) or 'none'}. Of these singular: "
        f"{', '.join(n for n in flagged if n in singular) or 'none'}; the others are "
        "regular, with an adjoint system that was not solved well enough. "
        f"Singular, and not flagged: {', '.join(missed) or 'none'} "
        "(`nl20-scalar` has a double root and a simple one, and the simple one is "
        f"found). Further off than a factor of two: {', '.join(far) or 'none'}."
    )


def draw(results, bars):
    def figure(plt):
        made = plt.figure(figsize=(10, 3.1 * len(results) + 2.8), layout="constrained")
        grid = made.add_gridspec(len(results) + 1, 2)
        titles = {"evaluations": "function evaluations", "ms": "run time"}
        places = itertools.product(enumerate(results.items()), enumerate(titles))
        for (row, (label, rows)), (column, cost) in places:
            axis = made.add_subplot(grid[row, column])
            profile(axis, rows, cost)
            count = len(rows[OURS])
            axis.set_title(f"{label} ({count}), by {titles[cost]}", fontsize=10)
            if column == 1:
                axis.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
            else:
                axis.set_ylabel("fraction solved")
        histogram(made.add_subplot(grid[-1, :]), bars)
        return made

    return figure


def profile(axis, rows, cost):
    ratios = costs(rows, cost)
    finite = ratios[np.isfinite(ratios)]
    end = min(max(2.0, 1.3 * finite.max()), 2.0**9) if finite.size else 2.0
    for k, (name, own) in enumerate(zip(rows, ratios, strict=True)):
        steps = np.sort(own[np.isfinite(own)])
        height = np.arange(1, steps.size + 1) / own.size
        x = np.concatenate([[1.0], steps, [end]])
        y = np.concatenate([[0.0], height, height[-1:] if steps.size else [0.0]])
        ours = name == OURS
        axis.step(
            x, y, where="post", label=name, color="black" if ours else f"C{k - 1}",
            linewidth=2.2 if ours else 1.3, zorder=3 if ours else 2,
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set(xlim=(1.0, end), ylim=(0.0, 1.03))
    axis.set_xlabel("cost / best", fontsize=9)
    axis.grid(alpha=0.3)


def histogram(axis, bars):
    ratios = {k: [r for one in own for r in one["ratios"]] for k, own in bars.items()}
    edges = np.geomspace(0.5, 2.0, 42)
    clipped = [np.clip(r, edges[0], edges[-1]) for r in ratios.values()]
    axis.hist(clipped, edges, label=list(ratios), log=True)
    axis.set_xscale("log", base=2)
    ticks = [0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_title(
        "error bars of implicax' gradients (beyond a factor of two: in the outer bins)",
        fontsize=10,
    )
    axis.set(xlabel="predicted / true error", ylabel="gradients")
    axis.legend(fontsize=8)


def write(output, results, bars, every):
    part = f"One problem in {every} only. " if every > 1 else ""
    text = (
        f"## Solved\n\n{part}Implicax with no option set; peers with tolerances of "
        f"1e-10 (SciPy {scipy.__version__}). "
        "Medians are over what each solver solves. Evaluations are of the function, as "
        "each solver counts them (optimistix: its steps; jaxopt's Gauss-Newton and "
        "Levenberg-Marquardt: iterations); those for Jacobians, Hessians and gradients "
        "are apart. Implicax' compile time is that of the whole default under `jit`, "
        f"with the solvers that it falls back on.\n\n{summary(results)}\n\n"
        f"Not solved:\n\n{misses(results)}\n\n"
        "## Error bars\n\nPredicted over true error of the gradient of `sum(w y)` in "
        "the problem's data, with fixed random `w`: certificates at the solution "
        "displaced by relative 1e-3, 1e-4, 1e-5 and 1e-6, where they are `ok`. Exact: "
        "gradients that the displacement changes by less than 1e-10.\n\n"
        f"{distribution(bars)}\n\n{flags(bars)}"
    )
    title = "Solving the problems of the literature"
    record = {"rows": results, "error_bars": bars}
    figure = draw(results, bars)
    _report.save(output, "profile", title, record, text, figure)


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--every", type=int, default=1, help="one problem of so many")
    parser.add_argument("--seconds", type=float, default=0.02, help="per timing")
    options = parser.parse_args()
    results, bars = {}, {}
    for kind, everything in library().items():
        chosen = everything[:: options.every]
        rows, own = measure(kind, chosen, options.seconds)
        results[LABELS[kind]] = rows
        bars[LABELS[kind]] = own
    write(options.output, results, bars, options.every)


if __name__ == "__main__":
    main()
