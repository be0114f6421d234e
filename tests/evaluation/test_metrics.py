"""The metrics against scikit-learn, whatever the partitioning."""

import json
import math

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from sparkwright.evaluation.metrics import CALIBRATION_BINS, ClassificationState, RegressionState, wilson_interval

EXACT = {"rel": 1e-9, "abs": 1e-9}


def random_rows(seed, classes, rows, sharpness=3.0, dtype=np.float64):
    """Softmax outputs that lean towards the labels; not every class need occur."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) * sharpness
    logits[np.arange(rows), labels] += rng.normal(1.5, 1.0, rows)
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return (exponents / exponents.sum(1, keepdims=True)).astype(dtype), labels


def state_of(probabilities, labels, cuts=(), top_k=3, through_bytes=False):
    """Count the rows in parts that end at `cuts`, and merge the parts."""
    merged = ClassificationState(probabilities.shape[1], top_k)
    for part in np.split(np.arange(len(labels)), sorted(cuts)):
        state = ClassificationState(probabilities.shape[1], top_k)
        state.update(probabilities[part], labels[part])
        merged.merge(ClassificationState.from_bytes(state.to_bytes()) if through_bytes else state)
    return merged


def result_of(probabilities, labels, **options):
    return state_of(probabilities, labels, **options).result([f"c{i}" for i in range(probabilities.shape[1])])


cases = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 300), st.sampled_from([0.3, 3.0, 30.0]))


@settings(deadline=None, max_examples=60)
@given(cases, st.lists(st.integers(0, 300), max_size=5))
def test_counted_metrics_equal_scikit_learn_for_any_partitioning(case, cuts):
    p, y = random_rows(*case)
    classes, predicted = p.shape[1], p.argmax(1)
    result = result_of(p, y, cuts=cuts, through_bytes=True)
    occurring = np.union1d(y, predicted)

    assert result["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted), **EXACT)
    recalls = sk.recall_score(y, predicted, labels=np.unique(y), average="macro")
    assert result["balanced_accuracy"] == pytest.approx(recalls, **EXACT)
    if len(occurring) > 1:
        assert result["mcc"] == pytest.approx(sk.matthews_corrcoef(y, predicted), **EXACT)
    assert result["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=range(classes)), **EXACT)
    if classes > 3:
        top = sk.top_k_accuracy_score(y, p, k=3, labels=range(classes))
        assert result["top_k_accuracy"] == pytest.approx(top, **EXACT)
    for average in ("macro", "weighted"):
        expected = sk.precision_recall_fscore_support(y, predicted, average=average, zero_division=0)[:3]
        assert list(result[average].values()) == pytest.approx(list(expected), **EXACT)
    each = sk.precision_recall_fscore_support(y, predicted, labels=range(classes), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "rows"), each, strict=True):
        assert [row[name] for row in result["per_class"]] == pytest.approx(list(values), **EXACT)
    matrix = np.zeros((classes, classes), int)
    confusion = result["confusion"]
    matrix[confusion["true"], confusion["predicted"]] = confusion["rows"]
    assert (matrix == sk.confusion_matrix(y, predicted, labels=range(classes))).all()


@settings(deadline=None, max_examples=60)
@given(cases, st.lists(st.integers(0, 300), max_size=5))
def test_calibration_equals_scikit_learns_curve_and_the_definition(case, cuts):
    p, y = random_rows(*case)
    confidence, correct = p.max(1), p.argmax(1) == y
    result = result_of(p, y, cuts=cuts)
    table = result["calibration"]
    used = np.array(table["rows"]) > 0
    if correct.any() and not correct.all():  # scikit-learn wants both
        shares, means = calibration_curve(correct, confidence, n_bins=CALIBRATION_BINS)
        assert np.array(table["accuracy"], float)[used] == pytest.approx(shares, **EXACT)
        assert np.array(table["confidence"], float)[used] == pytest.approx(means, **EXACT)
    bins = np.ceil(confidence * CALIBRATION_BINS)
    gaps = [abs(confidence[bins == b].sum() - correct[bins == b].sum()) for b in np.unique(bins)]
    assert result["calibration_error"] == pytest.approx(sum(gaps) / len(y), **EXACT)


@settings(deadline=None, max_examples=60)
@given(cases, st.sampled_from([np.float32, np.float64]))
def test_areas_lie_within_their_computed_bound_of_scikit_learn(case, dtype):
    p, y = random_rows(*case, dtype=dtype)
    result = result_of(p, y)
    for c, row in enumerate(result["per_class"]):
        own = y == c
        if own.all() or not own.any():
            assert row["roc_area"] is None
            assert row["pr_area"] is None
            continue
        assert abs(row["roc_area"] - sk.roc_auc_score(own, p[:, c])) <= row["roc_area_bound"] + 1e-12
        assert abs(row["pr_area"] - sk.average_precision_score(own, p[:, c])) <= row["pr_area_bound"] + 1e-12


def test_the_areas_bound_is_small_on_ordinary_outputs():
    for classes, limit in ((2, 5e-4), (100, 1e-3)):
        p, y = random_rows(1, classes, 20_000, dtype=np.float32)
        result = result_of(p, y)
        assert result["roc_area_bound"] < limit
        assert result["pr_area_bound"] < 10 * limit


def test_of_two_classes_the_area_is_that_of_the_second():
    p, y = random_rows(7, 2, 500)
    result = result_of(p, y)
    assert result["pr_area"] == result["per_class"][1]["pr_area"]
    assert result["roc_area"] == pytest.approx(sk.roc_auc_score(y, p[:, 1]), abs=result["roc_area_bound"])


def test_of_many_classes_the_area_is_the_mean_of_one_against_the_rest():
    p, y = random_rows(7, 5, 500)
    result = result_of(p, y)
    expected = sk.roc_auc_score(y, p, multi_class="ovr", average="macro")
    assert result["roc_area"] == pytest.approx(expected, abs=result["roc_area_bound"])


@settings(deadline=None, max_examples=30)
@given(cases, st.permutations(range(6)))
def test_classification_is_the_same_bit_for_bit_in_any_order(case, order):
    p, y = random_rows(*case)
    whole = state_of(p, y)
    parts = np.array_split(np.arange(len(y)), 6)
    shuffled = np.concatenate([parts[i] for i in order])
    assert state_of(p[shuffled], y[shuffled], cuts=[len(y) // 3]).to_bytes() == whole.to_bytes()


def test_a_state_without_rows_gives_none_and_changes_nothing_when_merged():
    p, y = random_rows(3, 4, 50)
    empty = ClassificationState(4, 3)
    result = empty.result(list("abcd"))
    assert result["accuracy"] is None
    assert result["accuracy_interval"] == [0.0, 1.0]
    assert result["log_loss"] is None
    state = state_of(p, y)
    before = state.to_bytes()
    state.merge(empty)
    assert state.to_bytes() == before
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_extreme_probabilities_are_finite_and_cost_what_scikit_learn_says():
    p = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], np.float32)
    y = np.array([0, 0, 1])
    result = result_of(p, y)
    assert result["log_loss"] == pytest.approx(sk.log_loss(y, p.astype(np.float64)), **EXACT)
    assert all(math.isfinite(row["roc_area"]) for row in result["per_class"])


def test_of_equal_probabilities_the_first_class_is_ahead():
    p = np.full((4, 4), 0.25)
    result = result_of(p, np.arange(4), top_k=2)
    assert result["accuracy"] == 0.25
    assert result["top_k_accuracy"] == 0.5


def test_baselines_take_the_majority_of_the_training_rows():
    p, y = np.eye(2)[[0, 0, 0, 1]], np.array([0, 0, 0, 1])
    state = state_of(p, y)
    own = state.result(["cat", "dog"])["baseline"]
    trained = state.result(["cat", "dog"], {"cat": 5, "dog": 9})["baseline"]
    assert own == {"majority": {"class": "cat", "accuracy": 0.75}, "chance": {"accuracy": 0.5}}
    assert trained["majority"] == {"class": "dog", "accuracy": 0.25}


def test_a_thousand_classes_take_little_memory_and_few_bytes():
    p, y = random_rows(5, 1000, 2000, dtype=np.float32)
    state = state_of(p, y)
    assert len(state.to_bytes()) < 16 * 2**20
    assert len(json.dumps(state.result([str(i) for i in range(1000)]))) < 2**20


@pytest.mark.parametrize(("correct", "rows"), [(0, 10), (81, 100), (10, 10), (992, 1100), (1, 10**9)])
def test_wilson_interval_equals_scipys(correct, rows):
    expected = binomtest(correct, rows).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_contains_the_share():
    for rows in (1, 7, 1000):
        for correct in range(0, rows + 1, max(1, rows // 10)):
            low, high = wilson_interval(correct, rows)
            assert low <= correct / rows <= high


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 300),
    st.sampled_from([0.0, 1e3, -1e6]),
    st.lists(st.integers(0, 300), max_size=5),
)
def test_regression_equals_scikit_learn_for_any_partitioning(seed, rows, offset, cuts):
    rng = np.random.default_rng(seed)
    y = rng.normal(offset, 2.0, rows)
    predicted = y + rng.normal(0.1, 1.0, rows)
    merged = RegressionState()
    for part in np.split(np.arange(rows), sorted(cuts)):
        state = RegressionState()
        state.update(predicted[part], y[part])
        merged.merge(RegressionState.from_bytes(state.to_bytes()))
    result = merged.result()
    assert merged.rows == rows
    assert result["mae"] == pytest.approx(sk.mean_absolute_error(y, predicted), **EXACT)
    assert result["rmse"] == pytest.approx(sk.root_mean_squared_error(y, predicted), **EXACT)
    assert result["r2"] == pytest.approx(sk.r2_score(y, predicted), **EXACT)
    assert result["bias"] == pytest.approx((predicted - y).mean(), **EXACT)
    assert result["baseline"]["mean"]["rmse"] == pytest.approx(y.std(), **EXACT)


def test_regression_baseline_predicts_the_training_mean():
    state = RegressionState()
    state.update(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert state.result(training_mean=5.0)["baseline"]["mean"] == {"prediction": 5.0, "rmse": math.sqrt(10)}


def test_regression_without_rows_or_spread_leaves_r2_undefined():
    assert RegressionState().result()["rmse"] is None
    state = RegressionState()
    state.update(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert state.result()["r2"] is None
