"""Solvers: *how* a solution is found. One algorithm per file."""

from ._accelerated import Accelerated as Accelerated
from ._anderson import Anderson as Anderson
from ._base import AbstractSolver as AbstractSolver
from ._base import State as State
from ._bracketing import Bisection as Bisection
from ._bracketing import Chandrupatla as Chandrupatla
from ._broyden import Broyden as Broyden
from ._chord import Chord as Chord
from ._fallback import Fallback as Fallback
from ._levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from ._newton import Newton as Newton
from ._optax import Optax as Optax
from ._optimistix import Optimistix as Optimistix
from ._picard import Picard as Picard
from ._pseudo_transient import PseudoTransient as PseudoTransient
from ._scipy import SciPy as SciPy
from ._trust_region import TrustRegion as TrustRegion
