"""From a model's outputs to labels, probabilities and values: the same with and without Spark."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose", "choose_labels", "softmax", "to_probabilities", "to_values", "top"]


def to_probabilities(outputs: NDArray[np.float32], link: str, classes: int) -> NDArray[np.float32]:
    """Return probabilities, float32 of shape (rows, classes), for a model's outputs; computed in float64.

    Args:
        outputs: Of shape (rows, outputs).
        link: ``"softmax"``: an output a class. ``"sigmoid"``: an output a label, each for itself; or one output, the
            log-odds of the second of two classes. ``"sequential"``: one output less than classes, which have an order;
            output k is the log-odds that what is k or higher is higher.
        classes: How many there are.
    """
    if link == "softmax":
        return softmax(outputs)
    # log(1 + exp(z)), so that neither end loses its digits.
    lower = np.logaddexp(0.0, outputs.astype(np.float64))  # -log of 1 - sigmoid
    higher = np.logaddexp(0.0, -outputs.astype(np.float64))  # -log of sigmoid
    if link == "sequential":
        reached = np.pad(higher.cumsum(axis=1), ((0, 0), (1, 0)))
        surprise = reached + np.pad(lower, ((0, 0), (0, 1)))
    else:
        surprise = np.hstack([lower, higher]) if outputs.shape[1] < classes else higher
    probabilities: NDArray[np.float32] = np.exp(-surprise).astype(np.float32)
    return probabilities


def to_values(outputs: NDArray[np.float32], link: str) -> NDArray[np.float32]:
    """Return a regression's values: the outputs, or with the link ``"exp"`` what they are the logarithms of."""
    return np.exp(outputs.astype(np.float64)).astype(np.float32) if link == "exp" else outputs


def choose(probabilities: NDArray[np.float32], thresholds: Sequence[float] = ()) -> NDArray[np.intp]:
    """Return the predicted class of each row, of shape (rows,): the most probable one, ties to the lower.

    Args:
        probabilities: Of shape (rows, classes).
        thresholds: Of two classes: one, the second's least probability to be predicted; else none.
    """
    if len(thresholds):
        return (probabilities[:, 1] >= np.float32(thresholds[0])).astype(np.intp)
    best: NDArray[np.intp] = np.argmax(probabilities, axis=1)
    return best


def choose_labels(probabilities: NDArray[np.float32], thresholds: Sequence[float] = ()) -> NDArray[np.bool_]:
    """Return which labels each row is predicted to have, of shape (rows, labels).

    Args:
        probabilities: Of that shape.
        thresholds: Each label's least probability to be predicted; none: one half.
    """
    return probabilities >= np.array(thresholds or 0.5, np.float32)


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
