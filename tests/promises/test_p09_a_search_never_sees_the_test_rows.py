"""P9: a search selects on validation rows; the test rows are read once, at the end, for the chosen model alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F  # noqa: N812

from sparkwright import labelled
from sparkwright.events import StageEnded, StageStarted
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.feature_set import FeatureManifest, FeatureSet
from sparkwright.training.config import TrainingConfig
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.search_rows import search_rows
from sparkwright.tuning.tune import tune

pytestmark = pytest.mark.timeout(240)

ROWS = 160
STAGES = ("search", "selection", "training")
SEARCH = TuningConfig(
    {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "dropout": {"low": 0.0, "high": 0.5}},
    trials=4,
    base=TrainingConfig(epochs=4, replicas=2),
    objectives=("accuracy",),
    candidates=2,
    seeds=2,
    parallel_trials=2,
)


def rows(test_labels):
    """Rows with labels that nothing can learn, but on the test side, where one feature tells them."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(ROWS, 4)).astype(np.float32)
    side = np.array(["train", "validation", "test", "train"])[np.arange(ROWS) % 4]
    label = np.where(side == "test", test_labels[(x[:, 0] > 0).astype(int)], rng.choice(["a", "b"], ROWS))
    return {"features": x, "label": label, "split": side}


def told(found):
    """What a search found, without the times that it took."""
    trials = [(trial.number, trial.values, trial.state, trial.value, trial.history) for trial in found.trials]
    trials = [(*rest, [(epoch.train_loss, epoch.validation) for epoch in history]) for *rest, history in trials]
    return trials, found.candidates, found.chosen, found.trained.validation, found.trained.head.fingerprint()


def test_other_test_rows_change_nothing_of_a_search_its_choice_or_its_model():
    honest, swapped = rows(np.array(["a", "b"])), rows(np.array(["b", "a"]))
    first, second = (search_rows(table, SEARCH, split="split") for table in (honest, swapped))
    assert (honest["label"] != swapped["label"]).sum() == ROWS // 4
    assert told(first) == told(second)
    # Whoever had seen the test rows, which one feature tells apart, would do better.
    assert max(trial.value for trial in first.trials) < 0.75
    kept = honest["split"] != "test"
    assert told(first) == told(
        search_rows({name: column[kept] for name, column in honest.items()}, SEARCH, split="split")
    )


def test_test_rows_are_read_once_after_the_choice_for_the_chosen_one_alone(spark, tmp_path, monkeypatch):
    read = tmp_path / "read"
    read.mkdir()
    folder = str(read)

    @F.udf("array<float>")
    def counted(features, side, key):
        if side == "test":
            with (Path(folder) / key).open("a") as file:
                file.write("read\n")
        return features

    def count():
        return sum(len(path.read_text().splitlines()) for path in read.iterdir())

    table = rows(np.array(["a", "b"]))
    values = [
        (f"{n}.jpg", f"{n:03}", f"{n:064x}", str(label), str(side), x.tolist(), None)
        for n, (x, label, side) in enumerate(zip(*table.values(), strict=True))
    ]
    ddl = "path string, key string, sha256 string, label string, split string, features array<float>, "
    frame = spark.createDataFrame(values, ddl + "error struct<kind:string,message:string>")
    manifest = FeatureManifest(FeatureKey.of(mlp(4, 4)), None, (), ROWS, 0, ROWS, 0, "2026-01-01T00:00:00+00:00")
    features = FeatureSet("", manifest, frame.withColumn("features", counted("features", "split", "key")))
    monkeypatch.setattr(labelled, "open_features", lambda *given: features)
    stages, evaluated = [], []
    evaluate = labelled.evaluate
    monkeypatch.setattr(labelled, "evaluate", lambda *given, **named: evaluated.append(1) or evaluate(*given, **named))

    def watch(stamped):
        if isinstance(stamped.event, StageStarted | StageEnded):
            stages.append((type(stamped.event).__name__, stamped.event.stage, count()))

    short = replace(SEARCH, trials=2, base=SEARCH.base.replace(epochs=2))
    result = tune(spark, "features", str(tmp_path / "run"), short, sinks=[watch])
    before = stages.index(("StageStarted", "predictions", 0))
    ended = [name for kind, name, _ in stages[:before] if kind == "StageEnded"]
    assert [name for name in ended if name in STAGES] == list(STAGES)
    assert all(reads == 0 for _, _, reads in stages[:before])
    assert count() == result.metrics["test"]["rows"] == ROWS // 4, "each once"
    assert len(list(read.iterdir())) == ROWS // 4
    assert evaluated == [1]
    optimism = result.metrics["search"]["optimism"]
    assert optimism["test"] == result.metrics["test"]["accuracy"]
    assert optimism["difference"] == pytest.approx(optimism["validation"] - optimism["test"])
    low, high = optimism["interval"]
    assert low < optimism["difference"] < high
