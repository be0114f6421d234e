import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from sparkwright.errors import ColumnError, InputError
from sparkwright.events import EpochEnded, Event, Progress, StageEnded, StageStarted
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.config import TrainingConfig
from sparkwright.training.result import TrainingResult

QUICK = TrainingConfig(
    optimizer="sgd", weight_decay=0.01, learning_rate=0.02, epochs=20, batch_size=16, dropout=0.0, patience=None
)


def blobs(n: int = 300, classes: int = 3, width: int = 8, seed: int = 0) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 2.5
    y = rng.integers(classes, size=n)
    return (centres[y] + rng.normal(size=(n, width))).astype(np.float32), np.array([f"c{i}" for i in y])


def digest(result: TrainingResult) -> str:
    return hashlib.sha256(b"".join(v.tobytes() for _, v in sorted(result.head.weights().items()))).hexdigest()


def accuracy(result: TrainingResult, x: NDArray, y: NDArray) -> float:
    return float((np.array(result.classes)[result.head.forward(x).argmax(1)] == y).mean())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden": (16,), "activation": "gelu", "dropout": 0.2},
        {"optimizer": "adam", "learning_rate": 0.01, "weight_decay": 0},
        {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "linear", "warmup": 1},
        {"class_weights": "balanced", "label_smoothing": 0.1},
        {"standardise": False, "replicas": 1, "nesterov": False, "schedule": "step"},
        {"replicas": 7, "sync_every": 1, "monitor": "accuracy"},
        {"weight_average": "ema", "ema_decay": 0.95, "hidden": (16,)},
        {"weight_average": "swa", "swa_from": 0.5, "strategy": "all_reduce"},
        {"optimizer": "rmsprop", "learning_rate": 0.001, "schedule": "one_cycle", "clip_norm": 1.0},
        {"optimizer": "lamb", "learning_rate": 0.05, "accumulate": 2, "precision": "bfloat16"},
    ],
)
def test_classes_are_learnt(changes: dict[str, object]) -> None:
    x, y = blobs()
    xv, yv = blobs(seed=1)
    result = fit_arrays(x, y, QUICK.replace(**changes), validation=(xv, yv))
    assert accuracy(result, xv, yv) > 0.95
    assert result.validation["accuracy"] == pytest.approx(accuracy(result, xv, yv))
    assert result.head.classes == result.classes == ("c0", "c1", "c2")
    assert result.rows == {"train": 300, "validation": 300}


def test_a_linear_head_reaches_the_logistic_regression() -> None:
    x, y = blobs(600, classes=5, width=20)
    xt, yt = blobs(2000, classes=5, width=20, seed=1)
    expected = LogisticRegression(max_iter=1000).fit(x, y).score(xt, yt)
    assert accuracy(fit_arrays(x, y, QUICK.replace(epochs=30)), xt, yt) > expected - 0.01


