"""One problem, solved and differentiated by two processes together.

Started without arguments, the script starts itself twice, as a cluster's launcher
would start it on two machines. All that is special is the call of
`jax.distributed.initialize`; the library knows nothing of it.
"""

import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import implicax as ix

ROWS, SIZE = 16, 3
LIMIT = 120  # seconds


def launch(processes=2):
    """Start the processes, and show what they print, in their order."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, __file__, port, str(processes)]
    running = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    try:
        for process in running:
            lines = process.communicate(timeout=LIMIT)[0].splitlines()
            # The communication library has its own word on standard output.
            print(*(line for line in lines if line.startswith("process")), sep="\n")
    finally:
        for process in running:
            process.kill()


def layer(z, a):
    """All rows by the same map."""
    return jnp.tanh(z @ a["W"].T + a["x"])


def loss(a):
    """A function of the solution, the same program in every process."""
    z = ix.fixed_point(layer, jnp.zeros_like(a["x"]), a, solver=ix.Picard()).value
    return jnp.sum(z**2)


def work(port, processes, number):
    """Join the others, supply one's own rows, solve and differentiate."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, number)

    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
    whole = {"W": 0.3 * np.eye(SIZE), "x": np.linspace(-1, 1, ROWS * SIZE)}
    whole["x"] = whole["x"].reshape(ROWS, SIZE)
    specs = {"W": P(), "x": P("rows")}
    a = {  # each process supplies the rows of its own devices
        key: jax.make_array_from_callback(
            whole[key].shape, NamedSharding(mesh, specs[key]), whole[key].__getitem__
        )
        for key in whole
    }
    value, gradient = jax.jit(jax.value_and_grad(loss))(a)
    rows = sum(shard.data.shape[0] for shard in gradient["x"].addressable_shards)
    trace = jnp.trace(gradient["W"])  # summed over all rows, the same everywhere
    print(f"process {number}: {rows} of {ROWS} rows, {value:.6f}, {trace:.6f}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        work(*map(int, sys.argv[1:]))
    else:
        launch()
