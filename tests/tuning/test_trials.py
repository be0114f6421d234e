"""The values of a search, and their way through JSON."""

import json

import pytest

from sparkwright.events import EpochEnded
from sparkwright.tuning.trials import Assignment, Job, Measurement, Trial


def epoch(number, loss):
    return EpochEnded(number, 9, loss + 0.1, [loss + 0.1], {"loss": loss, "accuracy": 1 - loss}, seconds=0.5)


def measurement(losses, fold=0):
    history = [epoch(number, loss) for number, loss in enumerate(losses, 1)]
    best = min(range(len(losses)), key=losses.__getitem__) + 1
    return Measurement(4, fold, len(losses), False, history, best, {"loss": min(losses)}, 2.0, "", "host/1", 10.0, 12.0)


@pytest.mark.parametrize(
    "value",
    [
        Assignment(3, {"learning_rate": 0.1, "hidden": [64, 32]}, 9, 27, fold=2, seed=7, attempt=2),
        measurement([0.5, 0.4]),
        Measurement(1, failure="NotFiniteError: loss is nan"),
        Trial(4, {"dropout": 0.1}, "paused", folds=[measurement([0.5])], value=0.5, rungs={1: 0.5, 3: 0.4}),
        Trial(5, {}, "failed", "MemoryError", jobs=[Job(0, 3, "host/1", 1.0, 2.5)], seconds=1.5, attempts=2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_value_survives_json(value):
    assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value


def test_a_trial_of_several_folds_has_their_mean_as_its_history_as_far_as_all_have_come():
    trial = Trial(4, {}, folds=[measurement([0.6, 0.2, 0.3]), measurement([0.4, 0.6], fold=1)])
    assert [event.validation["loss"] for event in trial.history] == [pytest.approx(0.5), pytest.approx(0.4)]
    assert trial.history[0].train_loss == pytest.approx(0.6)
    assert trial.epochs == 5
    assert trial.best_epoch == 2  # of 2 and 1, rounded to even


def test_a_trial_of_one_fold_has_its_history():
    trial = Trial(4, {}, folds=[measurement([0.6, 0.2, 0.3])])
    assert trial.history == trial.folds[0].history
    assert trial.best_epoch == 2


def test_a_trial_that_is_not_measured_has_no_epochs():
    assert (Trial(0, {}).epochs, Trial(0, {}).best_epoch, Trial(0, {}).history) == (0, 0, [])
