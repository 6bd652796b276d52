"""Ten thousand small systems under `vmap`: implicax, optimistix, hand-written JAX.

    python -m benchmarks.lanes
    python -m benchmarks.lanes --lanes 10 100 --seconds 1

Each lane solves `z = tanh(W z + x)` with three unknowns and its own `W` and `x`, by
Newton's method or plain iteration; the gradient is that of `sum(z**2)` in all of them.
In float64, on one thread and in one process, in turns; every gradient is verified
against dense solves at the solution. Writes `lanes.json`, `lanes.md` and `lanes.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _report
from benchmarks._timing import in_turns, median_ratio
from benchmarks.decorated import relative_error
from benchmarks.gradient import contraction_solvers, exact_gradient, newton_solvers

UNKNOWNS = 3


def systems(lanes):
    rng = np.random.default_rng(0)
    W = 0.5 * rng.standard_normal((lanes, UNKNOWNS, UNKNOWNS)) / np.sqrt(UNKNOWNS)
    # A few of the many do not contract, and might have no single solution: shrink them.
    norms = np.linalg.norm(W, 2, axis=(1, 2), keepdims=True)
    W /= np.maximum(1, norms / 0.9)
    return jnp.asarray(W), jnp.asarray(rng.standard_normal((lanes, UNKNOWNS)))


def loss_of(solve):
    return lambda params: jnp.sum(jax.vmap(solve)(params) ** 2)


def families():
    plain = contraction_solvers()
    names = ("implicax", "optimistix", "hand: iterated")
    return {
        "Newton": newton_solvers(),
        "plain iteration": {name: plain[name] for name in names},
    }


def measure(solvers, lanes, seconds):
    params = systems(lanes)
    exact = jax.vmap(exact_gradient)(params)
    programs, rows = {}, {}
    for name, solve in solvers.items():
        value, gradient = loss_of(solve), jax.value_and_grad(loss_of(solve))
        start = time.perf_counter()
        programs["gradient", name] = jax.jit(gradient).lower(params).compile()
        compiling = time.perf_counter() - start
        programs["value", name] = jax.jit(value)
        error = relative_error(programs["gradient", name](params)[1], exact)
        assert error <= _report.ACCURACY, (name, error)
        rows[name] = {"compile_s": compiling, "error": error}
    times = in_turns(programs, (params,), seconds)
    for name, row in rows.items():
        for kind in ("value", "gradient"):
            row[f"{kind}_ms"] = 1e3 * statistics.median(times[kind, name])
            row[f"{kind}_ratio"] = median_ratio(
                times[kind, name], times[kind, "implicax"]
            )
    return rows


def draw(results):
    def figure(plt):
        made, axes = plt.subplots(
            1, 2, figsize=(10, 4), layout="constrained", sharey=True
        )
        for axis, (label, sizes) in zip(axes, results.items(), strict=True):
            lanes = [int(size) for size in sizes]
            for k, name in enumerate(next(iter(sizes.values()))):
                for kind, style in (("value", "--"), ("gradient", "-")):
                    each = [
                        1e3 * rows[name][f"{kind}_ms"] / n
                        for n, rows in zip(lanes, sizes.values(), strict=True)
                    ]
                    axis.plot(
                        lanes, each, style, color=f"C{k}", marker="o", markersize=3,
                        label=name if kind == "gradient" else None,
                    )  # fmt: skip
            axis.set(
                xscale="log", yscale="log", xlabel="lanes", title=label,
                ylabel="microseconds per lane",
            )  # fmt: skip
            axis.legend(
                fontsize=8, title="value and gradient\n(dashed: value)",
                title_fontsize=8,
            )  # fmt: skip
        return made

    return figure


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--lanes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--seconds", type=float, default=8, help="per solver and size")
    options = parser.parse_args()
    results = {}
    for label, solvers in families().items():
        results[label] = {}
        for lanes in options.lanes:
            rows = measure(solvers, lanes, options.seconds)
            results[label][str(lanes)] = rows
            print(label, lanes, rows, flush=True)
    header = ["solver", "lanes", "program", "value, ms", "value and gradient, ms",
              "value / implicax", "gradient / implicax", "compile, s"]  # fmt: skip
    lines = [
        [label, lanes, name, row["value_ms"], row["gradient_ms"],
         "{:.2f} ± {:.2f}".format(*row["value_ratio"]),
         "{:.2f} ± {:.2f}".format(*row["gradient_ratio"]), row["compile_s"]]
        for label, sizes in results.items()
        for lanes, rows in sizes.items() for name, row in rows.items()
    ]  # fmt: skip
    text = (
        f"{UNKNOWNS} unknowns per lane; times of the whole batch.\n\n"
        + _report.markdown(header, lines)
    )
    title = "Many small systems"
    _report.save(options.output, "lanes", title, {"rows": results}, text, draw(results))


if __name__ == "__main__":
    main()
