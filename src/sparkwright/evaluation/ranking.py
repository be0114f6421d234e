"""Areas under ROC and precision-recall curves, from histograms that merge, with a computed error bound.

A class's probabilities are counted in bins whose edges are fixed, separately for the rows that are of the class and
for all rows. From the counts alone the areas are known up to the order of rows within a bin, and that gap is what the
bound says: the exact area lies within ``area ± bound``, whatever the data.

Bins are as wide as a share of ``p`` below one half and of ``1 - p`` above it: nearly constant on the scale of logits,
fine where a good classifier puts its probabilities. They are read off the floating-point bits, so that binning is
exactly monotone (no logarithm's rounding can swap two rows) and cheap.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Areas", "areas", "bin_count", "bins_of"]

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_OCTAVES_LOW = 64  # p down to 2**-64: what is smaller shares the lowest bin
_OCTAVES_HIGH = 32  # 1 - p down to 2**-32: float32 has none smaller but 0
_MANTISSA_BITS, _HALF = 23, 126  # of float32; the biased exponent of 0.5
_CELLS = 2**20  # bins of all classes together, aimed at: 8 MiB a histogram


class Areas(NamedTuple):
    """Areas per class, each known up to a bound; NaN for a class without rows, or with all of them."""

    roc: Floats
    roc_bound: Floats
    pr: Floats
    pr_bound: Floats


def _bits(classes: int) -> int:
    """Return into how many (a power of two) bins an octave is cut: finer the fewer the classes."""
    return int(np.clip(np.log2(_CELLS / (classes * (_OCTAVES_LOW + _OCTAVES_HIGH))), 0, 7))


def bin_count(classes: int) -> int:
    """Return the number of bins of one class's histogram where there are `classes` of them."""
    return (_OCTAVES_LOW + _OCTAVES_HIGH) << _bits(classes)


def bins_of(probabilities: npt.NDArray[np.floating], classes: int) -> Ints:
    """Return each probability's bin, of the same shape; a larger probability never has a smaller bin."""
    bits = _bits(classes)
    middle = _OCTAVES_LOW << bits

    def depth(x: Array, octaves: int) -> Ints:
        """Count bins from one half (0) down to x, over `octaves` at most."""
        steps = np.ascontiguousarray(x, np.float32).view(np.int32) >> (_MANTISSA_BITS - bits)
        below = (_HALF << bits) - 1 - steps.astype(np.int64)
        return np.clip(below, 0, (octaves << bits) - 1)

    low = middle - 1 - depth(probabilities, _OCTAVES_LOW)
    # 1 - p is exact for p >= 1/2 in the type of p (Sterbenz), so the order survives.
    high = middle + depth(1 - probabilities, _OCTAVES_HIGH)
    return np.where(probabilities < 0.5, low, high)


def areas(positives_cb: Ints, rows_cb: Ints) -> Areas:
    """Return the areas of each class against the rest.

    Args:
        positives_cb: Rows of the class in each bin, shape (classes, bins), bins ascending.
        rows_cb: All rows in each bin, same shape.

    ROC: the share of (positive, negative) pairs in the right order (Mann-Whitney), pairs within a bin counted half.
    Precision-recall: average precision, the step-wise area of scikit-learn. Of the positives in a bin the last has at
    best precision ``(TP+p)/(TP+p+FP)``, with all its negatives behind; at worst the i-th has ``(TP+i)/(TP+i+FP+n)``,
    with all its negatives ahead (TP, FP: rows above the bin; p, n: rows in it). The area given is the middle of both.
    """
    pos_cb = positives_cb[:, ::-1].astype(np.float64)  # best bin first
    neg_cb = rows_cb[:, ::-1] - pos_cb
    pos_c1, neg_c1 = pos_cb.sum(1, keepdims=True), neg_cb.sum(1, keepdims=True)
    tp_cb, fp_cb = pos_cb.cumsum(1) - pos_cb, neg_cb.cumsum(1) - neg_cb  # rows above each bin
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs_c1 = np.where(pos_c1 * neg_c1 > 0, pos_c1 * neg_c1, np.nan)
        tied_c = (pos_cb * neg_cb / 2 / pairs_c1).sum(1)
        roc_c = (pos_cb * (neg_c1 - fp_cb - neg_cb) / pairs_c1).sum(1) + tied_c
        best_cb = (tp_cb + pos_cb) / (tp_cb + pos_cb + fp_cb)
        worst_cb = _worst_precision(tp_cb, pos_cb, fp_cb + neg_cb)
        weight_cb = pos_cb / np.where(np.isnan(pairs_c1), np.nan, pos_c1)
        high_c = np.where(pos_cb > 0, weight_cb * best_cb, 0 * weight_cb).sum(1)
        low_c = np.where(pos_cb > 0, weight_cb * worst_cb, 0 * weight_cb).sum(1)
    return Areas(roc_c, tied_c, (high_c + low_c) / 2, (high_c - low_c) / 2)


def _worst_precision(tp: Floats, p: Floats, ahead: Floats) -> Floats:
    """Return a lower bound of the mean over i = 1…p of ``(tp+i) / (tp+i+ahead)``.

    The summand rises with i, so the mean is at least its first value and at least the integral from 0 to p; the first
    is exact for p = 1, the second tight for large p.
    """
    first = (tp + 1) / (tp + 1 + ahead)
    integral = 1 - ahead / p * np.log1p(p / (tp + ahead))
    return np.where(ahead > 0, np.fmax(first, integral), 1.0)
