"""A worker of a gang: what each task of the training's barrier stage runs."""

import contextlib
import json
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from safetensors.numpy import save as save_tensors

from sparkwright.errors import SparkwrightError, StorageError, WorkerError
from sparkwright.events import Address, Emit, Progress, Sender, StageEnded, TrainingRefused, WorkerLost, ignore
from sparkwright.training.checkpoints import CHECKPOINT_S, Checkpoints, newest_for_all, training_fingerprint
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import Outcome, train_rows
from sparkwright.training.rows.columns import Columns, LabelKinds
from sparkwright.training.rows.encoding import ENCODED
from sparkwright.training.rows.population import AllowedClasses, Invalid, Population, examine
from sparkwright.training.rows.store import Census, Store, local_folder
from sparkwright.training.subject import load_subject
from sparkwright.training.transports._base import hosting
from sparkwright.training.transports.gang import Gang

__all__ = ["RESULT", "RESULT_DDL", "TrainingJob", "outcome_pieces", "report_failure"]

RESULT_DDL = "part string, number int, content binary"
"""What the stage gives: rank 0's outcome, its weights in pieces that a row can hold."""

RESULT = pa.schema([("part", pa.string()), ("number", pa.int32()), ("content", pa.binary())])
_PIECE = 16 << 20  # bytes
_READ_AT_ONCE = 1024  # rows


@dataclass(frozen=True)
class TrainingJob:
    """The function of the stage; small and picklable.

    Args:
        config: How to train.
        columns: Names for messages.
        kind: What labels were before they became text.
        workers: How many tasks the stage has.
        classes: Labels that are allowed.
        invalid: Whether rows that cannot be trained on are left out.
        memory_bytes: Features that a worker keeps in memory; more are read from its local disk when they are wanted.
        channel: Where events go.
        stall_limit_s: How long a worker may be silent, or neither get on nor wait for another.
        checkpoints: Folder of the checkpoints; None keeps none.
        checkpoint_s: Seconds between two of them.
        subject: What `Subject.ship` called what is trained.
    """

    config: TrainingConfig
    columns: Columns
    kind: LabelKinds
    workers: int
    classes: AllowedClasses
    invalid: Invalid
    memory_bytes: int
    channel: Address | None
    stall_limit_s: float
    checkpoints: str | None = None
    checkpoint_s: float = CHECKPOINT_S
    subject: str | None = None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take this worker's rows, train, and give the outcome if this is rank 0. Runs on executors."""
        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
        rank = context.partitionId()
        hosts, started = hosting(self.config.replicas, self.workers), time.monotonic()
        try:
            with (
                Sender(self.channel) as sender,
                _telling(sender.emit, rank),
                Gang(context, hosts, self.stall_limit_s) as gang,
            ):
                subject = load_subject(self.subject)
                store = Store(hosts[rank], self.memory_bytes, local_folder(), subject.reader)
                self._keep(_beating(batches, gang), store, rank, sender.emit)
                population = self._population(gang, store)
                if rank == 0:
                    ready = population.census
                    sender.emit(
                        StageEnded("rows", time.monotonic() - started, ready.rows.total(), ready.problems.total())
                    )
                outcome = train_rows(
                    self.config,
                    population,
                    store.finish(population.width),
                    gang,
                    sender.emit if rank == 0 else ignore,
                    self._kept(gang, population),
                    subject,
                )
                gang.gather("")  # nobody leaves while another still needs its connection
        except SparkwrightError:
            raise
        except Exception as error:
            raise WorkerError(report_failure(error, rank, hosts)) from error
        if rank == 0:
            yield from outcome_pieces(outcome, population)

    def _keep(self, batches: Iterator[pa.RecordBatch], store: Store, rank: int, emit: Emit) -> None:
        """Keep the rows that come."""
        done, told = 0, time.monotonic()
        for batch in batches:
            store.add(batch.cast(ENCODED))
            done += batch.num_rows
            if time.monotonic() - told > 1:
                emit(Progress("rows", str(rank), done, store.census.problems.total()))
                told = time.monotonic()
        emit(Progress("rows", str(rank), done, store.census.problems.total()))

    def _population(self, gang: Gang, store: Store) -> Population:
        """Return what all workers' rows are together."""
        census = Census()
        for own in gang.gather(store.census.to_json()):
            census.add(Census.from_json(own))
        return examine(census, self.config, self.columns, self.kind, self.classes, self.invalid)

    def _kept(self, gang: Gang, population: Population) -> Checkpoints | None:
        """Return where the training is kept; rank 0 says from which checkpoint all go on."""
        if self.checkpoints is None:
            return None
        begin = newest_for_all(self.checkpoints, gang)
        return Checkpoints(self.checkpoints, begin, self.checkpoint_s, self.fingerprint(population))

    def fingerprint(self, population: Population) -> dict[str, Any]:
        """Return what this training must have in common with those who go on with it."""
        begin = {} if self.subject is None else {"initial": self.subject.partition("-")[0]}
        return training_fingerprint(self.config, population.fingerprint() | begin)


@contextlib.contextmanager
def _telling(emit: Emit, rank: int) -> Iterator[None]:
    """Tell the driver that this worker is there, and at the end why it ends: Spark may say neither, or try in vain."""
    emit(Progress("rows", str(rank), 0))
    try:
        yield
    except WorkerError as error:
        emit(WorkerLost(str(error)))
        raise
    except SparkwrightError as error:
        if not isinstance(error, StorageError):  # which may pass
            emit(TrainingRefused(type(error).__name__, str(error)))
        raise


def _beating(batches: Iterator[pa.RecordBatch], gang: Gang) -> Iterator[pa.RecordBatch]:
    """Give the rows on, so many that none takes long to read; their coming is a sign of life."""
    for batch in batches:
        for start in range(0, batch.num_rows, _READ_AT_ONCE):
            gang.beat()
            yield batch.slice(start, _READ_AT_ONCE)


def report_failure(error: Exception, rank: int, hosts: tuple[range, ...]) -> str:
    """Say who failed and why; the traceback's first line is another than Python's, which marks where errors begin."""
    hosted = ", ".join(map(str, hosts[rank]))
    frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    own = "\n".join(f"  {line}" for line in frames.splitlines())
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return (
        f"Rank {rank} of {len(hosts)} (host {socket.gethostname()}, replicas {hosted}) failed: "
        f"{type(error).__name__}: {error}{where}\n  The worker's own traceback:\n{own}"
    )


def outcome_pieces(outcome: Outcome, population: Population) -> Iterator[pa.RecordBatch]:
    """Yield an outcome as rows, which the driver puts together."""
    summary = {
        "best_epoch": outcome.best_epoch,
        "history": [event.to_dict() for event in outcome.history],
        "temperature": outcome.temperature,
        "sync_every": outcome.sync_every,
        "thresholds": outcome.thresholds,
        "seconds": outcome.seconds,
        "classes": population.named_classes,
        "rows": population.census.rows,
        "skipped": population.census.problems.total(),
        "problems": population.census.listed(),
    }
    weights = save_tensors(outcome.weights)
    parts = [("summary", 0, json.dumps(summary).encode())]
    parts += [("weights", at, weights[at * _PIECE : (at + 1) * _PIECE]) for at in range(-(-len(weights) // _PIECE))]
    for part in parts:
        yield pa.RecordBatch.from_arrays([pa.array([value]) for value in part], schema=RESULT)
