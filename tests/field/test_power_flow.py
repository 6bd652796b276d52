"""The power-flow example: the grid as in the literature, derivatives, and the nose.

The balance is checked branch by branch, in NumPy, without an admittance matrix; the
derivatives by central differences; the nose by the singular values of the Jacobian.
The grid is the case of 118 buses that comes with the example.
"""

import dataclasses
import functools
import importlib
import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import implicax as ix

from ..oracles import relative_error

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
with mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
    matpower = importlib.import_module("_matpower")
    example = importlib.import_module("power_flow")

#: Three machines and nine buses; Anderson & Fouad, *Power System Control and
#: Stability*, figure 2.18, with the numbering of Chow, *Time-Scale Modeling of Dynamic
#: Networks* (1982), page 70. The slack bus's 67 MW balance the load but for losses.
NINE_BUSES = """
mpc.baseMVA = 100;
mpc.bus = [
    1 3   0  0 0 0;
    2 2   0  0 0 0;
    3 2   0  0 0 0;
    4 1   0  0 0 0;
    5 1  90 30 0 0;
    6 1   0  0 0 0;
    7 1 100 35 0 0;
    8 1   0  0 0 0;
    9 1 125 50 0 0;
];
mpc.gen = [
    1  67 0 0 0 1.040 100 1;
    2 163 0 0 0 1.025 100 1;
    3  85 0 0 0 1.025 100 1;
];
mpc.branch = [
    1 4 0      0.0576 0     0 0 0 0 0 1;
    4 5 0.017  0.092  0.158 0 0 0 0 0 1;
    5 6 0.039  0.17   0.358 0 0 0 0 0 1;
    3 6 0      0.0586 0     0 0 0 0 0 1;
    6 7 0.0119 0.1008 0.209 0 0 0 0 0 1;
    7 8 0.0085 0.072  0.149 0 0 0 0 0 1;
    8 2 0      0.0625 0     0 0 0 0 0 1;
    8 9 0.032  0.161  0.306 0 0 0 0 0 1;
    9 4 0.01   0.085  0.176 0 0 0 0 0 1;
];
"""

#: Nine buses with all that a branch and a bus can have.
TRANSFORMED = (
    NINE_BUSES.replace("5 1  90 30 0 0", "5 1  90 30 7 19")
    .replace("1 4 0      0.0576 0     0 0 0 0 0", "1 4 0 0.06 0.1 0 0 0 0.97 12")
    .replace("5 6 0.039  0.17   0.358 0 0 0 0 0", "5 6 0.04 0.2 0.4 0 0 0 1.04 -5")
    .replace("8 9 0.032  0.161  0.306 0 0 0 0 0", "8 9 0.03 0.2 0.3 0 0 0 0.95 0")
)


@functools.cache
def solved():
    """The flow of the grid, its solution, the branch through it and its nose."""
    flow = example.PowerFlow(matpower.read_grid())
    solution = flow.solve(flow.args)
    branch = flow.branch(solution.value, flow.args)
    return flow, solution, branch, example.find_nose(flow, branch)


def jacobian(flow, y, scale):
    flat, unravel = ravel_pytree(y)
    args = flow.args | {"scale": jnp.asarray(scale)}
    balance = lambda v: ravel_pytree(flow.balance(unravel(v), args))[0]
    return np.asarray(jax.jacfwd(balance)(flat))


def injected(grid, magnitude, angle):
    """What flows out of each bus, added up branch by branch (complex, per unit)."""
    bus, branch = grid.tables["bus"], grid.tables["branch"]
    V = magnitude * np.exp(1j * angle)
    row = {number: k for k, number in enumerate(grid.numbers)}
    S = np.abs(V) ** 2 * (bus[:, 4] - 1j * bus[:, 5]) / grid.base
    for f, t, r, x, b, _, _, _, tap, shift, status, *_ in branch:
        assert status == 1
        i, j = row[int(f)], row[int(t)]
        ratio = (tap if tap else 1) * np.exp(1j * np.pi * shift / 180)
        behind = V[i] / ratio  # the transformer
        series = (behind - V[j]) / (r + 1j * x)
        into = series + 1j * b / 2 * behind
        S[i] += behind * np.conj(into)
        S[j] += V[j] * np.conj(-series + 1j * b / 2 * V[j])
    return S


