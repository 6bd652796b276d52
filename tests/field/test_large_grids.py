"""The power flow of whole grids, branch by branch, with a sparse Jacobian.

The balance is written as people write it for large grids: each branch adds what flows
into it to the buses at its ends. The oracle is the admittance matrix of the example,
which is another way to the same equations, solved without a pattern.
"""

import functools
import importlib
import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..asdex_here import needs_asdex

pytestmark = needs_asdex
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
with mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
    matpower = importlib.import_module("_matpower")
    example = importlib.import_module("power_flow")

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "pglib"
LARGE = SHARED / "pglib_opf_case1354_pegase.m"
CASES = [
    pytest.param(matpower.CASE_118, id="118"),
    pytest.param(
        LARGE,
        id="1354",
        marks=pytest.mark.skipif(not LARGE.is_file(), reason=f"{LARGE} is not there"),
    ),
]


@functools.cache
def grid_and_equations(path):
    grid = matpower.read_grid(path)
    bus, branch = grid.tables["bus"], grid.tables["branch"]
    branch = branch[branch[:, 10] > 0]
    row = {number: k for k, number in enumerate(grid.numbers)}
    near, far = (np.array([row[int(b)] for b in branch[:, k]]) for k in (0, 1))
    ratio = np.where(branch[:, 8] == 0, 1.0, branch[:, 8])
    ratio = ratio * np.exp(1j * np.deg2rad(branch[:, 9]))
    series = 1 / (branch[:, 2] + 1j * branch[:, 3])
    charging = 0.5j * branch[:, 4]
    shunt = (bus[:, 4] - 1j * bus[:, 5]) / grid.base

    def injected(y, args):
        """`args["status"]` weighs each branch: zero takes it out."""
        n, status = len(grid.numbers), args["status"].astype(complex)
        angle = jnp.zeros(n).at[grid.others].set(y["angle"])
        size = args["setpoint"].at[grid.load_buses].set(y["magnitude"])
        V = jax.lax.complex(size * jnp.cos(angle), size * jnp.sin(angle))
        behind, there = V[near] / ratio, V[far]
        current = series * (behind - there)
        into = behind * jnp.conj(status * (current + charging * behind))
        out = there * jnp.conj(status * (-current + charging * there))
        S = (size**2).astype(complex) * shunt
        return S.at[near].add(into).at[far].add(out)

    def balance(y, args):
        S, load = injected(y, args), args["load"]
        P = S.real - args["generation"] + load["P"]
        Q = S.imag + load["Q"]
        return {"angle": P[grid.others], "magnitude": Q[grid.load_buses]}

    args = jax.tree.map(jnp.asarray, grid.args) | {"status": jnp.ones(len(branch))}
    y0 = {
        "angle": jnp.zeros(len(grid.others)),
        "magnitude": jnp.ones(len(grid.load_buses)),
    }
    return grid, balance, injected, y0, args


def solve(path, args, y0=None):
    _, balance, _, start, _ = grid_and_equations(path)
    return ix.root(balance, start if y0 is None else y0, args, sparsity="auto")


@pytest.mark.parametrize("path", CASES)
def test_the_voltages_are_those_of_the_admittance_matrix(path):
    grid, balance, _, y0, args = grid_and_equations(path)
    found, flow = solve(path, args), example.PowerFlow(grid)
    exact = ix.root(flow.balance, flow.flat_start, flow.args, solver=ix.Newton())
    assert found.stats.steps <= exact.stats.steps + 1
    for name, value in found.value.items():
        np.testing.assert_allclose(value, exact.value[name], rtol=1e-9, atol=1e-11)
    pattern = ix.detect_sparsity(ix.Root(balance), y0, args)
    assert pattern.num_colors + pattern.full_rows.size < 60
    # One place for each pair of unknowns at one bus, or at the ends of a branch.
    joined = np.abs(grid.admittance) > 0
    others, loads = grid.others, grid.load_buses
    both = np.concatenate([others, loads])
    assert pattern.nonzeros <= np.sum(
        joined[np.ix_(both, both)] | np.eye(both.size, dtype=bool)
    )


@pytest.mark.parametrize("path", CASES[:1])
def test_losses_and_voltages_by_all_loads(path):
    _, _, injected, _, args = grid_and_equations(path)

    def losses(load):
        now = args | {"load": load}
        return jnp.sum(injected(solve(path, now).value, now).real)

    def magnitude(load):
        return solve(path, args | {"load": load}).value["magnitude"]

    load = args["load"]
    wave = jnp.cos(jnp.arange(load["P"].size, dtype=float))
    direction = jax.tree.map(lambda x: x * (1 + wave / 2), load)
    ends = [
        jax.tree.map(lambda x, d, t=t: x + t * d, load, direction)
        for t in (1e-4, -1e-4)
    ]
    gradient = jax.jit(jax.grad(losses))(load)
    along = sum(
        jnp.vdot(g, d)
        for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
    )
    plus, minus = map(jax.jit(losses), ends)
    np.testing.assert_allclose(along, (plus - minus) / 2e-4, rtol=1e-6)
    # All columns, by the factors of the last step.
    columns = jax.jit(jax.jacrev(magnitude))(load)
    along = sum(columns[name] @ direction[name] for name in load)
    plus, minus = map(jax.jit(magnitude), ends)
    difference = (plus - minus) / 2e-4
    np.testing.assert_allclose(
        along, difference, rtol=1e-5, atol=1e-6 * np.max(np.abs(difference))
    )


@pytest.mark.parametrize("path", CASES[:1])
def test_outages_are_lanes_of_one_pattern(path):
    grid, balance, _, _, args = grid_and_equations(path)
    normal = solve(path, args).value
    out = np.arange(0, args["status"].size, 12)
    status = (
        jnp.ones((out.size, args["status"].size)).at[np.arange(out.size), out].set(0)
    )

    def after(status, load):
        now = args | {"status": status, "load": load}
        found = ix.root(balance, normal, now, sparsity="auto")
        return jnp.min(found.value["magnitude"]), found.status

    lanes = jax.jit(jax.vmap(jax.value_and_grad(after, 1, has_aux=True), (0, None)))
    (lowest, ended), gradient = lanes(status, args["load"])
    for k in range(out.size):
        now = args | {"status": status[k]}
        alone = ix.root(balance, normal, now, on_failure="ignore")
        assert (ended.name[k] == "converged") == bool(alone.converged)
        if alone.converged:
            exact = jnp.min(alone.value["magnitude"])
            np.testing.assert_allclose(lowest[k], exact, rtol=1e-10)
            assert np.isfinite(gradient["P"][k]).all()
        else:  # a bus by itself: its voltage is anything
            assert np.isnan(gradient["P"][k][grid.others]).all()
