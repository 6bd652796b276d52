"""Several scalars of a loop's carry in one array.

A compiler makes a kernel of each array that a step writes, be it a single number: of
ten scalars ten, which is most of what a small program costs. What is stacked is written
by one kernel, up to eight numbers of them (measured with XLA on CPU; from twelve on
each is a kernel again).
"""

from typing import Any, TypeVar, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_P = TypeVar("_P", bound="Packed")


class _Entry:
    """One of `Packed.numbers`: which one follows from the order in the class."""

    def __set_name__(self, owner: type, name: str):
        self.index = _names(owner).index(name)


class Number(_Entry):
    """A number among `Packed.numbers`."""

    @overload
    def __get__(self, packed: None, owner: type) -> "Number": ...
    @overload
    def __get__(self, packed: "Packed", owner: type) -> Float[Array, ""]: ...
    def __get__(self, packed, owner):
        return self if packed is None else packed.numbers[self.index]


class Flag(_Entry):
    """Whether a number among `Packed.numbers` is positive."""

    @overload
    def __get__(self, packed: None, owner: type) -> "Flag": ...
    @overload
    def __get__(self, packed: "Packed", owner: type) -> Bool[Array, ""]: ...
    def __get__(self, packed, owner):
        return self if packed is None else packed.numbers[self.index] > 0


class Packed(eqx.Module):
    """Base: a subclass lists what there is, `radius = Number()`, `small = Flag()`."""

    numbers: Float[Array, " k"]

    @classmethod
    def of(cls: type[_P], dtype: Any, **entries: Any) -> _P:
        """Of all entries, by name; without a derivative: they steer."""
        row = [jnp.asarray(entries.pop(name)) for name in _names(cls)]
        assert not entries, entries
        row = [jax.lax.stop_gradient(entry).astype(dtype) for entry in row]
        return cls(jnp.stack(row))

    @classmethod
    def filled(cls: type[_P], dtype: Any, value: float) -> _P:
        """All entries equal."""
        return cls(jnp.full((len(_names(cls)),), value, dtype))


def _names(packed: type) -> list[str]:
    return [name for name, entry in vars(packed).items() if isinstance(entry, _Entry)]
