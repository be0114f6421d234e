"""From a classifier's scores to labels and probabilities: the same with and without Spark."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["softmax", "top"]


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities, float32 of shape (rows, classes), for scores of that shape; computed in float64.

    A row's result does not depend on the rows beside it.
    """
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def top(probabilities: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the classes of the `k` largest probabilities of each row, best first; ties go to the lower class.

    Args:
        probabilities: float32 of shape (rows, classes).
        k: At most the number of classes counts.

    Returns:
        Class indices of shape (rows, min(k, classes)).
    """
    if k == 1:  # the common case, without sorting a thousand classes a row
        best: NDArray[np.intp] = np.argmax(probabilities, axis=1, keepdims=True)
        return best
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
