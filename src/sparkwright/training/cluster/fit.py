"""Train on a DataFrame: the driver's part. Rows go to the workers once and stay there; rank 0's weights come back."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from safetensors.numpy import load as load_tensors

from sparkwright import storage
from sparkwright.errors import EnvironmentNotReadyError, InputError, did_you_mean
from sparkwright.events import Channel, Emit, Event, Warned, ignore
from sparkwright.models import Model
from sparkwright.session import driver_hosts, ship_library, slots, worker_errors
from sparkwright.training.checkpoints import CHECKPOINT_S, check_same, fingerprint_at, newest, training_fingerprint
from sparkwright.training.cluster.attempts import ATTEMPTS, TellOnce, check_shared, repeat
from sparkwright.training.cluster.imports import check_imports
from sparkwright.training.cluster.rounds import RoundsDriver
from sparkwright.training.cluster.starting import Workers
from sparkwright.training.cluster.worker import RESULT_DDL, TrainingJob
from sparkwright.training.config import TrainingConfig
from sparkwright.training.initial import Initial
from sparkwright.training.recorded import asked_for, recorded
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.columns import (
    Columns,
    LabelColumn,
    LabelKinds,
    Payload,
    arrow_schema,
    check_columns,
    label_kinds,
)
from sparkwright.training.rows.encoding import ENCODED_DDL, Encoding
from sparkwright.training.rows.population import Invalid, invalid_problems, left_out
from sparkwright.training.subject import Head, Subject, allowed_classes
from sparkwright.training.transports._base import hosting

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["TrainingResult", "select_rows", "train", "transport_problems"]

MEMORY_MIB = 1024
STALL_LIMIT_S = 120.0
_TRANSPORTS = ("gang", "rounds")


def train(
    df: "DataFrame",
    config: TrainingConfig | None = None,
    *,
    features: str | Sequence[str] = "features",
    label: LabelColumn = "label",
    weight: str | None = None,
    split: str | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    num_workers: int | None = None,
    transport: Literal["gang", "rounds"] = "gang",
    invalid: Invalid = "error",
    initial: Model | None = None,
    subject: Subject | None = None,
    memory_mib: int = MEMORY_MIB,
    stall_limit_s: float = STALL_LIMIT_S,
    run: str | None = None,
    checkpoints: str | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    attempts: int = ATTEMPTS,
    emit: Emit = ignore,
) -> TrainingResult:
    """Train a head on the rows of a table, on a gang of workers.

    Runs on the driver, as two stages: one hashes the rows and moves each to its worker, one (a barrier stage) trains.
    The driver receives events, and one copy of the weights at the end.

    When a worker or an executor dies the driver submits the training again, on the slots that there are then. With a
    run folder it goes on from the last checkpoint, and so does the next call with the same folder after the driver
    died; the weights are those of a training that nothing disturbed.

    Args:
        df: Holds the columns below; read once.
        config: How; by default a `TrainingConfig()`.
        features: Column of vectors or arrays of numbers, all of one length; or several columns, of numbers too, which
            together are a row's features, in this order.
        label: Column of labels (text or whole numbers), or of numbers for a regression. Of several outputs
            (`TrainingConfig.outputs`): output → column; those that are not named have the column of their own name. A
            label that is null, or NaN, is not there: the row trains the other outputs.
        weight: Column of rows' weights; None weighs all alike.
        split: Column of ``train``, ``validation`` and ``test``; test rows are left alone. None trains on all rows.
        classes: Labels that are allowed, in the order of the scores; None takes those that there are, sorted. Of
            several outputs: output → labels.
        num_workers: Tasks that train, at most one a replica; the result does not depend on it. None takes as many as
            there are replicas and slots.
        transport: ``"gang"``: workers that live all the time and talk to each other. ``"rounds"``: each sync is the end
            of an ordinary Spark job of tasks that need no open port and not all slots at once, for dynamic allocation,
            spot machines and many steps between syncs; it needs a `run`. The weights are the same.
        invalid: ``"skip"`` leaves out rows that cannot be trained on, ``"error"`` refuses them.
        initial: A model whose head has the same layers, to go on from; its classes are those that are allowed.
        subject: What is trained; None: a head on the features, from `initial` on if that is given.
        memory_mib: Features that a worker keeps in memory; more are read from Spark's local disk when they are
            wanted.
        stall_limit_s: How long a worker may be silent, or neither take a step nor wait for another, before the
            attempt ends. A slow one that steps is waited for.
        run: A run's folder (path or URI) that driver and workers share, for configuration, events, checkpoints, and
            at the end metrics and report (see `sparkwright.runs`); None keeps nothing. One that has ended is replaced.
        checkpoints: A folder for checkpoints alone, in place of `run`, for a caller who keeps the rest, and removes
            them at the end.
        checkpoint_s: Seconds between two checkpoints; where writing them takes long they are rarer (3 % of the time).
            0 keeps every sync.
        attempts: Attempts in a row that reach no new checkpoint before the training ends with the last one's error.
        emit: What takes the events: progress of stage ``"rows"``, an `EpochEnded` for each epoch of the selection,
            progress of stage ``"refit"``.

    Raises:
        ColumnError: A column is missing or of another type; rows that cannot be trained on, counted by what is wrong.
        InputError: Fewer rows than replicas, fewer than two classes, a layer that is not there, a loss that is not
            finite; checkpoints of another configuration or other data in the run folder.
        EnvironmentNotReadyError: Fewer slots than workers, or dynamic allocation, which a gang cannot use.
        WorkerError: A worker failed; with its rank, host and traceback.
        StorageError: The run folder is not one that driver and workers share.
        ExistsError: Another process trains in the run folder, or it holds something else than a training's run.
    """
    config = config or TrainingConfig()
    problems = invalid_problems(invalid) + transport_problems(transport, run or checkpoints)
    if problems:
        raise InputError.listing("The training cannot be done like this", problems)
    spark = df.sparkSession
    columns = Columns.of(features, label, weight, split, tuple(config.outputs or ()))
    types = arrow_schema(df.schema, columns)
    if subject is None:
        subject = Head(None if initial is None else Initial.of(initial, config))
    subject.check(config)
    subject = subject.for_column(types, columns)
    check_columns(columns, types, df.columns, config.tasks, subject.reader.payload)
    kind = label_kinds(types, columns)
    workers = _workers(spark, config, num_workers, transport)
    rows = select_rows(df, columns)
    allowed = allowed_classes(classes, subject)
    ship_library(spark)
    check_imports(spark, subject.specs, [config.loss, *(part.loss for part in config.parts.values())])
    started = time.perf_counter()
    job = TrainingJob(
        config=config,
        columns=columns,
        kind=kind,
        workers=workers,
        classes=allowed,
        invalid=invalid,
        memory_bytes=memory_mib << 20,
        channel=None,
        stall_limit_s=stall_limit_s,
        checkpoint_s=checkpoint_s,
        subject=subject.ship(spark),
    )

    def fit(folder: str | None, told: Emit) -> TrainingResult:
        told = TellOnce(told)
        pieces = _attempts(rows, replace(job, checkpoints=folder), subject.reader.payload, transport, attempts, told)
        return _result(config, subject, kind, pieces, time.perf_counter() - started, told)

    return recorded(fit, asked_for(config, columns, allowed, invalid, subject), run, checkpoints, emit)


def _attempts(
    rows: "DataFrame", job: TrainingJob, payload: Payload, transport: str, limit: int, emit: Emit
) -> Sequence[Any]:
    """Run a training's job until it gives an outcome; return that, as rank 0 gave it."""
    spark = rows.sparkSession
    watched, placed = Workers(spark, emit), partial(_placed, rows, job.columns, job.config, payload)
    with (
        _checkpoints(spark, job),
        Channel(watched, driver_hosts(spark)) as channel,
        RoundsDriver(placed, emit) as rounds,
    ):

        def attempt(number: int) -> Sequence[Any]:
            there = job.workers
            if number > 1 and transport == "gang":
                there = min(there, slots(spark, again=True))
            own = replace(job, workers=there, channel=channel.address)
            if transport == "rounds":
                return rounds.attempt(own)
            with watched.expected(there), worker_errors():
                return placed(there).mapInArrow(own, RESULT_DDL, barrier=True).collect()

        return repeat(attempt, job.checkpoints, limit, emit)


