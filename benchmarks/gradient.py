"""The cost of a derivative: implicax, optimistix, jaxopt, and hand-written JAX.

    python -m benchmarks.gradient            # all sizes, a few minutes
    python -m benchmarks.gradient --sizes 10 100 --seconds 1

The problem is `z = tanh(W z + x)`, `W ~ 0.5 N(0, 1) / sqrt(n)`, in float64, on one
thread; the gradient is that of `sum(z**2)` in `W` and `x`. All programs run in one
process, in turns; every gradient is verified against a dense solve at the solution.
Writes `gradient.json`, `gradient.md` and `gradient.png` to `benchmarks/results/`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import argparse
import importlib.metadata
import json
import pathlib
import platform
import statistics
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix
from benchmarks import handwritten
from benchmarks._timing import compile_seconds, in_turns, median_ratio

#: Tolerance of every forward solve and every adjoint.
TOL = 1e-10
#: What every gradient must reach, relative to the dense one.
ACCURACY = 1e-8
RESULTS = pathlib.Path(__file__).parent / "results"


def problem(n):
    rng = np.random.default_rng(0)
    W = 0.5 * rng.standard_normal((n, n)) / np.sqrt(n)
    return jnp.asarray(W), jnp.asarray(rng.standard_normal(n))


def contraction_solvers():
    """Plain iteration, by library."""
    import jaxopt
    import optimistix as optx

    def ours(params):
        z0 = jnp.zeros_like(params[1])
        solver = ix.Picard(rtol=TOL, atol=TOL)
        return ix.fixed_point(handwritten.fn, z0, params, solver=solver).value

    def optimistix(params):
        z0 = jnp.zeros_like(params[1])
        solver = optx.FixedPointIteration(rtol=TOL, atol=TOL)
        return optx.fixed_point(handwritten.fn, solver, z0, params).value

    def jaxopt_default(params):
        z0 = jnp.zeros_like(params[1])
        solver = jaxopt.FixedPointIteration(handwritten.fn, maxiter=256, tol=TOL)
        return solver.run(z0, params).params

    programs = {"implicax": ours, "optimistix": optimistix, "jaxopt": jaxopt_default}
    for name, adjoint in handwritten.adjoints(TOL).items():
        programs[f"hand: {name}"] = handwritten.with_adjoint(
            handwritten.picard(TOL), adjoint
        )
    return programs


def newton_solvers():
    """Newton's method, by library (jaxopt has none)."""
    import optimistix as optx

    def residual(z, params):
        return z - handwritten.fn(z, params)

    def ours(params):
        z0 = jnp.zeros_like(params[1])
        solver = ix.Newton(rtol=TOL, atol=TOL)
        return ix.root(residual, z0, params, solver=solver).value

    def optimistix(params):
        z0 = jnp.zeros_like(params[1])
        return optx.root_find(residual, optx.Newton(TOL, TOL), z0, params).value

    hand = handwritten.with_adjoint(handwritten.newton(TOL), handwritten.dense)
    return {"implicax": ours, "optimistix": optimistix, "hand: dense": hand}


def loss_of(solve):
    return lambda params: jnp.sum(solve(params) ** 2)


def exact_gradient(params):
    """The implicit gradient by a dense solve at a solution iterated to rounding."""
    W, x = params
    z = jnp.zeros_like(x)
    for _ in range(200):
        z = handwritten.fn(z, params)
    s = 1 - z**2
    u = jnp.linalg.solve((jnp.eye(x.size) - s[:, None] * W).T, 2 * z)
    return jnp.outer(s * u, z), s * u


