"""Enumerations whose values are arrays: one value for each lane of a `vmap`."""

import enum
import operator
from typing import TYPE_CHECKING, Any, NoReturn, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from implicax._core import tree_math

if TYPE_CHECKING:

    class _Texts(enum.EnumMeta):
        def __getitem__(cls, status: Any) -> str: ...  # pyright: ignore

    class Enumeration(enum.Enum, metaclass=_Texts):
        """What type checkers see: members are of the class that they are written in."""

        def __eq__(self, other: object) -> Bool[Array, "..."]: ...  # pyright: ignore
        def __ne__(self, other: object) -> Bool[Array, "..."]: ...  # pyright: ignore
        @classmethod
        def where(cls, condition: Any, a: Self, b: Self) -> Self: ...

else:

    def _at_hand(code: Any) -> bool:
        """Whether this process has it all."""
        return not tree_math.traced(code) and getattr(
            code, "is_fully_addressable", True
        )

    class Enumeration:
        """Base of the enumerations: `member = "what it means"` in a class body.

        A member is a pytree of one integer, so it passes through every transformation.
        `a == b` is a boolean array; `status.name` is the name of a single one, and an
        array of names for a batch; `Kind[status]` is what it means.
        """

        def __init__(self, code: Any):
            self._code = code

        def __init_subclass__(cls):
            members = [name for name in vars(cls) if not name.startswith("_")]
            cls._names = np.array(members)
            cls._texts = np.array([getattr(cls, name) for name in members])
            for code, name in enumerate(members):
                setattr(cls, name, cls(np.asarray(code, np.int32)))
            jax.tree_util.register_pytree_node(
                cls, lambda status: ((status._code,), None), lambda _, leaf: cls(*leaf)
            )

        @classmethod
        def where(cls, condition: Any, a: Any, b: Any) -> Any:
            """`a` where the condition holds, else `b`."""
            with jax.ensure_compile_time_eval():  # known where all of these are
                return cls(jnp.where(condition, a._code, b._code))

        def __class_getitem__(cls, status: Any) -> str:
            if not isinstance(status, cls):
                raise TypeError(
                    f"ix.{cls.__name__}[status] is the text of a status, and "
                    f"{status!r} is none."
                )
            return str(status._look_up(cls._texts))

        @property
        def name(self) -> Any:
            """The name of a single one, an array of names for a batch."""
            found = self._look_up(self._names)
            return found if found.ndim else str(found)

        def _look_up(self, table: np.ndarray) -> np.ndarray:
            if tree_math.traced(self._code):
                raise TypeError(
                    "A status inside a JAX transformation has no value yet, so no name "
                    f"either. Compare it, status == ix.{type(self).__name__}."
                    f"{self._names[0]}, or read its name from what jit returns."
                )
            return np.asarray(table[np.asarray(self._code)])

        def __eq__(self, other: object) -> Bool[Array, "..."]:
            return self._compared(operator.eq, other)

        def __ne__(self, other: object) -> Bool[Array, "..."]:
            return self._compared(operator.ne, other)

        def _compared(self, compare: Any, other: object) -> Bool[Array, "..."]:
            if not isinstance(other, type(self)):
                kind = type(self).__name__
                raise TypeError(
                    f"A status is compared with one of ix.{kind}, for example ix.{kind}"
                    f".{self._names[0]}, and not with {other!r}. (Its name, a string, "
                    "is status.name.)"
                )
            codes = self._code, other._code
            # (NumPy's comparison is no program that an eager `jax.grad` would keep.)
            if all(map(_at_hand, codes)):
                codes = tuple(map(np.asarray, codes))
            # Where both are known, so is the answer, also under `jit`. (What NumPy says
            # is put there as it is: `asarray` would compile a program for it.)
            with jax.ensure_compile_time_eval():
                said = compare(*codes)
                return said if isinstance(said, jax.Array) else jax.device_put(said)

        __hash__ = None

        def __bool__(self) -> NoReturn:
            kind = type(self).__name__
            raise TypeError(
                f"A status is neither true nor false: say status == ix.{kind}."
                f"{self._names[0]}."
            )

        def __repr__(self) -> str:
            known = eqx.is_array_like(self._code) and not tree_math.traced(self._code)
            shown = f"{self.name}" if known else "..."
            return f"{type(self).__name__}.{shown}"