def imbalance(flow, y):
    grid, args = flow.grid, jax.tree.map(np.asarray, flow.args)
    magnitude, angle = np.copy(args["setpoint"]), np.zeros(len(grid.numbers))
    magnitude[grid.load_buses], angle[grid.others] = y["magnitude"], y["angle"]
    S = injected(grid, magnitude, angle)
    P = S.real - args["generation"] + args["load"]["P"]
    Q = S.imag + args["load"]["Q"]
    return np.concatenate([P[grid.others], Q[grid.load_buses]])


def test_the_case_is_read():
    grid = matpower.read_grid()
    shapes = {key: len(table) for key, table in grid.tables.items()}
    assert shapes == {"bus": 118, "gen": 54, "branch": 186}
    assert grid.numbers[grid.slack] == 69
    assert (len(grid.others), len(grid.load_buses)) == (117, 64)
    assert np.sum(grid.args["load"]["P"]) == pytest.approx(42.42, rel=1e-14)
    assert np.sum(grid.args["generation"]) == pytest.approx(42.42, rel=1e-14)
    # Each generator stays below its maximum (column 9 of the file).
    limits = np.zeros(118)
    np.add.at(
        limits, grid.tables["gen"][:, 0].astype(int) - 1, grid.tables["gen"][:, 8]
    )
    assert np.all(grid.args["generation"] * grid.base <= limits)


def test_what_is_no_case_is_said():
    with pytest.raises(ValueError, match="no MATPOWER case"):
        matpower.parse("empty", "")
    text = NINE_BUSES.replace("1 3   0", "1 2   0")
    with pytest.raises(ValueError, match="one slack bus"):
        matpower.parse("without slack", text)


def test_what_is_out_of_service_is_left_out():
    text = NINE_BUSES
    row = "9 4 0.01   0.085  0.176 0 0 0 0 0 1;"
    off = matpower.parse("off", text.replace(row, row + "\n 5 8 1 1 1 0 0 0 0 0 0;"))
    assert np.array_equal(off.admittance, matpower.parse("", text).admittance)
    # A bus whose only generator is off does not keep its voltage.
    off = matpower.parse("off", text.replace("1.025 100 1;\n]", "1.025 100 0;\n]"))
    assert off.numbers[off.load_buses].tolist() == [3, 4, 5, 6, 7, 8, 9]


def test_nine_buses_as_in_the_textbook():
    """Anderson & Fouad, figure 2.19; Sauer & Pai, *Power System Dynamics*, fig. 7.4."""
    flow = example.PowerFlow(matpower.parse("nine buses", NINE_BUSES))
    solution = flow.solve(flow.args)
    magnitude = flow.magnitude(solution.value, flow.args)
    printed = [1.040, 1.025, 1.025, 1.026, 1.013, 1.032, 1.016, 1.026, 0.996]
    assert np.round(np.asarray(magnitude), 3).tolist() == printed
    degrees = np.rad2deg(np.asarray(solution.value["angle"]))
    printed = [9.3, 4.7, -2.2, -3.7, 2.0, 0.7, 3.7, -4.0]
    assert np.round(degrees, 1).tolist() == printed
    slack = np.asarray(flow.injected(solution.value, flow.args))[0]
    assert np.round(slack, 3) == 0.716 + 0.270j


def test_what_flows_in_flows_out():
    flow, solution, _, _ = solved()
    assert np.max(np.abs(imbalance(flow, solution.value))) < 1e-11


def test_transformers_phase_shifters_and_shunts():
    flow = example.PowerFlow(matpower.parse("transformed", TRANSFORMED))
    plain = example.PowerFlow(matpower.parse("plain", NINE_BUSES))
    solution = flow.solve(flow.args)
    assert np.max(np.abs(imbalance(flow, solution.value))) < 1e-12
    assert np.max(np.abs(imbalance(plain, solution.value))) > 0.1


def test_sensitivities_are_those_of_central_differences():
    flow, _, _, _ = solved()
    by = flow.sensitivities(flow.args)["magnitude"]["load"]
    buses = flow.grid.load_buses[::10]
    for kind, expected in example.differences(flow, buses).items():
        assert relative_error(by[kind][:, buses], expected) < 1e-9


