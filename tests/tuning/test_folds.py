"""Folds: every row in one, classes in all of them, groups and equal rows undivided, whatever the order of the rows."""

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.errors import InputError
from sparkwright.tuning.folds import deal_folds


def rows(count: int = 200, seed: int = 0) -> tuple[np.ndarray, pa.Array, np.ndarray]:
    rng = np.random.default_rng(seed)
    key = rng.integers(-(2**62), 2**62, count)
    label = pa.array([[name] for name in rng.choice(["a", "b", "rare"], count, p=[0.6, 0.35, 0.05])])
    return key, label, np.zeros(count)


def test_folds_have_their_share_of_every_class() -> None:
    key, label, target = rows()
    fold = deal_folds(5, key, key, label, target)
    names = np.array([each[0] for each in label.to_pylist()])
    for name in ("a", "b", "rare"):
        counts = np.bincount(fold[names == name], minlength=5)
        assert counts.max() - counts.min() <= 1, name
    assert np.bincount(fold).tolist() == [40] * 5


def test_folds_do_not_depend_on_the_order_of_rows() -> None:
    key, label, target = rows()
    group = key % 40
    order = np.random.default_rng(1).permutation(len(key))
    for own in (key, group):
        fold = deal_folds(4, key, own, label, target)
        again = deal_folds(4, key[order], own[order], label.take(pa.array(order)), target[order])
        assert np.array_equal(again, fold[order])


def test_groups_and_equal_rows_are_not_divided_and_classes_still_spread() -> None:
    key, label, target = rows(600)
    group = np.random.default_rng(2).integers(0, 60, 600)
    fold = deal_folds(5, key, group, label, target)
    assert all(len(set(fold[group == each])) == 1 for each in np.unique(group))
    names = np.array([each[0] for each in label.to_pylist()])
    for name, least in (("a", 0.7), ("rare", 0.5)):
        counts = np.bincount(fold[names == name], minlength=5)
        assert counts.min() >= least * counts.mean(), counts
    twice = np.repeat(np.arange(100), 2)
    fold = deal_folds(3, key[twice], key[twice], label.take(pa.array(twice)), target[twice])
    assert np.array_equal(fold[::2], fold[1::2])


def test_targets_of_a_regression_and_sets_of_labels_spread_too() -> None:
    key, _, _ = rows()
    target = np.random.default_rng(3).normal(size=200)
    for group in (key, key % 50):
        fold = deal_folds(4, key, group, pa.nulls(200, pa.list_(pa.string())), target)
        assert max(abs(target[fold == each].mean() - target.mean()) for each in range(4)) < 0.3
    sets = pa.array([["x", "y"] if n % 4 == 0 else [] for n in range(200)], pa.list_(pa.string()))
    fold = deal_folds(5, key, key, sets, np.zeros(200))
    assert np.bincount(fold[::4]).tolist() == [10] * 5


def test_fewer_groups_than_folds_are_refused() -> None:
    key, label, target = rows()
    with pytest.raises(InputError, match=r"`folds` is 5, and there are 3 groups of rows .* Take fewer folds\."):
        deal_folds(5, key, key % 3, label, target)
