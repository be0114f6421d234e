"""Rows at their workers: each worker's rows in files on an executor, where the tasks that come find them."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkwright.events import Address, Emit, Progress, Sender
from sparkwright.session import worker_errors
from sparkwright.training.rows.encoding import ENCODED
from sparkwright.training.rows.files import RowFiles
from sparkwright.training.rows.store import Census
from sparkwright.training.subject import load_subject
from sparkwright.training.transports._base import hosting

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["Placement"]

_KEPT_DDL = "worker int, census string"
_KEPT = pa.schema([("worker", pa.int32()), ("census", pa.string())])


class Placement:
    """Rows of a training in files on the executors, until closed; the driver's side.

    `df` has one row a worker, which Spark caches where the files are: a job over `df` runs there, as a rule, and where
    an executor is lost Spark makes its part of `df` again, and so the files, from rows that it reads again.

    Args:
        rows: Encoded rows, those of worker i in partition i; read once, now.
        replicas: How many there are in all.
        workers: Partitions of `rows`.
        channel: Where progress goes.
        subject: What `Subject.ship` called what is trained: it reads the rows.
    """

    def __init__(
        self, rows: "DataFrame", replicas: int, workers: int, channel: Address | None, subject: str | None = None
    ) -> None:
        self.key = uuid.uuid4().hex
        self.workers = workers
        self.df = rows.mapInArrow(_KeepRows(self.key, replicas, workers, channel, subject), _KEPT_DDL).persist()
        self.census = Census()
        with worker_errors():
            for row in self.df.collect():
                self.census.add(Census.from_json(row["census"]))

    def close(self) -> None:
        """Remove the files."""
        with worker_errors():
            self.df.mapInArrow(_RemoveRows(self.key), _KEPT_DDL).collect()
        self.df.unpersist()


@dataclass(frozen=True)
class _KeepRows:
    """Writes a worker's rows into files and gives their counts. Runs on executors."""

    key: str
    replicas: int
    workers: int
    channel: Address | None = field(repr=False)
    subject: str | None = None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        worker = TaskContext.get().partitionId()  # type: ignore[union-attr]
        hosted = hosting(self.replicas, self.workers)[worker]
        with Sender(self.channel) as sender:
            files = RowFiles(self.key, worker, reader=load_subject(self.subject).reader)
            store = files.keep(_told(batches, worker, sender.emit), hosted)
            problems = store.census.problems.total()
            sender.emit(Progress("rows", str(worker), store.census.rows.total() + problems, problems))
        yield pa.RecordBatch.from_pylist([{"worker": worker, "census": store.census.to_json()}], schema=_KEPT)


@dataclass(frozen=True)
class _RemoveRows:
    """Removes the files of the workers that it is given. Runs on executors."""

    key: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for worker in batch["worker"].to_pylist():
                RowFiles(self.key, worker).remove()
        yield from ()


def _told(batches: Iterator[pa.RecordBatch], worker: int, emit: Emit) -> Iterator[pa.RecordBatch]:
    """Yield batches; tell once a second how many rows there were."""
    done, told = 0, time.monotonic()
    for batch in batches:
        yield batch.cast(ENCODED)
        done += batch.num_rows
        if time.monotonic() - told > 1:
            emit(Progress("rows", str(worker), done))
            told = time.monotonic()
