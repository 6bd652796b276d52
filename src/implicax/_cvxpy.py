"""CVXPY problems as differentiable functions of their parameters.

A disciplined parametrised program (DPP: Agrawal et al., *Differentiable convex
optimization layers*, 2019) has data that are affine in the parameters, and variables
and multipliers that are linear in those of the cone program which CVXPY makes of it. So
CVXPY is asked once, with one entry of one parameter at a time, and what it answers are
matrices: from then on there are arrays only.
"""

import types
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from implicax._certificates.certificate import Certificate
from implicax._certificates.certify import certify
from implicax._core.failure import OnFailure
from implicax._core.optional import library
from implicax._linear.minimum_norm import MinimumNorm
from implicax._problems import cones as kinds
from implicax._problems.cone_program import ConeProgram
from implicax._problems.cone_solution import ConeSolution
from implicax._problems.program_solution import Degeneracy
from implicax._solve_cone_program import solve_cone_program

#: What CVXPY answers at a point of which it was not asked may differ by this part from
#: what the matrices say.
AFFINE = 1e-9


class Affine(eqx.Module):
    """An array that is affine in others: most of its entries do not change."""

    base: Any
    places: Any
    """Of the entries that change."""
    slopes: Any
    """By how much, for each of the others: shape `(k, d)`."""

    @classmethod
    def of(cls, values: list[np.ndarray]) -> "Affine":
        """From its values at zero and at each unit vector."""
        base, rest = values[0], values[1:]
        changes = [np.ravel(value - base) for value in rest]
        slopes = np.stack(changes, 1) if rest else np.zeros((base.size, 0))
        places = np.flatnonzero((slopes != 0).any(1))
        return cls(base, places, slopes[places])

    def __call__(self, v: Float[Array, " d"]) -> Array:
        flat = jnp.asarray(self.base.reshape(-1), v.dtype)
        moved = jnp.asarray(self.slopes, v.dtype) @ v
        return flat.at[self.places].add(moved).reshape(self.base.shape)

    def sizes(self) -> "Affine":
        """How much it can move by, entry by entry."""
        return Affine(np.zeros_like(self.base), self.places, np.abs(self.slopes))


def _is_affine(part: Any) -> bool:
    return isinstance(part, Affine)


class CvxpyLayer(eqx.Module):
    """A CVXPY problem as a function of its parameters: what
    [`implicax.cvxpy_layer`][] returns."""

    problem: ConeProgram
    """The cone program, whose `args` are the parameters."""
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    """Those of the parameters."""
    sign: float = eqx.field(static=True)
    offset: Affine
    """What the objective has besides."""
    from_x: PyTree[Affine]
    """The variables, ..."""
    from_z: PyTree[Affine]
    """... and the multipliers of each constraint."""

    def __call__(
        self,
        *parameters: Any,
        solver: Any = None,
        max_steps: int = 200,
        on_failure: OnFailure = "raise",
    ) -> ConeSolution:
        """Solve, at these values of the parameters.

        **Returns:** an [`implicax.ConeSolution`][] whose `value` is the tuple of the
        variables, whose `dual` holds the multipliers of each constraint, with CVXPY's
        signs, and whose `objective` is the problem's.
        """
        args = self._read(parameters)
        found = solve_cone_program(
            self.problem, None, args, solver, None, max_steps, on_failure
        )
        theta = _joined(args)
        assert found.objective is not None
        values: Any = self.variables(found.value)
        return ConeSolution(
            values,
            found.aux,
            found.status,
            found.stats,
            self.sign * (found.objective + self.offset(theta)),
            self._restored(self.from_z, jnp.concatenate(found.dual)),
            found.slack,
            self._degeneracy(found),
            found.farkas,
            found.ray,
            found.free,
        )

    def _degeneracy(self, found: ConeSolution) -> Degeneracy:
        """(What CVXPY has added may be free where the variables are not.)"""
        told, free = found.degeneracy, found.free
        assert told is not None
        assert free is not None
        one = free.astype(found.stats.residual_norm.dtype)
        moves = self._restored(
            jax.tree.map(Affine.sizes, self.from_x, is_leaf=_is_affine), one
        )
        seen = [(leaf != 0).any() for leaf in jax.tree.leaves(moves)]
        return Degeneracy(told.weak, told.dependent, jnp.stack(seen).any())

    def variables(self, x: Float[Array, " n"]) -> tuple[Array, ...]:
        """The variables, of the unknown of the cone program."""
        return self._restored(self.from_x, x)

    def certify(
        self, loss: Callable[[Any, Any], Any], *parameters: Any, solver: Any = None
    ) -> Certificate:
        """How right the derivative of `loss(variables, parameters)` is, as
        [`implicax.certify`][] says it."""
        args = self._read(parameters)
        found = solve_cone_program(self.problem, None, args, solver, None, 200, "raise")

        def quantity(y: Any, args: Any) -> Any:
            return loss(self.variables(y[0]), args)

        # (What CVXPY has added is often free.)
        return certify(quantity, self.problem, found, args, linear_solver=MinimumNorm())

    def _restored(self, parts: PyTree[Affine], v: Array) -> Any:
        return jax.tree.map(lambda part: part(v), parts, is_leaf=_is_affine)

    def _read(self, parameters: tuple[Any, ...]) -> tuple[Array, ...]:
        if len(parameters) != len(self.shapes):
            raise TypeError(
                f"The layer has {len(self.shapes)} parameters, and "
                f"{len(parameters)} values came."
            )
        arrays = tuple(map(jnp.asarray, parameters))
        arrays = tuple(
            a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(float)
            for a in arrays
        )
        for k, (array, shape) in enumerate(zip(arrays, self.shapes, strict=True)):
            if array.shape != shape:
                raise ValueError(
                    f"Parameter {k} has shape {shape}, and its value has shape "
                    f"{array.shape}. (A batch goes through jax.vmap.)"
                )
        return arrays


