"""Solves on eight virtual devices and on one; prints what each case found as JSON.

A process of its own, for the number of CPU devices is fixed when JAX starts: run with
`XLA_FLAGS=--xla_force_host_platform_device_count=8`.
"""

import json
import re

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import implicax as ix

BATCH = 56  # recognisable: no other size is a multiple of it
TOLERANCES = {"rtol": 1e-13, "atol": 1e-13}
KRYLOV = ix.Implicit(linear_solver=lx.GMRES(rtol=1e-12, atol=0.0, restart=20))
NEWTON_KRYLOV = ix.Newton(
    linear_solver=lx.GMRES(rtol=1e-6, atol=0.0, restart=20), **TOLERANCES
)
SOLVERS = {
    "Picard": ix.Picard(**TOLERANCES),
    "Anderson": ix.Anderson(**TOLERANCES),
    "Broyden": ix.Broyden(**TOLERANCES),
    "Newton": ix.Newton(**TOLERANCES),
    "Newton-Krylov": NEWTON_KRYLOV,
}
#: What is spread out, the problem, the solver, the linear solver of the derivative.
CASES = (
    "large-batch fixed_point Picard auto",
    "large-batch fixed_point Anderson auto",
    "large-batch root Broyden auto",
    "large-batch root Newton auto",
    "small-batch fixed_point Anderson Krylov",
    "small-batch root Newton-Krylov Krylov",
    "lanes fixed_point Anderson auto",
    "lanes root Newton auto",
    "batch-and-model fixed_point Picard auto",
    "batch-and-model root Newton-Krylov Krylov",
    "model fixed_point Anderson Krylov",
    "model root Newton-Krylov Krylov",
)
COLLECTIVE = re.compile(
    r"= (\(?[^=]*?\)?) (all-gather|all-to-all|all-reduce|collective-permute|"
    r"reduce-scatter|ragged-all-to-all)(?:-start)?\("
)


