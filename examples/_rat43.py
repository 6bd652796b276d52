"""The regression Rat43 of NIST's Statistical Reference Datasets: data and model.

Dry weights of onions while they grow (Ratkowsky, *Nonlinear Regression Modeling*, 1983,
pages 62 and 88), with parameters and standard errors certified to 11 digits.
"""

import pathlib
import re
from typing import Any, NamedTuple

import jax.numpy as jnp

#: Where NIST's file is looked for: beside the repository.
RAT43 = (
    pathlib.Path(__file__).parents[2] / "shared" / "data" / "nist_strd" / "Rat43.dat"
)

#: Of the file (a work of the US government), the part that is read.
EXCERPT = """
        Start 1     Start 2           Parameter     Standard Deviation
  b1 =   100         700           6.9964151270E+02  1.6302297817E+01
  b2 =    10           5           5.2771253025E+00  2.0828735829E+00
  b3 =     1           0.75        7.5962938329E-01  1.9566123451E-01
  b4 =     1           1.3         1.2792483859E+00  6.8761936385E-01

Data:   y          x
      16.08E0     1.0E0
      33.83E0     2.0E0
      65.80E0     3.0E0
      97.20E0     4.0E0
     191.55E0     5.0E0
     326.20E0     6.0E0
     386.87E0     7.0E0
     520.53E0     8.0E0
     590.03E0     9.0E0
     651.92E0    10.0E0
     724.93E0    11.0E0
     699.56E0    12.0E0
     689.96E0    13.0E0
     637.56E0    14.0E0
     717.41E0    15.0E0
"""


class Regression(NamedTuple):
    """What NIST's file holds, as arrays."""

    x: Any
    """When the onions were weighed."""
    y: Any
    """The weights."""
    start: Any
    """The harder of the two starts."""
    certified: Any
    """The parameters, to 11 digits."""
    standard_errors: Any
    """Those of the parameters, to 11 digits."""


def read(path: pathlib.Path | None = None) -> Regression:
    """The regression in NIST's file at `path`."""
    if path is None and not RAT43.exists():
        text = EXCERPT
    else:
        text = (RAT43 if path is None else path).read_text()
    rows = re.findall(r"^\s*b\d+\s*=((?:\s+\S+){4})\s*$", text, re.MULTILINE)
    _, _, observations = text.partition("Data:   y          x")
    if len(rows) != 4 or not observations:
        raise ValueError(f"{path}: not NIST's Rat43.dat: four parameters, y and x")
    parameters = jnp.array([[float(number) for number in row.split()] for row in rows])
    start, _, certified, standard_errors = parameters.T
    y, x = (
        jnp.array([float(number) for number in observations.split()]).reshape(-1, 2).T
    )
    return Regression(x, y, start, certified, standard_errors)


def growth(b, x):
    """Richards' curve: `b[0]` is the weight in the end."""
    return b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3])
