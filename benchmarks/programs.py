"""What programs cost to compile: kernels, copies of the user's function, seconds.

    python -m benchmarks.programs
    python -m benchmarks.programs --sizes 3 --repeats 1

Of each default, and of solvers by name, value and gradient in one program, beside
optimistix' and jaxopt's, for `z = tanh(W z + x)` and for a network of two layers in its
place. Kernels are counted in the optimised program (`benchmarks/kernels.py`); seconds
are CPU seconds to lower and compile, the median of fresh compilations in one process,
on one thread and without a cache. Writes `programs.json`, `programs.md` and
`programs.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import jaxopt
import optimistix as optx

import implicax as ix
from benchmarks import _report
from benchmarks.kernels import count

TIGHT = 1e-10
OURS = ("ix.",)


def layer(z, a):
    return jnp.tanh(a[0] @ z + a[1])


def network(z, a):
    return a[2] @ jnp.tanh(a[0] @ z + a[1])


FUNCTIONS = {"one layer": layer, "network": network}


def arguments(n):
    """A contraction in either case."""
    W = jax.random.normal(jax.random.key(0), (n, n)) * 0.5 / n**0.5
    return W, jnp.full(n, 0.3), 0.5 * jnp.eye(n)


def programs(fn):
    """By label: from the arguments to the solution."""

    def residual(z, a):
        return z - fn(z, a)

    def energy(z, a):
        return jnp.sum(residual(z, a) ** 2) / 2

    def start(a):
        return jnp.zeros_like(a[1])

    def ours(call, of, **more):
        return lambda a: call(of, start(a), a, **more).value

    def theirs(call, of, method):
        solver = method(TIGHT, TIGHT)
        return lambda a: call(of, solver, start(a), a).value

    def jaxopts(method, of):
        return lambda a: method(of).run(start(a), a)[0]

    return {
        "ix.root": ours(ix.root, residual),
        "ix.Newton": ours(ix.root, residual, solver=ix.Newton()),
        "optimistix Newton": theirs(optx.root_find, residual, optx.Newton),
        "ix.least_squares": ours(ix.least_squares, residual),
        "optimistix LM": theirs(optx.least_squares, residual, optx.LevenbergMarquardt),
        "jaxopt LM": jaxopts(jaxopt.LevenbergMarquardt, residual),
        "ix.minimize": ours(ix.minimize, energy),
        "optimistix BFGS": theirs(optx.minimise, energy, optx.BFGS),
        "jaxopt BFGS": jaxopts(jaxopt.BFGS, energy),
        "ix.fixed_point": ours(ix.fixed_point, fn),
        "ix.Picard": ours(ix.fixed_point, fn, solver=ix.Picard()),
        "optimistix fixed point": theirs(
            optx.fixed_point, fn, optx.FixedPointIteration
        ),
        "jaxopt Anderson": jaxopts(jaxopt.AndersonAcceleration, fn),
    }


def gradient(solve):
    return jax.jit(jax.value_and_grad(lambda a: jnp.sum(jnp.sin(solve(a)))))


def measure(solve, n, repeats):
    """Kernels and copies, and the CPU seconds of fresh compilations."""
    seconds, args = [], arguments(n)
    for _ in range(repeats):
        jax.clear_caches()
        start = time.process_time()
        compiled = gradient(solve).lower(args).compile()
        seconds.append(time.process_time() - start)
    cost = count(compiled.as_text(), "tanh")
    return {"seconds": statistics.median(seconds)} | dataclasses.asdict(cost)


def draw(results):
    def figure(plt):
        made, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        rows = next(iter(results.values()))
        names = list(rows)[::-1]
        colours = ["C0" if name.startswith(OURS) else "0.7" for name in names]
        shown = {"kernels": "distinct kernels", "seconds": "CPU seconds to compile"}
        for axis, (key, label) in zip(axes, shown.items(), strict=True):
            axis.barh(names, [rows[name][key] for name in names], color=colours)
            axis.set(xlabel=label)
        axes[1].set_yticklabels([])
        made.suptitle(f"value and gradient in one program, {next(iter(results))}")
        return made

    return figure


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 20, 3])
    parser.add_argument("--repeats", type=int, default=3)
    named = list(FUNCTIONS)
    parser.add_argument("--functions", nargs="+", choices=named, default=named)
    parser.add_argument("--only", nargs="+", default=(), help="these programs alone")
    options = parser.parse_args()
    results = {}
    for label in options.functions:
        fn = FUNCTIONS[label]
        for n in options.sizes:
            rows = results[f"{label}, n = {n}"] = {}
            for name, solve in programs(fn).items():
                if options.only and name not in options.only:
                    continue
                rows[name] = measure(solve, n, options.repeats)
                print(f"{label} n = {n} {name}: {rows[name]}", flush=True)
    header = ["program", "kernels", "all kernels", "copies of fn", "CPU s"]
    keys = ("kernels", "all_kernels", "copies", "seconds")
    text = "\n\n".join(
        f"{title}:\n\n"
        + _report.markdown(
            header,
            [[name, *(row[key] for key in keys)] for name, row in rows.items()],
        )
        for title, rows in results.items()
    )
    title = "What programs cost to compile"
    _report.save(options.output, "programs", title, results, text, draw(results))


if __name__ == "__main__":
    main()
