"""Grids from MATPOWER case files: tables of buses, generators and branches.

Columns, units and the model of a branch are those of Zimmerman & Murillo-Sánchez,
*MATPOWER User's Manual*, appendix B and section 3.2. Powers are divided by the file's
base, so that everything is "per unit".
"""

import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

#: The grid that comes with the example; its header says where it is from.
CASE_118 = pathlib.Path(__file__).parent / "case118.m"


class Grid(NamedTuple):
    """A grid of `n` buses, ready for power flow."""

    name: str
    tables: dict[str, np.ndarray]
    """The rows of the file: `bus`, `gen` and `branch`."""
    base: float
    """What one unit of power is, in MW."""
    numbers: np.ndarray
    """The buses' numbers in the file."""
    admittance: np.ndarray
    """The complex `n x n` matrix that turns voltages into currents."""
    slack: int
    others: np.ndarray
    """All buses but the slack bus: their angles are unknown."""
    load_buses: np.ndarray
    """The buses without a generator: their voltage magnitudes are unknown."""
    args: dict[str, Any]
    """What the solution depends on, as NumPy arrays: see `arguments`."""


def read_grid(path: pathlib.Path | None = None) -> Grid:
    """The grid in the MATPOWER file at `path`; without one, the case of 118 buses."""
    path = CASE_118 if path is None else path
    return parse(path.stem, path.read_text())


def parse(name: str, text: str) -> Grid:
    """The grid that the MATPOWER text describes."""
    text = re.sub(r"%.*", "", text)
    base = re.search(r"mpc\.baseMVA\s*=\s*([^;\s]+)", text)
    if base is None:
        raise ValueError(f"{name}: no mpc.baseMVA, so this is no MATPOWER case")
    tables = {key: _table(text, key) for key in ("bus", "gen", "branch")}
    bus, gen = tables["bus"], tables["gen"]
    numbers, kind = bus[:, 0].astype(int), bus[:, 1]
    if np.sum(kind == 3) != 1 or np.any(kind == 4):
        raise ValueError(f"{name}: one slack bus is needed, and no isolated ones")
    row = {number: k for k, number in enumerate(numbers)}
    gen = gen[gen[:, 7] > 0]
    at = np.array([row[number] for number in gen[:, 0].astype(int)])
    regulated = (kind != 1) & np.isin(np.arange(len(bus)), at)
    return Grid(
        name=name,
        tables=tables,
        base=float(base[1]),
        numbers=numbers,
        admittance=_admittance(bus, tables["branch"], row, float(base[1])),
        slack=int(np.argmax(kind == 3)),
        others=np.flatnonzero(kind != 3),
        load_buses=np.flatnonzero(~regulated),
        args=arguments(bus, gen, at, float(base[1])),
    )


def arguments(
    bus: np.ndarray, gen: np.ndarray, at: np.ndarray, base: float
) -> dict[str, Any]:
    """What the flow depends on; `at` tells the bus of each generator.

    PGLib is made for *optimal* power flow, which chooses the generation; what its files
    give is the middle of each generator's range, 3258 MW for a load of 4242 MW in the
    case of 118 buses. All generators are scaled alike here, to the sum of the loads.
    The slack bus adds what is lost on the way.
    """
    n = len(bus)
    generation, setpoint = np.zeros(n), np.ones(n)
    np.add.at(generation, at, gen[:, 1])
    setpoint[at] = gen[:, 5]
    return {
        "scale": np.asarray(1.0),
        "load": {"P": bus[:, 2] / base, "Q": bus[:, 3] / base},
        "generation": generation * (np.sum(bus[:, 2]) / np.sum(generation) / base),
        "setpoint": setpoint,
    }


def _table(text: str, key: str) -> np.ndarray:
    body = re.search(rf"mpc\.{key}\s*=\s*\[(.*?)\]", text, re.DOTALL)
    if body is None:
        raise ValueError(f"no mpc.{key}, so this is no MATPOWER case")
    rows = [row.split() for row in re.split(r"[;\n]", body[1]) if row.strip()]
    return np.array(rows, float)


def _admittance(
    bus: np.ndarray, branch: np.ndarray, row: dict[int, int], base: float
) -> np.ndarray:
    """A branch is a series impedance `r + jx` with half of the line charging `b` at
    each end, behind an ideal transformer of ratio `tap e^(j shift)` at the *from* end
    (manual, eq. 3.2). A tap of zero in the file means none."""
    Y = np.diag((bus[:, 4] + 1j * bus[:, 5]) / base)
    for f, t, r, x, b, _, _, _, tap, shift, status, *_ in branch:
        if status > 0:
            i, j = row[int(f)], row[int(t)]
            ratio = (tap or 1.0) * np.exp(1j * np.deg2rad(shift))
            series = 1 / (r + 1j * x)
            Y[j, j] += series + 1j * b / 2
            Y[i, i] += (series + 1j * b / 2) / abs(ratio) ** 2
            Y[i, j] -= series / np.conj(ratio)
            Y[j, i] -= series / ratio
    return Y