def test_the_error_bar_on_the_marginal_losses():
    flow, _, _, _ = solved()
    rough = flow.solve(flow.args, rtol=1e-3)
    exact = flow.sensitivities(flow.args)["losses"]
    c = flow.certify(example.LOSSES, rough.value, flow.args)
    true = np.linalg.norm(ravel_pytree(c.gradient)[0] - ravel_pytree(exact)[0])
    assert float(c.gradient_error) == pytest.approx(true, rel=0.1)
    assert relative_error(c.corrected_gradient, exact) < 0.01 * relative_error(
        c.gradient, exact
    )


def test_the_branch_turns_round():
    flow, solution, branch, nose = solved()
    assert branch.status == ix.BranchStatus.turned_back
    assert np.sum(branch.folds) == 1
    count, top = int(branch.count), int(np.argmax(branch.folds))
    scale = np.asarray(branch.parameter[:count])
    assert np.all(np.diff(scale[:top]) > 0)
    assert np.all(np.diff(scale[top:]) < 0)
    assert scale[0] == scale[-1] == 1
    assert 0 < nose.scale / np.max(scale) - 1 < 1e-2
    assert relative_error(branch.fold_parameter[top], nose.scale) < 1e-4
    balance = jax.jit(jax.vmap(flow.balance_at, in_axes=(0, 0, None)))
    imbalances = balance(branch.value, branch.parameter, flow.args)
    for found in jax.tree.leaves(imbalances):
        assert np.max(np.abs(found[:count])) < 1e-9
    # It begins at the solution, and ends at another one of the same equations.
    ends = jax.tree.map(lambda x: x[np.array([0, count - 1])], branch.value)
    first, last = (jax.tree.map(lambda x, k=k: x[k], ends) for k in (0, 1))
    assert relative_error(first, solution.value) < 1e-10
    assert relative_error(last, solution.value) > 0.1


def test_the_nose_of_the_case():
    flow, _, _, nose = solved()
    assert round(float(nose.scale), 6) == 2.528231
    weakest = np.argmax(np.abs(nose.null["magnitude"]))
    assert flow.grid.numbers[flow.grid.load_buses[weakest]] == 38


def test_without_a_nose_it_is_said():
    flow, _, branch, _ = solved()
    without = dataclasses.replace(branch, folds=jnp.zeros_like(branch.folds))
    with pytest.raises(ValueError, match="no nose"):
        example.find_nose(flow, without)


def test_at_the_nose_the_jacobian_is_singular():
    flow, solution, _, nose = solved()
    s = np.linalg.svd(jacobian(flow, nose.y, nose.scale), compute_uv=False)
    today = np.linalg.svd(jacobian(flow, solution.value, 1.0), compute_uv=False)
    assert s[-1] < 1e-13 * s[0]
    assert s[-2] > 1e-4 * s[0]  # a simple fold
    assert today[-1] > 1e-4 * today[0]


def test_the_certificate_sees_the_nose_come():
    flow, _, branch, nose = solved()
    bus = int(np.argmax(np.abs(nose.null["magnitude"])))
    near = example.approach(flow, branch, nose, bus)
    slopes = np.array([c.gradient["scale"] for c in near.certificates])
    conditions = np.array([c.condition_number for c in near.certificates])
    for growing in (slopes, conditions):
        # As the inverse square root of the distance: 10 for each two steps of 1/10.
        assert growing[-1] / growing[-3] == pytest.approx(10, rel=1e-2)
    assert all(bool(c.ok) for c in near.certificates[:4])
    assert not near.at_nose.ok


def test_the_nose_itself_has_a_derivative():
    """With `w` the left null vector, `dscale/da = -w F_a / w F_scale` (Dobson & Lu,
    *IEEE Trans. Circuits Syst. I* 39 (1992) 762, with the load as the parameter)."""
    flow, _, _, nose = solved()
    u, _, _ = np.linalg.svd(jacobian(flow, nose.y, nose.scale))
    w = u[:, -1]
    args = flow.args | {"scale": nose.scale}
    balance = lambda a: ravel_pytree(flow.balance(nose.y, a))[0]
    by_args = jax.tree.map(lambda J: w @ np.asarray(J), jax.jacfwd(balance)(args))
    for key in ("load", "generation", "setpoint"):
        expected = jax.tree.map(lambda g: -g / by_args["scale"], by_args[key])
        assert relative_error(nose.gradient[key], expected) < 1e-8
    assert nose.gradient["scale"] == 0
