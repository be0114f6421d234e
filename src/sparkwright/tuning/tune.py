"""The job from labelled rows to a tested model, hyperparameters included: what `train` is, with a search before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkwright.errors import InputError
from sparkwright.events import Sink
from sparkwright.labelled import FeatureRows, Fractions, LabelledRows, TableRows
from sparkwright.models import Model
from sparkwright.runs import Run, check_folder
from sparkwright.shell_command import shell_command
from sparkwright.training.estimators.models import to_model
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.recorded import keep, searching
from sparkwright.tuning.result import Searched
from sparkwright.tuning.search_rows import search_rows
from sparkwright.tuning.selection import Candidate
from sparkwright.tuning.study import Study
from sparkwright.tuning.trials import Trial

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["TuningResult", "check_heads", "tune"]


@dataclass(frozen=True)
class TuningResult:
    """What `tune` gives.

    Attributes:
        run: The run's folder, a URI.
        model: The chosen configuration's model.
        trials: All that were tried, by number.
        chosen: What was chosen, with its figures over the seeds.
        metrics: What ``metrics.json`` holds.
    """

    run: str
    model: Model
    trials: list[Trial]
    chosen: Candidate
    metrics: dict[str, Any]


def tune(
    spark: "SparkSession",
    data: str,
    out: str,
    config: TuningConfig | None = None,
    *,
    columns: Sequence[str] | None = None,
    label: str = "label",
    split: Fractions | str = (0.6, 0.2, 0.2),
    group: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    sinks: Sequence[Sink] = (),
) -> TuningResult:
    """Search for hyperparameters of a classifier, train the chosen ones, and test them once.

    The test rows are read after the choice, for the chosen configuration alone. Runs on the driver; rows are read and
    trials trained on the executors. The driver receives figures, and one copy of the chosen one's weights.

    Args:
        spark: The session.
        data: A folder of features with labels and sides; or, with `columns`, a table: CSV with a header, or Parquet.
        out: The run's folder; executors must be able to write there.
        config: How. Default: `TuningConfig()`.
        columns: Of a table: the features.
        label: Of a table: column of the classes.
        split: Of a table: fractions of train, validation and test rows, or a column of the sides.
        group: Column of what folds, and fractions of a table, must not divide. Default: that of the features.
        overwrite: Begin anew in a folder that holds a run.
        resume: Go on in a folder that holds a run of the same configuration; finished trials are not repeated.
        sinks: Listeners to the run's events.

    Raises:
        NotFoundError: There are no such features, or no such table.
        ColumnError: A column is missing or of another type; rows that cannot be trained on, counted by what is wrong.
        InputError: Another task than classification; no row is on the test side; no trial that could be chosen.
        ExistsError: `out` is there already.
    """
    check_folder(out, overwrite=overwrite, resume=resume)
    config = config or TuningConfig()
    check_heads(config)
    given: dict[str, Any] = {"features": data}
    if columns is not None:
        given |= {"columns": list(columns), "label": label, "split": split}
    search = config.to_dict()
    given |= {"group": group, "seed": config.base.seed, "training": search.pop("base"), "search": search}
    shell = shell_command("tune", given, out)
    with Run(out, "tune", given, shell=shell, overwrite=overwrite, resume=resume, sinks=sinks) as run:
        with run.stage("rows"):
            rows: LabelledRows
            if columns is None:
                rows = FeatureRows.open(spark, data)
                group = group or ("group" if "group" in rows.rows.columns else None)
            else:
                seed = config.base.seed
                rows = TableRows.open(spark, data, columns, label, split, group=group, seed=seed, emit=run.emit)
            rows.require_test()
        with searching(run, config):
            found = search_rows(
                rows.rows,
                config,
                features=rows.columns if len(rows.columns) > 1 else rows.columns[0],
                label=rows.label,
                split="split",
                group=group,
                folder=run.uri,
                emit=run.emit,
            )
        model, metrics = _tested(rows, config, found, given, run)
    return TuningResult(run.uri, model, found.trials, found.chosen, metrics)


def check_heads(config: TuningConfig) -> None:
    """Refuse what `tune` cannot do; needs neither Spark nor rows.

    Raises:
        InputError: Another task than classification; a space that searches how photos are augmented; a grid that is too
            large, a sampler that cannot take several objectives.
        EnvironmentNotReadyError: A package that the sampler needs is missing.
    """
    if config.base.task != "classification":
        raise InputError(f"A run tunes a classifier, not for the task {config.base.task!r}; use `Tuner`.")
    config.searched.check(config.base, config.metric, photos=False)
    Study(config.searched, config.sampler, config.directions)


def _tested(
    rows: LabelledRows, config: TuningConfig, found: Searched, given: dict[str, Any], run: Run
) -> tuple[Model, dict[str, Any]]:
    """Test the chosen configuration, once; keep model, metrics and trials in the run."""
    lineage = {"config": given, "trial": found.chosen.trial}
    key = rows.features.manifest.key if isinstance(rows, FeatureRows) else None
    model = to_model(found.trained, key)
    model = model.replace(lineage={**model.lineage, **lineage})
    with run.stage("predictions"):
        data = rows.describe(run.emit)
        test = rows.test(model, run, data)
    with run.stage("model"):
        model = model.replace(metrics={"validation": found.figures, "test": test})
        model.save(run.path("model"), overwrite=True)
    run.metrics = {"test": {"accuracy": test["accuracy"]}}
    return model, keep(run, config, found, {"test": test, "data": data})
