"""Convex cones, for [`implicax.cone_program`][]: what a slack may be in."""

from implicax._problems.cones import AbstractCone as AbstractCone
from implicax._problems.cones import Exponential as Exponential
from implicax._problems.cones import Nonnegative as Nonnegative
from implicax._problems.cones import Power as Power
from implicax._problems.cones import SecondOrder as SecondOrder
from implicax._problems.cones import Semidefinite as Semidefinite
from implicax._problems.cones import Zero as Zero
