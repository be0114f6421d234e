"""The job from labelled rows to a tested model, hyperparameters included: what `train` is, with a search before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkwright import storage
from sparkwright.errors import InputError
from sparkwright.events import Sink
from sparkwright.labelled import FeatureRows, Fractions, LabelledRows, TableRows
from sparkwright.models import Model
from sparkwright.runs import METRICS, SPACE, TRIALS, TUNING, Run, check_folder
from sparkwright.shell_command import shell_command
from sparkwright.training.estimators.models import to_model
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.halving import rungs
from sparkwright.tuning.search_rows import Searched, search_rows
from sparkwright.tuning.selection import Candidate, optimism
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
        run.write(SPACE, config.searched.to_dict())
        found = _searched(rows, config, group, run)
        model, metrics = _tested(rows, config, found, given, run)
        for name in ("rows", "trials"):  # what is left tells what was tried, and lets nothing be tried again
            storage.remove(run.path(TUNING, name))
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


def _searched(rows: LabelledRows, config: TuningConfig, group: str | None, run: Run) -> Searched:
    """Search on the rows that are not tested on; a refusal of these leaves nothing in the run's folder."""
    try:
        return search_rows(
            rows.rows,
            config,
            features=rows.columns if len(rows.columns) > 1 else rows.columns[0],
            label=rows.label,
            split="split",
            group=group,
            run=run.uri,
            emit=run.emit,
        )
    except InputError:
        if not storage.list_files(run.path(TUNING, "results")):
            storage.remove(run.path(TUNING))
            storage.remove(run.path(SPACE))
        raise


def _tested(
    rows: LabelledRows, config: TuningConfig, found: Searched, given: dict[str, Any], run: Run
) -> tuple[Model, dict[str, Any]]:
    """Test the chosen configuration, once; keep model, metrics and trials in the run."""
    trained, lineage = found.trained, {"config": given, "trial": found.chosen.trial}
    key = rows.features.manifest.key if isinstance(rows, FeatureRows) else None
    model = to_model(trained, key)
    model = model.replace(lineage={**model.lineage, **lineage})
    with run.stage("predictions"):
        data = rows.describe(run.emit)
        test = rows.test(model, run, data)
    figures = trained.validation or found.chosen.metrics
    epoch = trained.best_epoch
    validation = {**figures, "rows": found.validated, "epoch": epoch, "temperature": trained.temperature}
    metrics: dict[str, Any] = {"validation": validation, "test": test, "data": data}
    metrics["search"] = _summary(config, found, test)
    with run.stage("model"):
        model = model.replace(metrics={side: metrics[side] for side in ("validation", "test")})
        model.save(run.path("model"), overwrite=True)
    metrics["seconds"] = {**found.seconds, **run.seconds}
    run.metrics = {"test": {"accuracy": test["accuracy"]}}
    run.write(TRIALS, _trials(config, found, test))
    run.write(METRICS, metrics)
    return model, metrics


def _summary(config: TuningConfig, found: Searched, test: dict[str, Any]) -> dict[str, Any]:
    """Return what ``metrics.json`` says of the search."""
    states: dict[str, int] = {}
    for trial in found.trials:
        states[trial.state] = states.get(trial.state, 0) + 1
    accuracy = found.chosen.metrics.get("accuracy")
    return {
        "metric": config.metric,
        "direction": config.direction,
        "trials": states,
        "epochs": sum(trial.epochs for trial in found.trials),
        "chosen": found.chosen.to_dict(),
        # Over the seeds, so that what is told is the search's optimism, not one training's luck.
        "optimism": None
        if accuracy is None or not test["evaluated"]
        else optimism(accuracy, found.validated, test["accuracy"], test["evaluated"]),
    }


def _trials(config: TuningConfig, found: Searched, test: dict[str, Any]) -> dict[str, Any]:
    """Return what ``trials.json`` holds: see `SearchRecord` of the report."""
    metric = config.metric
    # The test's log-loss is that of calibrated probabilities, which no trial's is: there is nothing to compare.
    on_test = {"accuracy": test["accuracy"], "balanced_accuracy": test["balanced_accuracy"]}
    on_test["macro_f1"] = (test["macro"] or {}).get("f1")
    return {
        "metric": metric,
        "direction": config.direction,
        "epochs": config.base.epochs,
        "rungs": rungs(config.base.epochs, config.first_rung, config.eta),
        "space": config.searched.to_dict(),
        "objectives": config.directions,
        "candidates": [candidate.to_dict() for candidate in found.candidates],
        "chosen": found.chosen.trial,
        "test": on_test.get(metric),
        "refit": config.base.refit or config.folds is not None,
        "slots": found.slots,
        "sampler": config.to_dict()["sampler"],
        "seed": config.base.seed,
        "repeats": config.repeats,
        "trials": [trial.to_dict() for trial in found.trials],
    }