@contextlib.contextmanager
def _checkpoints(spark: "SparkSession", job: TrainingJob) -> Iterator[None]:
    """Check the folder of a training's checkpoints, if it has one; it is removed afterwards if there are none."""
    folder = job.checkpoints
    if folder is None:
        yield
        return
    try:
        check_shared(spark, folder)
        check_same(folder, fingerprint_at(folder), training_fingerprint(job.config))
        yield
    finally:
        if newest(folder) is None:
            storage.remove(folder)


def transport_problems(transport: str, run: str | None) -> list[str]:
    """Return what is wrong with a transport's name, or missing for it."""
    if transport not in _TRANSPORTS:
        known = " or ".join(_TRANSPORTS)
        return [f"`transport` must be {known}, not {transport!r}.{did_you_mean(transport, _TRANSPORTS)}"]
    if transport == "rounds" and run is None:
        return [
            "`transport` rounds needs a run folder (`run`, of an estimator `runDir`) that driver and workers share: "
            "the weights pass from job to job through it."
        ]
    return []


def _workers(spark: "SparkSession", config: TrainingConfig, wanted: int | None, transport: str) -> int:
    """Return how many workers train; a barrier stage that does not fit would wait for slots in silence."""
    dynamic = str(spark.conf.get("spark.dynamicAllocation.enabled", "false")).lower() == "true"
    if dynamic and transport == "gang":
        raise EnvironmentNotReadyError(
            "Workers that train together need all their slots at once, which dynamic allocation does not promise. "
            "Start the session with spark.dynamicAllocation.enabled=false, or train with transport='rounds'."
        )
    there = config.replicas if dynamic else slots(spark)
    if wanted is None:
        return min(config.replicas, there)
    if not 1 <= wanted <= config.replicas:
        raise InputError(
            f"`numWorkers` must be between 1 and `replicas` ({config.replicas}), because a worker hosts whole "
            f"replicas; it is {wanted}."
        )
    if wanted > there and transport == "gang":
        raise EnvironmentNotReadyError(
            f"`numWorkers` is {wanted}, but the cluster has {there} slots. Take {there} or fewer (the result is the "
            "same), or give the session more cores."
        )
    return wanted