def cvxpy_layer(problem: Any, parameters: Any, variables: Any) -> CvxpyLayer:
    """A CVXPY problem as a function of its parameters, differentiable in every mode and
    order, under `jit` and `vmap`. Needs `implicax[cvxpy]`.

    CVXPY canonicalises once, here; a call has arrays only. It solves the cone program
    by [`implicax.Clarabel`][], to rounding, and names what is degenerate about it.

    **Arguments:**

    - `problem`: a `cvxpy.Problem` that is DPP, in continuous variables.
    - `parameters`: its `cvxpy.Parameter`s, in the order of the layer's arguments. Some
      hundreds of entries in all: CVXPY is asked once for each.
    - `variables`: the `cvxpy.Variable`s wanted, in the order of `solution.value`.

    **Returns:** an [`implicax.CvxpyLayer`][].

    **Raises:** `TypeError` or `ValueError` for a problem that is none.

    ```python
    import cvxpy as cp
    import implicax as ix
    import jax
    import jax.numpy as jnp

    x, target = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - target)), [cp.norm(x, 1) <= 1])
    layer = ix.cvxpy_layer(problem, [target], [x])

    def nearest(point):
        return layer(point).value[0]

    print(nearest(jnp.array([2.0, 1.5])).round(4))
    print(jax.jacobian(nearest)(jnp.array([2.0, 1.5])).round(4))
    ```
    ```text
    [0.75 0.25]
    [[ 0.5 -0.5]
     [-0.5  0.5]]
    ```
    """
    parameters, variables = _checked(problem, parameters, variables)
    asked = _Asked(problem, parameters)
    zero = asked.at([np.zeros(p.shape) for p in parameters])
    answers, units = [zero], [np.zeros(p.shape) for p in parameters]
    for value in units:
        for place in np.ndindex(value.shape):
            value[place] = 1.0
            answers.append(asked.at(units))
            value[place] = 0.0
    maps = {name: Affine.of([answer[name] for answer in answers]) for name in zero}
    _check_affine(maps, asked, parameters)
    sign = 1.0 if asked.minimises else -1.0
    offset = maps.pop("offset")
    from_x, from_z = asked.restored(variables)

    def fn(args: tuple[Array, ...]) -> tuple[Array, ...]:
        theta = _joined(args)
        return tuple(maps[name](theta) for name in ("P", "q", "A", "b"))

    shapes = tuple(tuple(p.shape) for p in parameters)
    program = ConeProgram(asked.cones, fn)
    return CvxpyLayer(program, shapes, sign, offset, from_x, from_z)


def _joined(args: tuple[Array, ...]) -> Array:
    if not args:
        return jnp.zeros(0)
    return jnp.concatenate([array.reshape(-1) for array in args])


def _checked(problem: Any, parameters: Any, variables: Any) -> tuple[list, list]:
    cvxpy = library("cvxpy", "ix.cvxpy_layer")
    if not isinstance(problem, cvxpy.Problem):
        raise TypeError(f"problem must be a cvxpy.Problem, and it is {problem!r}.")
    parameters, variables = list(parameters), list(variables)
    given, there = {id(p) for p in parameters}, problem.parameters()
    missing = [p.name() for p in there if id(p) not in given]
    known = {id(p) for p in there}
    foreign = [str(p) for p in parameters if id(p) not in known]
    if missing or foreign:
        raise ValueError(
            "parameters must be all parameters of the problem. "
            + (f"Missing: {', '.join(missing)}. " if missing else "")
            + (f"Not in the problem: {', '.join(foreign)}." if foreign else "")
        )
    known = {id(v) for v in problem.variables()}
    foreign = [str(v) for v in variables if id(v) not in known]
    if foreign:
        raise ValueError(f"Not variables of the problem: {', '.join(foreign)}.")
    if not problem.is_dcp(dpp=True):
        raise ValueError(
            "problem must be a disciplined parametrised program (problem.is_dpp()): "
            "its data are to be affine in the parameters. Products of parameters are "
            "new parameters."
        )
    if problem.is_mixed_integer():
        raise ValueError(
            "problem has integer variables: its solution has no derivative."
        )
    if any(leaf.is_complex() for leaf in [*parameters, *problem.variables()]):
        raise ValueError("Complex parameters and variables are not taken.")
    return parameters, variables


