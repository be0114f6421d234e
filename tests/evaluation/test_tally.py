"""What a task counts of its Arrow batches, without Spark."""

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.errors import InputError
from sparkwright.evaluation.tally import ClassificationTally, CountRows, Counts, MergeStates, RegressionTally

CAT, DOG = [0.9, 0.1], [0.2, 0.8]


def batch_of(labels, probabilities, errors=None, label_type=None):
    return pa.record_batch(
        {
            "label": pa.array(labels, label_type or pa.string()),
            "probabilities": pa.array(probabilities, pa.list_(pa.float32())),
            "error": pa.array(errors or [None] * len(labels), pa.string()),
        }
    )


def counted(batches, classes=("cat", "dog")):
    """Count each batch in a task of its own, merge, and return counts and metrics as one dictionary."""
    tally = ClassificationTally(tuple(classes), 1)
    parts = [part for batch in batches for part in CountRows(tally)([batch])]
    merged = list(MergeStates(tally)(parts))
    if not merged:
        return Counts().to_dict(0) | tally.new_state().result(classes)
    counts = Counts.from_json(merged[0]["counts"][0].as_py())
    state = tally.read_state(merged[0]["state"][0].as_py())
    return counts.to_dict(state.rows) | state.result(classes)


def test_every_row_is_either_evaluated_or_counted_with_a_reason():
    result = counted(
        [
            batch_of(["cat", "dog", "dog", None], [CAT, DOG, CAT, CAT]),
            batch_of(
                ["cat", "cat", None, "dog"], [None, None, None, None], ["unreadable", "too large", "unreadable", None]
            ),
            batch_of(["emu", "dog", "cat"], [CAT, [np.nan, 1.0], [np.inf, 0.0]]),
        ]
    )
    assert result["rows"] == 11
    assert result["evaluated"] == 3
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["errors"] == 6
    assert result["error_kinds"] == {"not finite": 2, "unreadable": 2, "no prediction": 1, "too large": 1}
    assert result["unlabelled"] == 1
    assert result["unknown_labels"] == {"rows": 1, "examples": ["emu"]}


def test_a_null_probability_inside_a_row_makes_the_row_an_error():
    result = counted([batch_of(["cat", "dog"], [[0.5, None], DOG])])
    assert (result["evaluated"], result["error_kinds"]) == (1, {"not finite": 1})


def test_an_empty_batch_and_a_batch_of_nulls_count_nothing_wrong():
    result = counted([batch_of([], []), batch_of([None, None], [None, None])])
    assert (result["rows"], result["evaluated"], result["errors"], result["accuracy"]) == (2, 0, 2, None)


def test_a_task_without_rows_gives_no_state():
    assert counted([batch_of([], [])])["rows"] == 0


def test_a_slice_of_a_batch_is_counted_alone():
    whole = batch_of(["cat", "dog", "dog", "cat"], [CAT, CAT, DOG, None])
    assert counted([whole.slice(1, 2)])["confusion"] == {"true": [1, 1], "predicted": [0, 1], "rows": [1, 1]}


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.float64(), pa.decimal128(5, 1)])
def test_number_labels_are_names_where_all_names_are_numbers(kind):
    result = counted([batch_of([5, 6, None, 0], [CAT, CAT, CAT, CAT], label_type=kind)], ["5", "6"])
    assert result["confusion"]["true"] == [0, 1]
    assert result["unlabelled"] == 1
    assert result["unknown_labels"]["rows"] == 1


def test_number_labels_are_indices_where_the_names_are_words():
    result = counted([batch_of([0.0, 1.0, 1.0, float("nan"), 7.0], [CAT, CAT, DOG, CAT, CAT], label_type=pa.float64())])
    assert result["confusion"]["true"] == [0, 1, 1]
    assert result["unlabelled"] == 1
    assert result["unknown_labels"] == {"rows": 1, "examples": ["7.0"]}


def test_examples_of_unknown_labels_are_few_and_independent_of_order():
    names = [f"x{i:02d}" for i in range(40)]
    batches = [batch_of([name], [CAT]) for name in names]
    result = counted(batches)
    assert result["unknown_labels"] == counted(batches[::-1])["unknown_labels"]
    assert result["unknown_labels"] == {"rows": 40, "examples": names[:20]}


def test_probabilities_of_another_number_of_classes_are_refused():
    with pytest.raises(InputError, match=r"A row has 3 probabilities, and there are 2 classes\. Give the classes of"):
        counted([batch_of(["cat", "dog"], [CAT, [0.1, 0.2, 0.7]])])


def test_regression_leaves_out_what_has_no_label_or_no_number():
    tally = RegressionTally()
    batch = pa.record_batch(
        {
            "label": pa.array([1.0, None, float("nan"), 2.0, 3.0, 4.0]),
            "prediction": pa.array([1.5, 1.0, 1.0, None, float("nan"), 4.0]),
            "error": pa.array([None] * 6, pa.string()),
        }
    )
    counts, state = Counts(), tally.new_state()
    tally.count(batch, counts, state)
    assert state.rows == 2
    assert state.result()["mae"] == 0.25
    assert counts.to_dict(state.rows) == {
        "rows": 6,
        "evaluated": 2,
        "errors": 2,
        "error_kinds": {"no prediction": 1, "not finite": 1},
        "unlabelled": 2,
        "unknown_labels": {"rows": 0, "examples": []},
    }
