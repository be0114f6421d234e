import numpy as np

from sparkwright.scoring.labels import softmax, top


def test_softmax_sums_to_one_and_survives_large_scores() -> None:
    scores = np.array([[0, 0], [1000, 0], [-1000, -1001]], np.float32)
    probabilities = softmax(scores)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert np.allclose(probabilities, [[0.5, 0.5], [1, 0], [1 / (1 + np.exp(-1)), 1 / (1 + np.e)]])


def test_softmax_of_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    scores = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    whole = softmax(scores)
    assert all(np.array_equal(whole[row : row + 1], softmax(scores[row : row + 1])) for row in range(50))


def test_top_is_best_first_and_ties_go_to_the_lower_class() -> None:
    probabilities = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], np.float32)
    assert top(probabilities, 2).tolist() == [[1, 2], [0, 1]]
    assert top(probabilities, 9).shape == (2, 3)