class _Asked:
    """What CVXPY makes of the problem, at values of the parameters."""

    def __init__(self, problem: Any, parameters: list[Any]):
        self.problem, self.parameters = problem, parameters
        cvxpy = library("cvxpy", "ix.cvxpy_layer")
        self.solver, self.minimises = (
            cvxpy.CLARABEL,
            problem.objective.NAME == "minimize",
        )
        self.cones: tuple[kinds.AbstractCone, ...] = ()

    def at(self, values: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The data of the cone program."""
        for parameter, value in zip(self.parameters, values, strict=True):
            # (Signs and shapes of cones do not matter here.)
            parameter.save_value(value.copy())
        data, self.chain, self.inverse = self.problem.get_problem_data(
            self.solver, enforce_dpp=True, solver_opts={}
        )
        P, A = data.get("P"), data["A"]
        q, b = np.asarray(data["c"], float), np.asarray(data["b"], float)
        self.cones, self.size = _cones(data["dims"]), q.size
        dense = np.zeros((q.size, q.size)) if P is None else P.toarray()
        # CVXPY gives the upper triangle, or all of it.
        dense = np.triu(dense) + np.triu(dense, 1).T
        made = {"P": dense, "q": q, "A": A.toarray(), "b": b}
        value = float(self._unpack(np.zeros(q.size), np.zeros(b.size)))
        offset = value if self.minimises else -value
        return made | {"offset": np.asarray(offset)}

    def _unpack(self, x: np.ndarray, z: np.ndarray) -> float:
        """Let CVXPY say what variables and multipliers these are, and the objective, of
        which the cone program knows nothing here: zero."""
        found = types.SimpleNamespace(
            x=x, z=z, status="Solved", obj_val=0.0, solve_time=0.0, iterations=0
        )
        said = self.chain.invert(found, self.inverse)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.problem.unpack(said)
        return said.opt_val

    def restored(self, variables: list[Any]) -> tuple[Any, Any]:
        """How variables follow from `x`, and multipliers from `z`."""
        rows = sum(cone.size for cone in self.cones)
        xs, zs = [], []
        for x in [np.zeros(self.size), *np.eye(self.size)]:
            self._unpack(x, np.zeros(rows))
            xs.append(tuple(np.asarray(v.value, float) for v in variables))
        for z in [np.zeros(rows), *np.eye(rows)]:
            self._unpack(np.zeros(self.size), z)
            duals = [constraint.dual_value for constraint in self.problem.constraints]
            zs.append(tuple(jax.tree.map(lambda d: np.asarray(d, float), duals)))
        return (
            jax.tree.map(lambda *values: Affine.of(list(values)), *xs),
            jax.tree.map(lambda *values: Affine.of(list(values)), *zs),
        )


def _cones(dims: Any) -> tuple[kinds.AbstractCone, ...]:
    """In CVXPY's order."""
    found: list[kinds.AbstractCone] = []
    if dims.zero:
        found.append(kinds.Zero(int(dims.zero)))
    if dims.nonneg:
        found.append(kinds.Nonnegative(int(dims.nonneg)))
    found += [kinds.SecondOrder(int(count)) for count in dims.soc]
    found += [kinds.Semidefinite(int(order)) for order in dims.psd]
    found += [kinds.Exponential()] * int(dims.exp)
    found += [kinds.Power(float(exponent)) for exponent in dims.p3d]
    if getattr(dims, "pnd", None):
        raise ValueError("Power cones of more than three numbers are not taken.")
    return tuple(found)


def _check_affine(
    maps: dict[str, Affine], asked: _Asked, parameters: list[Any]
) -> None:
    random = np.random.default_rng(0)
    values = [random.uniform(0.5, 1.5, p.shape) for p in parameters]
    theta = np.concatenate([v.reshape(-1) for v in values]) if values else np.zeros(0)
    for name, right in asked.at(values).items():
        base = maps[name].base.reshape(-1).copy()
        base[maps[name].places] += maps[name].slopes @ theta
        apart = np.abs(base - right.reshape(-1)).max(initial=0)
        if apart > AFFINE * (1 + np.abs(right).max(initial=0)):
            raise ValueError(
                "What CVXPY makes of the problem is not affine in the parameters "
                f"({name} is off by {apart:.1e}). State it as a disciplined "
                "parametrised program."
            )
