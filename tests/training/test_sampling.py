"""Rows that are drawn so that classes come equally often."""

import numpy as np
import pytest

from sparkwright.training.replica.sampling import draw_balanced

KIND = np.repeat([0, 1, 2], [90, 9, 1])
SHARE = (1 / np.bincount(KIND))[KIND].astype(np.float32)
ORDER = np.random.default_rng(0).permutation(100)


def test_each_class_comes_equally_often_and_its_rows_do_too() -> None:
    drawn = draw_balanced(ORDER, KIND, SHARE, np.random.default_rng(3))
    assert len(drawn) == 100
    assert set(np.bincount(KIND[drawn]).tolist()) <= {33, 34}
    times = np.bincount(drawn, minlength=100)
    assert set(times[KIND == 0].tolist()) == {0, 1}
    assert set(times[KIND == 1].tolist()) <= {3, 4}


def test_all_rows_of_a_frequent_class_come_in_turn() -> None:
    rng = np.random.default_rng(5)
    seen = np.concatenate([draw_balanced(ORDER, KIND, SHARE, rng) for _ in range(30)])
    assert len(np.unique(seen)) == 100


def test_the_generator_alone_decides() -> None:
    first, second = (draw_balanced(ORDER, KIND, SHARE, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, draw_balanced(ORDER, KIND, SHARE, np.random.default_rng(4)))


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_are_enough(rows: int) -> None:
    assert sorted(draw_balanced(ORDER[:rows], KIND, np.ones(100, np.float32), np.random.default_rng(0))) == sorted(
        ORDER[:rows]
    )
