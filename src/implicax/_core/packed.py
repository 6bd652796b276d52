"""Several scalars of a loop's carry in one array.

A compiler makes a kernel of each array that a step writes, be it a single number: of
ten scalars ten, which is most of what a small program costs. What is stacked is written
by one kernel, up to eight numbers of them (measured with XLA on CPU; from twelve on
each is a kernel again).
"""

from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Number:
    """The number at a place of `Packed.numbers`."""

    def __init__(self, index: int):
        self.index = index

    @overload
    def __get__(self, packed: None, owner: type) -> "Number": ...
    @overload
    def __get__(self, packed: "Packed", owner: type) -> Float[Array, ""]: ...
    def __get__(self, packed, owner):
        return self if packed is None else packed.numbers[self.index]


class Flag:
    """Whether the number at a place of `Packed.numbers` is positive."""

    def __init__(self, index: int):
        self.index = index

    @overload
    def __get__(self, packed: None, owner: type) -> "Flag": ...
    @overload
    def __get__(self, packed: "Packed", owner: type) -> Bool[Array, ""]: ...
    def __get__(self, packed, owner):
        return self if packed is None else packed.numbers[self.index] > 0


class Packed(eqx.Module):
    """Base: a subclass says what is where, `radius = Number(0)`, `small = Flag(1)`."""

    numbers: Float[Array, " k"]

    @classmethod
    def of(cls, dtype: Any, **entries: Any) -> Any:
        """Of all its numbers, by name; without a derivative: they steer."""
        row = [
            jax.lax.stop_gradient(jnp.asarray(entry)).astype(dtype)
            for _, entry in sorted(
                (getattr(cls, name).index, entry) for name, entry in entries.items()
            )
        ]
        return cls(jnp.stack(row))
