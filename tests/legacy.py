"""Solvers that know nothing of JAX, for the problems of `problems.py`.

SciPy's `root` and `fixed_point`, and plain iteration in C, called through `ctypes`.
Each takes `(y0, args)` as NumPy arrays and returns `y` in the dtype of `y0`.
"""

import ctypes
import functools
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize

import implicax as ix

from .cases import Case, make, restore

COMPILER = shutil.which("cc")

#: `z <- tanh(W z + x)` until it stands still; the number of steps, or -1.
SOURCE = """
#include <tgmath.h>

typedef SCALAR scalar;

int iterate(int n, const scalar *W, const scalar *x, scalar *z, double tol, int limit)
{
    scalar next[n];
    for (int k = 0; k < limit; k++) {
        double change = 0;
        for (int i = 0; i < n; i++) {
            scalar sum = x[i];
            for (int j = 0; j < n; j++)
                sum += W[i * n + j] * z[j];
            next[i] = tanh(sum);
            double step = fabs(next[i] - z[i]);
            if (!(step <= change))
                change = step;
        }
        for (int i = 0; i < n; i++)
            z[i] = next[i];
        if (change <= tol)
            return k;
    }
    return -1;
}
"""
SCALARS = {"float32": "float", "float64": "double", "complex128": "double complex"}


def row(y: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.asarray(y[key]).reshape(-1) for key in "abc"])


def affine(z: np.ndarray, args: dict[str, Any]) -> np.ndarray:
    conjugate = np.asarray(args["C"]) @ np.conj(z) if "C" in args else 0
    return np.asarray(args["W"]) @ z + conjugate + row(args["x"])


def scipy_root(y0: Any, args: Any) -> Any:
    """MINPACK's `hybr`; complex unknowns as pairs of real ones."""
    dtype = row(y0).dtype
    wide = np.result_type(dtype, np.float64)

    def residual(v: np.ndarray) -> np.ndarray:
        z = v.view(wide)
        cubic = z**2 * (np.conj(z) if "C" in args else z)
        return (z + cubic / 4 - affine(z, args)).astype(wide).view(np.float64)

    start = row(y0).astype(wide).view(np.float64)
    found = scipy.optimize.root(residual, start, tol=1e-12)
    if not found.success:
        raise RuntimeError(found.message)
    return restore(found.x.view(wide).astype(dtype))


def scipy_fixed_point(y0: Any, args: Any) -> Any:
    z = scipy.optimize.fixed_point(
        lambda z: np.tanh(affine(z, args)),
        row(y0).astype(np.result_type(row(y0), np.float64)),
        xtol=1e-12,
        method="iteration",
    )
    return restore(z.astype(row(y0).dtype))


@functools.cache
def library(dtype: str) -> Any:
    """The C code, compiled for one dtype."""
    folder = pathlib.Path(tempfile.mkdtemp())
    source, target = folder / "iterate.c", folder / "iterate.so"
    source.write_text(SOURCE)
    scalar = f"-DSCALAR={SCALARS[dtype]}"
    flags = ["-std=c99", "-O2", "-shared", "-fPIC", scalar]
    subprocess.run([COMPILER, *flags, source, "-o", target, "-lm"], check=True)
    loaded = ctypes.CDLL(str(target))
    shutil.rmtree(folder)
    array = np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS")
    integer, double = ctypes.c_int, ctypes.c_double
    loaded.iterate.argtypes = [integer, array, array, array, double, integer]
    return loaded


def in_c(y0: Any, args: Any) -> Any:
    z = row(y0).copy()
    W = np.ascontiguousarray(args["W"])
    tolerance = 10 * np.finfo(z.dtype).eps
    steps = library(str(z.dtype)).iterate(z.size, W, row(args["x"]), z, tolerance, 500)
    if steps < 0:
        raise RuntimeError("no convergence in C")
    return restore(z)


#: Name -> (solver, kind of problem that it solves).
LEGACY: dict[str, tuple[Callable[..., Any], str]] = {
    "scipy_root": (scipy_root, "root"),
    "scipy_fixed_point": (scipy_fixed_point, "fixed_point"),
    "c": (in_c, "fixed_point"),
}


def decorate(case: Case, solver: Callable[..., Any]) -> Callable[..., ix.Solution]:
    """`solver` as the user of the library decorates it."""
    decorator = {"root": ix.custom_root, "fixed_point": ix.custom_fixed_point}
    return decorator[case.kind](case.fn)(solver)


def solved_by(solver: Callable[..., Any], kind: str, variant: str) -> Case:
    """The case, with a solver of one's own in the place of the library's."""
    case = make(kind, variant)
    decorated = decorate(case, solver)

    class Foreign(Case):
        def solve(
            self, solver: Any, args: Any, y0: Any = None, *, max_steps: int = 256
        ) -> Any:
            del solver, max_steps
            return decorated(self.start() if y0 is None else y0, args).value

    return Foreign(*case)
