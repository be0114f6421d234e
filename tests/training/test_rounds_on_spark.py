"""Rounds on Spark: the weights of training without it, from rows that are read once."""

import hashlib
import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession

from sparkwright.errors import InputError
from sparkwright.events import EpochEnded, Event, StageEnded, Warned
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.cluster import rounds
from sparkwright.training.cluster.fit import train
from sparkwright.training.cluster.rounds import RoundJob
from sparkwright.training.config import TrainingConfig
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.files import RowFiles

pytestmark = [pytest.mark.connect(only=True), pytest.mark.timeout(240)]

CONFIG = TrainingConfig(
    replicas=8, hidden=(6,), dropout=0.1, epochs=1, batch_size=8, sync_every=8, calibrate=False, patience=None
)
ROWS = 300


@dataclass(frozen=True)
class Counted:
    """A source that leaves a file for each time that it is read."""

    folder: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        (Path(self.folder) / uuid.uuid4().hex).touch()
        yield from batches


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=ROWS)
    return ((rng.normal(size=(3, 9)) * 2)[y] + rng.normal(size=(ROWS, 9))).astype(np.float32), y


@pytest.fixture
def source(spark: SparkSession, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> DataFrame:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (tmp_path / "reads").mkdir()
    schema = "features array<float>, label long"
    table = spark.createDataFrame(pd.DataFrame({"features": arrays[0].tolist(), "label": arrays[1]}), schema)
    return table.repartition(3).mapInArrow(Counted(str(tmp_path / "reads")), schema)


def digest(result: TrainingResult) -> str:
    return hashlib.sha256(b"".join(v.tobytes() for _, v in sorted(result.head.weights().items()))).hexdigest()


def reads(tmp_path: Path) -> int:
    return len(list((tmp_path / "reads").iterdir()))


@pytest.mark.parametrize(("workers", "epochs"), [(1, 1), (2, 4), (4, 1)])
def test_rounds_give_the_weights_of_training_without_spark_and_read_the_source_once(
    source: DataFrame,
    arrays: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    workers: int,
    epochs: int,
) -> None:
    config = CONFIG.replace(epochs=epochs)
    events: list[Event] = []
    run = str(tmp_path / "run")
    result = train(source, config, num_workers=workers, transport="rounds", run=run, emit=events.append)
    assert digest(result) == digest(fit_arrays(*arrays, config))
    assert reads(tmp_path) == 3  # partitions
    assert [event for event in events if isinstance(event, EpochEnded)] == result.history
    assert [event.rows for event in events if isinstance(event, StageEnded)] == [ROWS]
    assert result.seconds["selection"] > 0
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert list(tmp_path_factory.getbasetemp().glob("spark*/local/**/rows-*")) == []


@dataclass(frozen=True)
class DyingJob(RoundJob):
    """Once dies, once loses its rows."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        folder = Path((self.job.checkpoints or "").removeprefix("file://")).parent.parent
        died, lost = folder / "died", folder / "lost"
        if self.log.begin is not None and not died.exists():
            died.touch()
            os.kill(os.getpid(), 9)
        if died.exists() and not lost.exists():
            lost.touch()
            RowFiles(self.key, 1).remove()
        yield from super().__call__(batches)


def test_a_task_that_is_killed_costs_its_round_and_rows_are_read_again_only_where_they_are_lost(
    source: DataFrame, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "RoundJob", DyingJob)
    events: list[Event] = []
    config = CONFIG.replace(epochs=2)
    result = train(source, config, num_workers=2, transport="rounds", run=str(tmp_path / "run"), emit=events.append)
    killed, lost = (event.message for event in events if isinstance(event, Warned))
    assert "Attempt 1 of the training failed" in killed
    assert "A task ran where its rows are not, so the rows are placed again" in lost
    assert digest(result) == digest(fit_arrays(*arrays, config))
    assert reads(tmp_path) == 6


def test_what_rounds_cannot_do_is_said_before_the_job(source: DataFrame) -> None:
    with pytest.raises(InputError, match=r"`transport` rounds needs a run folder .* weights pass from job to job"):
        train(source, CONFIG, transport="rounds")
    with pytest.raises(InputError, match=r"`transport` must be gang or rounds, not 'round'. Did you mean `rounds`"):
        train(source, CONFIG, transport="round")  # type: ignore[arg-type]
