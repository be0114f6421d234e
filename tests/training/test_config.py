import json
from typing import Any

import numpy as np
import pytest

from sparkwright.errors import InputError
from sparkwright.training.config import TrainingConfig, label_text
from sparkwright.training.settings import ACTIVATIONS


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(InputError) as caught:
        TrainingConfig(optimizer="adm", schedule="cosin", epochs=0, dropout=1.0, hidden=(0,), batch_size=2.5)
    message = str(caught.value)
    for part in (
        "adagrad, lamb, lars, not 'adm'. Did you mean `adam`?",
        "Did you mean `cosine`?",
        "`epochs` must be a whole number of at least 1, not 0",
        "`dropout` must be at least 0 and below 1, not 1.0",
        "`hidden` must hold positive widths, not 0",
        "`batch_size` must be a whole number of at least 1, not 2.5",
    ):
        assert part in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "fast", True, -1, 0])
def test_a_rate_that_is_no_positive_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="`learning_rate` must be above 0"):
        TrainingConfig(learning_rate=value)  # type: ignore[arg-type]


def test_an_unknown_setting_is_named_with_the_closest() -> None:
    with pytest.raises(
        InputError, match=r"configured like this: Unknown setting `learningrate`\. Did you mean `learning_rate`\?"
    ):
        TrainingConfig.from_dict({"learningrate": 0.1})


def test_unknown_settings_and_values_that_cannot_be_are_said_together() -> None:
    with pytest.raises(InputError) as caught:
        TrainingConfig.from_dict({"epocs": 3, "Batch_Size": 4, "momentum": 2, "refit": "no", "hidden": None})
    assert caught.value.problems == (
        "Unknown setting `epocs`. Did you mean `epochs`?",
        "Unknown setting `Batch_Size`. Did you mean `batch_size`?",
        "`refit` must be true or false, not 'no'.",
        "`momentum` must be at least 0 and below 1, not 2.",
        "`hidden` must be a list of widths, such as [128], not None.",
    )


def test_numbers_of_numpy_are_taken_as_pythons() -> None:
    config = TrainingConfig(epochs=np.int64(5), learning_rate=np.float32(0.5), hidden=[np.int32(8)], batch_size=16.0)  # type: ignore[arg-type]
    assert config == TrainingConfig(epochs=5, learning_rate=0.5, hidden=(8,), batch_size=16)
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_class_weights_name_classes_as_the_labels_are_written() -> None:
    weights = {0: 1, 1.0: 2.5, "b": 3}
    assert TrainingConfig(class_weights=weights).class_weights == {"0": 1.0, "1": 2.5, "b": 3.0}  # type: ignore[arg-type]
    assert [label_text(label) for label in (2, 3.0, False, "x", 0.5)] == ["2", "3", "false", "x", "0.5"]


def test_the_metric_must_be_one_of_the_task() -> None:
    with pytest.raises(InputError, match="`monitor` must be one of auto, loss, rmse, mae, r2, not 'accuracy'"):
        TrainingConfig(task="regression", monitor="accuracy", label_smoothing=0)


def test_auto_monitors_the_calibrated_loss_where_labels_are_smoothed_and_the_model_is_calibrated() -> None:
    assert TrainingConfig(label_smoothing=0.1).monitored == "calibrated_loss"
    assert TrainingConfig(loss="focal").monitored == "calibrated_loss"
    assert TrainingConfig().monitored == TrainingConfig(label_smoothing=0.1, calibrate=False).monitored == "loss"
    assert TrainingConfig(loss="ordinal", label_smoothing=0.1).monitored == "loss"
    assert TrainingConfig(task="regression").monitored == TrainingConfig(task="multilabel").monitored == "loss"
    assert TrainingConfig(monitor="accuracy").monitored == "accuracy"
    with pytest.raises(InputError, match="`monitor` 'calibrated_loss' divides logits; with `loss` 'ordinal' there are"):
        TrainingConfig(monitor="calibrated_loss", loss="ordinal")


def test_class_settings_are_refused_for_a_regression() -> None:
    with pytest.raises(InputError, match="`class_weights` needs classes"):
        TrainingConfig(task="regression", class_weights="balanced", monitor="loss", label_smoothing=0)