def measure(solvers, n, seconds, compile_repeats):
    params = problem(n)
    exact = exact_gradient(params)
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in exact))
    values, gradients, rows = {}, {}, {}
    for name, solve in solvers.items():
        value, gradient = loss_of(solve), jax.value_and_grad(loss_of(solve))
        rows[name] = {
            "compile_s": compile_seconds(
                lambda f=solve: jax.value_and_grad(loss_of(f)),
                (params,),
                compile_repeats,
            )
        }
        values[name], gradients[name] = jax.jit(value), jax.jit(gradient)
        found = gradients[name](params)[1]
        difference = sum(
            jnp.sum((a - b) ** 2) for a, b in zip(found, exact, strict=True)
        )
        rows[name]["error"] = float(jnp.sqrt(difference) / size)
    both = {("value", k): f for k, f in values.items()}
    both |= {("gradient", k): f for k, f in gradients.items()}
    times = in_turns(both, (params,), seconds)
    for name, row in rows.items():
        value, gradient = times["value", name], times["gradient", name]
        row["value_ms"] = 1e3 * statistics.median(value)
        row["gradient_ms"] = 1e3 * statistics.median(gradient)
        overhead, _ = median_ratio(gradient, value)
        row["overhead"] = overhead - 1
        row["ratio"], row["spread"] = median_ratio(
            gradient, times["gradient", "implicax"]
        )
        row["compile_ratio"] = row["compile_s"] / rows["implicax"]["compile_s"]
    return rows


def table(results):
    lines = [
        "| solver | n | program | value, ms | value and gradient, ms "
        "| gradient / value - 1 | time / implicax | compile, s | compile / implicax "
        "| relative error |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for solver, sizes in results["rows"].items():
        for n, rows in sizes.items():
            for name, row in rows.items():
                lines.append(
                    f"| {solver} | {n} | {name} | {row['value_ms']:.3f} "
                    f"| {row['gradient_ms']:.3f} | {row['overhead']:+.2f} "
                    f"| {row['ratio']:.2f} ± {row['spread']:.2f} "
                    f"| {row['compile_s']:.2f} | {row['compile_ratio']:.2f} "
                    f"| {row['error']:.0e} |"
                )
    return "\n".join(lines)


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, (solver, sizes) in zip(axes, results["rows"].items(), strict=False):
        names = next(iter(sizes.values()))
        for name in names:
            n = [int(size) for size in sizes]
            ratios = [rows[name]["ratio"] for rows in sizes.values()]
            style = "-o" if name == "implicax" else "--s"
            axis.plot(n, ratios, style, label=name, markersize=4)
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="unknowns n",
            title=f"{solver}: gradient",
            ylabel="time / implicax' time",
        )
        axis.legend(fontsize=8)
    bars = {
        f"{name}\n{solver}": statistics.median(
            rows[name]["compile_ratio"] for rows in sizes.values()
        )
        for solver, sizes in results["rows"].items()
        for name in next(iter(sizes.values()))
    }
    axes[2].barh(list(bars), list(bars.values()), color="tab:gray")
    axes[2].invert_yaxis()
    axes[2].axvline(1, color="black", linewidth=0.8)
    axes[2].tick_params(axis="y", labelsize=7)
    axes[2].set(xlabel="compile time / implicax'", title="compile time, median over n")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 500, 1000])
    parser.add_argument("--seconds", type=float, default=15, help="per size and solver")
    parser.add_argument("--compile-repeats", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="jaxopt")
    results = {
        "command": "make bench",
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("implicax", "jax", "equinox", "lineax", "optimistix", "jaxopt")
        },
        "machine": f"{platform.machine()}, one thread, float64, tolerance {TOL}",
        "rows": {},
    }
    for label, solvers in (
        ("plain iteration", contraction_solvers()), ("Newton", newton_solvers()),
    ):  # fmt: skip
        results["rows"][label] = {}
        for n in options.sizes:
            print(f"{label}, n = {n} ...", flush=True)
            rows = measure(solvers, n, options.seconds, options.compile_repeats)
            results["rows"][label][str(n)] = rows
            for name, row in rows.items():
                print("  ", name, {k: float(f"{v:.3g}") for k, v in row.items()})
                if not row["error"] <= ACCURACY:
                    print(f"   {name} does not reach the accuracy of {ACCURACY}")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gradient.json").write_text(json.dumps(results, indent=1) + "\n")
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    (options.output / "gradient.md").write_text(
        f"# The cost of a gradient\n\nMade by `make bench` ({versions}; "
        f"{results['machine']}).\n\n{table(results)}\n\n![Ratios](gradient.png)\n"
    )
    plot(results, options.output / "gradient.png")


if __name__ == "__main__":
    main()
