"""What is known of a Jacobian before it has a value."""

import dataclasses

from implicax._linear.sparsity import Sparsity


@dataclasses.dataclass(frozen=True)
class JacobianStructure:
    """What a problem knows of `J = dF/dy`, of its residual `F`, before it is solved.

    All that linear solvers are told of a problem.

    **Arguments:**

    - `fixed_point`: `J = I - A` with `A` the Jacobian of a map that one may hope
      contracts. Then the residual has the unit of the unknown, and linear systems can
      be solved by iterating the map's own linearisation.
    - `symmetric`: `J = J^T`; maybe indefinite, as that of a saddle-point problem.
    - `positive_definite`: symmetric, and positive definite at the solutions that are
      looked for, as the Hessian at a minimum is.
    - `reverse_only`: `F` has a VJP but no JVP (a `jax.custom_vjp` in it).
    - `sparsity`: where `J` may be other than zero: an [`implicax.Sparsity`][].

    ```python
    import implicax as ix

    hessian = ix.JacobianStructure(positive_definite=True)
    print(hessian.symmetric)
    ```
    ```text
    True
    ```
    """

    fixed_point: bool = False
    symmetric: bool = False
    positive_definite: bool = False
    reverse_only: bool = False
    sparsity: Sparsity | None = None

    def __post_init__(self):
        if self.positive_definite:
            object.__setattr__(self, "symmetric", True)
