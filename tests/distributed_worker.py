"""One of several processes that solve one problem together; the first one reports.

Arguments: the coordinator's port, the number of processes, this one's number. Each
process has two devices. With one process nothing is distributed: that is the reference.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import implicax as ix

BATCH, SIZE = 16, 5


def network(z, a):
    return jnp.tanh(z @ a["W"].T + a["x"])


def circle(y, x):
    """A small system with a root near one: rows are solved independently."""
    return y**3 + y - jnp.roll(y, 1) / 4 - x


def loss(a):
    """The first solve is one system, the second one a system per row."""
    z = ix.fixed_point(network, jnp.zeros_like(a["x"]), a, solver=ix.Picard()).value
    y = jax.vmap(lambda x: ix.root(circle, jnp.ones(SIZE), x).value)(z)
    return jnp.sum(y**2) / BATCH


def main(port, processes, number):
    jax.config.update("jax_enable_x64", True)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{port}", processes, number, initialization_timeout=60
        )
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    whole = {
        "W": 0.2 * rng.normal(size=(SIZE, SIZE)),
        "x": rng.normal(size=(BATCH, SIZE)),
    }
    specs = {"W": P(), "x": P("batch")}
    # Every process hands over its own rows only.
    a = {
        key: jax.make_array_from_callback(
            whole[key].shape, NamedSharding(mesh, specs[key]), whole[key].__getitem__
        )
        for key in whole
    }
    program = jax.jit(jax.value_and_grad(loss)).lower(a).compile()
    value, gradient = program(a)
    mine = sum(shard.data.shape[0] for shard in gradient["x"].addressable_shards)
    # For the report alone the rows come together.
    gathered = multihost_utils.process_allgather(gradient, tiled=True)
    if number == 0:
        report = {
            "devices": devices,
            "rows here": mine,
            "gathers": "all-gather" in program.as_text(),
            "value": float(value),
            "W": np.asarray(gathered["W"]).tolist(),
            "x": np.asarray(gathered["x"]).tolist(),
        }
        print(json.dumps(report))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
