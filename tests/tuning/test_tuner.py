"""The estimator that searches another one's settings, on tables that this process holds: no Spark session."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparkwright import MLPClassifier, MLPRegressor, NetworkClassifier, storage
from sparkwright.errors import ColumnError, ExistsError, InputError, NameUnknownError
from sparkwright.events import TrialStarted
from sparkwright.models import Model
from sparkwright.runs import read_run
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.models import MLPClassificationModel
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.search_rows import search_rows
from sparkwright.tuning.space import Choice, Float, Space
from sparkwright.tuning.tuner import Tuner

FLOWERS = ["petal_length", "petal_width", "sepal"]
SPACE = {"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}, "hidden": [[], [4]]}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=240)
    x = (rng.normal(size=(3, 3)) * 2)[y] + rng.normal(size=(240, 3))
    data = dict(zip(FLOWERS, x.T, strict=True))
    split = np.array(["train", "validation", "test"])[rng.choice(3, size=240, p=[0.6, 0.2, 0.2])]
    return pd.DataFrame({**data, "kind": np.array(["iris", "lily", "rose"])[y], "price": x[:, 0], "split": split})


def classifier(**params: Any) -> MLPClassifier:
    settings = {"featuresCols": FLOWERS, "labelCol": "kind", "splitCol": "split", "epochs": 3, "replicas": 2, **params}
    return MLPClassifier(**settings)


def tuner(**params: Any) -> Tuner:
    usual = {"estimator": classifier(), "space": SPACE, "trials": 4, "parallelTrials": 2, "seeds": 2, "candidates": 1}
    return Tuner(**{**usual, **params})


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> MLPClassificationModel:
    return tuner().fit(table)


def digest(model: MLPClassificationModel) -> str:
    weights = model.getModel().head.weights()
    return hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()


def test_fit_gives_the_best_model_with_its_trials(table: pd.DataFrame, model: MLPClassificationModel) -> None:
    trials = model.trials
    assert trials["number"].tolist() == list(range(4))
    assert set(trials["state"]) <= {"complete", "stopped"}
    assert trials["learning_rate"].between(1e-4, 0.1).all()
    assert {"validation_accuracy", "parameters", "epochs", "seconds", "value"} <= set(trials)
    best = trials[trials["state"] == "complete"].sort_values("value").iloc[0]
    assert best["epochs"] == 3
    assert model.best["learning_rate"] in set(trials["learning_rate"])
    assert set(model.transform(table)["prediction"]) <= {"iris", "lily", "rose"}


def test_epochs_are_chosen_by_what_is_monitored_and_trials_by_their_objective_there(table: pd.DataFrame) -> None:
    base = TrainingConfig(epochs=9, replicas=2, batch_size=4, standardise=False, label_smoothing=0.1)
    space = {"learning_rate": {"low": 0.5, "high": 3.0}}  # so high that figures come and go
    config = TuningConfig(space, trials=4, base=base, sampler="random", seeds=1, candidates=1, objectives=("accuracy",))
    found = search_rows(table, config, features=FLOWERS, label="kind", split="split")
    at_best = []
    for trial in found.trials:
        epoch = min(trial.history, key=lambda epoch: epoch.validation["calibrated_loss"])
        assert trial.best_epoch == epoch.epoch
        assert trial.value == epoch.validation["accuracy"]
        at_best.append(trial.value == max(each.validation["accuracy"] for each in trial.history))
    assert not all(at_best)  # or the two would not be told apart here


def test_the_model_is_that_of_its_settings_alone(table: pd.DataFrame, model: MLPClassificationModel) -> None:
    alone = classifier(learningRate=model.best["learning_rate"], hiddenLayers=model.best["hidden"]).fit(table)
    assert digest(alone) == digest(model)
    assert len(alone.trials) == 0
    assert alone.best == {}


def test_a_fit_again_gives_the_same_trials(table: pd.DataFrame, model: MLPClassificationModel) -> None:
    again = tuner().fit({name: table[name].to_numpy() for name in table})
    assert digest(again) == digest(model)
    same = [name for name in model.trials if name != "seconds"]
    pd.testing.assert_frame_equal(again.trials[same], model.trials[same])


def test_the_model_keeps_its_trials_when_it_is_saved(model: MLPClassificationModel, tmp_path: Path) -> None:
    model.getModel().save(str(tmp_path / "model"))
    again = MLPClassificationModel(model=Model.load(str(tmp_path / "model")), inputCols=FLOWERS)
    pd.testing.assert_frame_equal(again.trials, model.trials)
    assert again.best == model.best


@pytest.mark.parametrize("where", ["disk", "memory://tuner/run"])
def test_a_search_is_a_run_that_goes_on_after_an_interruption_and_has_a_report(
    table: pd.DataFrame,
    model: MLPClassificationModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    from sparkwright.tuning.runners.local import LocalRunner

    run, jobs = LocalRunner.run, []

    def interrupted(runner: LocalRunner, assignments: Any) -> Any:
        jobs.append(assignments)
        if len(jobs) == 3:
            raise KeyboardInterrupt
        return run(runner, assignments)

    folder = str(tmp_path / "run") if where == "disk" else where
    search = tuner(runDir=folder)
    monkeypatch.setattr(LocalRunner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search.fit(table)
    assert "The run failed: KeyboardInterrupt" in page(folder)
    with pytest.raises(InputError, match=r"of another configuration.*search\.trials: 4 → 5\. .* or remove it"):
        search.fit(table, {search.trials: 5})
    with pytest.raises(InputError, match="The rows have changed since the search in"):
        search.fit(table.head(239))
    with pytest.raises(ExistsError, match="holds the run of a search, which is left alone"):
        classifier(runDir=folder).fit(table)
    monkeypatch.setattr(LocalRunner, "run", run)
    assert digest(search.fit(table)) == digest(model)
    document, metrics, events = read_run(folder)
    assert (document["command"], document["config"]["search"]["trials"]) == ("search", 4)
    started = [stamped.event.trial for stamped in events if isinstance(stamped.event, TrialStarted)]
    assert sorted(set(started)) == list(range(4))
    assert metrics["search"]["chosen"]["values"] == model.best
    assert metrics["validation"]["rows"] == (table["split"] == "validation").sum()
    told = page(folder)
    assert "The run failed" not in told
    assert re.findall("<h2>(.*?)</h2>", told)[:2] == ["The chosen configuration", "All configurations"]
    assert "On the test rows" not in told
    assert not {"checkpoints", ".lock"} & set(storage.list_files(folder))
    assert len(search.fit(table, {search.trials: 2, search.seeds: 1}).trials) == 2  # a run that has ended is replaced
    assert read_run(folder)[0]["config"]["search"]["trials"] == 2
    storage.remove(folder)


def page(run: str) -> str:
    return storage.read_bytes(storage.join(run, "report.html")).decode()


def test_rows_that_validate_are_folds_where_there_is_no_split(table: pd.DataFrame) -> None:
    folded = tuner(estimator=classifier(splitCol=None, epochs=2), folds=2, trials=2, candidates=1, seeds=1)
    trained = folded.fit(table.drop(columns="split"))
    assert trained.trials["epochs"].max() == 4
    assert trained.getModel().lineage["training"]["rows"] == {"train": 240}


def test_params_have_the_defaults_of_the_search() -> None:
    plain = Tuner()
    assert plain.getOrDefault("trials") == 100
    assert plain.getOrDefault("sampler") == "tpe"
    assert plain.getOrDefault("eta") == 3
    assert plain.getOrDefault("estimator") is None


def test_an_unknown_param_is_told_with_the_one_that_is_meant() -> None:
    with pytest.raises(NameUnknownError, match=r"there is no Param `trails`\. Did you mean `trials`\?"):
        Tuner(trails=10)
    with pytest.raises(InputError, match="`estimator` cannot be 3: one of MLPClassifier, MLPRegressor"):
        Tuner(estimator=3)


def test_a_tuner_needs_an_estimator(table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="Set the `estimator` whose settings are searched"):
        Tuner().fit(table)


def test_params_that_no_search_can_use_are_all_told_by_their_names(table: pd.DataFrame) -> None:
    wrong = tuner(trials=0, eta=1, maxParameters=0, space={"dropuot": 0.1}, sampler="tpee", objectives=["accurcy"])
    with pytest.raises(InputError, match="The search cannot be done like this") as error:
        wrong.fit(table)
    told = "\n".join(error.value.problems)
    assert "`trials` must be" in told
    assert "`eta` must be" in told
    assert "`maxParameters` must be" in told
    assert "unknown setting `dropuot`. Did you mean `dropout`?" in told
    assert "`sampler` must be one of" in told
    assert "no 'accurcy'. Did you mean `accuracy`?" in told


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"estimator": classifier(splitCol=None)}, "A search needs validation rows: set `splitCol` or"),
        ({"groupCol": "patient"}, "`groupCol` is of `folds`, which are not set"),
        ({"estimator": classifier(runDir="/tmp/run")}, "Set the Tuner's `runDir`, not its estimator's"),
        ({"estimator": classifier(initialModel="/tmp/model")}, "`initialModel` has the layers that it has"),
        ({"space": {"augmentation": ["photos"]}}, "`augmentation` needs whole networks that train on photos"),
        ({"space": {"schedule": ["table"]}}, "`schedule` 'table' needs a `rate_table`"),
    ],
)
def test_what_a_search_cannot_do_is_refused_before_it(table: pd.DataFrame, params: Any, problem: str) -> None:
    with pytest.raises(InputError, match="The search cannot be done like this") as error:
        tuner(**params).fit(table)
    assert any(problem in said for said in error.value.problems)


def test_numbers_for_labels_are_told_the_estimator_that_learns_them(table: pd.DataFrame) -> None:
    with pytest.raises(ColumnError, match=r"`price` is no whole number \(for regression use `MLPRegressor`\), for exa"):
        tuner(estimator=classifier(labelCol="price")).fit(table)


def test_a_regression_is_not_asked_for_what_needs_classes(table: pd.DataFrame) -> None:
    head = MLPRegressor(featuresCols=FLOWERS, labelCol="price", splitCol="split")
    with pytest.raises(InputError, match="`label_smoothing` needs classes"):
        Tuner(estimator=head, space={"label_smoothing": [0.05, 0.1]}).fit(table)
    config = Tuner(estimator=head)._config(head.checked(table))
    assert "label_smoothing" not in config.searched.dimensions


def test_a_network_is_searched_around_its_usual_fine_tuning() -> None:
    photos = pd.DataFrame({"content": [b"x"] * 4, "label": [0, 1] * 2, "split": ["train", "validation"] * 2})
    network = NetworkClassifier(network="digits_cnn", splitCol="split")
    searched = Tuner(estimator=network)._config(network.checked(photos)).searched
    assert searched.dimensions["learning_rate"][0].high == 3e-3
    assert "augmentation" in searched.dimensions


def test_a_copy_has_its_own_estimator_and_params_of_both() -> None:
    first = tuner()
    estimator = first.getOrDefault("estimator")
    second = first.copy({first.trials: 9, estimator.batchSize: 8})
    assert (first.getOrDefault("trials"), second.getOrDefault("trials")) == (4, 9)
    assert estimator.getOrDefault("batchSize") == 32
    assert second.getOrDefault("estimator").getOrDefault("batchSize") == 8
    assert second.uid == first.uid


def test_what_loading_would_have_to_run_is_not_saved() -> None:
    import optuna

    class Own(MLPClassifier):
        pass

    with pytest.raises(InputError, match="saved with one of MLPClassifier, MLPRegressor"):
        tuner(estimator=Own()).write()
    with pytest.raises(InputError, match="saved with the name of its `sampler`"):
        tuner(sampler=optuna.samplers.RandomSampler()).write()


def test_what_is_saved_of_a_tuner_makes_it_again() -> None:
    import json

    space = Space({"dropout": Float(0.1, 0.5), "optimizer": Choice(["adamw", "sgd"])})
    first = tuner(space=space, estimator=classifier(unfreeze={1: "all"}))
    kept = json.loads(json.dumps({own.name: value for own, value in first.write().instance._paramMap.items()}))
    again = Tuner(**kept)
    assert Space(again.getOrDefault("space")) == space
    estimator = again.getOrDefault("estimator")
    assert estimator.uid == first.getOrDefault("estimator").uid
    assert estimator.config() == first.getOrDefault("estimator").config()
    assert first.getOrDefault("space") is space
