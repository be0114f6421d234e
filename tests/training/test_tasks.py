"""Losses, metrics and class weights, beside the same by scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn import metrics
from torch import nn

from sparkwright.errors import InputError
from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.moments import Moments
from sparkwright.training.tasks import (
    Classification,
    MultiLabel,
    Poisson,
    Quantiles,
    Regression,
    Task,
    class_factors,
    label_factors,
    make_factors,
    make_task,
)
from sparkwright.training.tasks.classification import sequential_logits
from sparkwright.training.tasks.losses import own_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 3)) * 2
CLASSES = RNG.integers(3, size=50)
WEIGHTS = RNG.random(50).astype(np.float32)
VALUES = RNG.normal(size=50) * 30 + 100


def measured(task: Task, output: np.ndarray, y: np.ndarray, weight: np.ndarray, parts: int = 1) -> dict[str, float]:
    sums = np.zeros(task.sums + task.validation_sums)
    for rows in np.array_split(np.arange(len(y)), parts):
        some = [torch.from_numpy(array[rows]) for array in (output, y, weight)]
        sums += torch.cat([task.measure(*some), task.measure_validation(*some)]).numpy()
    return task.metrics(sums)


def classification(factors: tuple[float, ...] = (1, 1, 1), smoothing: float = 0.0) -> Classification:
    return Classification(np.array(factors, np.float32), smoothing)


@pytest.mark.parametrize("parts", [1, 7])
def test_metrics_of_a_classification_are_those_of_scikit_learn(parts: int) -> None:
    found = measured(classification(), LOGITS, CLASSES, WEIGHTS, parts)
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    weights = WEIGHTS.astype(float)
    assert found["loss"] == pytest.approx(metrics.log_loss(CLASSES, probabilities, sample_weight=weights))
    for name, score in (("accuracy", metrics.accuracy_score), ("balanced_accuracy", metrics.balanced_accuracy_score)):
        assert found[name] == pytest.approx(score(CLASSES, LOGITS.argmax(1), sample_weight=weights))
    f1 = metrics.f1_score(CLASSES, LOGITS.argmax(1), sample_weight=weights, average="macro")
    assert found["macro_f1"] == pytest.approx(f1)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_the_calibrated_loss_is_the_least_that_any_temperature_gives(link: str, scale: float) -> None:
    classes = 3 if link == "softmax" else 2
    y = CLASSES % classes
    output = scale * (LOGITS[:, :classes] + 1.5 * np.eye(classes)[y])
    if link == "sigmoid":
        output = output[:, 1:] - output[:, :1]
    logits = output if link == "softmax" else np.pad(output, [(0, 0), (1, 0)])

    def loss(factor: float) -> float:
        scaled = factor * logits - logsumexp(factor * logits, axis=1, keepdims=True)
        return -float(np.average(scaled[np.arange(len(y)), y], weights=WEIGHTS))

    task = Classification(np.ones(classes, np.float32), link=link)
    found = measured(task, output, y, WEIGHTS, parts=3)
    least = minimize_scalar(loss, bounds=(0.05, 20), method="bounded")
    assert 1 / 8 < 1 / least.x < 8
    assert found["calibrated_loss"] == pytest.approx(least.fun, rel=3e-3)
    assert found["loss"] == pytest.approx(loss(1.0), rel=1e-5)
    assert "calibrated_loss" not in task.metrics(np.ones(task.sums))  # of training rows it is not measured


def test_logits_that_are_very_large_have_a_calibrated_loss() -> None:
    found = measured(classification(), LOGITS * 1e4, CLASSES, WEIGHTS)
    assert np.isfinite(found["calibrated_loss"])
    assert found["calibrated_loss"] < found["loss"]


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


# --- losses besides cross-entropy and squared error -------------------------------------------------------------------

MOMENTS = Moments(50, 50.0, np.zeros(0), np.zeros(0), 4.0, 2.0)
LABELS = (RNG.random((50, 3)) < 0.4).astype(np.uint8)
COUNTS = RNG.poisson(4.0, 50).astype(float)


def made(task: str, loss: str | None = None, **settings: object) -> Task:
    config = TrainingConfig(task=task, loss=loss, **settings)  # type: ignore[arg-type]
    classes = 2 if loss == "binary_cross_entropy" and task == "classification" else 3
    return make_task(config, np.ones(classes, np.float32), MOMENTS)


def targets(task: str) -> torch.Tensor:
    return torch.from_numpy({"classification": CLASSES, "multilabel": LABELS, "regression": COUNTS}[task])


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("classification", "cross_entropy"),
        ("classification", "focal"),
        ("classification", "binary_cross_entropy"),
        ("classification", "ordinal"),
        ("multilabel", "binary_cross_entropy"),
        ("multilabel", "focal"),
        ("regression", "squared_error"),
        ("regression", "absolute_error"),
        ("regression", "huber"),
        ("regression", "quantile"),
        ("regression", "poisson"),
    ],
)
def test_every_loss_falls_along_its_slope_and_knows_rows_that_weigh_nothing(task: str, loss: str) -> None:
    learnt = made(task, loss)
    y = targets(task)
    y = y.clamp(max=1) if loss == "binary_cross_entropy" and task == "classification" else y
    output = torch.from_numpy(LOGITS[:, :1]).float().repeat(1, learnt.outputs).requires_grad_()
    before = learnt.loss(output, y, torch.ones(50))
    before.backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    assert learnt.loss(output.detach() - 0.1 * output.grad, y, torch.ones(50)) < before
    assert learnt.loss(output, y, torch.zeros(50)) == 0
    sums = learnt.measure(output.detach(), y, torch.ones(50))
    assert sums.dtype == torch.float64
    assert len(sums) == learnt.sums
    assert learnt.metrics(sums.numpy())["loss"] == pytest.approx(before.item(), rel=1e-5)


def test_focal_loss_is_cross_entropy_times_how_wrong_a_row_is() -> None:
    task = made("classification", "focal", focal_gamma=1.5)
    output, y = torch.from_numpy(LOGITS), torch.from_numpy(CLASSES)
    p = output.softmax(1)[torch.arange(50), y]
    torch.testing.assert_close(task.loss(output, y, torch.ones(50)), ((1 - p) ** 1.5 * -p.log()).mean())


def test_focal_loss_has_a_slope_where_a_row_is_wholly_right() -> None:
    output = torch.tensor([[100.0, 0.0, 0.0]], requires_grad=True)
    made("classification", "focal", focal_gamma=0.5).loss(output, torch.tensor([0]), torch.ones(1)).backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()


def test_one_output_for_two_classes_is_the_log_odds_of_the_second() -> None:
    task = made("classification", "binary_cross_entropy")
    z, y = torch.from_numpy(LOGITS[:, :1]), torch.from_numpy(CLASSES.clip(max=1))
    expected = nn.functional.binary_cross_entropy_with_logits(z[:, 0], y.double())
    torch.testing.assert_close(task.loss(z, y, torch.ones(50)), expected)
    found = task.metrics(task.measure(z, y, torch.ones(50)).numpy())
    assert found["accuracy"] == ((z[:, 0] > 0).long() == y).double().mean()


def test_probabilities_of_ordered_classes_add_up_and_follow_the_outputs() -> None:
    output = torch.from_numpy(LOGITS)
    p = sequential_logits(output).exp()
    assert p.shape == (50, 4)
    torch.testing.assert_close(p.sum(1), torch.ones(50, dtype=torch.float64))
    higher = output.sigmoid()
    torch.testing.assert_close(p[:, 0], 1 - higher[:, 0])
    torch.testing.assert_close(p[:, 2], higher[:, 0] * higher[:, 1] * (1 - higher[:, 2]))
    torch.testing.assert_close(p[:, 3], higher.prod(1))


def test_the_loss_of_several_labels_and_its_weights_are_torchs() -> None:
    output, y, factors = torch.from_numpy(LOGITS).float(), torch.from_numpy(LABELS), np.array([1, 5, 0.5], np.float32)
    expected = nn.BCEWithLogitsLoss(pos_weight=torch.from_numpy(factors))(output, y.float())
    torch.testing.assert_close(MultiLabel(factors).loss(output, y, torch.ones(50)), expected)


@pytest.mark.parametrize("parts", [1, 7])
def test_metrics_of_several_labels_are_those_of_scikit_learn(parts: int) -> None:
    found = measured(MultiLabel(np.ones(3, np.float32)), LOGITS, LABELS, WEIGHTS, parts)
    predicted, weights = (LOGITS > 0).astype(int), WEIGHTS.astype(float)
    assert found["subset_accuracy"] == pytest.approx(metrics.accuracy_score(LABELS, predicted, sample_weight=weights))
    for average in ("micro", "macro"):
        expected = metrics.f1_score(LABELS, predicted, sample_weight=weights, average=average)
        assert found[f"{average}_f1"] == pytest.approx(expected)


def test_labels_are_balanced_by_how_many_rows_lack_them() -> None:
    counts = {"a": 5, "b": 1, "none": 0, "all": 10}
    found = label_factors("balanced", ("a", "b", "none", "all"), counts, rows=10)
    assert found.tolist() == [1, 9, 1, 1]
    config = TrainingConfig(task="multilabel", class_weights={"b": 3.0})
    assert make_factors(config, ("a", "b"), counts, 10).tolist() == [1, 3]


def test_huber_s_loss_is_torchs_of_standardised_targets() -> None:
    output, y = torch.from_numpy(LOGITS[:, :1]), torch.from_numpy(COUNTS)
    expected = nn.functional.huber_loss(output[:, 0], (y - 4) / 2, delta=0.3)
    torch.testing.assert_close(made("regression", "huber", huber_delta=0.3).loss(output, y, torch.ones(50)), expected)


def test_pinball_loss_is_that_of_scikit_learn_and_errors_are_the_medians() -> None:
    task = Quantiles(4.0, 2.0, (0.1, 0.5, 0.9))
    found = measured(task, LOGITS, COUNTS, WEIGHTS)
    z, weights = (COUNTS - 4) / 2, WEIGHTS.astype(float)
    losses = [
        metrics.mean_pinball_loss(z, LOGITS[:, place], alpha=quantile, sample_weight=weights)
        for place, quantile in enumerate((0.1, 0.5, 0.9))
    ]
    assert found["loss"] == pytest.approx(np.mean(losses))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(z, LOGITS[:, 1], sample_weight=weights) * 2)


def test_the_loss_of_counts_differs_from_poisson_s_by_what_no_output_changes() -> None:
    task, output, y = Poisson(4.0), torch.from_numpy(LOGITS[:, :1]), torch.from_numpy(COUNTS)
    other = output + 0.3

    def nll(z: torch.Tensor) -> torch.Tensor:
        return nn.functional.poisson_nll_loss(z[:, 0] + np.log(4.0), y) / 4

    found = task.loss(output, y, torch.ones(50)) - task.loss(other, y, torch.ones(50))
    torch.testing.assert_close(found, nll(output) - nll(other))
    rates = 4 * np.exp(LOGITS[:, 0])
    expected = metrics.mean_absolute_error(COUNTS, rates)
    assert measured(task, LOGITS[:, :1], COUNTS, np.ones(50, np.float32))["mae"] == pytest.approx(expected)


def test_the_output_layer_ends_as_the_logarithm_of_the_count_and_can_go_back() -> None:
    layer, x = nn.Linear(4, 1), torch.randn(6, 4)
    before, task = layer(x), Poisson(4.0)
    task.finish(layer)
    torch.testing.assert_close(layer(x).exp(), 4 * before.exp())
    task.begin(layer)
    torch.testing.assert_close(layer(x), before)


# --- losses of one's own ----------------------------------------------------------------------------------------------


def log_cosh(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (output - y).cosh().log()


def averaged(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (output - y).square().mean()


def without_slope(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (output.detach() - y).square()


def test_a_loss_of_ones_own_is_found_by_its_name() -> None:
    task = made("regression", f"{__name__}:log_cosh")
    output, y = torch.from_numpy(LOGITS[:, :1]).requires_grad_(), torch.from_numpy(COUNTS)
    expected = log_cosh(output[:, 0], (y - 4) / 2).mean()
    torch.testing.assert_close(task.loss(output, y, torch.ones(50)), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:loss", r"`loss` 'no_such_module:loss' cannot be imported: .* importable on the driver and on"),
        (f"{__name__}:log_kosh", r"has no function `log_kosh`\. Did you mean `log_cosh`\?"),
    ],
)
def test_a_loss_that_cannot_be_imported_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        own_loss(name)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("averaged", r"one loss for each of 50 rows, a tensor of shape \(50,\); it returned shape \(\)"),
        ("without_slope", "returned a tensor without a gradient"),
    ],
)
def test_a_loss_that_does_not_return_what_it_must_is_named(function: str, message: str) -> None:
    task, output = made("regression", f"{__name__}:{function}"), torch.randn(50, 1, requires_grad=True)
    with pytest.raises(InputError, match=message):
        task.loss(output, torch.from_numpy(COUNTS), torch.ones(50))
