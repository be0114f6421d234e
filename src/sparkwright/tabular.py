"""Train and test a classifier on the columns of a table, in a run's folder: what `transfer` is to photos."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparkwright.errors import InputError
from sparkwright.events import Sink
from sparkwright.labelled import Fractions, TableRows
from sparkwright.runs import CHECKPOINTS, METRICS, Run, check_folder
from sparkwright.shell_command import shell_command
from sparkwright.training.checkpoints import CHECKPOINT_S
from sparkwright.training.cluster.fit import train
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.models import to_model
from sparkwright.transfer import TransferResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["train_table"]


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
        raise InputError(
            f"A table's run trains a classifier, not for the task {training.task!r}; use MLPRegressor, or for several "
            "outputs `train`."
        )
    asked = {"features": table, "columns": list(columns), "label": label, "split": split, "seed": training.seed}
    config = {**asked, "training": training.to_dict()}
    shell = shell_command("train", config, out)
    with Run(out, "train", config, shell=shell, overwrite=overwrite, resume=resume, sinks=sinks) as run:
        with run.stage("table"):
            rows = TableRows.open(spark, table, columns, label, split, seed=training.seed, emit=run.emit)
            rows.require_test()
            data = rows.describe(run.emit)
        with run.stage("training"):
            trained = train(
                rows.rows,
                training,
                features=columns,
                label=label,
                split="split",
                checkpoints=run.path(CHECKPOINTS),  # until the run has ended: what comes now may fail
                checkpoint_s=checkpoint_s,
                emit=run.emit,
            )
        model = to_model(trained)
        model = model.replace(lineage={**model.lineage, "config": config})
        with run.stage("predictions"):
            test = rows.test(model, run, data)
        metrics: dict[str, Any] = {"validation": trained.validated, "test": test, "data": data}
        with run.stage("model"):
            model = model.replace(metrics={side: metrics[side] for side in ("validation", "test")})
            model.save(run.path("model"), overwrite=True)
        metrics["seconds"] = dict(run.seconds)
        run.metrics = {"test": {"accuracy": test["accuracy"]}}
        run.write(METRICS, metrics)
    return TransferResult(run.uri, model, metrics)
