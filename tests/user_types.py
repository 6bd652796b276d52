"""What type checkers make of a user's code: `make lint` checks this file, nothing runs.

An expected error is one that must be there: an ignored line without one fails.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import Any, assert_type

import jax.numpy as jnp
from jax import Array

import implicax as ix


def squared(y: Any, a: Any) -> Any:
    return y**2 - a


def what_a_solution_holds(given: Any) -> None:
    solution = ix.root(squared, 1.0, 2.0)
    assert_type(solution, ix.Solution[Array])
    assert_type(solution.value, Array)
    assert_type(ix.fixed_point(squared, jnp.ones(3)).value, Array)
    assert_type(ix.minimize(squared, {"a": jnp.ones(3)}).value, dict[str, Array])
    both = (jnp.ones(3), jnp.ones(2))
    assert_type(ix.least_squares(squared, both).value, tuple[Array, Array])
    assert_type(ix.root(squared, given).value, Any)
    assert_type(solution.converged, Array)
    assert_type(solution.stats.steps, Array)
    assert_type(solution.status == ix.Status.converged, Array)
    assert_type(ix.Status[solution.status], str)
    assert_type(ix.certify(squared, ix.Root(squared), 1.0, 2.0), ix.Certificate)
    assert_type(ix.custom_root(squared)(squared)(1.0, 2.0), ix.Solution[Any])


def what_is_noticed() -> None:
    print(ix.root(squared, 1.0).x)  # pyright: ignore[reportAttributeAccessIssue]
    ix.root(squared, 1.0, 2.0, tol=1e-8)  # pyright: ignore[reportCallIssue]
    ix.Newton(tol=1e-8)  # pyright: ignore[reportCallIssue]
