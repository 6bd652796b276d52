"""The 27 nonlinear regressions of NIST's Statistical Reference Datasets.

Data, starts and certified values (11 digits) are read from NIST's own files, the models
are written here. In `Roszman1` the angle is that of the point (x - b4, b3): a file that
certifies b1 = 0.20196866396 means arctan(b3 / (x - b4)) instead, with the same fit and
b1 less by one. The degrees of freedom are counted: the file of `Rat43` says 9, where
its standard deviations were computed with 11.
"""

import dataclasses
import functools
import math
import pathlib
import re

import jax.numpy as jnp
import numpy as np

from benchmarks.problems._problem import Problem

#: Beside the repository.
FOLDER = pathlib.Path(__file__).parents[3] / "shared" / "data" / "nist_strd"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Regression(Problem):
    """A least-squares problem with certified answers; `y0` is start 1.

    `args` holds the predictors `x`, one or (`Nelson`) two for each observation, and
    the response `y`; the residual is model minus response.
    """

    start_2: np.ndarray
    #: Of the parameters, at `solution`.
    standard_deviations: np.ndarray
    residual_standard_deviation: float
    degrees_of_freedom: int

    def from_start_2(self) -> "Regression":
        """The same problem from the easier start."""
        return dataclasses.replace(self, y0=self.start_2)


def bennett(b, x):
    return b[0] * (b[1] + x) ** (-1.0 / b[2])


def saturation(b, x):
    return b[0] * -jnp.expm1(-b[1] * x)


def chwirut(b, x):
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def power(b, x):
    return b[0] * x ** b[1]


def cycles(b, x):
    def cycle(cosine, sine, period):
        angle = 2.0 * math.pi * x / period
        return cosine * jnp.cos(angle) + sine * jnp.sin(angle)

    year, second = cycle(b[1], b[2], 12.0), cycle(b[4], b[5], b[3])
    return b[0] + year + second + cycle(b[7], b[8], b[6])


def eckerle(b, x):
    return b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2)


def gauss(b, x):
    first = b[2] * jnp.exp(-((x - b[3]) ** 2) / b[4] ** 2)
    second = b[5] * jnp.exp(-((x - b[6]) ** 2) / b[7] ** 2)
    return b[0] * jnp.exp(-b[1] * x) + first + second


def cubics(b, x):
    above = b[0] + x * (b[1] + x * (b[2] + x * b[3]))
    return above / (1.0 + x * (b[4] + x * (b[5] + x * b[6])))


def kirby(b, x):
    return (b[0] + x * (b[1] + x * b[2])) / (1.0 + x * (b[3] + x * b[4]))


def lanczos(b, x):
    return sum(b[i] * jnp.exp(-b[i + 1] * x) for i in (0, 2, 4))


def mgh09(b, x):
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def mgh10(b, x):
    return b[0] * jnp.exp(b[1] / (x + b[2]))


def mgh17(b, x):
    return b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4])


def misra1b(b, x):
    return b[0] * (1.0 - (1.0 + b[1] * x / 2.0) ** -2)


def misra1c(b, x):
    return b[0] * (1.0 - (1.0 + 2.0 * b[1] * x) ** -0.5)


def misra1d(b, x):
    return b[0] * b[1] * x / (1.0 + b[1] * x)


def nelson(b, x):
    """Of the logarithm of the response."""
    return b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1])


def rat42(b, x):
    return b[0] / (1.0 + jnp.exp(b[1] - b[2] * x))


def rat43(b, x):
    return b[0] / (1.0 + jnp.exp(b[1] - b[2] * x)) ** (1.0 / b[3])


def roszman(b, x):
    return b[0] - b[1] * x - jnp.arctan2(b[2], x - b[3]) / math.pi


MODELS = {
    "Bennett5": bennett,
    "BoxBOD": saturation,
    "Chwirut1": chwirut,
    "Chwirut2": chwirut,
    "DanWood": power,
    "ENSO": cycles,
    "Eckerle4": eckerle,
    "Gauss1": gauss,
    "Gauss2": gauss,
    "Gauss3": gauss,
    "Hahn1": cubics,
    "Kirby2": kirby,
    "Lanczos1": lanczos,
    "Lanczos2": lanczos,
    "Lanczos3": lanczos,
    "MGH09": mgh09,
    "MGH10": mgh10,
    "MGH17": mgh17,
    "Misra1a": saturation,
    "Misra1b": misra1b,
    "Misra1c": misra1c,
    "Misra1d": misra1d,
    "Nelson": nelson,
    "Rat42": rat42,
    "Rat43": rat43,
    "Roszman1": roszman,
    "Thurber": cubics,
}


@functools.cache
def residual_of(model):
    """Model minus response: one function for each model, so that it compiles once."""

    def residual(y, args):
        return model(y, args["x"]) - args["y"]

    return residual


PARAMETER = re.compile(r"^\s*b\d+\s*=((?:\s+\S+){4})\s*$", re.MULTILINE)


def labelled(text: str, label: str) -> float:
    """The number after a label and a colon."""
    return float(re.search(rf"{label}:\s*(\S+)", text)[1])


def read(path: pathlib.Path) -> Regression:
    """One file of NIST's: parameters by row, then the observations, response first."""
    text = path.read_text()
    rows = [row.split() for row in PARAMETER.findall(text)]
    start_1, start_2, certified, deviations = np.asarray(rows, np.float64).T
    header, data = re.split(r"^Data:\s+y.*$", text, flags=re.MULTILINE)
    observations = np.asarray([row.split() for row in data.split("\n") if row.strip()])
    observations = observations.astype(np.float64)
    response, predictors = observations[:, 0], observations[:, 1:]
    if len(response) != labelled(header, "Number of Observations"):
        raise ValueError(f"{path} does not hold as many observations as it says.")
    return Regression(
        name=path.stem,
        kind="least_squares",
        fn=residual_of(MODELS[path.stem]),
        y0=start_1,
        start_2=start_2,
        args={
            "x": predictors if predictors.shape[1] > 1 else predictors[:, 0],
            "y": np.log(response) if path.stem == "Nelson" else response,
        },
        source=f"NIST Statistical Reference Datasets, {path.stem}",
        solution=certified,
        minimum=labelled(header, "Residual Sum of Squares"),
        standard_deviations=deviations,
        residual_standard_deviation=labelled(header, "Residual Standard Deviation"),
        degrees_of_freedom=len(response) - len(certified),
    )


def problems(folder: pathlib.Path | None = None) -> list[Regression]:
    """The 27, by name, from the files in `folder` (by default `FOLDER`)."""
    folder = FOLDER if folder is None else pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The NIST regressions are read from .dat files in {folder}, which is not "
            "a folder: give the folder that holds them."
        )
    return [read(folder / f"{name}.dat") for name in MODELS]
