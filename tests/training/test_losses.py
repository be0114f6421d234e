"""Losses, labels and rare classes, from the table to the predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from sparkwright.errors import ColumnError, InputError
from sparkwright.events import EpochEnded, Event, Progress
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.labels import to_probabilities
from sparkwright.scoring.predictor import Predictor
from sparkwright.training.arrays import fit_arrays, fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.heads import MLPClassifier, MLPRegressor
from sparkwright.training.estimators.networks import NetworkClassifier

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 3))
SIDES = np.where(np.arange(400) < 300, "train", "validation")
TABLE = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "split": SIDES})
WIDE: dict[str, Any] = {
    **{"featuresCols": ["a", "b", "c"], "splitCol": "split"},
    **{"epochs": 20, "learningRate": 0.05, "weightDecay": 0.0, "dropout": 0.0},
}


def draws() -> np.random.Generator:
    """Return a generator that does not depend on which tests have run."""
    return np.random.default_rng(1)


def test_two_classes_are_learnt_with_one_output() -> None:
    table = TABLE.assign(label=np.where(X[:, 0] + 0.5 * draws().normal(size=400) > 0, "yes", "no"))
    model = MLPClassifier(**WIDE, loss="binary_cross_entropy").fit(table)
    kept = model.getModel()
    assert kept.head is not None
    assert (kept.head.output_shape, kept.link) == ((1,), "sigmoid")
    found = model.transform(table)
    p = np.stack(found["probabilities"])
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    expected = LogisticRegression().fit(X[:300], table["label"][:300])
    assert np.corrcoef(p[:, 1], expected.predict_proba(X)[:, 1])[0, 1] > 0.99
    assert (found["prediction"] == expected.predict(X)).mean() > 0.95
    assert (found["prediction"] == np.where(p[:, 1] > 0.5, "yes", "no")).all()


def test_one_output_for_three_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"`loss` 'binary_cross_entropy' takes two classes; `label` has 3"):
        MLPClassifier(**WIDE, loss="binary_cross_entropy").fit(TABLE.assign(label=np.arange(400) % 3))


def test_ordered_classes_are_learnt_with_an_output_less(tmp_path: Path) -> None:
    grade = np.digitize(X[:, 0], [-1, 0, 1])
    model = MLPClassifier(**WIDE, loss="ordinal").fit(TABLE.assign(label=grade))
    kept = model.getModel()
    assert kept.head is not None
    assert kept.head.output_shape == (3,)
    found = model.transform(TABLE)
    np.testing.assert_allclose(np.stack(found["probabilities"]).sum(1), 1, rtol=1e-5)
    assert np.abs(found["prediction"] - grade).mean() < 0.3
    kept.save(str(tmp_path / "model"))
    alone = Predictor.load(str(tmp_path / "model")).predict(X.astype(np.float32))
    assert [each.label for each in alone] == found["prediction"].tolist()
    assert Model.load(str(tmp_path / "model")).link == "sequential"


def test_focal_loss_learns_too() -> None:
    table = TABLE.assign(label=X[:, 1] > 0)
    found = MLPClassifier(**WIDE, loss="focal", focalGamma=1.0).fit(table).transform(table)
    assert (found["prediction"] == np.where(X[:, 1] > 0, "true", "false")).mean() > 0.95


def test_quantiles_cover_the_share_of_rows_that_they_name() -> None:
    target = 100 + 10 * X[:, 0] + 5 * draws().normal(size=400)
    table = TABLE.assign(label=target)
    params = {**WIDE, "epochs": 60, "patience": 60}
    found = MLPRegressor(**params, loss="quantile", quantiles=[0.1, 0.5, 0.9]).fit(table).transform(table)
    low, _, high = np.stack(found["prediction"]).T
    assert np.mean(target < low) == pytest.approx(0.1, abs=0.06)
    assert np.mean(target < high) == pytest.approx(0.9, abs=0.06)


def test_counts_are_predicted_as_scikit_learn_does() -> None:
    counts = draws().poisson(np.exp(1 + 0.5 * X[:, 0]))
    table = TABLE.assign(label=counts)
    found = MLPRegressor(**WIDE, loss="poisson").fit(table).transform(table)["prediction"]
    expected = PoissonRegressor(alpha=0).fit(X[:300], counts[:300]).predict(X)
    assert (found > 0).all()
    np.testing.assert_allclose(found, expected, rtol=0.15)


def test_counts_below_zero_are_rows_that_cannot_be_trained_on() -> None:
    counts = np.r_[-1.0, np.ones(399)]
    with pytest.raises(ColumnError, match=r"1 where `label` is negative, and a Poisson loss takes counts"):
        MLPRegressor(**WIDE, loss="poisson").fit(TABLE.assign(label=counts))


def cubed(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).abs() ** 3


def test_a_loss_of_ones_own_trains_by_its_name() -> None:
    table = TABLE.assign(label=5 * X[:, 0])
    model = MLPRegressor(**WIDE, loss=f"{__name__}:cubed").fit(table)
    assert np.corrcoef(model.transform(table)["prediction"], table["label"])[0, 1] > 0.99


def test_a_training_goes_on_from_a_model_of_counts_where_that_ended() -> None:
    table = TABLE.assign(label=draws().poisson(np.exp(1 + 0.5 * X[:, 0])))
    first = MLPRegressor(**WIDE, loss="poisson").fit(table)
    params = {**WIDE, "learningRate": 1e-6, "epochs": 1}
    second = MLPRegressor(**params, loss="poisson", initialModel=first).fit(table)
    np.testing.assert_allclose(second.transform(table)["prediction"], first.transform(table)["prediction"], rtol=1e-3)


def test_going_on_with_outputs_that_mean_something_else_is_refused() -> None:
    table = TABLE.assign(label=X[:, 0] > 0, number=X[:, 0])
    classifier = MLPClassifier(**WIDE).fit(table)
    with pytest.raises(InputError, match="its `link` is 'softmax', the training's 'sigmoid'"):
        MLPClassifier(**WIDE, loss="binary_cross_entropy", initialModel=classifier).fit(table)
    regressor = MLPRegressor(**WIDE, labelCol="number").fit(table)
    with pytest.raises(InputError, match="The training has 2 outputs a row; the model to go on from has 1"):
        MLPRegressor(**WIDE, labelCol="number", loss="quantile", quantiles=[0.1, 0.9], initialModel=regressor).fit(
            table
        )


# --- several labels a row ---------------------------------------------------------------------------------------------

HAS = np.stack([X[:, 0] > 0, X[:, 1] > 1.2, X[:, 0] + X[:, 2] > 0.5], axis=1)
TAGS = [[name for name, has in zip(("left", "rare", "top"), row, strict=True) if has] for row in HAS]
TAGGED = TABLE.assign(tags=TAGS)


def test_any_number_of_labels_is_learnt_from_arrays_and_predicted_as_arrays(tmp_path: Path) -> None:
    model = MLPClassifier(**WIDE, labelCol="tags").fit(TAGGED)
    kept = model.getModel()
    assert (kept.task, kept.classes, kept.thresholds) == ("multilabel", ("left", "rare", "top"), ())
    found = model.transform(TAGGED)
    p = np.stack(found["probabilities"])
    predicted = np.array([[name in row for name in kept.classes] for row in found["prediction"]])
    assert (predicted == (p >= 0.5)).all()
    assert "probability" not in found
    assert metrics.f1_score(HAS, predicted, average="micro") > 0.85
    validation = model.history.query("epoch == @model.bestEpoch").iloc[0]
    assert validation["validation_subset_accuracy"] == pytest.approx((predicted == HAS)[300:].all(1).mean())
    kept.save(str(tmp_path / "model"))
    alone = Predictor.load(str(tmp_path / "model")).predict(X.astype(np.float32))
    assert [list(each.labels) for each in alone] == [list(row) for row in found["prediction"]]


def test_thresholds_of_labels_are_chosen_on_validation_rows_and_kept() -> None:
    model = MLPClassifier(**WIDE, labelCol="tags", thresholdMetric="f1").fit(TAGGED)
    kept, found = model.getModel(), model.transform(TAGGED)
    p = np.stack(found["probabilities"])
    assert len(kept.thresholds) == 3
    assert [list(row) for row in found["prediction"]] == [
        [name for name, has in zip(kept.classes, row, strict=True) if has]
        for row in p >= np.array(kept.thresholds, np.float32)
    ]
    for label in range(3):
        chosen = metrics.f1_score(HAS[300:, label], p[300:, label] >= kept.thresholds[label])
        assert chosen >= metrics.f1_score(HAS[300:, label], p[300:, label] >= 0.5)


def test_rows_without_labels_train_and_rows_whose_labels_are_null_are_told() -> None:
    result = fit_arrays(X, [["a"], []] * 200, TrainingConfig(task="multilabel", epochs=2))
    assert (result.classes, result.rows["train"]) == (("a",), 400)
    with pytest.raises(ColumnError, match=r"2 where `tags` is null, for .*; 1 where `tags` holds null, for"):
        MLPClassifier(**WIDE, labelCol="tags").fit(TAGGED.assign(tags=[None, None, ["left", None], *TAGS[3:]]))


def test_labels_may_be_numbers_and_come_in_any_order_and_twice() -> None:
    config = TrainingConfig(task="multilabel", epochs=3)
    first = fit_arrays(X, [[10, 9] if row[0] else [9] for row in HAS], config)
    second = fit_arrays(X, [[9, 10, 9] if row[0] else [9] for row in HAS], config)
    assert first.classes == (9, 10)
    assert all(np.array_equal(first.head.weights()[name], value) for name, value in second.head.weights().items())


def test_one_label_a_row_is_not_taken_for_several() -> None:
    with pytest.raises(ColumnError, match="Column `y` must hold arrays of text or whole numbers"):
        fit_arrays(X, ["a", "b"] * 200, TrainingConfig(task="multilabel"))


def test_no_label_at_all_cannot_be_learnt() -> None:
    with pytest.raises(InputError, match="A training of several labels a row needs rows with a label; `y` has none"):
        fit_arrays(X, [[]] * 400, TrainingConfig(task="multilabel"))


def test_probabilities_of_labels_are_calibrated() -> None:
    noisy = HAS ^ (draws().random(HAS.shape) < 0.2)
    tags = [[name for name, has in zip("abc", row, strict=True) if has] for row in noisy]
    config = TrainingConfig(task="multilabel", hidden=(64,), dropout=0.0, weight_decay=0.0, epochs=60, patience=None)
    fitted, plain = (
        fit_arrays(X[:300], tags[:300], config.replace(calibrate=wanted), validation=(X[300:], tags[300:]))
        for wanted in (True, False)
    )
    assert fitted.temperature != 1
    scaled, raw = (result.head.forward(X.astype(np.float32)) for result in (fitted, plain))
    np.testing.assert_allclose(scaled * fitted.temperature, raw, rtol=1e-4, atol=1e-5)

    def loss(logits: np.ndarray) -> float:
        return float(metrics.log_loss(noisy[300:].ravel(), 1 / (1 + np.exp(-logits[300:].ravel().astype(float)))))

    assert loss(raw / fitted.temperature) <= 1.001 * min(loss(raw), loss(raw / 2), loss(raw * 2))


# --- rare classes -----------------------------------------------------------------------------------------------------

RARE = np.where(X[:, 0] + 0.7 * draws().normal(size=400) > 1.7, "fraud", "fine")
RARE[:5] = RARE[300:305] = "fraud"


def recall(**params: Any) -> float:
    found = MLPClassifier(**{**WIDE, "labelCol": "kind", **params}).fit(TABLE.assign(kind=RARE)).transform(TABLE)
    return float((found["prediction"] == "fraud")[RARE == "fraud"].mean())


@pytest.mark.parametrize(
    "params",
    [{"sampling": "balanced"}, {"classWeights": "balanced"}, {"thresholdMetric": "balanced_accuracy"}],
)
def test_each_way_to_live_with_rare_classes_finds_more_of_them(params: dict[str, Any]) -> None:
    assert recall(**params) > recall() + 0.2


def test_the_threshold_of_two_classes_decides_and_leaves_probabilities() -> None:
    table = TABLE.assign(kind=RARE)
    usual, tuned = (
        MLPClassifier(**WIDE, labelCol="kind", thresholdMetric=metric).fit(table) for metric in (None, "f1")
    )
    (threshold,) = tuned.getModel().thresholds
    found, before = tuned.transform(table), usual.transform(table)
    p = np.stack(found["probabilities"])[:, 1]
    np.testing.assert_array_equal(p, np.stack(before["probabilities"])[:, 1])
    assert (found["prediction"] == np.where(p >= np.float32(threshold), "fraud", "fine")).all()
    np.testing.assert_allclose(found["probability"], np.where(found["prediction"] == "fraud", p, 1 - p), rtol=1e-5)


def test_thresholds_of_three_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"`thresholdMetric` chooses between two classes; `label` has 3\. Where rare"):
        MLPClassifier(**WIDE, thresholdMetric="f1").fit(TABLE.assign(label=np.arange(400) % 3))


def test_thresholds_without_validation_rows_are_refused() -> None:
    with pytest.raises(InputError, match="`thresholdMetric` looks at validation rows, and there are none"):
        MLPClassifier(**{**WIDE, "splitCol": None}, thresholdMetric="f1").fit(TABLE.assign(label=RARE))


def test_labels_that_only_validation_rows_have_are_told(caplog: pytest.LogCaptureFixture) -> None:
    label = np.array(["a", "b"] * 200, dtype=object)
    label[350] = "new"
    MLPClassifier(**WIDE).fit(TABLE.assign(label=label))
    assert "1 validation row has a label that no training row has (new), so the model cannot learn it" in caplog.text


# --- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "outputs"),
    [
        ({"labelCol": "tags", "thresholdMetric": "f1"}, 3),
        ({"labelCol": "kind", "loss": "binary_cross_entropy", "sampling": "balanced"}, 1),
        ({"labelCol": "grade", "loss": "ordinal"}, 2),
    ],
)
def test_a_whole_network_takes_labels_and_losses_as_a_head_does(params: dict[str, Any], outputs: int) -> None:
    table = {"x": X.astype(np.float32), "tags": TAGS, "kind": RARE, "grade": np.digitize(X[:, 0], [-0.5, 0.5])}
    settings = {"featuresCol": "x", "epochs": 10, "learningRate": 0.02, "validationFraction": 0.25, "weightDecay": 0.0}
    model = NetworkClassifier(network=mlp(3, 8, hidden=[16], seed=1), **settings, **params).fit(table)
    kept, found = model.getModel(), model.transform(table)
    assert kept.full.output_shape == (outputs,)
    p = to_probabilities(kept.full.forward(table["x"]), str(kept.link), len(kept.classes))
    np.testing.assert_allclose(np.stack(found["probabilities"]), p, rtol=1e-4, atol=1e-6)
    pairs = zip(found["prediction"], table[params["labelCol"]], strict=True)
    assert np.mean([list(a) == b if isinstance(b, list) else a == b for a, b in pairs]) > 0.6


# --- interrupted ------------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    """What ends a training before its end."""


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "multilabel", "threshold_metric": "f1"},
        {"sampling": "balanced", "threshold_metric": "f1", "loss": "binary_cross_entropy"},
    ],
)
@pytest.mark.parametrize("moment", ["selection", "refit"])
def test_what_was_interrupted_ends_with_the_same_bits(settings: dict[str, Any], moment: str, tmp_path: Path) -> None:
    config = TrainingConfig(**settings, epochs=4, learning_rate=0.05, refit=True)
    label = "tags" if config.task == "multilabel" else "kind"
    table = TAGGED.assign(kind=RARE)
    columns: dict[str, Any] = {"features": ["a", "b", "c"], "label": label, "split": "split"}

    def stop(event: Event) -> None:
        told = {"selection": isinstance(event, EpochEnded), "refit": isinstance(event, Progress)}
        epoch = {"selection": 2, "refit": 1}[moment]  # the refit may have one alone
        if told[moment] and getattr(event, "epoch", getattr(event, "done", 0)) == epoch:
            raise StoppedError

    run: dict[str, Any] = {"run": str(tmp_path / "run"), "checkpoint_s": 0}
    with pytest.raises(StoppedError):
        fit_table(table, config, **columns, **run, emit=stop)
    resumed, expected = fit_table(table, config, **columns, **run), fit_table(table, config, **columns)
    assert resumed.thresholds == expected.thresholds
    assert [event.validation for event in resumed.history] == [event.validation for event in expected.history]
    for name, values in expected.head.weights().items():
        np.testing.assert_array_equal(resumed.head.weights()[name], values)