def select_rows(df: "DataFrame", columns: Columns, more: Sequence[str] = ()) -> "DataFrame":
    """Return the needed columns, and `more`, of the rows that are not on the test side; vectors as arrays."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    if columns.split is not None:
        df = df.where(F.col(f"`{columns.split}`").eqNullSafe("test") == F.lit(False))
    there = {field.name: field.dataType for field in df.schema.fields if field.name in (*columns.names, *more)}
    return df.select(
        *(
            vector_to_array(F.col(f"`{name}`"), "float32").alias(name)
            if isinstance(type_, VectorUDT)
            else F.col(f"`{name}`")
            for name, type_ in there.items()
        )
    )


def _placed(rows: "DataFrame", columns: Columns, config: TrainingConfig, payload: Payload, workers: int) -> "DataFrame":
    """Return the encoded rows, those of worker i in partition i."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    of_replica = tuple(rank for rank, hosted in enumerate(hosting(config.replicas, workers)) for _ in hosted)
    encoding = Encoding.of(config, columns, of_replica, payload)
    return rows.mapInArrow(encoding, ENCODED_DDL).repartitionById(workers, F.col("worker"))


def _result(
    config: TrainingConfig, subject: Subject, kind: LabelKinds, pieces: Sequence[Any], total_s: float, emit: Emit
) -> TrainingResult:
    """Return what came of a training, from the rows that rank 0 gave."""
    summary, weights = _read(pieces)
    seconds = {"rows": total_s - sum(summary["seconds"].values()), **summary["seconds"]}
    if summary["skipped"]:
        emit(Warned(left_out(summary["skipped"], summary["problems"])))
    return TrainingResult.build(
        config,
        subject,
        kind,
        _tuples(summary["classes"]),
        weights,
        history=[Event.from_dict(event) for event in summary["history"]],
        best_epoch=summary["best_epoch"],
        temperature=summary["temperature"],
        sync_every=summary["sync_every"],
        thresholds=tuple(summary["thresholds"]),
        rows=summary["rows"],
        skipped=summary["skipped"],
        seconds=seconds,
    )


def _tuples(classes: Any) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Return classes as JSON lost them."""
    return {name: tuple(own) for name, own in classes.items()} if isinstance(classes, dict) else tuple(classes)


def _read(pieces: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the summary and the weights from the rows that rank 0 gave."""
    parts = sorted((row["part"], row["number"], row["content"]) for row in pieces)
    summary = json.loads(b"".join(content for part, _, content in parts if part == "summary"))
    return summary, load_tensors(b"".join(content for part, _, content in parts if part == "weights"))
