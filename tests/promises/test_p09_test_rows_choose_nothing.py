"""P9: choices are made on validation rows; the test rows are used once, at the end."""

import numpy as np
import pytest
from pyspark.sql import functions as F  # noqa: N812

from sparkwright import labelled
from sparkwright import transfer as main_job
from sparkwright.events import Warned
from sparkwright.networks.mlp import mlp
from sparkwright.runs import read_run
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.feature_set import FeatureManifest
from sparkwright.training.config import TrainingConfig

CONFIG = TrainingConfig(epochs=5, replicas=2, refit=True)


@pytest.fixture(scope="module")
def features(spark, tmp_path_factory):
    """Two folders of features that differ in their test rows alone."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    sides = np.where(np.arange(120) < 60, "train", np.where(np.arange(120) < 90, "validation", "test"))
    rows = [
        (f"{n}.jpg", f"{n}", "ab"[int(values[0] > 0)], str(side), f"{n:064x}", values.tolist(), None)
        for n, (values, side) in enumerate(zip(x, sides, strict=True))
    ]
    ddl = "path string, key string, label string, split string, sha256 string, features array<float>, "
    frame = spark.createDataFrame(rows, ddl + "error struct<kind:string,message:string>")
    other = F.when(F.col("split") == "test", F.translate("label", "ab", "ba")).otherwise(F.col("label"))
    key = FeatureKey.of(mlp(4, 4))
    folders = []
    for name, table in {"honest": frame, "swapped": frame.withColumn("label", other)}.items():
        folder = tmp_path_factory.mktemp("features") / name
        table.write.parquet(str(folder / "data-1" / "computed"))
        manifest = FeatureManifest(key, None, ("data-1/computed",), 120, 0, 120, 0, "2026-01-01T00:00:00+00:00")
        (folder / "features.json").write_bytes(manifest.to_json())
        folders.append(str(folder))
    return folders


def test_other_test_rows_give_the_same_model_with_another_figure(spark, features, tmp_path, monkeypatch):
    evaluated = []
    evaluate = labelled.evaluate

    def counted(*args, **kwargs):
        evaluated.append(args)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(labelled, "evaluate", counted)
    honest, swapped = (
        main_job.train_features(spark, folder, str(tmp_path / str(n)), CONFIG) for n, folder in enumerate(features)
    )
    assert len(evaluated) == 2, "once for each run"
    assert honest.model.head.fingerprint() == swapped.model.head.fingerprint()
    assert honest.metrics["validation"] == swapped.metrics["validation"]
    assert honest.metrics["test"]["rows"] == 30
    # The photos themselves are not there any more: the report does without them.
    warnings = [stamped.event.message for stamped in read_run(honest.run)[2] if isinstance(stamped.event, Warned)]
    assert any("cannot show the photos that are wrong: No such path" in message for message in warnings)
    assert honest.metrics["test"]["accuracy"] == pytest.approx(1 - swapped.metrics["test"]["accuracy"])
