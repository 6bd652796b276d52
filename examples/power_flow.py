"""The voltages of an electric grid, what they depend on, and the load they break at.

Usage: `python examples/power_flow.py [case.m] [--picture power_flow.png]`. Without a
file, PGLib's case of 118 buses (nine buses where PGLib is not beside the repository).
"""

import argparse
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _matpower import Grid, read_grid
from _power_flow_picture import draw
from jax.flatten_util import ravel_pytree

import implicax as ix

jax.config.update("jax_enable_x64", True)


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

    def losses(self, y, args):
        """All that flows into the grid and does not come out."""
        return jnp.sum(self.injected(y, args).real)

    def solve(self, args, start=None, rtol=1e-13):
        """From the flat start, unless told: all voltages one, all angles zero."""
        start = self.flat_start if start is None else start
        return ix.root(self.balance, start, args, solver=ix.Newton(rtol=rtol))


class Curve(NamedTuple):
    """Points on the curve of solutions, stacked along the leading axis."""

    y: Any
    scale: np.ndarray


def continuation(flow: PowerFlow, y: Any, step: float = 0.4) -> Curve:
    """The curve of solutions from `y` on, for growing load, through the nose and back.

    Pseudo-arclength continuation (Keller 1977): from the last point a step along the
    secant, then Newton's method on the equations *and* the plane through the guess
    that the secant is normal to. That system is regular where the curve turns round.
    """
    start, unravel = ravel_pytree({"scale": flow.args["scale"], "y": y})

    def extended(point, plane):
        normal, guess = plane
        balance = flow.balance(point["y"], flow.args | {"scale": point["scale"]})
        distance = jnp.vdot(normal, ravel_pytree(point)[0] - guess)
        return {"scale": distance, "y": balance}

    @jax.jit
    def correct(normal, guess):
        newton, plane = ix.Newton(rtol=1e-13), (normal, guess)
        found = ix.root(extended, unravel(guess), plane, solver=newton, max_steps=8)
        return ravel_pytree(found.value)[0]

    # The first step is along the load; the last ends below the load of the first.
    direction = jnp.zeros_like(start).at[0].set(1.0)
    points = [start]
    while len(points) < 200 and points[-1][0] >= start[0] and step > 1e-4:
        new = correct(direction, points[-1] + step * direction)
        if not jnp.all(jnp.isfinite(new)):
            step /= 2
            continue
        direction = (new - points[-1]) / jnp.linalg.norm(new - points[-1])
        points.append(new)
    curve = jax.vmap(unravel)(jnp.stack(points))
    return Curve(curve["y"], np.asarray(curve["scale"]))


def fold(flow: PowerFlow):
    """The equations of the nose: a solution where `dF/dy` has a null vector.

    Moore & Spence (1980). The unknown is the solution, the null vector and the scale;
    the system is regular at a simple fold, where `dF/dy` is not.
    """

    def fn(x, args):
        def balance(y):
            return flow.balance(y, args | {"scale": x["scale"]})

        F, Jv = jax.jvp(balance, (x["y"],), (x["null"],))
        v, _ = ravel_pytree(x["null"])
        return {"y": F, "null": Jv, "scale": jnp.vdot(v, v) - 1}

    return fn


def find_nose(flow: PowerFlow, curve: Curve) -> Any:
    """The nose of the curve: from its point of largest scale, and the secant there."""
    k = int(np.argmax(curve.scale))
    y = jax.tree.map(lambda x: x[k], curve.y)
    secant = jax.tree.map(lambda x: x[k + 1] - x[k - 1], curve.y)
    length = jnp.linalg.norm(ravel_pytree(secant)[0])
    null = jax.tree.map(lambda x: x / length, secant)
    guess = {"y": y, "null": null, "scale": jnp.asarray(curve.scale[k])}
    return ix.root(fold(flow), guess, flow.args, solver=ix.Newton(rtol=1e-13)).value


