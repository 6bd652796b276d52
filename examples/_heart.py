"""Heart disease in 270 patients, as LIBSVM's `heart_scale` has it: 13 features in
[-1, 1] and a label of +1 or -1 (Statlog; Michie, Spiegelhalter & Taylor, *Machine
Learning, Neural and Statistical Classification*, 1994, sec. 9.3.6)."""

import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

#: Where the file is looked for: beside the repository.
HEART = pathlib.Path(__file__).parents[2] / "shared" / "data" / "libsvm" / "heart_scale"

FEATURES = (
    "age", "sex", "chest pain", "blood pressure", "cholesterol", "blood sugar", "ECG",
    "heart rate", "angina", "ST depression", "ST slope", "vessels", "thal",
)  # fmt: skip


class Patients(NamedTuple):
    """Some patients: their features in rows, and their labels."""

    X: Any
    labels: Any


class Split(NamedTuple):
    """What is learnt from, chosen by, and left alone."""

    name: str
    known: Patients
    """All that may be learnt from."""
    train: Patients
    """Of each of the five folds, on a leading axis."""
    validate: Patients
    """Likewise: what the fold leaves out."""
    test: Patients
    """Patients that none of these sees."""


def read(path: pathlib.Path | None = None) -> tuple[str, Patients]:
    """The patients in the LIBSVM file at `path`: a label, then `index:value` pairs.

    Without a path: the file beside the repository, or as many made-up patients where
    that is missing.
    """
    if path is None:
        path = HEART
        if not path.exists():
            return "made-up patients (no heart_scale beside the repository)", make_up()
    rows = [row.split() for row in path.read_text().splitlines()]
    X = np.zeros((len(rows), len(FEATURES)))
    for k, (_, *pairs) in enumerate(rows):
        for pair in pairs:  # what is not there is zero
            index, value = pair.split(":")
            X[k, int(index) - 1] = float(value)
    return path.name, Patients(X, np.array([float(row[0]) for row in rows]))


def make_up(n: int = 270) -> Patients:
    """Patients whose disease depends on four of the features."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n, len(FEATURES)))
    score = X[:, [2, 8, 11, 12]] @ np.array([1.0, 1.0, 2.0, 1.0])
    return Patients(X, np.where(score + rng.logistic(size=n) > 0, 1.0, -1.0))


def split(path: pathlib.Path | None = None, count: int = 5) -> Split:
    """A sixth of the patients to test, the others in folds, in random order."""
    name, patients = read(path)
    n = len(patients.labels)
    order = np.random.default_rng(0).permutation(n)
    test, rest = order[: n // 6], order[n // 6 :]
    parts = np.array_split(rest, count)
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"{name}: {len(rest)} patients are not {count} equal folds")

    def choose(rows):
        return Patients(
            jnp.asarray(patients.X[rows]), jnp.asarray(patients.labels[rows])
        )

    others = np.stack([np.setdiff1d(rest, part) for part in parts])
    folds = choose(others), choose(np.stack(parts))
    return Split(name, choose(rest), *folds, choose(test))
