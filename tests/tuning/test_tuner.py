"""The estimator that searches another one's settings, on tables that this process holds: no Spark session."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparkwright import MLPClassifier, MLPRegressor, NetworkClassifier
from sparkwright.errors import InputError, NameUnknownError
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
    settings = {"featuresCols": FLOWERS, "labelCol": "kind", "splitCol": "split", "epochs": 9, "replicas": 2, **params}
    return MLPClassifier(**settings)


def tuner(**params: Any) -> Tuner:
    usual = {"estimator": classifier(), "space": SPACE, "trials": 6, "parallelTrials": 2, "seeds": 2, "candidates": 2}
    return Tuner(**{**usual, **params})


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
    assert (first.getOrDefault("trials"), second.getOrDefault("trials")) == (6, 9)
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
