"""A partial differential equation: beside SciPy's sparse LU, all by hand.

    python -m benchmarks.sparse
    python -m benchmarks.sparse --sizes 64 1024

Bratu's equation `-Laplace(u) = a exp(u)` on `m x m` points of the unit square, and the
gradient of `sum(u^2)` in all `m^2` coefficients, in float64 and on one thread.
implicax gets the equation and `sparsity="auto"`. By hand there are the Jacobian,
Newton's method to the same accuracy, `scipy.sparse.linalg.splu` with the options that
are best here, and the transposed solve for the gradient. Every gradient is verified:
against the one by hand, and against central differences. Where pyamg is installed, the
same is solved by `ix.Krylov` with its algebraic multigrid of the Laplacian. Writes
`sparse.json`, `sparse.md` and `sparse.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import importlib
import importlib.util
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

import implicax as ix
from benchmarks import _report

RATE = 2.0
#: The last correction of the Newton method by hand, relative to the solution.
CORRECTION = 1e-10
#: Found by trying: half the time and the fill-in of the default.
BEST = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.1,
    "options": {"SymmetricMode": True},
}


def bratu(u, a):
    m = round(u.size**0.5)
    field = jnp.pad(u.reshape(m, m), 1)
    around = field[2:, 1:-1] + field[:-2, 1:-1] + field[1:-1, 2:] + field[1:-1, :-2]
    return (4 * field[1:-1, 1:-1] - around).ravel() - a * jnp.exp(u) / (m + 1) ** 2


def coefficients(m):
    return RATE + jnp.linspace(0.0, 1.0, m * m)


class ByHand:
    """NumPy and SciPy, with all derivatives by hand."""

    def __init__(self, m):
        self.h2 = 1 / (m + 1) ** 2
        line = scipy.sparse.diags_array(
            [-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m)
        )
        one = scipy.sparse.eye_array(m)
        self.laplace = (
            scipy.sparse.kron(line, one) + scipy.sparse.kron(one, line)
        ).tocsc()

    def solve(self, a):
        u = np.zeros(a.size)
        while True:
            heat = self.h2 * a * np.exp(u)
            jacobian = (self.laplace - scipy.sparse.diags_array(heat)).tocsc()
            factor = scipy.sparse.linalg.splu(jacobian, **BEST)
            correction = factor.solve(self.laplace @ u - heat)
            u = u - correction
            if np.max(np.abs(correction)) <= CORRECTION * np.max(np.abs(u)):
                return u, factor

    def gradient(self, a):
        u, factor = self.solve(a)
        return factor.solve(2 * u, "T") * self.h2 * np.exp(u)


def multigrid(laplace):
    """Newton's method with pyamg's cycle as the preconditioner."""
    pyamg = importlib.import_module("pyamg")
    cycle = pyamg.ruge_stuben_solver(laplace.tocsr()).aspreconditioner()
    operator = scipy.sparse.linalg.LinearOperator(
        cycle.shape, cycle.matvec, rmatvec=cycle.matvec
    )
    return ix.Newton(ix.Krylov(operator))


def timed(function, repeats):
    """The median time of a call, and its result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def iterated(m, a, u0, by_hand, exact, repeats):
    """The times by Krylov's method, and its error, where there is a multigrid."""
    if importlib.util.find_spec("pyamg") is None:
        return {}
    solver = multigrid(by_hand.laplace)

    def value(u0, a):
        return ix.root(bratu, u0, a, solver=solver).value

    solve = jax.jit(value)
    gradient = jax.jit(jax.grad(lambda a, u0: jnp.sum(value(u0, a) ** 2)))
    jax.block_until_ready((solve(u0, a), gradient(a, u0)))
    solve_s, _ = timed(lambda: solve(u0, a), repeats)
    gradient_s, g = timed(lambda: gradient(a, u0), repeats)
    error = float(np.max(np.abs(g - exact)) / np.max(np.abs(exact)))
    assert error <= _report.ACCURACY, error
    return {
        "krylov_solve_s": solve_s,
        "krylov_gradient_s": gradient_s,
        "krylov_error": error,
    }


