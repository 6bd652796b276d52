"""The voltages of an electric grid, what they depend on, and the load they break at.

Usage: `python examples/power_flow.py [case.m] [--picture power_flow.png]`. Without a
file, the IEEE case of 118 buses, `case118.m` beside this script.
"""

import argparse
import functools
import os
import pathlib
from typing import Any, NamedTuple

# Before JAX loads LAPACK. Its threads do not help matrices of a few hundred rows, and
# where the cores are busy they wait for each other: on two, 100 ms for an LU of 0.5 ms.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
from _matpower import Grid, read_grid
from _power_flow_picture import draw

import implicax as ix

jax.config.update("jax_enable_x64", True)

#: What `PowerFlow.certify` certifies, unless it is told a load bus.
LOSSES = -1


class PowerFlow:
    """The power balance of a grid, as an equation `balance(y, args) = 0`."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.args = jax.tree.map(jnp.asarray, grid.args)
        self.flat_start = {
            "angle": jnp.zeros(len(grid.others)),
            "magnitude": jnp.ones(len(grid.load_buses)),
        }

    def magnitude(self, y, args):
        """Of the voltage at every bus: generators keep theirs at the setpoint."""
        return args["setpoint"].at[self.grid.load_buses].set(y["magnitude"])

    def injected(self, y, args):
        """The complex power `V conj(Y V)` that flows into the grid at every bus."""
        angle = jnp.zeros(len(self.grid.numbers)).at[self.grid.others].set(y["angle"])
        magnitude = self.magnitude(y, args)
        V = jax.lax.complex(magnitude * jnp.cos(angle), magnitude * jnp.sin(angle))
        return V * jnp.conj(self.grid.admittance @ V)

    def balance(self, y, args):
        """What flows into the grid less what is fed into it, where that is given."""
        S = self.injected(y, args)
        load, scale = args["load"], args["scale"]
        P = S.real - scale * (args["generation"] - load["P"])
        Q = S.imag + scale * load["Q"]
        return {"angle": P[self.grid.others], "magnitude": Q[self.grid.load_buses]}

    def balance_at(self, y, scale, args):
        """The same with the load as the parameter of a branch."""
        return self.balance(y, args | {"scale": scale})

    def losses(self, y, args):
        """All that flows into the grid and does not come out."""
        return jnp.sum(self.injected(y, args).real)

    def solve(self, args, start=None, rtol=1e-13):
        """From the flat start, unless told: all voltages one, all angles zero."""
        start = self.flat_start if start is None else start
        return ix.root(self.balance, start, args, solver=ix.Newton(rtol=rtol))

    @functools.partial(jax.jit, static_argnums=0)
    def certify(self, which, y, args):
        """Of the voltage at the load bus `which`, or of the losses.

        All are one function of `which`, since to compile a certificate takes seconds.
        """

        def quantity(y, args):
            return jnp.append(y["magnitude"], self.losses(y, args))[which]

        return ix.certify(quantity, ix.Root(self.balance), y, args)

    @functools.partial(jax.jit, static_argnums=0)
    def sensitivities(self, args):
        """The derivatives of all voltages, and of the losses, in all of `args`."""

        def outputs(args):
            y = self.solve(args).value
            return {"magnitude": y["magnitude"], "losses": self.losses(y, args)}

        return jax.jacrev(outputs)(args)

    @functools.partial(jax.jit, static_argnums=0)
    def branch(self, y, args):
        """The solutions from `y` on, for growing load, through the nose and back."""
        start, newton = args["scale"], ix.Newton(rtol=1e-13)
        return ix.continuation(
            self.balance_at, y, start, 10 * start, args, step=0.01, solver=newton
        )


class Nose(NamedTuple):
    """Where the branch turns round."""

    y: Any
    scale: jax.Array
    null: Any
    """The null vector of the Jacobian: which way the voltages collapse."""
    gradient: Any
    """`d scale / d args`."""


def find_nose(flow: PowerFlow, branch: ix.Branch) -> Nose:
    """The fold, and how it moves: from the first point of the branch beyond it."""
    k = int(jnp.argmax(branch.folds))
    if not branch.folds[k]:
        raise ValueError(f"The branch has no nose.\n{branch}")

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def fold(args, y, scale):
        newton = ix.Newton(rtol=1e-13)
        found = ix.fold(flow.balance_at, y, scale, args, solver=newton)
        y, scale, null = found.value
        return scale, (y, null)

    y = jax.tree.map(lambda x: x[k], branch.value)
    (scale, (y, null)), gradient = fold(flow.args, y, branch.parameter[k])
    return Nose(y, scale, null, gradient)


class Approach(NamedTuple):
    """Certificates of one voltage, ever closer to the nose, and at the nose itself."""

    distance: np.ndarray
    """`1 - scale / nose`."""
    certificates: list[ix.Certificate]
    at_nose: ix.Certificate


def approach(flow: PowerFlow, branch: ix.Branch, nose: Nose, bus: int) -> Approach:
    """The voltage at the load bus `bus`, on the upper branch, certified on the way.

    The distance of the solution from the nose is as the square root of the distance
    of the scale: that gives the guesses.
    """

    def scaled(distance):
        return flow.args | {"scale": (1 - distance) * nose.scale}

    distances = 10.0 ** -np.arange(1, 9)
    start = int(np.argmax(branch.parameter > 0.9 * nose.scale))
    y, certificates = jax.tree.map(lambda x: x[start], branch.value), []
    for distance in distances:
        y = flow.solve(scaled(distance), y).value
        certificates.append(flow.certify(bus, y, scaled(distance)))
        y = jax.tree.map(lambda a, b: b + (a - b) * 0.1**0.5, y, nose.y)
    return Approach(distances, certificates, flow.certify(bus, nose.y, scaled(0.0)))


def differences(flow: PowerFlow, buses: np.ndarray) -> Any:
    """`d magnitude / d load` at some buses by central differences of fourth order."""
    h, load = 1e-2, flow.args["load"]

    def solved(kind, bus, change):
        changed = load | {kind: load[kind].at[bus].add(change)}
        return flow.solve(flow.args | {"load": changed}).value["magnitude"]

    def column(kind, bus):
        near = solved(kind, bus, h) - solved(kind, bus, -h)
        far = solved(kind, bus, 2 * h) - solved(kind, bus, -2 * h)
        return (8 * near - far) / (12 * h)

    return {k: jnp.stack([column(k, bus) for bus in buses], axis=1) for k in load}


def main() -> None:
    """Solve, differentiate, certify, follow, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    options = parser.parse_args()
    flow = PowerFlow(read_grid(options.case))
    grid, args = flow.grid, flow.args
    load_numbers = grid.numbers[grid.load_buses]
    print(
        f"{grid.name}: {len(grid.numbers)} buses,"
        f" {len(grid.tables['branch'])} branches,"
        f" {len(grid.others) + len(grid.load_buses)} unknowns"
    )

    solution = flow.solve(args)
    magnitude = solution.value["magnitude"]
    lowest = int(jnp.argmin(magnitude))
    print(
        f"solved in {solution.stats.steps} steps,"
        f" largest imbalance {solution.stats.residual_norm:.1e};"
        f" lowest voltage {magnitude[lowest]:.4f} at bus {load_numbers[lowest]},"
        f" losses {grid.base * flow.losses(solution.value, args):.2f} MW"
    )

    by = flow.sensitivities(args)["magnitude"]["load"]
    buses = grid.load_buses[:3]
    for kind, expected in differences(flow, buses).items():
        error = jnp.linalg.norm(by[kind][:, buses] - expected)
        print(f"d|V|/d{kind}, {by[kind].shape[0]} x {by[kind].shape[1]}: relative"
              " distance from central differences"
              f" {error / jnp.linalg.norm(expected):.0e}")  # fmt: skip

    rough = flow.solve(args, rtol=1e-3)
    print(f"\nLosses, after {rough.stats.steps} steps of Newton's method:")
    print(flow.certify(LOSSES, rough.value, args))

    branch = flow.branch(solution.value, args)
    nose = find_nose(flow, branch)
    weakest = int(jnp.argmax(jnp.abs(nose.null["magnitude"])))
    print(f"\n{branch}")
    print(f"Nose at {nose.scale:.6f} times the load;"
          f" weakest bus {load_numbers[weakest]}")  # fmt: skip
    near = approach(flow, branch, nose, weakest)
    print(" distance   dV/d scale   condition   error bar   ok")
    for distance, c in zip(near.distance, near.certificates, strict=True):
        print(f"{distance:9.0e}   {c.gradient['scale']:10.3f}"
              f"   {c.condition_number:9.1e}   {c.relative_gradient_error:9.0e}"
              f"   {c.ok}")  # fmt: skip

    print("\nAt the nose, that voltage, as a function of the loads:")
    print(near.at_nose)
    moves = nose.gradient["load"]["P"] * 10 / grid.base
    most = int(jnp.argmin(moves))
    print(f"\n10 MW more at bus {grid.numbers[most]} move the nose itself"
          f" by {moves[most]:.4f}")  # fmt: skip

    if options.picture:
        draw(flow, branch, near, nose, by, weakest).savefig(options.picture, dpi=150)


if __name__ == "__main__":
    main()
