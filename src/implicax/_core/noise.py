"""Numbers without a pattern, as a function of their place alone.

Directions to look along need to be in no special position, not random: the generators
of `jax.random` would be a dozen kernels of a program. These are the places' numbers,
their bits mixed by the finaliser of Appleby's MurmurHash3 (2011).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

#: 2^32 over the golden ratio: neighbours are far apart (Knuth, TAOCP vol. 3, sec. 6.4).
GOLDEN = 2654435769


def noise(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Float[Array, "..."]:
    """Entries between a half and one, with signs."""
    bits = jnp.zeros(shape, jnp.uint32) + np.uint32(seed * GOLDEN % 2**32)
    stride = 1
    for axis in reversed(range(len(shape))):
        place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        bits = bits + place * np.uint32(stride % 2**32)
        stride *= shape[axis]
    bits = (bits + np.uint32(1)) * np.uint32(GOLDEN)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    bits = bits ^ (bits >> np.uint32(16))
    sizes = 0.5 + (bits >> np.uint32(8)).astype(jnp.float32) / 2**25
    return jnp.where((bits & np.uint32(1)) == 0, sizes, -sizes).astype(dtype)
