"""CVXPY problems as layers: values, gradients and times beside `cvxpylayers`.

    python -m benchmarks.cvxpy_layers
    python -m benchmarks.cvxpy_layers --size 6 --calls 2

Three problems with parameters: a quadratic program, a regression with a bound on a norm
(second-order cone), and a geometric mean of returns (exponential cone). Value and
gradient of a loss of the variable, in the first parameter; the right gradient is by
central differences of values that are exact to rounding. `cvxpylayers` at its defaults,
called as it is (eagerly), ours inside `jax.jit`. Writes `cvxpy_layers.json`, `.md` and
`.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import time

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix
from benchmarks import _report

#: The step of central differences.
STEP = 1e-5


def quadratic(n, rng):
    """A program with a tenth of equations, and as many inequalities as unknowns."""
    x, q, h = cp.Variable(n), cp.Parameter(n), cp.Parameter(n)
    root = rng.normal(size=(n, n)) / np.sqrt(n)
    A, G = rng.normal(size=(n // 10 + 1, n)), rng.normal(size=(n, n))
    at = rng.normal(size=n)
    slack = rng.uniform(0.1, 1, n) * (rng.uniform(size=n) < 0.5)
    objective = cp.sum_squares(root @ x) / 2 + 0.05 * cp.sum_squares(x) + q @ x
    constraints = [A @ x == A @ at, G @ x <= h]
    problem = cp.Problem(cp.Minimize(objective), constraints)
    return problem, [q, h], x, [rng.normal(size=n), G @ at + slack]


def regression(n, rng):
    """Least squares with a bound on the norm."""
    x, b, size = cp.Variable(n), cp.Parameter(2 * n), cp.Parameter(nonneg=True)
    A = rng.normal(size=(2 * n, n))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [cp.norm(x) <= size])
    return problem, [b, size], x, [rng.normal(size=2 * n), np.asarray(0.1)]


def growth(n, rng):
    """Shares of a capital, by the sum of logarithms of what becomes of it."""
    x, drift = cp.Variable(n), cp.Parameter(n)
    outcomes = np.exp(0.3 * rng.normal(size=(5, n)))
    gained = outcomes @ x + drift @ x
    problem = cp.Problem(
        cp.Maximize(cp.sum(cp.log(gained)) - cp.sum_squares(x)),
        [cp.sum(x) == 1, x >= 0],
    )
    return problem, [drift], x, [0.1 * rng.normal(size=n)]


PROBLEMS = {"quadratic": quadratic, "regression": regression, "growth": growth}


def peers(problem, parameters, x):
    try:
        from cvxpylayers.jax import CvxpyLayer
    except ImportError:
        print("cvxpylayers is not installed")
        return {}
    layer = CvxpyLayer(problem, parameters=parameters, variables=[x])
    return {"cvxpylayers": lambda *values: layer(*values)[0]}


def measure(name, n, calls):
    """By library: the gradient's error, the value's, and milliseconds a call."""
    problem, parameters, x, values = PROBLEMS[name](n, np.random.default_rng(n))
    values = [jnp.asarray(value) for value in values]
    c = jnp.cos(jnp.arange(float(n)))
    layer = ix.cvxpy_layer(problem, parameters, [x])

    def ours(*values):
        return layer(*values).value[0]

    contestants = {"implicax": ours} | peers(problem, parameters, x)
    solved, row = jax.jit(lambda first: c @ ours(first, *values[1:])), {}
    exact = np.array([
        float(solved(values[0] + move) - solved(values[0] - move)) / (2 * STEP)
        for move in STEP * jnp.eye(values[0].size)
    ])  # fmt: skip
    right = float(solved(values[0]))
    for library, solve in contestants.items():

        def loss(first, solve=solve):
            return c @ solve(first, *values[1:])

        program = jax.value_and_grad(loss)
        program = jax.jit(program) if library == "implicax" else program
        begun = time.perf_counter()
        value, gradient = jax.block_until_ready(program(values[0]))
        first, times = time.perf_counter() - begun, []
        for _ in range(calls):
            begun = time.perf_counter()
            jax.block_until_ready(program(values[0]))
            times.append(time.perf_counter() - begun)
        row[library] = {
            "gradient_error": float(
                np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
            ),
            "value_error": abs(float(value) - right) / abs(right),
            "milliseconds": 1e3 * float(np.median(times)),
            "first_call_seconds": first,
        }
        print(name, library, row[library], flush=True)
    return row


def table(rows):
    header = ["problem, library", "gradient off by", "value off by", "ms a call",
              "first call, s"]  # fmt: skip
    return _report.markdown(header, [
        [f"{name}, {library}", f"{one['gradient_error']:.1e}",
         f"{one['value_error']:.1e}", one["milliseconds"], one["first_call_seconds"]]
        for name, row in rows.items() for library, one in row.items()
    ])  # fmt: skip


def draw(rows):
    def figure(plt):
        made, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        libraries = list(next(iter(rows.values())))
        keys = ("gradient_error", "relative error of the gradient"), (
            "milliseconds", "ms for value and gradient",
        )  # fmt: skip
        for axis, (key, label) in zip(axes, keys, strict=True):
            for k, library in enumerate(libraries):
                heights = [row[library][key] for row in rows.values()]
                places = np.arange(len(rows)) + k / (len(libraries) + 1)
                axis.bar(places, heights, 1 / (len(libraries) + 1), label=library)
            axis.set(yscale="log", ylabel=label)
            axis.set_xticks(np.arange(len(rows)), list(rows))
        axes[0].legend()
        return made

    return figure


def main():
    made = _report.parser(__doc__)
    made.add_argument("--size", type=int, default=30)
    made.add_argument("--calls", type=int, default=20)
    options = made.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = {name: measure(name, options.size, options.calls) for name in PROBLEMS}
    _report.save(
        options.output, "cvxpy_layers", "CVXPY layers", {"rows": rows}, table(rows),
        draw(rows),
    )  # fmt: skip


if __name__ == "__main__":
    main()
