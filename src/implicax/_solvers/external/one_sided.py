"""Programs as solvers on the host take them: equations, upper sides, bounds."""

from typing import Any, NamedTuple

import numpy as np


class OneSided(NamedTuple):
    """Rows `G x <= h` and `A x = b` of a matrix with two sides, and bounds."""

    G: np.ndarray
    h: np.ndarray
    A: np.ndarray
    b: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray] | None
    places: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Which rows have an upper side, which a lower one, and which are equations."""

    @classmethod
    def of(cls, matrix: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> "OneSided":
        """Of the sides of all rows, and then, where there are bounds, of unknowns."""
        m = len(matrix)
        fixed = lower[:m] == upper[:m]
        above, below = (~fixed & np.isfinite(s[:m]) for s in (upper, lower))
        G = np.concatenate([matrix[above], -matrix[below]])
        h = np.concatenate([upper[:m][above], -lower[:m][below]])
        bounds = (lower[m:], upper[m:]) if lower.size > m else None
        places = above, below, fixed
        return cls(G, h, matrix[fixed], lower[:m][fixed], bounds, places)

    def multipliers(self, inequality: Any, equality: Any, bounds: Any) -> np.ndarray:
        """One number for each row and bound; zero where a solver gives none."""
        above, below, fixed = self.places
        t, count = np.zeros(len(above)), int(above.sum())
        if inequality is not None:
            t[above] += inequality[:count]
            t[below] -= inequality[count:]
        if equality is not None:
            t[fixed] = equality
        if self.bounds is None:
            return t
        none = np.zeros(self.bounds[0].size)
        return np.concatenate([t, none if bounds is None else bounds])
