"""Solvers that run on the host: plain Python, NumPy, SciPy, C, a simulator."""

import collections
import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from implicax._core import tree_math
from implicax._core.checks import check_unknown, split_arrays

#: How many messages are kept.
MEMORY = 64


class Host:
    """A host solver as JAX calls it: see [`implicax.host`][].

    `failures` holds the last messages, newest last.

    ```python
    import implicax as ix
    import numpy as np

    roots = ix.host(lambda y0, a: np.sqrt(a))
    print(isinstance(roots, ix.Host), float(roots(1.0, 4.0)))
    ```
    ```text
    True 2.0
    ```
    """

    #: No problem can be made of what JAX does not see.
    runs_on_host = True

    def __init__(self, solver: Callable[..., Any], threads: int | None):
        functools.update_wrapper(self, solver, updated=())
        self.solver = solver
        self.threads = threads
        self.failures: collections.deque[str] = collections.deque(maxlen=MEMORY)

    @functools.cached_property
    def pool(self) -> concurrent.futures.ThreadPoolExecutor:
        """Threads for the lanes of a batch."""
        return concurrent.futures.ThreadPoolExecutor(
            self.threads or os.cpu_count(), thread_name_prefix="implicax-host"
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy, or another process, starts threads of its own.
        return {key: x for key, x in self.__dict__.items() if key != "pool"}

    def __call__(
        self, y0: PyTree, args: PyTree = None, **options: Any
    ) -> PyTree[Array]:
        """The solver's answer; NaN where it failed."""
        return self.answer(y0, args, **options)[0]

    def answer(
        self, y0: PyTree, args: PyTree = None, **options: Any
    ) -> tuple[PyTree[Array], Bool[Array, ""]]:
        """The solver's answer, and whether it failed."""
        y0 = check_unknown(y0, "y0")
        leaves, treedef = jax.tree.flatten(y0)
        if any(map(callable, leaves)):
            raise TypeError(
                "A host solver takes and returns arrays, and y0 holds functions (of a "
                "module?). Pass its arrays, for example by eqx.partition."
            )
        arrays, others = split_arrays((args, options))
        inputs, inputs_treedef = jax.tree.flatten(arrays)
        job = _Job(
            self,
            treedef,
            inputs_treedef,
            _Constants(others),
            tuple(np.shape(leaf) for leaf in (*leaves, *inputs)),
            tuple(leaf.dtype for leaf in leaves),
        )
        if any(map(tree_math.traced, (*leaves, *inputs))):
            template = (
                [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves],
                jax.ShapeDtypeStruct((), jnp.bool_),
            )
            found, failed = jax.pure_callback(
                job, template, *leaves, *inputs, vmap_method="expand_dims"
            )
        else:
            # Nothing to compile, then: a new solver each time costs no more.
            found, failed = jax.device_put(job(*leaves, *inputs))
        return jax.tree.unflatten(treedef, found), failed


class _Constants:
    """What is no array among the arguments: equal where it is the same, or plain."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, treedef = jax.tree.flatten(tree)
        plain = str | bytes | int
        self._key = (
            treedef,
            *((type(x), x if isinstance(x, plain) else id(x)) for x in leaves),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constants) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclasses.dataclass(frozen=True)
class _Job:
    """A host solver with arguments of certain shapes: what JAX calls back. Equal ones
    are compiled once."""

    host: Host
    treedef: Any
    inputs_treedef: Any
    others: _Constants
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    def __call__(self, *values: Array) -> tuple[list[np.ndarray], np.ndarray]:
        """All lanes of a batch, side by side."""
        shapes, arrays = self.shapes, [np.asarray(value) for value in values]
        batch = np.broadcast_shapes(
            *(x.shape[: x.ndim - len(s)] for x, s in zip(arrays, shapes, strict=True))
        )
        flat = [
            np.broadcast_to(x, batch + s).reshape((-1, *s))
            for x, s in zip(arrays, shapes, strict=True)
        ]
        work = [[x[i, ...] for x in flat] for i in range(int(np.prod(batch)))]
        one = self._lane
        results = list(self.host.pool.map(one, work)) if batch else [one(work[0])]
        found = [
            np.stack([result[0][k] for result in results]).reshape(batch + shapes[k])
            for k in range(len(self.dtypes))
        ]
        failed = np.asarray([result[1] for result in results]).reshape(batch)
        return found, failed

    def _lane(self, values: list[np.ndarray]) -> tuple[list[np.ndarray], bool]:
        """One lane: call the solver, keep what it says when it fails."""
        count, failures = len(self.dtypes), self.host.failures
        start = jax.tree.unflatten(self.treedef, values[:count])
        given = jax.tree.unflatten(self.inputs_treedef, values[count:])
        args, options = eqx.combine(given, self.others.tree)
        wanted = [*zip(self.shapes, self.dtypes, strict=False)]
        try:
            found = self.host.solver(start, args, **options)
            found = [
                _like(np.asarray(x), shape, dtype)
                for x, (shape, dtype) in zip(
                    self.treedef.flatten_up_to(found), wanted, strict=True
                )
            ]
        except (Exception, SystemExit) as error:
            failures.append(f"{type(error).__name__}: {error}")
            return [np.full(shape, np.nan, dtype) for shape, dtype in wanted], True
        if not all(np.isfinite(x).all() for x in found):
            failures.append("the solver returned NaN or infinity")
        return found, False


def host(solver: Callable[..., Any], *, threads: int | None = None) -> Host:
    """Make plain Python code a solver that `jit`, `vmap` and `scan` can call.

    **Arguments:**

    - `solver`: takes `(y0, args, **options)` with NumPy arrays in the places of arrays,
      returns `y` with the structure and shapes of `y0` (dtypes are converted). It must
      not call JAX: the device that would answer may be waiting for it.
    - `threads`: how many lanes of a `vmap` run at a time; `None` means one per core.
      (What holds Python's global lock takes turns.)

    **Returns:** a callable `(y0, args=None, **options)`, to be decorated with
    [`implicax.custom_root`][] and its kin, which give it derivatives. A lane in which
    the solver raises, or returns something of another structure, is NaN, and has the
    status `failed` once decorated; the others go on. The messages are in `.failures`,
    newest last.

    ```python
    import implicax as ix
    import jax
    import numpy as np

    legacy = ix.host(lambda y0, a: np.sqrt(a))
    solve = ix.custom_root(lambda y, a: y**2 - a)(legacy)
    slope = jax.jit(jax.vmap(jax.grad(lambda a: solve(1.0, a).value)))
    print(slope(np.array([1.0, 4.0, 16.0])))
    ```
    ```text
    [0.5   0.25  0.125]
    ```
    """
    if not callable(solver):
        raise TypeError(f"host takes a function (y0, args) -> y, not {solver!r}.")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads must be a positive integer, not {threads!r}.")
    return Host(solver, threads)


def _like(x: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if x.shape != shape:
        raise ValueError(
            f"the solver must return shape {shape}, and returned {x.shape}"
        )
    if x.dtype == object:
        raise TypeError("the solver must return numbers (is a `return` missing?)")
    if np.iscomplexobj(x) and not np.issubdtype(dtype, np.complexfloating):
        raise TypeError("the solver returned complex numbers for a real unknown")
    return x.astype(dtype)
