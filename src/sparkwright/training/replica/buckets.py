"""Batches of rows that are about as long as one another, inside an epoch's own order."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["bucketed"]

_WINDOW = 50
"""Steps whose rows are sorted together: long enough that batches hardly need padding, short enough to stay mixed."""


def bucketed(
    order: NDArray[np.int64], lengths: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return an epoch's rows in an order in which those of a step are of about the same length.

    The rows of each 50 steps are sorted by length and cut into the steps' batches; these come in a drawn order, so that
    an epoch does not begin with all short rows.

    Args:
        order: Rows of the epoch, shuffled; rows of equal length stay in this order.
        lengths: Of all rows, by their index.
        sizes: Rows of each step; together those of `order`.
        rng: Draws the order of the batches.
    """
    dealt = np.empty_like(order)
    ends = np.cumsum(sizes)
    for first in range(0, len(sizes), _WINDOW):
        last = min(first + _WINDOW, len(sizes))
        window = slice(ends[first] - sizes[first], ends[last - 1])
        rows = order[window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        taken = 0
        for step in (first + rng.permutation(last - first)).tolist():
            dealt[ends[step] - sizes[step] : ends[step]] = rows[taken : taken + sizes[step]]
            taken += sizes[step]
    return dealt
