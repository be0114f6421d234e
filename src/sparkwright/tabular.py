"""Train and test a classifier on the columns of a table, in a run's folder: what `transfer` is to photos."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparkwright import session
from sparkwright.data import splits
from sparkwright.data.tables import CSV, read_columns
from sparkwright.errors import ColumnError, InputError, did_you_mean
from sparkwright.evaluation.evaluate import evaluate
from sparkwright.events import Channel, Emit, Sink
from sparkwright.models import Model
from sparkwright.run_report import write_run_report
from sparkwright.runs import Run, check_folder
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.training.checkpoints import CHECKPOINT_S
from sparkwright.training.cluster.fit import TrainingResult, train
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.models import to_model
from sparkwright.transfer import TransferResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["train_table"]

Fractions = tuple[float, float, float]


def train_table(
    spark: "SparkSession",
    table: str,
    out: str,
    *,
    columns: Sequence[str],
    label: str = "label",
    split: Fractions | str = (0.6, 0.2, 0.2),
    training: TrainingConfig | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    overwrite: bool = False,
    resume: bool = False,
    sinks: Sequence[Sink] = (),
) -> TransferResult:
    """Train a classifier on columns of numbers, and test it once on the rows of the test side.

    Args:
        spark: The session.
        table: CSV with a header, or Parquet, wherever Spark reads.
        out: The run's folder; executors must be able to write there.
        columns: The features: columns of numbers, vectors or arrays. Those of CSV are read as numbers.
        label: Column of the classes.
        split: Fractions of train, validation and test rows, by a hash of what a row holds; or a column of the sides.
        training: How; its seed is that of the split too. Default: `TrainingConfig` with ``refit``.
        checkpoint_s: Seconds between two checkpoints.
        overwrite: Begin anew in a folder that holds a run.
        resume: Go on in a folder that holds a run of the same configuration.
        sinks: Listeners to the run's events.

    Raises:
        NotFoundError: There is no such table.
        ColumnError: A column is missing or of another type; rows that cannot be trained on, counted by what is wrong.
        InputError: Another task than classification; no row is on the test side.
        ExistsError: `out` is there already.
    """
    check_folder(out, overwrite=overwrite, resume=resume)
    training = training or TrainingConfig(refit=True)
    if training.task != "classification":
        raise InputError(f"A table's run trains a classifier, not for the task {training.task!r}; use MLPRegressor.")
    asked = {"features": table, "columns": list(columns), "label": label, "split": split, "seed": training.seed}
    config = {**asked, "training": training.to_dict()}
    with Run(out, "train", config, overwrite=overwrite, resume=resume, sinks=sinks) as run:
        with run.stage("table"):
            rows = _sided(_read(spark, table, columns, label), split, label, training.seed, run.emit)
            counts = {side: found for side, found in splits.split_counts(rows, label).items() if side is not None}
            if "test" not in counts:
                raise InputError(
                    "No row is on the test side. Give it some (--split): what is trained is tested on other rows."
                )
        with run.stage("training"):
            trained = train(
                rows,
                training,
                features=columns,
                label=label,
                split="split",
                run=run.uri,
                checkpoint_s=checkpoint_s,
                keep_checkpoints=True,  # until the run has ended: what comes now may fail
                emit=run.emit,
            )
        model = to_model(trained)
        model = model.replace(lineage={**model.lineage, "config": config})
        with run.stage("predictions"):
            test = _tested(rows.where("split = 'test'"), model, columns, label, trained, counts, run)
        metrics: dict[str, Any] = {"validation": _validation(trained), "test": test, "data": {"rows": counts}}
        with run.stage("model"):
            model = model.replace(metrics={side: metrics[side] for side in ("validation", "test")})
            model.save(run.path("model"), overwrite=True)
        metrics["seconds"] = dict(run.seconds)
        run.metrics = {"test": {"accuracy": test["accuracy"]}}
        run.write("metrics.json", metrics)
        write_run_report(run.uri)
    return TransferResult(run.uri, model, metrics)


def _read(spark: "SparkSession", table: str, columns: Sequence[str], label: str) -> "DataFrame":
    """Return a table's rows, numbers of CSV as numbers."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name
    from pyspark.sql.types import BooleanType

    rows = read_columns(spark, table)
    missing = [name for name in (*columns, label) if name not in rows.columns]
    if missing or not columns:
        told = [f"Column `{name}` not found in {rows.columns}.{did_you_mean(name, rows.columns)}" for name in missing]
        raise ColumnError.listing(f"{table} cannot be trained on", told or ["No column of features is named."])
    if table.lower().rstrip("/").endswith(CSV):  # what is no number becomes null, which the training counts and refuses
        rows = rows.withColumns({name: F.col(f"`{name}`").try_cast("double") for name in columns})
    if isinstance(rows.schema[label].dataType, BooleanType):
        rows = rows.withColumn(label, F.col(f"`{label}`").cast("string"))
    return rows


def _sided(rows: "DataFrame", split: Fractions | str, label: str, seed: int, emit: Emit) -> "DataFrame":
    """Put the rows on sides, in the column `split`."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    if isinstance(split, str):
        if split not in rows.columns:
            raise ColumnError(
                f"--split must be three fractions, or a column of {rows.columns}; it is `{split}`."
                f"{did_you_mean(split, rows.columns)}"
            )
        return rows.withColumn("split", F.col(f"`{split}`"))
    whole = F.sha2(F.to_json(F.struct(*(F.col(f"`{name}`") for name in rows.columns))), 256)
    keyed = rows.withColumn("sparkwright_key", whole)
    return splits.split(keyed, split, seed=seed, key="sparkwright_key", label=label, emit=emit).drop("sparkwright_key")


def _tested(
    test: "DataFrame",
    model: Model,
    columns: Sequence[str],
    label: str,
    trained: TrainingResult,
    counts: dict[Any, dict[Any, int]],
    run: Run,
) -> dict[str, Any]:
    """Score the test rows, once; keep their predictions in the run, and return the metrics."""
    spark, path = test.sparkSession, run.path("predictions")
    stage = ModelTransformer(model=model, inputCols=columns, maxErrorRate=1.0)
    with Channel(run.emit, session.driver_hosts(spark)) as channel, session.worker_errors():
        stage._score(test, channel.address).write.mode("overwrite").parquet(path)
        predictions = spark.read.parquet(path)
    classes = [str(name) for name in trained.classes]
    on_train = {str(name): rows for name, rows in counts.get("train", {}).items()}
    return evaluate(
        predictions,
        classes,
        label=label,
        threshold=next(iter(model.thresholds), None),
        training_rows={name: on_train.get(name, 0) for name in classes},
    ).to_dict()


def _validation(trained: TrainingResult) -> dict[str, Any]:
    rows, epoch = trained.rows.get("validation", 0), trained.best_epoch
    return {**trained.validation, "rows": rows, "epoch": epoch, "temperature": trained.temperature}
