"""Arrays of numbers of any length as a network's input."""

import json

import numpy as np
import pytest

from sparkwright.errors import ContentError, InputError
from sparkwright.networks.preprocessing import as_preprocessing
from sparkwright.networks.series import SeriesPreprocessing

PREPROCESSING = SeriesPreprocessing(channels=2, max_length=4, mean=(1, 2), std=(2.0, 1.0))


def test_values_are_dealt_over_steps_and_standardised():
    np.testing.assert_array_equal(PREPROCESSING.read([1, 2, 3, 4]), np.float32([[0, 0], [1, 2]]))
    np.testing.assert_array_equal(PREPROCESSING.read(np.float32([1, 2]).tobytes()), np.float32([[0, 0]]))


def test_apply_fills_up_with_nan():
    x = PREPROCESSING.apply([3, 2])
    np.testing.assert_array_equal(x, np.float32([[1, 0], *[[np.nan] * 2] * 3]))


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ([], "empty", "The row has no steps"),
        ([1, 2, 3], "wrong shape", "The row has 3 numbers, which are no steps of 2 each"),
        (np.zeros(2_000_000), "too long", "The row has more than 4 steps"),
        ([1, np.nan], "not finite", "The row holds NaN or infinity"),
    ],
)
def test_row_that_cannot_be_used_says_why(content, kind, message):
    with pytest.raises(ContentError, match=message) as caught:
        PREPROCESSING.read(content)
    assert caught.value.kind == kind


def test_a_preprocessing_of_series_survives_json():
    assert as_preprocessing(json.loads(json.dumps(PREPROCESSING.to_dict()))) == PREPROCESSING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "`channels` must be at least 1; got 0"),
        ({"channels": 3, "mean": (1, 2)}, "`mean` must hold one finite number, or one for each of 3 channels"),
        ({"std": (0.0,)}, "`std` must not hold 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SeriesPreprocessing(**options)
