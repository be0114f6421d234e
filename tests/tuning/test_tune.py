"""A search on rows ends with the chosen configuration, trained as if nothing had come before."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.samplers import RandomSampler

from sparkwright.errors import InputError
from sparkwright.events import TrialStarted, Warned
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.search_rows import search_rows
from sparkwright.tuning.space import configure
from sparkwright.tuning.tune import check_heads

pytestmark = pytest.mark.timeout(60)

SEARCH = TuningConfig(
    {"learning_rate": {"low": 0.001, "high": 0.3, "log": True}, "hidden": [[], [6]]},
    trials=4,
    base=TrainingConfig(epochs=4, replicas=2, batch_size=8),
    objectives=("accuracy",),
    candidates=2,
    seeds=2,
    parallel_trials=2,
    together="trial",
)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(150, 3)).astype(np.float32)
    side = np.array(["train", "validation", "test"])[np.arange(150) % 3]
    return {"features": x, "label": np.where(x[:, 0] > x[:, 1], "a", "b"), "split": side}


def test_the_chosen_one_is_trained_as_it_would_be_alone_and_a_search_that_goes_on_repeats_no_trial(rows, tmp_path):
    first, again = [], []
    found = search_rows(rows, SEARCH, split="split", folder=str(tmp_path), emit=first.append)
    assert found.chosen in found.candidates
    assert {seed for candidate in found.candidates for seed in candidate.scores} == {1, 2}
    alone = fit_table(rows, configure(SEARCH.base, found.chosen.values), split="split")
    assert found.trained.head.fingerprint() == alone.head.fingerprint()
    assert found.validated == 50
    assert sum(isinstance(event, TrialStarted) for event in first) == 4
    repeated = search_rows(rows, SEARCH, split="split", folder=str(tmp_path), emit=again.append)
    assert not any(isinstance(event, TrialStarted) for event in again)
    assert (repeated.candidates, repeated.chosen) == (found.candidates, found.chosen)
    assert [trial.to_dict() for trial in repeated.trials] == [trial.to_dict() for trial in found.trials]


def test_a_search_does_not_go_on_with_other_rows(rows, tmp_path):
    few = replace(SEARCH, trials=2, candidates=1, seeds=1)
    search_rows(rows, few, split="split", folder=str(tmp_path))
    other = {"a": "b", "b": "a"}[rows["label"][4]]
    changed = rows | {"label": np.where(np.arange(150) == 4, other, rows["label"])}
    with pytest.raises(InputError, match=r"rows have changed .* validation: '50 rows, hash \w+' → '50 rows, hash"):
        search_rows(changed, few, split="split", folder=str(tmp_path))
    with pytest.raises(InputError, match="Name `run`, whose folder keeps the search, or the `folder` of your own"):
        search_rows(rows, few, split="split", run=str(tmp_path), folder=str(tmp_path))


def test_rows_that_are_left_out_are_told_before_the_first_trial(rows):
    events = []
    broken = rows | {"features": np.where(np.arange(150)[:, None] == 3, np.nan, rows["features"])}
    few = replace(SEARCH, trials=2, candidates=1, seeds=1)
    search_rows(broken, few, split="split", invalid="skip", emit=events.append)
    told = next(n for n, event in enumerate(events) if isinstance(event, Warned))
    why = "1 where `features` holds NaN, infinity or null, for example `features` [nan, "
    assert events[told].message.startswith(f"1 rows cannot be trained on, so the search leaves them out: {why}")
    assert told < next(n for n, event in enumerate(events) if isinstance(event, TrialStarted))


def test_with_folds_all_rows_train_in_the_end_for_the_epochs_that_were_found(rows):
    found = search_rows(rows, replace(SEARCH, folds=2, trials=2), split="split")
    assert found.trained.rows == {"train": 100}
    assert found.validated == 100
    epochs = sorted(found.chosen.epochs)
    assert len(epochs) == 4, "two seeds of two folds"
    assert len(found.trained.history) == round((epochs[1] + epochs[2]) / 2)


def test_without_validation_rows_nothing_is_searched(rows):
    with pytest.raises(InputError, match="nothing says which rows validate"):
        search_rows(rows, SEARCH)


def test_a_loss_of_ones_own_that_a_space_tries_is_imported_before_the_first_trial(rows):
    events = []
    losses = {"loss": ["cross_entropy", "no_such_losses:mine"]}
    config = replace(SEARCH, space=losses, base=replace(SEARCH.base, loss="torch:no_such_loss"))
    assert config.losses == ("torch:no_such_loss", "cross_entropy", "no_such_losses:mine")
    config = replace(config, base=SEARCH.base)
    with pytest.raises(InputError, match=r"`loss` 'no_such_losses:mine' cannot be imported"):
        search_rows(rows, config, split="split", emit=events.append)
    assert not any(isinstance(event, TrialStarted) for event in events)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": TrainingConfig(task="regression"), "objectives": ()}, "A run tunes a classifier"),
        ({"space": {"augmentation": ["photos"]}}, "`augmentation` needs whole networks"),
        ({"folds": 3, "base": TrainingConfig(threshold_metric="f1")}, "`folds` leave none for the last training"),
        ({"objectives": ("accuracy", "accuracy")}, "`objectives` names one twice"),
        ({"max_seconds_per_row": 0}, "`max_seconds_per_row` must be None or above 0; it is 0"),
        ({"trial_time_limit_s": -1}, "`trial_time_limit_s` must be None or above 0; it is -1"),
    ],
)
def test_what_a_run_cannot_search_is_refused_at_once(changes, message):
    with pytest.raises(InputError, match=message):
        check_heads(replace(SEARCH, **changes))


def test_a_configuration_says_what_it_stands_for():
    config = TuningConfig(objectives=("accuracy", "parameters"), max_parameters=1000)
    assert (config.metric, config.direction, config.base.monitored) == ("accuracy", "max", "loss")
    assert config.directions == {"accuracy": "max", "parameters": "min"}
    assert config.costs == ("parameters",)
    assert config.first_rung == 2
    assert not config.repeats


@pytest.mark.parametrize(
    ("base", "space", "metric"),
    [
        ({}, None, "calibrated_loss"),
        ({"label_smoothing": 0.1}, None, "calibrated_loss"),
        ({}, {"loss": ["cross_entropy", "focal"]}, "calibrated_loss"),
        ({}, {"loss": ["cross_entropy", "binary_cross_entropy"]}, "accuracy"),  # of probabilities that differ in kind
        ({"loss": "ordinal"}, None, "accuracy"),  # without logits
        ({"monitor": "macro_f1"}, None, "macro_f1"),
        ({"task": "regression"}, None, "loss"),
        ({"task": "multilabel"}, None, "loss"),
    ],
)
def test_trials_are_compared_by_what_tells_most_if_nobody_says_otherwise(base, space, metric):
    assert TuningConfig(space, base=TrainingConfig(**base)).objectives == (metric,)


def test_only_a_search_in_which_no_clock_decides_repeats():
    assert SEARCH.repeats is True
    assert replace(SEARCH, sampler=RandomSampler()).repeats is None
    for clocked in (
        {"parallel_trials": None},
        {"time_limit_s": 9},
        {"trial_time_limit_s": 9},
        {"max_seconds_per_row": 1.0},
    ):
        assert replace(SEARCH, **clocked).repeats is False
    assert not replace(SEARCH, objectives=("accuracy", "seconds_per_row")).repeats


def test_a_configuration_is_told_as_plain_data():
    config = TuningConfig(objectives=("accuracy", "parameters"), max_parameters=1000)
    assert config.to_dict()["space"] == TuningConfig(space="head").to_dict()["space"]
