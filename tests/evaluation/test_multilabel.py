"""Metrics of any number of labels a row, beside scikit-learn's."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics

from sparkwright.errors import InputError
from sparkwright.evaluation.multilabel import MultiLabelState
from sparkwright.evaluation.report import RunRecord, write_report
from sparkwright.evaluation.tally import CountRows, Counts, MergeStates, MultiLabelTally

RNG = np.random.default_rng(1)
NAMES = ("cat", "dog", "sky", "never")
HAS = RNG.random((300, 4)) < [0.5, 0.2, 0.05, 0.0]
P = np.clip(RNG.random((300, 4)) * 0.6 + 0.3 * HAS, 0, 1).astype(np.float32)
THRESHOLDS = (0.5, 0.4, 0.7, 0.9)


def counted(thresholds: tuple[float, ...] = (), parts: int = 1) -> MultiLabelState:
    states = [MultiLabelState(4) for _ in range(parts)]
    for state, rows in zip(states, np.array_split(np.arange(300), parts), strict=True):
        state.update(P[rows], HAS[rows], thresholds)
    for state in states[1:]:
        states[0].merge(MultiLabelState.from_bytes(state.to_bytes()))
    return states[0]


@pytest.mark.parametrize("thresholds", [(), THRESHOLDS])
def test_figures_are_those_of_scikit_learn(thresholds: tuple[float, ...]) -> None:
    found = counted(thresholds).result(NAMES)
    predicted = np.array(thresholds or 0.5, np.float32) <= P
    assert found["subset_accuracy"] == pytest.approx(metrics.accuracy_score(HAS, predicted))
    assert found["hamming_loss"] == pytest.approx(metrics.hamming_loss(HAS, predicted))
    occur = HAS.any(0) | predicted.any(0)
    for average, columns in (("micro", slice(None)), ("macro", occur), ("weighted", slice(None))):
        scores = metrics.precision_recall_fscore_support(
            HAS[:, columns], predicted[:, columns], average=average, zero_division=0
        )
        assert list(found[average].values()) == pytest.approx(scores[:3])
    losses = [metrics.log_loss(HAS[:, k], P[:, k].astype(float), labels=[False, True]) for k in range(4)]
    assert found["log_loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    precision = [metrics.average_precision_score(HAS[:, k], P[:, k]) for k in range(3)]
    assert found["pr_area"] == pytest.approx(np.mean(precision), abs=found["pr_area_bound"] + 1e-9)
    assert found["baseline"]["none"]["hamming_loss"] == pytest.approx(HAS.mean())
    assert found["labels_per_row"] == pytest.approx({"true": HAS.sum(1).mean(), "predicted": predicted.sum(1).mean()})


def test_parts_that_are_merged_give_the_same_figures_bit_for_bit() -> None:
    assert counted(THRESHOLDS, parts=7).result(NAMES) == counted(THRESHOLDS).result(NAMES)


def test_a_label_that_no_row_has_is_there_without_areas() -> None:
    row = counted().result(NAMES)["per_class"][3]
    assert (row["class"], row["rows"], row["recall"], row["roc_area"]) == ("never", 0, 0, None)


def test_without_rows_nothing_is_defined() -> None:
    found = MultiLabelState(2).result(("a", "b"))
    assert found["subset_accuracy"] is None
    assert found["micro"] == {"precision": None, "recall": None, "f1": None}


def tallied(batch: pa.RecordBatch, classes: tuple[str, ...]) -> tuple[Counts, MultiLabelState]:
    tally = MultiLabelTally(classes)
    (merged,) = MergeStates(tally)(CountRows(tally)([batch]))
    return Counts.from_json(merged["counts"][0].as_py()), tally.read_state(merged["state"][0].as_py())


def rows(label: pa.Array, probabilities: list[list[float] | None]) -> pa.RecordBatch:
    p = pa.array(probabilities, pa.list_(pa.float32()))
    return pa.record_batch([label, p, pa.nulls(len(p), pa.string())], ["label", "probabilities", "error"])


def test_rows_that_cannot_be_evaluated_are_counted_by_why() -> None:
    label = pa.array([["a", "b"], [], None, ["a", "x"], ["a"], ["b"]])
    p = [[0.9, 0.9], [0.1, 0.1], [0.9, 0.1], [0.9, 0.1], None, [float("nan"), 1]]
    counts, state = tallied(rows(label, p), ("a", "b"))
    assert counts.to_dict(state.rows) == {
        "rows": 6,
        "evaluated": 2,
        "errors": 2,
        "error_kinds": {"no prediction": 1, "not finite": 1},
        "unlabelled": 1,
        "unknown_labels": {"rows": 1, "examples": ["x"]},
    }
    assert state.result(("a", "b"))["subset_accuracy"] == 1


def test_labels_may_be_numbers() -> None:
    counts, state = tallied(rows(pa.array([[3, 7], [7]]), [[0.9, 0.9], [0.9, 0.9]]), ("3", "7"))
    assert counts.unknown == 0
    assert state.result(("3", "7"))["micro"]["precision"] == 0.75


def test_probabilities_of_other_labels_are_refused() -> None:
    with pytest.raises(InputError, match="A row has 2 probabilities, and there are 3 classes"):
        tallied(rows(pa.array([["a"]]), [[0.5, 0.5]]), ("a", "b", "c"))


def test_the_report_shows_the_labels_and_what_no_label_would_reach() -> None:
    found = counted().result(NAMES)
    counts = {"rows": 300, "evaluated": 300, "errors": 0, "unlabelled": 0, "classes": list(NAMES)}
    page = write_report(RunRecord("t", metrics={"test": {"task": "multilabel", **counts, **found}}))
    for part in ("test F1 of all decisions", "without any label", "Figures of each label", "All labels right", "never"):
        assert part in page
    assert "Most often taken for" not in page