def test_a_regression_gives_targets_in_their_own_units() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)) * [1, 100, 0.01, 1, 1] + 50
    y = 1e4 + 300 * (x[:, 0] - 50) - 2 * (x[:, 1] - 50)
    config = QUICK.replace(task="regression", label_smoothing=0.0, epochs=30)
    result = fit_arrays(x[:300], y[:300], config.replace(weight_decay=0), validation=(x[300:], y[300:]))
    predicted = result.head.forward(x[300:].astype(np.float32))[:, 0]
    assert np.abs(predicted - y[300:]).max() < 20
    assert result.validation["r2"] > 0.999
    assert result.validation["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - y[300:]) ** 2)), rel=0.01)
    assert result.validation["mae"] == pytest.approx(np.abs(predicted - y[300:]).mean(), rel=0.01)


def test_numbers_as_labels_are_sorted_by_size_and_stay_numbers() -> None:
    x, y = blobs()
    result = fit_arrays(x, np.where(y == "c0", 10, 9), QUICK)
    assert result.classes == (9, 10)


def test_the_order_of_rows_does_not_matter() -> None:
    x, y = blobs()
    order = np.random.default_rng(1).permutation(len(x))
    config = QUICK.replace(hidden=(8,), dropout=0.3, refit=True)
    validation = blobs(100, seed=1)
    back = tuple(part[::-1] for part in validation)
    a = fit_arrays(x, y, config, validation=validation)
    b = fit_arrays(x[order], y[order], config, validation=back)
    assert digest(a) == digest(b)
    assert [e.validation for e in a.history] == [e.validation for e in b.history]
    assert digest(a) != digest(fit_arrays(x, y, config.replace(seed=1), validation=validation))


def test_weights_of_rows_count_like_copies_of_rows() -> None:
    x, y = blobs(200)
    weight = np.where(y == "c0", 50.0, 1.0)
    flat = np.random.default_rng(0).normal(size=(500, 8)) * 3
    plain = fit_arrays(x, y, QUICK)
    heavy = fit_arrays(x, y, QUICK, weight=weight)
    flat = flat.astype(np.float32)
    share = [float((result.head.forward(flat).argmax(1) == 0).mean()) for result in (plain, heavy)]
    assert share[1] > share[0] + 0.05


def test_rows_of_weight_zero_teach_nothing() -> None:
    x, y = blobs(300)
    wrong = np.where(np.arange(300) % 2 == 0, y, "c0")
    result = fit_arrays(x, wrong, QUICK, weight=(np.arange(300) % 2 == 0).astype(float))
    assert accuracy(result, x, y) > 0.95


def test_best_epoch_and_its_weights_are_kept() -> None:
    x, y = blobs(60, classes=3, width=40)
    validation = blobs(200, classes=3, width=40, seed=3)
    config = QUICK.replace(
        epochs=60, learning_rate=0.3, weight_decay=0.0, schedule="constant", patience=5, calibrate=False
    )
    result = fit_arrays(x, np.random.default_rng(0).permutation(y), config, validation=validation)
    losses = [event.validation["loss"] for event in result.history]
    assert result.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == result.best_epoch + 5 < 60  # patience
    assert [event.epoch for event in result.history if event.best][-1] == result.best_epoch
    logits = result.head.forward(validation[0]).astype(np.float64)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    picked = logits[np.arange(200), [result.classes.index(label) for label in validation[1]]]
    assert -picked.mean() == pytest.approx(min(losses), rel=1e-5)


def test_a_head_that_learns_from_smoothed_labels_is_not_stopped_for_being_unsure() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(8, size=240)
    x = rng.normal(size=(8, 30))[y] + 1.5 * rng.normal(size=(240, 30))
    sides = (x[:160], y[:160]), (x[160:], y[160:])
    usual = TrainingConfig(epochs=30, dropout=0.0, learning_rate=0.02, label_smoothing=0.3)
    found = {
        monitor: fit_arrays(*sides[0], usual.replace(monitor=monitor), validation=sides[1]).best_epoch
        for monitor in ("auto", "calibrated_loss", "loss")
    }
    assert found["auto"] == found["calibrated_loss"] > found["loss"]


def test_a_refit_trains_on_validation_rows_too_for_the_best_number_of_epochs() -> None:
    x, y = blobs(100)
    xv, yv = blobs(80, seed=1)
    events: list[Event] = []
    config = QUICK.replace(refit=True, calibrate=False)
    result = fit_arrays(x, y, config, validation=(xv, yv), emit=events.append)
    best = result.best_epoch
    assert StageStarted("refit", best, "epochs") in events
    assert [event.done for event in events if isinstance(event, Progress)] == list(range(1, best + 1))
    assert [event.rows for event in events if isinstance(event, StageEnded)] == [180]
    assert [event.epoch for event in result.history] == list(range(1, 21))  # of the selection
    both = fit_arrays(np.concatenate([x, xv]), np.concatenate([y, yv]), QUICK.replace(epochs=best))
    assert digest(result) == digest(both)
    assert digest(result) != digest(fit_arrays(x, y, QUICK, validation=(xv, yv)))


def test_a_refit_lowers_the_rate_where_the_selection_reached_a_plateau() -> None:
    x, y = blobs(100)
    xv, yv = blobs(80, seed=1)
    config = QUICK.replace(schedule="plateau", plateau_patience=1, learning_rate=0.5, refit=True, calibrate=False)
    result = fit_arrays(x, y, config, validation=(xv, yv))
    rates = [event.learning_rate for event in result.history]
    assert rates[0] == 0.5 > rates[-1]
    table = config.replace(schedule="table", rate_table=dict(enumerate(rates)), epochs=result.best_epoch, refit=False)
    assert digest(result) == digest(fit_arrays(np.concatenate([x, xv]), np.concatenate([y, yv]), table))


def test_a_plateau_needs_validation_rows() -> None:
    with pytest.raises(InputError, match="`schedule` 'plateau' looks at validation rows, and there are none"):
        fit_arrays(*blobs(60), QUICK.replace(schedule="plateau"))


def test_events_tell_of_all_replicas() -> None:
    x, y = blobs()
    events: list[Event] = []
    result = fit_arrays(x, y, QUICK, emit=events.append)
    ended = [event for event in events if isinstance(event, EpochEnded)]
    assert ended == result.history
    first, last = ended[0], ended[-1]
    assert (first.epoch, first.epochs, first.rows, len(first.replica_losses)) == (1, 20, 300, 4)
    assert first.learning_rate == QUICK.learning_rate
    assert last.train_loss < first.train_loss
    assert min(first.replica_losses) <= first.train_loss <= max(first.replica_losses)
    assert first.seconds > 0
    assert 0 <= first.sync_share < 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x[:3], y[:3]), InputError, "`replicas` is 4, but there are only 3 training rows"),
        (lambda x, y: (x[:0], y[:0]), InputError, "There are no training rows"),
        (
            lambda x, y: (x, np.full(len(y), "only")),
            InputError,
            "at least two classes in training; `y` has only 'only'",
        ),
        (lambda x, y: (np.where(np.arange(8) == 1, np.nan, x), y), ColumnError, "300 of 300 rows cannot be trained on"),
        (
            lambda x, y: (x * 1e30, y),
            InputError,
            r"The loss became nan in step 2 of replica 0\. Lower `learningRate` \(now 1e\+30\).* keys [0-9a-f]{16}, ",
        ),
        (lambda x, y: (x, y[:-1]), InputError, r"features of shape \(300, 8\) and 299 labels"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(change: object, error: type[Exception], message: str) -> None:
    x, y = change(*blobs())  # type: ignore[operator]
    config = QUICK.replace(standardise=False, learning_rate=1e30) if "loss" in message else QUICK
    with pytest.raises(error, match=message):
        fit_arrays(x, y, config)


def test_bad_rows_are_counted_by_what_is_wrong_or_left_out() -> None:
    x, y = blobs()
    x[5, 2] = np.nan
    x[7:9, 0] = np.inf
    labels = y.astype(object)
    labels[100] = None
    with pytest.raises(ColumnError, match=r"4 of 300 rows .*: 3 where `x` holds NaN.*; 1 where `y` is null"):
        fit_arrays(x, labels, QUICK)
    result = fit_arrays(x, labels, QUICK, invalid="skip")
    assert result.skipped == 4
    assert result.rows == {"train": 296}
    good = np.isfinite(x).all(1) & (np.arange(300) != 100)
    assert digest(result) == digest(fit_arrays(x[good], y[good], QUICK))


def test_labels_that_are_no_classes_are_refused() -> None:
    x, y = blobs()
    with pytest.raises(ColumnError, match=r"labels that are no classes: c2\. Did you mean `c22`\?"):
        fit_arrays(x, y, QUICK, classes=["c0", "c1", "c22"])
    with pytest.raises(InputError, match=r"classes that no row has: c9\. Did you mean"):
        fit_arrays(x, y, QUICK.replace(class_weights={"c9": 2.0}))


def test_given_classes_keep_their_order_and_may_lack_rows() -> None:
    x, y = blobs()
    result = fit_arrays(x, y, QUICK, classes=["c2", "none", "c0", "c1"])
    assert result.classes == ("c2", "none", "c0", "c1")
    assert accuracy(result, x, y) > 0.95


def test_fewer_rows_than_a_batch_and_replicas_without_rows_train() -> None:
    x, _ = blobs(9)
    result = fit_arrays(x, np.where(np.arange(9) % 2, "a", "b"), QUICK.replace(replicas=9))
    assert result.history[0].rows == 9
    assert np.isfinite(result.history[-1].train_loss)
