"""Training on a table: with Spark, and equal to training without."""

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from sparkwright.errors import ColumnError, EnvironmentNotReadyError, InputError, WorkerError
from sparkwright.events import Emit, EpochEnded, Event, Progress, StageEnded, StageStarted, Warned
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.cluster import fit
from sparkwright.training.cluster.fit import train
from sparkwright.training.cluster.worker import TrainingJob
from sparkwright.training.config import TrainingConfig
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.store import Store

pytestmark = pytest.mark.timeout(240)

CONFIG = TrainingConfig(
    hidden=(8,), optimizer="sgd", dropout=0.2, epochs=5, batch_size=16, learning_rate=0.02, refit=True, patience=None
)


@dataclass(frozen=True)
class Rows:
    x: np.ndarray
    y: np.ndarray
    split: np.ndarray

    def side(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self.x[self.split == name], self.y[self.split == name]


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=400)
    x = (rng.normal(size=(3, 10)) * 2)[y] + rng.normal(size=(400, 10))
    split = rng.choice(["train", "validation", "test"], 400, p=[0.6, 0.2, 0.2])
    return Rows(x.astype(np.float32), np.array(["ä", "b c", "d"])[y], split)


@pytest.fixture(scope="module")
def table(spark: SparkSession, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> DataFrame:
    path = str(tmp_path_factory.mktemp("fit") / "rows")
    data = pd.DataFrame({"features": rows.x.tolist(), "label": rows.y, "split": rows.split})
    spark.createDataFrame(data, "features array<float>, label string, split string").write.parquet(path)
    return spark.read.parquet(path)


@pytest.fixture(scope="module")
def expected(rows: Rows) -> TrainingResult:
    return fit_arrays(*rows.side("train"), CONFIG, validation=rows.side("validation"))


def digest(result: TrainingResult) -> str:
    return hashlib.sha256(b"".join(v.tobytes() for _, v in sorted(result.head.weights().items()))).hexdigest()


@pytest.mark.parametrize(
    ("workers", "shape"),
    [
        (1, lambda df: df.coalesce(1)),
        pytest.param(2, lambda df: df.repartition(7), marks=pytest.mark.connect),
        (2, lambda df: df.orderBy("label").coalesce(2)),
        (None, lambda df: df.withColumn("features", F.col("features").cast("array<double>"))),
    ],
)
def test_weights_are_those_of_training_without_spark(
    table: DataFrame, expected: TrainingResult, workers: int | None, shape: Callable[[DataFrame], DataFrame]
) -> None:
    result = train(shape(table), CONFIG, split="split", num_workers=workers)
    assert digest(result) == digest(expected)
    assert result.classes == expected.classes == ("b c", "d", "ä")
    assert result.best_epoch == expected.best_epoch
    assert [event.validation for event in result.history] == [event.validation for event in expected.history]
    assert result.rows == expected.rows


def test_vectors_give_the_same_weights_as_arrays(table: DataFrame, expected: TrainingResult) -> None:
    from pyspark.ml.functions import array_to_vector

    vectors = table.withColumn("features", array_to_vector(F.col("features").cast("array<double>")))
    assert digest(train(vectors, CONFIG, split="split")) == digest(expected)


@pytest.mark.connect
def test_events_reach_the_driver(table: DataFrame, rows: Rows) -> None:
    events: list[Event] = []
    result = train(table, CONFIG, split="split", num_workers=2, emit=events.append)
    assert events[0] == StageStarted("rows")
    assert [event for event in events if isinstance(event, EpochEnded)] == result.history
    used = int((rows.split != "test").sum())
    last = {event.task: event.done for event in events if isinstance(event, Progress) and event.stage == "rows"}
    assert sum(last.values()) == used
    assert [(event.stage, event.rows) for event in events if isinstance(event, StageEnded)] == [
        ("rows", used),
        ("refit", used),
    ]
    assert set(result.seconds) == {"rows", "selection", "refit"}


def test_test_rows_and_other_columns_are_left_alone(table: DataFrame, expected: TrainingResult) -> None:
    wrong = F.when(F.col("split") == "test", F.lit(None)).otherwise(F.col("features")).cast("array<float>")
    other = table.withColumn("features", wrong).withColumn("features.x", F.lit(1))
    assert digest(train(other, CONFIG, split="split")) == digest(expected)


def test_a_table_that_is_empty_is_refused(table: DataFrame) -> None:
    with pytest.raises(InputError, match="There are no training rows: no row has 'train' in `split`"):
        train(table.where("false"), CONFIG, split="split")


def test_bad_rows_are_counted_over_all_workers_or_left_out(table: DataFrame, rows: Rows) -> None:
    bad = table.withColumn("label", F.when(F.col("features")[0] > 0, F.col("label")))
    count = int(((rows.x[:, 0] <= 0) & (rows.split != "test")).sum())
    with pytest.raises(ColumnError, match=f"{count} of .* rows cannot be trained on: {count} where `label` is null"):
        train(bad, CONFIG, split="split")
    events: list[Event] = []
    result = train(bad, CONFIG, split="split", invalid="skip", emit=events.append)
    assert result.skipped == count
    assert isinstance(events[-1], Warned)
    why = rf"{count:,} where `label` is null, for example `features` \[-\d\.\d+, .*, …\], `split` '(train|validation)'"
    assert re.fullmatch(rf"{count:,} rows could not be trained on and were left out: {why}\.", events[-1].message)


def test_features_of_several_widths_are_refused(table: DataFrame) -> None:
    short = F.when(F.col("features")[0] > 0, F.slice("features", 1, 4)).otherwise(F.col("features"))
    with pytest.raises(ColumnError, match=r"All rows of `features` must have the same number of features; they have"):
        train(table.withColumn("features", short), CONFIG, split="split")


def test_more_replicas_than_rows_are_refused(table: DataFrame) -> None:
    with pytest.raises(InputError, match="`replicas` is 4, but there are only 3 training rows"):
        train(table.where("split = 'train'").limit(3), CONFIG, split="split")


def test_as_many_rows_as_replicas_train_though_workers_may_have_none(table: DataFrame) -> None:
    few = table.where("split = 'train'").dropDuplicates(["label"])
    result = train(few, CONFIG.replace(replicas=3, refit=False), num_workers=2)
    assert result.rows == {"train": 3}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"features": "feature"}, ColumnError, "Column `feature` not found .* Did you mean `features`"),
        ({"label": "features"}, ColumnError, "`label` must hold|Column `features` must hold text or whole numbers"),
        ({"num_workers": 5}, InputError, r"`numWorkers` must be between 1 and `replicas` \(4\).* it is 5"),
        ({"num_workers": 3}, EnvironmentNotReadyError, "`numWorkers` is 3, but the cluster has 2 slots"),
        ({"invalid": "drop"}, InputError, "`handleInvalid` must be error or skip, not 'drop'"),
    ],
)
def test_what_cannot_work_is_said_before_the_job(
    table: DataFrame, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=message):
        train(table, CONFIG, **arguments)
    assert time.monotonic() - started < 15


