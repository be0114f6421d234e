"""Losses, metrics and class weights, beside the same by scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from sparkwright.training.tasks import Classification, Regression, Task, class_factors

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 3)) * 2
CLASSES = RNG.integers(3, size=50)
WEIGHTS = RNG.random(50).astype(np.float32)
VALUES = RNG.normal(size=50) * 30 + 100


def measured(task: Task, output: np.ndarray, y: np.ndarray, weight: np.ndarray, parts: int = 1) -> dict[str, float]:
    sums = np.zeros(task.sums)
    for rows in np.array_split(np.arange(len(y)), parts):
        sums += task.measure(*(torch.from_numpy(array[rows]) for array in (output, y, weight))).numpy()
    return task.metrics(sums)


def classification(factors: tuple[float, ...] = (1, 1, 1), smoothing: float = 0.0) -> Classification:
    return Classification(np.array(factors, np.float32), smoothing)


@pytest.mark.parametrize("parts", [1, 7])
def test_metrics_of_a_classification_are_those_of_scikit_learn(parts: int) -> None:
    found = measured(classification(), LOGITS, CLASSES, WEIGHTS, parts)
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    weights = WEIGHTS.astype(float)
    assert found["loss"] == pytest.approx(metrics.log_loss(CLASSES, probabilities, sample_weight=weights))
    expected = metrics.accuracy_score(CLASSES, LOGITS.argmax(1), sample_weight=weights)
    assert found["accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("parts", [1, 7])
def test_metrics_of_a_regression_are_those_of_scikit_learn_in_the_targets_units(parts: int) -> None:
    mean, deviation = VALUES.mean(), VALUES.std()
    predicted = VALUES + RNG.normal(size=50) * 10
    output = ((predicted - mean) / deviation)[:, None]
    found = measured(Regression(mean, deviation), output, VALUES, WEIGHTS, parts)
    weights = WEIGHTS.astype(float)
    assert found["rmse"] == pytest.approx(np.sqrt(metrics.mean_squared_error(VALUES, predicted, sample_weight=weights)))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(VALUES, predicted, sample_weight=weights))
    assert found["r2"] == pytest.approx(metrics.r2_score(VALUES, predicted, sample_weight=weights))
    assert found["loss"] == pytest.approx((found["rmse"] / deviation) ** 2)


@pytest.mark.parametrize("task", [classification(), Regression(0.0, 1.0)])
def test_metrics_of_rows_that_weigh_nothing_are_nan(task: Task) -> None:
    y = CLASSES if task.outputs == 3 else VALUES
    found = measured(task, LOGITS[:, : task.outputs], y, np.zeros(50, np.float32))
    assert all(np.isnan(value) for value in found.values())


def test_a_row_s_weight_is_multiplied_with_its_class_s_in_the_loss_and_alone_in_metrics() -> None:
    factors = (1.0, 5.0, 0.5)
    output, y, weight = (torch.from_numpy(array) for array in (LOGITS, CLASSES, WEIGHTS))
    losses = nn.functional.cross_entropy(output, y, reduction="none")
    expected = (losses * weight * torch.tensor(factors)[y]).mean()
    torch.testing.assert_close(classification(factors).loss(output, y, weight), expected)
    assert measured(classification(factors), LOGITS, CLASSES, WEIGHTS) == measured(
        classification(), LOGITS, CLASSES, WEIGHTS
    )


def test_smoothing_spreads_the_target_in_the_loss_and_not_in_metrics() -> None:
    output, y = torch.from_numpy(LOGITS), torch.from_numpy(CLASSES)
    target = nn.functional.one_hot(y, 3) * 0.7 + 0.3 / 3
    expected = -(target * output.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(classification(smoothing=0.3).loss(output, y, torch.ones(50)), expected)
    smoothed = measured(classification(smoothing=0.3), LOGITS, CLASSES, WEIGHTS)
    assert smoothed == measured(classification(), LOGITS, CLASSES, WEIGHTS)


def test_the_loss_of_a_regression_does_not_know_the_targets_units() -> None:
    output, weight = torch.from_numpy(LOGITS[:, :1]).float(), torch.from_numpy(WEIGHTS)
    z = torch.from_numpy((VALUES - 100) / 30)
    expected = Regression(0.0, 1.0).loss(output, z, weight)
    torch.testing.assert_close(Regression(100.0, 30.0).loss(output, torch.from_numpy(VALUES), weight), expected)


def test_targets_that_are_all_alike_have_no_deviation_to_divide_by() -> None:
    found = measured(Regression(7.0, 0.0), np.full((4, 1), 0.5), np.full(4, 7.0), np.ones(4, np.float32))
    assert found["mae"] == 0.5
    assert np.isnan(found["r2"]) or found["r2"] == -np.inf


def test_the_output_layer_ends_in_the_targets_units_and_can_go_back() -> None:
    layer, x = nn.Linear(4, 1), torch.randn(6, 4)
    standardised, before = layer(x), [parameter.clone() for parameter in layer.parameters()]
    task = Regression(100.0, 30.0)
    task.finish(layer)
    torch.testing.assert_close(layer(x), standardised * 30 + 100)
    task.begin(layer)
    for parameter, was in zip(layer.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, was, atol=1e-5, rtol=1e-5)


def test_the_output_layer_of_a_classification_is_left_alone() -> None:
    layer = nn.Linear(4, 3)
    before = layer.weight.clone()
    classification().begin(layer)
    classification().finish(layer)
    assert torch.equal(layer.weight, before)


def test_balanced_classes_weigh_alike_as_in_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 6 + ["b"] * 3 + ["c"]
    counts = {"a": 6, "b": 3, "c": 1}
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    np.testing.assert_allclose(class_factors("balanced", ("a", "b", "c"), counts), expected, rtol=1e-6)


def test_classes_without_rows_do_not_count_as_classes() -> None:
    assert class_factors("balanced", ("a", "none", "b"), {"a": 3, "b": 1}).tolist() == pytest.approx([2 / 3, 1, 2])


def test_classes_that_are_not_named_weigh_one() -> None:
    assert class_factors({"b": 2.5}, ("a", "b"), {"a": 3, "b": 1}).tolist() == [1, 2.5]
    assert class_factors(None, ("a", "b"), {}).tolist() == [1, 1]
