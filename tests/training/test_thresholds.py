"""Thresholds of labels, beside trying all by hand."""

import numpy as np
import pytest
from sklearn import metrics

from sparkwright.training.thresholds import _LOG_ODDS, best_thresholds

RNG = np.random.default_rng(0)
HAS = RNG.random((500, 3)) < [0.5, 0.1, 0.02]
ODDS = RNG.normal(size=(500, 3)) * 2 - 2 + 2.0 * HAS


def counted(has: np.ndarray, odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reached = np.searchsorted(_LOG_ODDS, odds, side="right")
    both = np.zeros((2, has.shape[1], len(_LOG_ODDS) + 1))
    for label in range(has.shape[1]):
        np.add.at(both[:, label], (has[:, label].astype(int), reached[:, label]), 1)
    return both[0], both[1]


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy"])
def test_no_other_threshold_is_better(metric: str) -> None:
    score = metrics.f1_score if metric == "f1" else metrics.balanced_accuracy_score
    found = best_thresholds(*counted(HAS, ODDS), metric)
    p = 1 / (1 + np.exp(-ODDS))
    for label in range(3):
        best = max(score(HAS[:, label], ODDS[:, label] >= edge) for edge in _LOG_ODDS[::8])
        assert score(HAS[:, label], p[:, label] >= found[label]) >= best - 1e-9


def test_a_label_without_rows_is_predicted_from_one_half_on() -> None:
    has = np.array([[False, True], [False, True]])
    assert best_thresholds(*counted(has, np.array([[3.0, -2.0], [1.0, -1.0]])), "f1").tolist() == [0.5, 0.5]


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_taken() -> None:
    has, odds = np.array([[True], [False]]), np.array([[4.0], [1.0]])
    (found,) = best_thresholds(*counted(has, odds), "f1")
    assert 1.0 < np.log(found / (1 - found)) <= 1.1
