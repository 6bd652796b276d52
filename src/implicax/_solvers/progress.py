"""What a long solve tells of itself on the way."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._problems.optimality_conditions import OptimalityConditions


class Progress(NamedTuple):
    """What a `progress=` callable is told after each step, and once at the end.

    ```python
    import implicax as ix

    def listen(now):
        if now.done:
            print("done, residual below 1e-3:", now.residual_norm < 1e-3)

    ix.root(lambda y, a: y**2 - a, 1.0, 2.0, progress=listen)
    ```
    ```text
    done, residual below 1e-3: True
    ```
    """

    step: int
    max_steps: int
    residual_norm: float
    """The largest absolute component of the residual, or of the gradient."""
    objective: float | None
    """What is minimised; `None` for equations."""
    done: bool
    """Whether the solve has ended; the last step is told a second time then."""


Listener = Callable[[Progress], Any]


def listener(progress: Any) -> Listener | None:
    """The `progress=` argument as what is to be called, or `None` for nobody."""
    if progress is False or progress is None:
        return None
    if progress is True:
        return _bar()
    if callable(progress):
        return progress
    raise TypeError(
        "progress must be True (a bar), False, or a function of an ix.Progress, and it "
        f"is {progress!r}."
    )


def tell(
    listen: Listener,
    step: Array,
    max_steps: int,
    norm: Array,
    objective: Array | None,
    done: Array | bool,
) -> None:
    """Call `listen` when the compiled program gets here.

    Under `vmap` once for each lane, in turns.
    """

    def call(step: Any, norm: Any, objective: Any, done: Any) -> None:
        value = None if objective is None else float(objective)
        listen(Progress(int(step), max_steps, float(norm), value, bool(done)))

    jax.debug.callback(call, step, norm, objective, np.asarray(done), ordered=False)


def watch(
    conditions: OptimalityConditions, max_steps: int, listen: Listener
) -> OptimalityConditions:
    """The same conditions, which tell of each evaluation: of solvers whose steps are
    not ours to see."""
    return _Watched(conditions, max_steps, listen)


class _Watched(OptimalityConditions):
    def __init__(self, watched: OptimalityConditions, max_steps: int, listen: Listener):
        super().__init__(
            watched.jaxpr,
            watched.out_tree,
            watched.constants,
            watched.numbers,
            (watched.key, max_steps, listen),
            watched.unknowns,
            watched.structure,
        )
        self._max_steps, self._listen = max_steps, counter(listen)

    def output(self, v: Vector, inputs: PyTree[Array]) -> Any:
        said = super().output(v, inputs)
        objective, norm = None, jnp.full((), jnp.nan)
        if self.has_objective:
            objective = jax.lax.stop_gradient(self.value(said))
        else:
            norm = tree_math.max_norm(jax.lax.stop_gradient(said.residual))
        zero = jnp.zeros((), jnp.int32)
        tell(self._listen, zero, self._max_steps, norm, objective, done=False)
        return said


class _Counter:
    """Counts what a listener is told of."""

    def __init__(self, listen: Listener):
        self._listen, self._count = listen, 0

    def __call__(self, now: Progress) -> None:
        self._count += 1
        self._listen(now._replace(step=self._count))
        if now.done:
            self._count = 0


@functools.lru_cache(maxsize=64)
def counter(listen: Listener) -> _Counter:
    return _Counter(listen)


class _Bar:
    """A progress bar of the current solve."""

    def __init__(self, make: Callable[..., Any]):
        self._make, self._bar = make, None

    def __call__(self, now: Progress) -> None:
        if self._bar is None:
            self._bar = self._make(total=now.max_steps, unit="step", leave=True)
        text = f"residual {now.residual_norm:.2e}"
        if now.objective is not None:
            text = f"objective {now.objective:.6g}, gradient {now.residual_norm:.2e}"
        self._bar.set_postfix_str(text, refresh=now.done)
        self._bar.update(now.step - self._bar.n)
        if now.done:
            self._bar.close()
            self._bar = None


_shared: list[_Bar] = []


def _bar() -> Listener:
    """The one bar: a new one for each solve would compile anew each time."""
    try:
        import tqdm.auto
    except ImportError as error:
        raise ImportError(
            "progress=True shows a tqdm bar: pip install 'implicax[progress]'; or pass "
            "a function of an ix.Progress."
        ) from error
    if not _shared:
        _shared.append(_Bar(tqdm.auto.tqdm))
    return _shared[0]
