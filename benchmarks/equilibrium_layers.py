"""Equilibrium layers: gradients and step times beside `torchdeq`.

    python -m benchmarks.equilibrium_layers
    python -m benchmarks.equilibrium_layers --size 8 --lanes 2 --radii 0.9 --calls 1

A batch of equilibria `z = cell(z, x)` with a linear and a tanh cell whose matrix has
the spectral radius given; value and gradient of a mean of squares, in the matrix that
all samples share. The right gradient is by dense solves at equilibria that Newton's
method makes exact to rounding. `torchdeq` (eager PyTorch, as it is used) with the
implicit gradient, at its defaults and with a hundredfold of steps and tolerances of
1e-9; ours inside `jax.jit`, at the default, and stopped early: what an early stop
costs, its certificate says (of the first sample). All float64. Writes
`equilibrium_layers.json`, `.md` and `.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import time

import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix
from benchmarks import _report

ACTIVATIONS = {"linear": lambda s: s, "tanh": jnp.tanh}
#: `torchdeq`: (options, name).
PEERS = {
    "torchdeq, Anderson, defaults": {"f_solver": "anderson", "b_solver": "anderson"},
    "torchdeq, plain steps, defaults": {},
    "torchdeq, plain steps, tight": {
        "f_max_iter": 4000,
        "b_max_iter": 4000,
        "f_tol": 1e-9,
        "b_tol": 1e-9,
    },
}
OURS = {
    "implicax, Anderson": ix.Anderson(),
    "implicax, Anderson, rtol 1e-3": ix.Anderson(rtol=1e-3),
    "implicax, Newton": ix.Newton(),
}


def data(size, lanes, radius):
    """A matrix of the spectral radius given, and a batch of inputs."""
    rng = np.random.default_rng(size)
    matrix = rng.normal(size=(size, size))
    matrix *= radius / np.max(np.abs(np.linalg.eigvals(matrix)))
    return matrix, 0.1 * rng.normal(size=(lanes, size))


def exact(activation, matrix, x):
    """Equilibria and gradient by dense linear algebra."""

    def lane(matrix, x):
        def cell(z):
            return activation(matrix @ z + x)

        def newton(z, _):
            J = jnp.eye(z.size) - jax.jacobian(cell)(z)
            return z - jnp.linalg.solve(J, z - cell(z)), None

        z, _ = jax.lax.scan(newton, jnp.zeros_like(x), None, length=30)
        # One more step, which is differentiated: exact in first order.
        J = jnp.eye(z.size) - jax.jacobian(cell)(jax.lax.stop_gradient(z))
        z = jax.lax.stop_gradient(z)
        change = jnp.linalg.solve(J, z - activation(matrix @ z + x))
        return z - change

    def loss(matrix):
        return jnp.mean(jax.vmap(lane, (None, 0))(matrix, x) ** 2)

    return np.asarray(jax.grad(loss)(matrix))


def ours(activation, solver, matrix, x):
    """(call, what it said and how certain it is) of a layer."""

    def cell(z, args):
        matrix, x = args
        return activation(matrix @ z + x)

    def loss(matrix):
        def lane(x):
            return layer.solve((matrix, x))

        found = jax.vmap(lane)(x)
        return jnp.mean(found.value**2), found

    layer = ix.nn.DEQ(
        cell, lambda args: jnp.zeros_like(args[1]), solver, on_failure="ignore"
    )
    program = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def call():
        (_, found), gradient = program(matrix)
        return found.value, gradient, found

    z, _, found = call()
    problem = ix.FixedPoint(cell)
    certificate = ix.certify(
        lambda z, args: jnp.mean(z**2), problem, z[0], (jnp.asarray(matrix), x[0])
    )
    right = int(np.sum(np.asarray(found.converged)))
    bar = float(certificate.relative_gradient_error)
    return call, f"{right} of {x.shape[0]} converged", bar


def peer(activation, options, matrix, x):
    import torch
    from torchdeq import get_deq

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    deq = get_deq(ift=True, **options)
    sigma = {"linear": lambda s: s, "tanh": torch.tanh}[activation]
    inputs = torch.tensor(x)

    def call():
        weight = torch.tensor(matrix, requires_grad=True)
        states, _ = deq(
            lambda z: sigma(z @ weight.T + inputs), torch.zeros_like(inputs)
        )
        z = states[-1]
        torch.mean(z**2).backward()
        return z.detach().numpy(), weight.grad.numpy(), None

    return call, "says nothing", None


def contestants(name, matrix, x):
    activation = ACTIVATIONS[name]
    made = {key: (ours, activation, solver) for key, solver in OURS.items()}
    try:
        import torchdeq  # noqa: F401
    except ImportError:
        print("torchdeq is not installed")
    else:
        made |= {key: (peer, name, options) for key, options in PEERS.items()}
    return {
        key: make(first, how, matrix, x) for key, (make, first, how) in made.items()
    }


def measure(name, size, lanes, radius, calls):
    matrix, x = data(size, lanes, radius)
    right = exact(ACTIVATIONS[name], matrix, x)
    row = {}
    for library, (call, said, bar) in contestants(name, matrix, x).items():
        z, gradient, _ = call()
        times = []
        for _ in range(calls):
            begun = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - begun)
        step = np.asarray(ACTIVATIONS[name](np.asarray(z) @ matrix.T + x))
        row[library] = {
            "gradient_error": float(
                np.linalg.norm(np.asarray(gradient) - right) / np.linalg.norm(right)
            ),
            "residual": float(np.max(np.linalg.norm(step - np.asarray(z), axis=1))),
            "milliseconds": 1e3 * float(np.median(times)),
            "said": said,
            "error_bar": bar,
        }
        print(name, radius, library, row[library], flush=True)
    return row


def table(rows):
    header = ["cell, radius, library", "gradient off by", "error bar",
              "largest residual", "ms a step", "what it says"]  # fmt: skip
    return _report.markdown(header, [
        [f"{name}, {library}", f"{one['gradient_error']:.1e}",
         "none" if one["error_bar"] is None else f"{one['error_bar']:.1e}",
         f"{one['residual']:.1e}", one["milliseconds"], one["said"]]
        for name, row in rows.items() for library, one in row.items()
    ])  # fmt: skip


def draw(rows):
    def figure(plt):
        made, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
        libraries = list(next(iter(rows.values())))
        keys = ("gradient_error", "relative error of the gradient"), (
            "milliseconds", "ms for value and gradient",
        )  # fmt: skip
        for axis, (key, label) in zip(axes, keys, strict=True):
            for library in libraries:
                mark = "o-" if library.startswith("implicax") else "s--"
                heights = [row[library][key] for row in rows.values()]
                axis.plot(list(rows), heights, mark, label=library)
            axis.set(yscale="log", ylabel=label)
            axis.tick_params(axis="x", rotation=30)
        axes[0].legend(fontsize="small")
        return made

    return figure


def main():
    made = _report.parser(__doc__)
    made.add_argument("--size", type=int, default=64)
    made.add_argument("--lanes", type=int, default=32)
    made.add_argument("--radii", type=float, nargs="+", default=[0.9, 0.99, 0.999])
    made.add_argument("--calls", type=int, default=10)
    options = made.parse_args()
    rows = {
        f"{name}, {radius}": measure(
            name, options.size, options.lanes, radius, options.calls
        )
        for name in ACTIVATIONS
        for radius in options.radii
    }
    _report.save(
        options.output, "equilibrium_layers", "Equilibrium layers", {"rows": rows},
        table(rows), draw(rows),
    )  # fmt: skip


if __name__ == "__main__":
    main()
