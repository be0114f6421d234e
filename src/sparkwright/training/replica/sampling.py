"""Which rows an epoch trains on, where rare classes are to come as often as frequent ones."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_balanced"]


def draw_balanced(
    order: NDArray[np.int64], kind_N: NDArray[np.int64], share_N: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return as many rows as `order` has, in random order, each as often as its share says, rounded up or down.

    Systematic sampling (Madow 1949) of the rows in random order within their kind. So the rows of a kind come, together
    too, as often as their shares say, rounded up or down: nothing but the rounding is left to chance.

    Args:
        order: Indices of rows.
        kind_N: Each row's class, by index.
        share_N: Each row's share, above 0, by index; in any unit.
        rng: Of this epoch and replica.
    """
    rows = rng.permutation(order)
    rows = rows[np.argsort(kind_N[rows], kind="stable")]
    if not len(rows):
        return rows
    ends = share_N[rows].cumsum(dtype=np.float64)
    marks = (np.arange(len(rows)) + rng.random()) * (ends[-1] / len(rows))
    drawn = np.searchsorted(ends, marks, side="right").clip(max=len(rows) - 1)
    return rng.permutation(rows[drawn])
