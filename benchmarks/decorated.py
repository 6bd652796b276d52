"""What decorating a solver costs: over the bare solver, and over a custom_vjp.

    python -m benchmarks.decorated
    python -m benchmarks.decorated --sizes 10 --seconds 1

The solvers are hand-written loops for `z = tanh(W z + x)`, `W ~ 0.5 N(0, 1) / sqrt(n)`:
plain iteration and Newton's method, the same in all programs. Beside
`ix.custom_fixed_point` and `ix.custom_root` stand the solver itself, and it with the
best of the hand-written adjoints in a `jax.custom_vjp`. In float64, on one thread and
in one process, in turns; every gradient is verified. Writes `decorated.json`,
`decorated.md` and `decorated.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import statistics

import jax
import jax.numpy as jnp

import implicax as ix
from benchmarks import _report, handwritten
from benchmarks._timing import in_turns, median_ratio
from benchmarks.gradient import TOL, exact_gradient, loss_of, problem

OURS = "decorated"


def residual(z, params):
    return z - handwritten.fn(z, params)


def families():
    """By label: the bare solver, the decorator, the hand-written adjoints."""
    by_hand = handwritten.adjoints(TOL)
    return {
        "ix.custom_fixed_point (plain iteration)": (
            handwritten.picard(TOL),
            ix.custom_fixed_point(handwritten.fn),
            {name: by_hand[name] for name in ("iterated", "bicgstab")},
        ),
        "ix.custom_root (Newton)": (
            handwritten.newton(TOL),
            ix.custom_root(residual),
            {"dense": handwritten.dense},
        ),
    }


def relative_error(found, exact):
    pairs = list(zip(found, exact, strict=True))
    off = sum(jnp.sum((a - b) ** 2) for a, b in pairs)
    return float(jnp.sqrt(off / sum(jnp.sum(b**2) for _, b in pairs)))


def measure(solver, decorate, adjoints, n, seconds):
    params = problem(n)
    decorated = decorate(lambda z0, params: solver(params))

    def ours(params):
        return decorated(jnp.zeros_like(params[1]), params).value

    solvers = {OURS: ours} | {
        name: handwritten.with_adjoint(solver, adjoint)
        for name, adjoint in adjoints.items()
    }
    values = {"bare": jax.jit(loss_of(solver)), OURS: jax.jit(loss_of(ours))}
    gradients = {
        name: jax.jit(jax.value_and_grad(loss_of(solve)))
        for name, solve in solvers.items()
    }
    exact = exact_gradient(params)
    for name, gradient in gradients.items():
        error = relative_error(gradient(params)[1], exact)
        assert error <= _report.ACCURACY, (name, error)
    both = {("value", name): f for name, f in values.items()}
    both |= {("gradient", name): f for name, f in gradients.items()}
    times = in_turns(both, (params,), seconds)
    best = min(adjoints, key=lambda name: statistics.median(times["gradient", name]))
    return {
        "bare_s": statistics.median(times["value", "bare"]),
        "value_s": statistics.median(times["value", OURS]),
        "value_ratio": median_ratio(times["value", OURS], times["value", "bare"]),
        "gradient_s": statistics.median(times["gradient", OURS]),
        "by_hand_s": statistics.median(times["gradient", best]),
        "by_hand": best,
        "gradient_ratio": median_ratio(
            times["gradient", OURS], times["gradient", best]
        ),
    }


def draw(results):
    def figure(plt):
        made, axes = plt.subplots(
            1, 2, figsize=(9, 3.6), layout="constrained", sharey=True
        )
        against = {"value_ratio": "value / bare solver's"}
        against["gradient_ratio"] = "value and gradient / hand-written"
        for axis, (label, rows) in zip(axes, results.items(), strict=True):
            for key, name in against.items():
                n = [int(size) for size in rows]
                ratio = [row[key][0] for row in rows.values()]
                spread = [row[key][1] for row in rows.values()]
                axis.errorbar(n, ratio, spread, fmt="-o", markersize=4, label=name)
            axis.axhline(1, color="black", linewidth=0.8)
            axis.set(xscale="log", xlabel="unknowns n", title=label, ylim=(0, None))
        axes[0].set(ylabel="ratio of times")
        axes[0].legend(fontsize=8)
        return made

    return figure


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=8, help="per size and solver")
    options = parser.parse_args()
    results = {}
    for label, family in families().items():
        results[label] = {}
        for n in options.sizes:
            row = measure(*family, n, options.seconds)
            results[label][str(n)] = row
            print(label, n, row, flush=True)
    header = ["decorator", "n", "bare, ms", "decorated, ms", "decorated / bare",
              "gradient by hand", "decorated, ms", "decorated / by hand"]  # fmt: skip
    lines = [
        [label, n, 1e3 * row["bare_s"], 1e3 * row["value_s"],
         "{:.2f} ± {:.2f}".format(*row["value_ratio"]),
         f"{1e3 * row['by_hand_s']:.3g} ({row['by_hand']})", 1e3 * row["gradient_s"],
         "{:.2f} ± {:.2f}".format(*row["gradient_ratio"])]
        for label, rows in results.items() for n, row in rows.items()
    ]  # fmt: skip
    text = (
        "Left, values; right, values and gradients. The decorated solver evaluates the "
        "residual at what the solver returned, and at `y0` for its scale: that is what "
        "it costs.\n\n" + _report.markdown(header, lines)
    )
    title = "The cost of a decorated solver"
    _report.save(
        options.output, "decorated", title, {"rows": results}, text, draw(results)
    )


if __name__ == "__main__":
    main()
