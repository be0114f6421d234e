"""Folds: every row validates in one of them. What a row is decides in which, not where it came from.

Folds are stratified: each has its share of every class, of the range of a regression's targets, of every set of labels.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkwright.errors import InputError

__all__ = ["deal_folds"]

_RANGES = 10  # of targets, each of which groups of rows are to have their share of


def deal_folds(
    folds: int, key: NDArray[np.int64], group: NDArray[np.int64], label: pa.Array, target: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Return the fold of each row, from 0.

    Rows of one group lie in one fold, and so do equal rows. Groups are placed from the largest to the smallest, each
    where its classes are rarest so far; rows without groups are dealt class by class, which comes to the same.

    Args:
        folds: How many there are.
        key: Hash of each row's content.
        group: Hash of each row's group; that content where there are none.
        label: Each row's labels, or null, as `Rows` has them.
        target: Each row's target of a regression.

    Raises:
        InputError: There are fewer groups than folds.
    """
    kind = _kinds(label, target)
    known, of_group = np.unique(group, return_inverse=True)
    if len(known) < folds:
        raise InputError(
            f"`folds` is {folds}, and there are {len(known)} groups of rows that belong together: each fold needs one "
            "at least. Take fewer folds."
        )
    if np.array_equal(key, group):
        return _dealt(folds, key, kind)
    if label.null_count == len(label):
        kind = kind * _RANGES // (kind.max() + 1)
    counts_GK = np.zeros((len(known), kind.max() + 1))
    np.add.at(counts_GK, (of_group, kind), 1)
    return _placed(folds, counts_GK)[of_group]


def _kinds(label: pa.Array, target: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a number of what each row is stratified by: one for rows of one class, near ones for near targets."""
    if label.null_count < len(label):
        names = ["\0".join(labels or ()) for labels in label.to_pylist()]
        return np.unique(names, return_inverse=True)[1]
    return np.unique(target, return_inverse=True)[1]


def _dealt(folds: int, key: NDArray[np.int64], kind: NDArray[np.int64]) -> NDArray[np.int8]:
    """Deal rows, sorted by kind and then by content, one to each fold in turn; equal rows go together."""
    order = np.lexsort((key, kind))
    new = np.diff(key[order], prepend=key[order[:1]]) != 0
    fold = np.empty(len(key), np.int8)
    fold[order] = np.cumsum(new) % folds
    return fold


def _placed(folds: int, counts_GK: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return the fold of each group, of which it is known how many rows of each kind it has."""
    share_GK = counts_GK / counts_GK.sum(axis=0)  # a row of a rare class weighs more
    there_FK, rows_F = np.zeros((folds, counts_GK.shape[1])), np.zeros(folds)
    fold = np.empty(len(counts_GK), np.int8)
    for number in np.argsort(-counts_GK.sum(axis=1), kind="stable").tolist():
        crowded_F = there_FK @ share_GK[number]
        chosen = min(range(folds), key=lambda place: (round(crowded_F[place], 12), rows_F[place], place))
        fold[number] = chosen
        there_FK[chosen] += share_GK[number]
        rows_F[chosen] += counts_GK[number].sum()
    return fold