def measure(m, repeats):
    a, u0, by_hand = coefficients(m), jnp.zeros(m * m), ByHand(m)

    def value(u0, a):
        return ix.root(bratu, u0, a, sparsity="auto").value

    def loss(a, u0):
        return jnp.sum(value(u0, a) ** 2)

    solve, gradient = jax.jit(value), jax.jit(jax.grad(loss))
    first = {
        "solve": timed(lambda: solve(u0, a), 1)[0],
        "gradient": timed(lambda: gradient(a, u0), 1)[0],
    }
    pattern = ix.detect_sparsity(ix.Root(bratu), u0, a)
    solve_s, u = timed(lambda: solve(u0, a), repeats)
    gradient_s, g = timed(lambda: gradient(a, u0), repeats)
    numbers = np.asarray(a)
    hand_solve_s, (u_by_hand, _) = timed(lambda: by_hand.solve(numbers), repeats)
    hand_gradient_s, g_by_hand = timed(lambda: by_hand.gradient(numbers), repeats)
    direction = 1 + jnp.cos(jnp.arange(m * m, dtype=float)) / 2
    ends = [jnp.sum(solve(u0, a + t * direction) ** 2) for t in (1e-3, -1e-3)]
    difference = float(ends[0] - ends[1]) / 2e-3
    error = float(np.max(np.abs(g - g_by_hand)) / np.max(np.abs(g_by_hand)))
    error_of_difference = abs(float(g @ direction) / difference - 1)
    assert error <= _report.ACCURACY, error
    return {
        "unknowns": m * m,
        "solve_s": solve_s,
        "gradient_s": gradient_s,
        "hand_solve_s": hand_solve_s,
        "hand_gradient_s": hand_gradient_s,
        "first_solve_s": first["solve"],
        "first_gradient_s": first["gradient"],
        "detection_s": pattern.seconds,
        "colors": pattern.num_colors,
        "error": error,
        "error_of_value": float(np.max(np.abs(u - u_by_hand)) / np.max(np.abs(u))),
        "error_of_difference": error_of_difference,
        **iterated(m, a, u0, by_hand, g_by_hand, repeats),
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def draw(rows):
    def figure(plt):
        made, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
        n = [row["unknowns"] for row in rows.values()]
        for key, label, style in (
            ("solve_s", "implicax, value", "-o"),
            ("gradient_s", "implicax, value and gradient", "-s"),
            ("hand_solve_s", "by hand, value", "--o"),
            ("hand_gradient_s", "by hand, value and gradient", "--s"),
            ("krylov_solve_s", "implicax, multigrid, value", ":o"),
            ("krylov_gradient_s", "implicax, multigrid, and gradient", ":s"),
        ):
            times = [row.get(key, np.nan) for row in rows.values()]
            axis.plot(n, times, style, markersize=4, label=label)
        axis.set(xscale="log", yscale="log", xlabel="unknowns", ylabel="seconds")
        axis.legend(fontsize=8)
        return made

    return figure


def exponent(rows):
    """Of the time in the number of unknowns, between the two largest sizes."""
    small, large = list(rows.values())[-2:]
    times = np.log(large["gradient_s"] / small["gradient_s"])
    return float(times / np.log(large["unknowns"] / small["unknowns"]))


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = {}
    for m in options.sizes:
        rows[f"{m} x {m}"] = row = measure(m, options.repeats)
        print(m, row, flush=True)
    header = ["grid", "value, s", "and gradient, s", "by hand", "and gradient",
              "gradient / value", "all / by hand", "first call", "pattern found, s",
              "error", "multigrid, value, s", "and gradient, s", "error",
              "GiB"]  # fmt: skip
    lines = [
        [name, row["solve_s"], row["gradient_s"], row["hand_solve_s"],
         row["hand_gradient_s"], row["gradient_s"] / row["solve_s"],
         row["gradient_s"] / row["hand_gradient_s"], row["first_gradient_s"],
         row["detection_s"], f"{row['error']:.0e}", row.get("krylov_solve_s", "-"),
         row.get("krylov_gradient_s", "-"),
         f"{row['krylov_error']:.0e}" if "krylov_error" in row else "-",
         row["memory_gib"]]
        for name, row in rows.items()
    ]  # fmt: skip
    text = (
        "Bratu's equation, and the gradient of `sum(u^2)` in as many coefficients as "
        "unknowns, beside Newton's method by hand with SciPy's sparse LU. `first call` "
        "compiles; `error` is that of the gradient, against the one by hand; "
        "`multigrid` is `ix.Krylov` with pyamg's cycle for the Laplacian; `GiB` the "
        "most that the process has used so far."
    )
    if len(rows) > 1:
        text += f" The time grows as `n^{exponent(rows):.2f}`."
    text += "\n\n" + _report.markdown(header, lines)
    title = "A partial differential equation, beside SciPy"
    _report.save(options.output, "sparse", title, {"rows": rows}, text, draw(rows))


if __name__ == "__main__":
    main()
