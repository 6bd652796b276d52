"""What one call of a host solver costs: Python, pure_callback, ix.host, decorated.

    python -m benchmarks.host
    python -m benchmarks.host --sizes 1 --lanes 4 --seconds 1

The solver is one line of NumPy, so what is measured is the way to it and back. Each
program is compiled, and so are batches of calls under `vmap`. In float64, on one thread
and in one process, in turns. Writes `host.json`, `host.md` and `host.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import statistics

import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix
from benchmarks import _report
from benchmarks._timing import in_turns

BARE, CALLBACK, HOST = "Python", "jax.pure_callback", "ix.host"
DECORATED, GRADIENT = "decorated", "decorated, gradient"


def square_root(y0, a):
    """The host solver."""
    return np.sqrt(a)


def heron(y, a):
    """The map whose fixed point it is. Its derivative there is zero, so that linear
    solves cost next to nothing, at any size."""
    return (y + a / y) / 2


def through_callback(y0, a):
    """What a person writes: JAX hands the callback its own arrays, lane by lane."""
    shape = jax.ShapeDtypeStruct(y0.shape, y0.dtype)
    return jax.pure_callback(
        lambda y0, a: square_root(np.asarray(y0), np.asarray(a)),
        shape, y0, a, vmap_method="sequential",
    )  # fmt: skip


def programs():
    """Compiled programs of `(y0, a)`, by name; and the bare solver."""
    host = ix.host(square_root)
    decorated = ix.custom_fixed_point(heron)(host)

    def loss(a, y0):
        return jnp.sum(decorated(y0, a).value)

    return {
        CALLBACK: through_callback,
        HOST: host,
        DECORATED: lambda y0, a: decorated(y0, a).value,
        GRADIENT: lambda y0, a: jax.value_and_grad(loss)(a, y0),
    }


def measure(n, lanes, seconds):
    """Median seconds per call (of the whole batch, where `lanes` is not zero)."""
    shape = (lanes, n) if lanes else (n,)
    y0, a = jnp.ones(shape), jnp.asarray(np.random.default_rng(0).uniform(1, 4, shape))
    on_host = np.asarray(y0), np.asarray(a)

    def bare(y0, a):
        if lanes:
            return [square_root(*lane) for lane in zip(*on_host, strict=True)]
        return square_root(*on_host)

    compiled = {
        name: jax.jit(jax.vmap(program) if lanes else program)
        for name, program in programs().items()
    }
    exact = jnp.sqrt(a)
    for name, program in compiled.items():
        found = jax.tree.leaves(program(y0, a))
        expected = [jnp.sum(exact, -1), 0.5 / exact] if name == GRADIENT else [exact]
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12)
    times = in_turns({BARE: bare} | compiled, (y0, a), seconds)
    return {name: statistics.median(t) for name, t in times.items()}


def draw(rows):
    def figure(plt):
        made, axis = plt.subplots(figsize=(7, 4), layout="constrained")
        cases, names = list(rows), list(next(iter(rows.values())))
        for k, name in enumerate(names):
            at = np.arange(len(cases)) + 0.16 * (k - (len(names) - 1) / 2)
            axis.bar(at, [1e6 * rows[case][name] for case in cases], 0.15, label=name)
        axis.set(
            yscale="log", ylabel="microseconds per call", xticks=range(len(cases)),
            xticklabels=cases, title="One call of a host solver",
        )  # fmt: skip
        axis.legend(fontsize=8)
        return made

    return figure


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5, help="per case")
    options = parser.parse_args()
    rows = {}
    for n, lanes in [*((n, 0) for n in options.sizes), (1, options.lanes)]:
        case = f"n = {n}" + (f", {lanes} lanes" if lanes else "")
        rows[case] = measure(n, lanes, options.seconds)
        print(case, {name: f"{1e6 * t:.1f} us" for name, t in rows[case].items()})
    header = ["case", *(f"{name}, us" for name in next(iter(rows.values()))),
              "ix.host - pure_callback, us"]  # fmt: skip
    lines = [
        [case, *(1e6 * t for t in row.values()), 1e6 * (row[HOST] - row[CALLBACK])]
        for case, row in rows.items()
    ]
    text = (
        "Microseconds per call of a solver that is one line of NumPy (of the whole "
        "batch, where there are lanes). `decorated` evaluates the residual and the "
        "status too.\n\n" + _report.markdown(header, lines)
    )
    title = "The cost of a call to the host"
    _report.save(options.output, "host", title, {"seconds": rows}, text, draw(rows))


if __name__ == "__main__":
    main()
