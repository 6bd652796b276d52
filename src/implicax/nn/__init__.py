"""Equilibrium layers: networks whose output is the fixed point of a cell.

[`implicax.nn.DEQ`][] is an Equinox module, `implicax.nn.flax.DEQ` the same for Flax NNX
(`implicax[flax]`). What keeps them solvable, and what tells whether they are, is beside
them.
"""

from typing import Any

from implicax._core.optional import library
from implicax.nn.certified import CertifiedState as CertifiedState
from implicax.nn.certified import certified as certified
from implicax.nn.contraction import Monotone as Monotone
from implicax.nn.contraction import bounded as bounded
from implicax.nn.deq import DEQ as DEQ
from implicax.nn.jacobian import jacobian_penalty as jacobian_penalty
from implicax.nn.jacobian import spectral_radius as spectral_radius


def __getattr__(name: str) -> Any:
    # Flax is asked for by those who use it, not by `import implicax`.
    if name == "flax":
        library("flax", "ix.nn.flax")
        return library("implicax.nn.flax", "ix.nn.flax")
    raise AttributeError(f"ix.nn has no {name!r}. It has {', '.join(__dir__())}.")


def __dir__() -> list[str]:
    here = (name for name, x in globals().items() if _own(x))
    return sorted([*here, "flax"])


def _own(x: Any) -> bool:
    return getattr(x, "__module__", "").startswith(f"{__name__}.")
