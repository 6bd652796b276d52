"""A reaction-diffusion system: its steady state, and 200 implicit steps towards it.

    python -m benchmarks.brusselator
    python -m benchmarks.brusselator --sizes 32 --steps 20

The Brusselator (Prigogine & Lefever 1968) on `m x m` points of a torus,

    u' = D Laplace(u) + a - (b + 1) u + u^2 v,    v' = D Laplace(v) + b u - u^2 v,

with a feed `a` that is its own in each point: `2 m^2` unknowns, `m^2` coefficients. The
loss is the mean of `u^2`, at the end of implicit Euler steps in a `jax.lax.scan`, and
in the steady state; it is differentiated in all of the feed, and the derivative
verified against central differences along a direction. The linear systems are solved by
`ix.Krylov`, preconditioned by two Fourier transforms: those of diffusion alone. In
float64 and on one thread. Writes `brusselator.json`, `brusselator.md` and
`brusselator.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import resource
import time

import jax
import jax.numpy as jnp

import implicax as ix
from benchmarks import _report

B, DIFFUSION, STEP = 3.0, 2e-3, 0.05
#: Of the central differences.
DIFFERENCE = 1e-4
#: What they, and the rounding errors of a loss, leave unknown.
AGREEMENT = 1e-6


def grid(m):
    return jnp.meshgrid(*[jnp.arange(m) / m] * 2, indexing="ij")


def feed(m):
    x, y = grid(m)
    return 2 + 0.5 * jnp.cos(2 * jnp.pi * x) * jnp.sin(4 * jnp.pi * y)


def laplacian(field):
    around = sum(jnp.roll(field, k, axis) for k in (-1, 1) for axis in (-2, -1))
    return (around - 4 * field) * field.shape[-1] ** 2


def rates(w, a):
    u, v = w
    reaction = u**2 * v - B * u
    return DIFFUSION * laplacian(w) + jnp.stack([a + reaction - u, -reaction])


def euler(w, args):
    old, a = args
    return w - old - STEP * rates(w, a)


def by_fourier(m, shift, factor):
    """The inverse of `shift - factor Laplace`, as a function of flat vectors."""
    waves = 2 - 2 * jnp.cos(2 * jnp.pi * jnp.arange(m) / m)
    symbol = shift + factor * m**2 * (waves[:, None] + waves[None, : m // 2 + 1])

    def apply(flat):
        image = jnp.fft.rfft2(flat.reshape(2, m, m)) / symbol
        return jnp.fft.irfft2(image, s=(m, m)).ravel()

    return apply


def start(m):
    """Where the reaction would rest, but for a wave."""
    x, y = grid(m)
    u = feed(m) + 0.1 * jnp.sin(2 * jnp.pi * (x + y))
    return jnp.stack([u, B / feed(m)])


def in_time(m, steps):
    solver = ix.Newton(ix.Krylov(by_fourier(m, 1.0, STEP * DIFFUSION)))

    def last(a):
        def step(w, _):
            return ix.root(euler, w, (w, a), solver=solver).value, None

        return jax.lax.scan(step, start(m), None, length=steps)[0]

    return last


def steady(m):
    solver = ix.Newton(ix.Krylov(by_fourier(m, 1.0, DIFFUSION)))
    return lambda a: ix.root(rates, start(m), a, solver=solver).value


def measure(m, state):
    """Seconds of the loss and of its gradient, and the gradient's error."""

    def loss(a):
        return jnp.mean(state(a)[0] ** 2)

    a = feed(m)
    x, y = grid(m)
    way = jnp.cos(2 * jnp.pi * (x - 2 * y)) + 0.5
    value, both = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
    row = {}
    for name, program in (("value", value), ("gradient", both)):
        compiled = program.lower(a).compile()
        began = time.perf_counter()
        found = jax.block_until_ready(compiled(a))
        row[f"{name}_s"] = time.perf_counter() - began
    slope = jnp.vdot(found[1], way)
    ends = [value(a + sign * DIFFERENCE * way) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * DIFFERENCE)
    row["loss"], row["error"] = float(found[0]), float(abs(slope / difference - 1))
    assert row["error"] <= AGREEMENT, row
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return row | {"memory_gib": used / 2**20}


def draw(m, state):
    def figure(plt):
        made, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        gradient = jax.grad(lambda a: jnp.mean(state(a)[0] ** 2))(feed(m))
        fields = (("u at the end", state(feed(m))[0]), ("its loss, by feed", gradient))
        for axis, (title, field) in zip(axes, fields, strict=True):
            made.colorbar(axis.imshow(field, origin="lower", extent=(0, 1, 0, 1)))
            axis.set_title(title)
        return made

    return figure


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    rows = {}
    for m in options.sizes:
        for label, state in (
            (f"{options.steps} steps", in_time(m, options.steps)),
            ("steady state", steady(m)),
        ):
            rows[f"{2 * m * m} unknowns, {label}"] = row = measure(m, state)
            print(m, label, row, flush=True)
    header = ["", "value, s", "and gradient, s", "error", "GiB"]
    lines = [
        [name, row["value_s"], row["gradient_s"], f"{row['error']:.0e}",
         row["memory_gib"]]
        for name, row in rows.items()
    ]  # fmt: skip
    text = (
        "The Brusselator on a torus, and the gradient of the mean of `u^2` in the feed "
        "of each point. `error` is that of the gradient along a direction, against "
        "central differences; `GiB` the most that the process has used so far.\n\n"
    ) + _report.markdown(header, lines)
    title = "A reaction-diffusion system in time"
    m = options.sizes[0]
    picture = draw(m, in_time(m, options.steps))
    _report.save(options.output, "brusselator", title, {"rows": rows}, text, picture)


if __name__ == "__main__":
    main()