@dataclass(frozen=True)
class FailingJob(TrainingJob):
    """Fails in rank 1: before the workers meet, or in the middle of training, by an error or by a signal."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import BarrierTaskContext

        from sparkwright.training.replica.replica import Replica

        original, how = Replica.backward, self.columns.weight

        def backward(replica: Any, number: int, count: int) -> None:
            if count == 10 and how == "signal":
                os.kill(os.getpid(), 9)
            if count == 10:
                raise RuntimeError("the disk is on fire")
            original(replica, number, count)

        if BarrierTaskContext.get().partitionId() == 1:
            Replica.backward = backward  # type: ignore[method-assign]
        try:
            yield from super().__call__(batches)
        finally:
            Replica.backward = original  # type: ignore[method-assign]  # the process may be used again

    def _stored(self, batches: Iterator[pa.RecordBatch], hosted: range, rank: int, emit: Emit) -> Store:
        if rank == 1 and self.columns.weight == "before":
            raise RuntimeError("the disk is on fire")
        return super()._stored(batches, hosted, rank, emit)


@pytest.mark.parametrize("where", ["before", pytest.param("during", marks=pytest.mark.connect)])
def test_a_failing_worker_is_named_with_its_traceback(
    table: DataFrame, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(fit, "TrainingJob", FailingJob)
    weighted = table.withColumn(where, F.lit(1.0))
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        train(weighted, CONFIG, split="split", weight=where, num_workers=2, attempts=1)
    assert time.monotonic() - started < 45
    message = str(caught.value)
    assert re.search(r"Rank 1 of 2 \(host .+, replicas 2, 3\) failed: RuntimeError: the disk is on fire", message)
    assert "The worker's own traceback:" in message
    assert "test_fit.py" in message


@pytest.mark.connect
def test_a_killed_worker_ends_the_training_soon(table: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(fit, "TrainingJob", FailingJob)
    started = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"^Rank 1 of 2 \(host .+, replicas 2, 3\) is gone: its process or its machine ended"
    ):
        train(table.withColumn("signal", F.lit(1.0)), CONFIG, split="split", weight="signal", num_workers=2, attempts=1)
    assert time.monotonic() - started < 45
    monkeypatch.undo()
    result = train(table, CONFIG, split="split", num_workers=2)  # the session still works
    assert result.rows["train"] > 0