def mesh(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def collectives(compiled):
    """The (operation, output shapes) of all communication in a compiled program."""
    found = set()
    for shapes, operation in COLLECTIVE.findall(compiled.as_text()):
        for dimensions in re.findall(r"\w+\[([\d,]*)\]", shapes):
            shape = [int(d) for d in dimensions.split(",") if d]
            found.add((operation, tuple(shape)))
    return sorted(found)


def iterate(z, a):
    """One system: every row of `z` by the same map."""
    return jnp.tanh(z @ a["W"].T + a["x"])


def residual(z, a):
    return z - iterate(z, a)


FUNCTIONS = {"fixed_point": iterate, "root": residual}


def solve(kind, solver, derivative):
    call = getattr(ix, kind)

    def value(a):
        start = jnp.zeros_like(a["x"])
        fn = FUNCTIONS[kind]
        return call(fn, start, a, solver=SOLVERS[solver], derivative=derivative).value

    return value


def each(one):
    """A system per row, by `vmap`."""
    return lambda a: jax.vmap(lambda x: one({"W": a["W"], "x": x}))(a["x"])


def arguments(shape):
    W, x = jax.random.key(0), jax.random.key(1)
    d = shape[-1]
    W = 0.5 * jax.random.normal(W, (d, d)) / np.sqrt(d)
    return {"W": W, "x": jax.random.normal(x, shape)}


def compare(value, shape, mesh, specs):
    """Value and gradient on the mesh against the same on one device."""
    return compare_arguments(value, arguments(shape), mesh, specs)


def compare_arguments(value, a, mesh, specs):

    def loss(a):
        y = value(a)
        return jnp.sum(y**2) / 2, y

    def everything(a):
        (_, y), gradient = jax.value_and_grad(loss, has_aux=True)(a)
        return {"value": y, "gradient": gradient}

    sharded = {
        key: jax.device_put(a[key], NamedSharding(mesh, specs[key])) for key in a
    }
    compiled = jax.jit(everything).lower(sharded).compile()
    came, expected = compiled(sharded), jax.jit(everything)(a)
    leaves = zip(jax.tree.leaves(came), jax.tree.leaves(expected), strict=True)
    errors = [
        np.max(np.abs(np.asarray(x) - np.asarray(y))) / np.max(np.abs(np.asarray(y)))
        for x, y in leaves
    ]
    kept = came["value"].sharding.is_equivalent_to(
        NamedSharding(mesh, specs["x"]), a["x"].ndim
    )
    return {
        "error": float(max(errors)),
        "collectives": collectives(compiled),
        "kept": kept,
    }


def manual(value, a):
    """Inside `jax.shard_map`, which keeps account of what varies over the mesh: one
    system per device."""
    spread = P("batch")
    return jax.shard_map(
        value, mesh=mesh((8,), ("batch",)), in_specs=spread, out_specs=spread
    )(a)


def explicit(value, a):
    """On a mesh that wants to be told of every move, without `jax.set_mesh`."""
    by_batch = mesh((8,), ("batch",), AxisType.Explicit)
    return value(jax.device_put(a, NamedSharding(by_batch, P("batch"))))


FIELD = (64, 72)


def diffusion(u, a):
    """Each point of a field by its neighbours."""
    padded = jnp.pad(u, 1)
    up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    return 5 * u - up - down - left - right - a * jnp.exp(u) / 10


def field(by_batch):
    """Newton and Krylov on a field whose rows are spread out."""
    solver = ix.Newton(ix.Krylov(restart=40))

    def value(a):
        rate = a["W"] * a["x"]
        return ix.root(diffusion, jnp.zeros(FIELD), rate, solver=solver).value

    spread = {"W": P(), "x": P("batch", None)}
    a = {"W": jnp.ones(()), "x": 1 + jnp.linspace(0.0, 1.0, 64 * 72).reshape(FIELD)}
    return compare_arguments(value, a, by_batch, spread)


#: What is solved on those: starts that vary and starts that do not.
TYPED = {
    "Picard": lambda a: ix.fixed_point(
        lambda y, a: jnp.tanh(y) / 2 + a, jnp.zeros_like(a), a, solver=ix.Picard()
    ),
    "Anderson": lambda a: ix.fixed_point(
        lambda y, a: jnp.tanh(y) / 2 + a, jnp.zeros_like(a), a
    ),
    "Newton": lambda a: ix.root(
        lambda y, a: y**2 - a, jnp.ones(a.shape), a, solver=ix.Newton()
    ),
    "TrustRegion": lambda a: ix.minimize(
        lambda y, a: jnp.sum((y - a) ** 4 + y**2), jnp.ones_like(a), a
    ),
}
PLACES = {"manual": manual, "explicit": explicit}


def typed(name, place):
    """The largest difference from one device, of value and gradient."""

    def everything(a):
        value = lambda a: TYPED[name](a).value
        return value(a), jax.grad(lambda a: jnp.sum(value(a) ** 2))(a)

    a = jnp.linspace(0.5, 2.0, 16)
    came, expected = PLACES[place](jax.jit(everything), a), jax.jit(everything)(a)
    return max(
        float(jnp.max(jnp.abs(jax.device_get(x) - y)))
        for x, y in zip(came, expected, strict=True)
    )


def main():
    jax.config.update("jax_enable_x64", True)
    by_batch = mesh((8,), ("batch",))
    rows = {"W": P(), "x": P("batch")}
    features = {"W": P("model", None), "x": P("model")}
    both = {"W": P("model", None), "x": P("batch", "model")}
    grid = mesh((4, 2), ("batch", "model"))
    by_feature = mesh((8,), ("model",))
    found = {}
    for case in CASES:
        where, kind, name, derivative = case.split()
        derivative = KRYLOV if derivative == "Krylov" else None
        value = solve(kind, name, derivative)
        found[case] = {
            # Larger than what `auto` forms the Jacobian of (56 * 80 = 4480).
            "large-batch": lambda f: compare(f, (BATCH, 80), by_batch, rows),
            "small-batch": lambda f: compare(f, (BATCH, 10), by_batch, rows),
            "lanes": lambda f: compare(each(f), (BATCH, 3), by_batch, rows),
            "batch-and-model": lambda f: compare(f, (BATCH, 20), grid, both),
            "model": lambda f: compare(f, (512,), by_feature, features),
        }[where](value)
    found["field"] = field(by_batch)
    found["typed"] = {
        f"{name} {place}": typed(name, place) for name in TYPED for place in PLACES
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