@pytest.mark.parametrize("weights", [{"a": -1.0}, {"a": float("nan")}, {"a": "2"}, "even", [1.0, 2.0], 5])
def test_class_weights_that_cannot_weigh_are_refused(weights: object) -> None:
    with pytest.raises(InputError, match="`class_weights` must be"):
        TrainingConfig(class_weights=weights)  # type: ignore[arg-type]


def test_a_configuration_survives_json() -> None:
    config = TrainingConfig(hidden=(64, 32), class_weights={"a": 2.0}, patience=None)
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_activations_are_those_of_the_network() -> None:
    from sparkwright.networks import mlp

    assert tuple(mlp.ACTIVATIONS) == ACTIVATIONS


@pytest.mark.parametrize(
    ("settings", "rate", "decay", "dropped"),
    [
        ({}, 0.006, 1.0, 0.3),
        ({"optimizer": "sgd"}, 0.02, 0.003, 0.3),
        ({"optimizer": "adam"}, 0.006, 0.0, 0.3),
        ({"task": "regression"}, 0.01, 0.0, 0.0),
        ({"task": "regression", "optimizer": "sgd"}, 0.02, 0.0, 0.0),
        ({"learning_rate": 1.0, "weight_decay": 0.5, "dropout": 0.1}, 1.0, 0.5, 0.1),
    ],
)
def test_what_is_left_open_follows_task_and_optimiser(
    settings: dict[str, object], rate: float, decay: float, dropped: float
) -> None:
    config = TrainingConfig().replace(**settings)
    assert (config.rate, config.decay, config.dropped) == (rate, decay, dropped)


def test_one_hidden_width_may_stand_alone() -> None:
    assert TrainingConfig(hidden=256).hidden == (256,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "cross_entropi"}, r"`loss` must be one of None, cross_entropy, .* Did you mean `cross_entropy`\?"),
        ({"task": "regression", "loss": "focal"}, "`loss` must be one of None, squared_error"),
        ({"loss": "my losses:f"}, "`loss` of your own must be named 'package.module:function', not 'my losses:f'"),
        ({"focal_gamma": 0}, "`focal_gamma` must be above 0"),
        ({"task": "regression", "quantiles": (0.5, 1.0)}, "`quantiles` must be above 0 and below 1, not 1.0"),
        ({"task": "regression", "quantiles": ()}, r"`quantiles` must be a list of numbers, such as \[0.1, 0.5, 0.9\]"),
        ({"task": "regression", "threshold_metric": "f1"}, "`threshold_metric` needs classes"),
        ({"task": "multilabel", "label_smoothing": 0.1}, "`label_smoothing` spreads a target over classes"),
        ({"task": "multilabel", "sampling": "balanced"}, "`sampling` 'balanced' needs one class a row"),
        ({"sampling": "balanced", "class_weights": "balanced"}, "`sampling` and `class_weights` are both 'balanced'"),
        ({"sampling": "balance"}, r"`sampling` must be one of shuffled, balanced, .* Did you mean `balanced`\?"),
    ],
)
def test_settings_of_losses_and_imbalance_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "objective", "link"),
    [
        ({}, "cross_entropy", "softmax"),
        ({"loss": "ordinal"}, "ordinal", "sequential"),
        ({"loss": "binary_cross_entropy"}, "binary_cross_entropy", "sigmoid"),
        ({"task": "multilabel"}, "binary_cross_entropy", "sigmoid"),
        ({"task": "regression"}, "squared_error", "identity"),
        ({"task": "regression", "loss": "poisson"}, "poisson", "exp"),
        ({"task": "regression", "loss": "mine.losses:pinch"}, "mine.losses:pinch", "identity"),
    ],
)
def test_the_task_and_its_loss_say_what_outputs_mean(settings: dict[str, Any], objective: str, link: str) -> None:
    config = TrainingConfig(**settings)
    assert (config.objective, config.link) == (objective, link)


def test_one_quantile_may_stand_alone() -> None:
    assert TrainingConfig(task="regression", quantiles=0.9).quantiles == (0.9,)  # type: ignore[arg-type]
