"""implicax: solve an equation, differentiate its solution, know how right it is."""

from importlib.metadata import version as _version

from implicax import cones as cones
from implicax import nn as nn
from implicax import projections as projections
from implicax import prox as prox
from implicax._certificates.certificate import Certificate as Certificate
from implicax._certificates.certified_gradient import AccuracyError as AccuracyError
from implicax._certificates.certified_gradient import (
    CertifiedGradient as CertifiedGradient,
)
from implicax._certificates.certified_gradient import (
    certified_gradient as certified_gradient,
)
from implicax._certificates.certify import certify as certify
from implicax._certificates.covariance import Covariance as Covariance
from implicax._certificates.covariance import covariance as covariance
from implicax._continuation.branch import Branch as Branch
from implicax._continuation.branch import BranchError as BranchError
from implicax._continuation.branch import BranchStatus as BranchStatus
from implicax._continuation.continuation import continuation as continuation
from implicax._continuation.fold import fold as fold
from implicax._core.domain import AbstractDomain as AbstractDomain
from implicax._core.solution import ConvergenceError as ConvergenceError
from implicax._core.solution import Solution as Solution
from implicax._core.solution import Stats as Stats
from implicax._core.solution import Status as Status
from implicax._custom import custom_fixed_point as custom_fixed_point
from implicax._custom import custom_root as custom_root
from implicax._custom import implicit as implicit
from implicax._cvxpy import CvxpyLayer as CvxpyLayer
from implicax._cvxpy import cvxpy_layer as cvxpy_layer
from implicax._derivatives.approximate import Neumann as Neumann
from implicax._derivatives.approximate import OneStep as OneStep
from implicax._derivatives.approximate import Phantom as Phantom
from implicax._derivatives.approximate import Truncated as Truncated
from implicax._derivatives.approximate import Unrolled as Unrolled
from implicax._derivatives.base import AbstractDerivative as AbstractDerivative
from implicax._derivatives.implicit import Implicit as Implicit
from implicax._linear.approximate_inverse import (
    ApproximateInverse as ApproximateInverse,
)
from implicax._linear.jacobian_structure import JacobianStructure as JacobianStructure
from implicax._linear.krylov import Krylov as Krylov
from implicax._linear.minimum_norm import MinimumNorm as MinimumNorm
from implicax._linear.sparsity import Sparsity as Sparsity
from implicax._problems.base import AbstractProblem as AbstractProblem
from implicax._problems.complementarity import Complementarity as Complementarity
from implicax._problems.composite import Composite as Composite
from implicax._problems.composite_solution import CompositeSolution as CompositeSolution
from implicax._problems.cone_program import ConeProgram as ConeProgram
from implicax._problems.cone_solution import ConeSolution as ConeSolution
from implicax._problems.constrained_solution import (
    ConstrainedSolution as ConstrainedSolution,
)
from implicax._problems.constraints import AtLeast as AtLeast
from implicax._problems.constraints import AtMost as AtMost
from implicax._problems.constraints import Equal as Equal
from implicax._problems.constraints import Multipliers as Multipliers
from implicax._problems.detect_sparsity import detect_sparsity as detect_sparsity
from implicax._problems.equations import Iterate as Iterate
from implicax._problems.equations import System as System
from implicax._problems.factorise import factorise as factorise
from implicax._problems.fixed_point import FixedPoint as FixedPoint
from implicax._problems.least_squares import LeastSquares as LeastSquares
from implicax._problems.losses import AbstractLoss as AbstractLoss
from implicax._problems.losses import Cauchy as Cauchy
from implicax._problems.losses import Huber as Huber
from implicax._problems.losses import SoftL1 as SoftL1
from implicax._problems.losses import Tukey as Tukey
from implicax._problems.losses import Welsch as Welsch
from implicax._problems.minimum import Minimum as Minimum
from implicax._problems.optimality_conditions import Conditions as Conditions
from implicax._problems.program import Dual as Dual
from implicax._problems.program import Program as Program
from implicax._problems.program_solution import Degeneracy as Degeneracy
from implicax._problems.program_solution import ProgramSolution as ProgramSolution
from implicax._problems.quadratic_program import QuadraticProgram as QuadraticProgram
from implicax._problems.root import Root as Root
from implicax._shorthands import fixed_point as fixed_point
from implicax._shorthands import least_squares as least_squares
from implicax._shorthands import minimize as minimize
from implicax._shorthands import root as root
from implicax._solve import solve as solve
from implicax._solve_complementarity import complementarity as complementarity
from implicax._solve_cone_program import cone_program as cone_program
from implicax._solve_program import linear_program as linear_program
from implicax._solve_program import quadratic_program as quadratic_program
from implicax._solvers.accelerated import Accelerated as Accelerated
from implicax._solvers.anderson import Anderson as Anderson
from implicax._solvers.base import AbstractSolver as AbstractSolver
from implicax._solvers.base import State as State
from implicax._solvers.bracketing import Bisection as Bisection
from implicax._solvers.bracketing import Chandrupatla as Chandrupatla
from implicax._solvers.broyden import Broyden as Broyden
from implicax._solvers.chord import Chord as Chord
from implicax._solvers.composite.admm import ADMM as ADMM
from implicax._solvers.composite.base import (
    AbstractCompositeSolver as AbstractCompositeSolver,
)
from implicax._solvers.composite.base import CompositeState as CompositeState
from implicax._solvers.composite.base import Split as Split
from implicax._solvers.composite.block_coordinate_descent import (
    BlockCoordinateDescent as BlockCoordinateDescent,
)
from implicax._solvers.composite.mirror_descent import MirrorDescent as MirrorDescent
from implicax._solvers.composite.projected_gradient import (
    ProjectedGradient as ProjectedGradient,
)
from implicax._solvers.composite.proximal_gradient import (
    ProximalGradient as ProximalGradient,
)
from implicax._solvers.constrained.primal_dual import (
    NonlinearInteriorPoint as NonlinearInteriorPoint,
)
from implicax._solvers.external.clarabel import Clarabel as Clarabel
from implicax._solvers.external.host import Host as Host
from implicax._solvers.external.host import host as host
from implicax._solvers.external.optax import Optax as Optax
from implicax._solvers.external.optimistix import Optimistix as Optimistix
from implicax._solvers.external.qpsolvers import QPSolvers as QPSolvers
from implicax._solvers.external.scipy import SciPy as SciPy
from implicax._solvers.fallback import Fallback as Fallback
from implicax._solvers.levenberg_marquardt import (
    LevenbergMarquardt as LevenbergMarquardt,
)
from implicax._solvers.newton import Newton as Newton
from implicax._solvers.picard import Picard as Picard
from implicax._solvers.programs.primal_dual import InteriorPoint as InteriorPoint
from implicax._solvers.progress import Progress as Progress
from implicax._solvers.pseudo_transient import PseudoTransient as PseudoTransient
from implicax._solvers.trust_region import TrustRegion as TrustRegion

__version__ = _version("implicax")
