"""The Tuner on DataFrames of Spark: in a pipeline, saved and loaded, with the trials of a table without Spark."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import SparkSession

from sparkwright import MLPClassifier, Tuner
from sparkwright.tuning.space import Float, Space

pytestmark = pytest.mark.timeout(240)


@pytest.mark.connect
def test_a_pipeline_is_tuned_as_a_table_without_spark(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=160)
    x = (rng.normal(size=(2, 4)) * 2)[y] + rng.normal(size=(160, 4))
    split = np.where(np.arange(160) % 4, "train", "validation")
    local = pd.DataFrame({"features": x.tolist(), "label": np.array(["cat", "dog"])[y], "split": split})
    rows = spark.createDataFrame(local, "features array<float>, label string, split string")

    head = MLPClassifier(splitCol="split", epochs=3, replicas=2, batchSize=16)
    space = Space({"learning_rate": Float(1e-3, 0.1, log=True), "hidden": [[], [8]]})
    tuner = Tuner(estimator=head, space=space, trials=4, parallelTrials=2, candidates=1, seeds=1)
    tuner.setParams(runDir=str(tmp_path / "run"))
    tuner.save(str(tmp_path / "tuner"))
    loaded = Tuner.load(str(tmp_path / "tuner"))
    assert loaded.uid == tuner.uid
    assert Space(loaded.getOrDefault("space")) == space

    fitted = Pipeline(stages=[loaded]).fit(rows)
    assert "The chosen configuration" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "tuning" / "rows").exists()
    fitted.save(str(tmp_path / "model"))
    stage = PipelineModel.load(str(tmp_path / "model")).stages[0]
    alone = tuner.fit(local)
    same = [name for name in alone.trials if name != "seconds"]
    pd.testing.assert_frame_equal(stage.trials[same], alone.trials[same])
    assert stage.best == alone.best
    weights, those_alone = stage.getModel().head.weights(), alone.getModel().head.weights()
    assert all(weights[name].tobytes() == those_alone[name].tobytes() for name in those_alone)
    assert fitted.transform(rows).where("label = prediction").count() > 80
