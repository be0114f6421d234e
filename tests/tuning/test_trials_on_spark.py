"""Trials in tasks of Spark are those of this process, bit for bit, and leave nothing on the executors."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import SparkSession

from sparkwright.errors import ColumnError, InputError, WorkerError
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica
from sparkwright.training.rows.columns import Columns
from sparkwright.tuning.runners import spark as on_spark
from sparkwright.tuning.runners.local import LocalRunner
from sparkwright.tuning.runners.spark import SparkRunner, TrialJob
from sparkwright.tuning.setup import Setup
from sparkwright.tuning.trials import Assignment, Measurement

pytestmark = pytest.mark.timeout(420)

BASE = TrainingConfig(epochs=4, replicas=2, batch_size=16, learning_rate=0.01, patience=None)
COLUMNS = Columns(("x",), "y", None, "split")


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=160)
    x = ((rng.normal(size=(3, 5)) * 2)[y] + rng.normal(size=(160, 5))).astype(np.float32)
    side = np.where(rng.random(160) < 0.8, np.where(rng.random(160) < 0.5, "train", "validation"), "test")
    return {"x": x, "y": y, "split": side, "patient": [f"p{number % 19}" for number in range(160)]}


def frame(spark: SparkSession, table: dict[str, Any]) -> Any:
    return spark.createDataFrame(pd.DataFrame({**table, "x": table["x"].tolist()})).repartition(3)


def assert_same(measured: Measurement, expected: Measurement) -> None:
    assert (measured.epoch, measured.ended, measured.best_epoch) == (
        expected.epoch,
        expected.ended,
        expected.best_epoch,
    )
    assert (measured.values, measured.failure) == (expected.values, expected.failure)
    for one, other in zip(measured.history, expected.history, strict=True):
        assert (one.train_loss, one.validation, one.best) == (other.train_loss, other.validation, other.best)


@dataclass(frozen=True)
class KilledJob(TrialJob):
    """The worker is killed in the midst of trial 1's second step, when it comes there first."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        mark, backward = Path(self.rows.uri.removeprefix("file://")).parents[1] / "killed", Replica.backward

        def dying(replica: Any, number: int, step: int) -> None:
            if self.assignments[0].trial == 1 and step == 2 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            backward(replica, number, step)

        Replica.backward = dying  # type: ignore[method-assign]
        try:
            yield from super().__call__(batches)
        finally:
            Replica.backward = backward  # type: ignore[method-assign]  # the process is used again


@pytest.mark.connect
def test_trials_on_spark_are_those_of_this_process(
    spark: SparkSession, table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(on_spark, "TrialJob", KilledJob)
    chosen: dict[str, Any] = {"group": "patient", "folds": 3, "costs": ("parameters",)}
    runner = SparkRunner(frame(spark, table), Setup(BASE, COLUMNS, **chosen), str(tmp_path))
    assert (runner.slots, runner.together) == (2, 1)
    alone = LocalRunner(table, Setup(BASE, COLUMNS, **chosen), str(tmp_path / "alone"))
    assert runner.parameters({"hidden": [7]}) == alone.parameters({"hidden": [7]}) == 5 * 7 + 7 + 7 * 3 + 3
    values = [{"hidden": [7]}, {"replicas": 3, "optimizer": "sgd"}, {"replicas": 150}, {"learning_rate": 0.1}]
    parts = [[Assignment(trial, own, until, 4, fold=trial % 3) for trial, own in enumerate(values)] for until in (1, 4)]

    def run(assignment: Assignment) -> Measurement | WorkerError:
        try:
            return runner.run([assignment])[0]
        except WorkerError as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        for number, assignments in enumerate(parts):
            measured = list(threads.map(run, assignments))
            if number == 0:
                assert isinstance(measured[1], WorkerError)
                measured[1] = run(assignments[1])
            for one, assignment in zip(measured, assignments, strict=True):
                assert isinstance(one, Measurement)
                assert_same(one, alone.run([assignment])[0])
    assert measured[2].failure.startswith("InputError: `replicas` is 150")
    assert (tmp_path / "killed").exists()
    assert not list((tmp_path / "trials").iterdir())
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rows" / "data").iterdir()}
    again = SparkRunner(frame(spark, table).repartition(2), Setup(BASE, COLUMNS, **chosen), str(tmp_path))
    assert written == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rows" / "data").iterdir()}
    with pytest.raises(InputError, match=r"rows have changed since the search in .*train: '\d+ rows, hash"):
        SparkRunner(frame(spark, table).where("patient != 'p3'"), Setup(BASE, COLUMNS, **chosen), str(tmp_path))
    assert_same(again.run([Assignment(5, {}, 4, 4)])[0], alone.run([Assignment(5, {}, 4, 4)])[0])
    for each in (runner, again):
        each.close()
    assert not list(Path(spark.conf.get("spark.local.dir")).rglob("tuning-*"))


@dataclass(frozen=True)
class SlowJob(TrialJob):
    """Its trials begin after two minutes."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        Path(self.setting.folder.removeprefix("file://")).with_name("began").touch()
        time.sleep(120)
        yield from super().__call__(batches)


@pytest.mark.connect
def test_jobs_that_take_too_long_are_ended_and_so_are_those_of_a_runner_that_is_closed(
    spark: SparkSession, table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(on_spark, "TrialJob", SlowJob)
    monkeypatch.setattr(on_spark, "_GRACE_S", 1.0)
    runner = SparkRunner(frame(spark, table), Setup(BASE, COLUMNS), str(tmp_path))
    with pytest.raises(WorkerError, match=r"took more than 2 s, twice what they may take, and was ended: its worker"):
        runner.run([Assignment(0, {}, 4, 4, limit_s=0.5)])
    (tmp_path / "began").unlink()
    with ThreadPoolExecutor(3) as threads:  # one more than there are slots
        jobs = [threads.submit(runner.run, [Assignment(trial, {}, 4, 4)]) for trial in range(3)]
        while not (tmp_path / "began").exists():
            assert not any(job.done() for job in jobs)
            time.sleep(0.05)
        runner.close()  # which needs all slots itself
        for job in jobs:
            with pytest.raises(CancelledError, match="search is over"):
                job.result(60)
    with pytest.raises(CancelledError, match="search is over"):
        runner.run([Assignment(4, {}, 4, 4)])
    assert not list(Path(spark.conf.get("spark.local.dir")).rglob("tuning-*"))


def test_what_spark_cannot_give_trials_is_refused_before_the_first(
    spark: SparkSession, table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "losses_of_the_driver.py").write_text("def mine(output, y): ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    losses = ["cross_entropy", "losses_of_the_driver:mine"]
    with pytest.raises(InputError, match=r"On a worker \(.*\): `loss` 'losses_of_the_driver:mine' cannot be imported"):
        SparkRunner(frame(spark, table), Setup(BASE, COLUMNS, losses=losses), str(tmp_path))
    with pytest.raises(InputError, match=r"`threads` is 64, and a task of this session has \d+: trials side by side"):
        SparkRunner(frame(spark, table), Setup(BASE.replace(threads=64), COLUMNS), str(tmp_path))
    broken = table | {"x": np.where(np.arange(160)[:, None] == 3, np.nan, table["x"])}
    with pytest.raises(ColumnError, match=r"1 of \d+ rows cannot be trained on: 1 where `x` holds"):
        SparkRunner(frame(spark, broken), Setup(BASE, Columns(("x",), "y"), folds=2), str(tmp_path))
    assert not list(Path(spark.conf.get("spark.local.dir")).rglob("tuning-*"))