class Approach(NamedTuple):
    """Certificates of one voltage, ever closer to the nose, and at the nose itself."""

    distance: np.ndarray
    """`1 - scale / nose`."""
    certificates: list[ix.Certificate]
    at_nose: ix.Certificate


def approach(flow: PowerFlow, curve: Curve, nose: Any, bus: int) -> Approach:
    """The voltage at the load bus `bus`, on the upper branch, certified on the way.

    The distance of the solution from the nose is as the square root of the distance
    of the scale: that gives the guesses.
    """

    @jax.jit
    def certify(y, args):
        def voltage(y, args):
            return y["magnitude"][bus]

        return ix.certify(voltage, ix.Root(flow.balance), y, args)

    def scaled(distance):
        return flow.args | {"scale": (1 - distance) * nose["scale"]}

    distances = 10.0 ** -np.arange(1, 9)
    start = int(np.argmax(curve.scale > 0.9 * nose["scale"]))
    y, certificates = jax.tree.map(lambda x: x[start], curve.y), []
    for distance in distances:
        y = flow.solve(scaled(distance), y).value
        certificates.append(certify(y, scaled(distance)))
        y = jax.tree.map(lambda a, b: b + (a - b) * 0.1**0.5, y, nose["y"])
    return Approach(distances, certificates, certify(nose["y"], scaled(0.0)))


def sensitivities(flow: PowerFlow) -> Any:
    """`d magnitude / d load` at all load buses, in all loads, P and Q: one call."""

    def magnitudes(load):
        return flow.solve(flow.args | {"load": load}).value["magnitude"]

    return jax.jit(jax.jacrev(magnitudes))(flow.args["load"])


def differences(flow: PowerFlow, buses: np.ndarray) -> Any:
    """Columns of the same by central differences of fourth order."""
    h, load = 1e-2, flow.args["load"]

    @jax.jit
    def solve(load):
        return flow.solve(flow.args | {"load": load}).value["magnitude"]

    def solved(kind, bus, change):
        return solve(load | {kind: load[kind].at[bus].add(change)})

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

    by = sensitivities(flow)
    buses = grid.load_buses[:3]
    for kind, expected in differences(flow, buses).items():
        error = jnp.linalg.norm(by[kind][:, buses] - expected)
        print(f"d|V|/d{kind}, {by[kind].shape[0]} x {by[kind].shape[1]}: relative"
              " distance from central differences"
              f" {error / jnp.linalg.norm(expected):.0e}")  # fmt: skip

    rough = flow.solve(args, rtol=1e-3)
    print(f"\nLosses, after {rough.stats.steps} steps of Newton's method:")
    print(ix.certify(flow.losses, ix.Root(flow.balance), rough.value, args))

    curve = continuation(flow, solution.value)
    nose = find_nose(flow, curve)
    worst = int(jnp.argmax(jnp.abs(nose["null"]["magnitude"])))
    print(f"\nNose at {nose['scale']:.6f} times the load ({len(curve.scale)} points);"
          f" weakest bus {load_numbers[worst]}")  # fmt: skip
    near = approach(flow, curve, nose, worst)
    print(" distance   dV/d scale   condition   error bar   ok")
    for distance, c in zip(near.distance, near.certificates, strict=True):
        print(f"{distance:9.0e}   {c.gradient['scale']:10.3f}"
              f"   {c.condition_number:9.1e}   {c.relative_gradient_error:9.0e}"
              f"   {c.ok}")  # fmt: skip

    print("\nAt the nose, that voltage, as a function of the loads:")
    print(near.at_nose)
    print("\nand the nose itself, as a function of the loads:")
    print(ix.certify(lambda x, a: x["scale"], ix.Root(fold(flow)), nose, args))

    if options.picture:
        draw(flow, curve, near, nose, by, worst).savefig(options.picture, dpi=150)


if __name__ == "__main__":
    main()
