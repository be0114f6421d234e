"""The job from labelled rows to a tested model, hyperparameters included: what `train` is, with a search before it."""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  its usual name

from sparkwright import storage
from sparkwright.data.local import column_names, to_arrow
from sparkwright.errors import InputError
from sparkwright.events import Emit, Progress, Sink, StageEnded, StageStarted, ignore
from sparkwright.labelled import FeatureRows, Fractions, LabelledRows, TableRows
from sparkwright.models import Model
from sparkwright.run_report import SPACE, write_run_report
from sparkwright.runs import TRIALS, TUNING, Run, check_folder
from sparkwright.training.arrays import fit_table
from sparkwright.training.cluster.fit import train
from sparkwright.training.estimators.models import to_model
from sparkwright.training.replica.schedule import as_it_was
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.columns import Columns
from sparkwright.training.rows.population import Invalid
from sparkwright.training.subject import Head, Subject
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.halving import rungs
from sparkwright.tuning.runners._base import Runner
from sparkwright.tuning.runners.local import LocalRunner
from sparkwright.tuning.runners.spark import SparkRunner
from sparkwright.tuning.search import Search
from sparkwright.tuning.selection import Candidate, Retraining, best_trials, choose, optimism
from sparkwright.tuning.space import configure
from sparkwright.tuning.study import Study
from sparkwright.tuning.trial_task import augmented
from sparkwright.tuning.trials import Trial

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkwright.data.local import LocalTable

__all__ = ["Searched", "TuningResult", "check_heads", "search_rows", "tune"]


@dataclass(frozen=True)
class Searched:
    """What `search_rows` gives.

    Attributes:
        trials: All that were tried, by number.
        candidates: The best few, trained again with other seeds.
        chosen: The one of them that is kept.
        trained: It, trained with the search's seed as `train` does.
        validated: Rows that a trial was compared by; with folds all of them.
        slots: Jobs that could train at a time.
        seconds: ``"search"``, ``"selection"`` (of the candidates), ``"training"`` (of the chosen one).
    """

    trials: list[Trial]
    candidates: list[Candidate]
    chosen: Candidate
    trained: TrainingResult
    validated: int
    slots: int
    seconds: dict[str, float]


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
    with Run(out, "tune", given, overwrite=overwrite, resume=resume, sinks=sinks) as run:
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
    config.searched.check(config.base, photos=False)
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
    """Test the chosen configuration, once; keep model, metrics, trials and report in the run."""
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
    run.write("metrics.json", metrics)
    write_run_report(run.uri)
    return model, metrics


def _summary(config: TuningConfig, found: Searched, test: dict[str, Any]) -> dict[str, Any]:
    """Return what ``metrics.json`` says of the search."""
    states: dict[str, int] = {}
    for trial in found.trials:
        states[trial.state] = states.get(trial.state, 0) + 1
    accuracy = found.chosen.metrics.get("accuracy")
    return {
        "metric": config.base.monitor,
        "direction": config.base.direction,
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
    metric = config.base.monitor
    # The test's log-loss is that of calibrated probabilities, which no trial's is: there is nothing to compare.
    on_test = {"accuracy": test["accuracy"], "balanced_accuracy": test["balanced_accuracy"]}
    on_test["macro_f1"] = (test["macro"] or {}).get("f1")
    return {
        "metric": metric,
        "direction": config.base.direction,
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


def search_rows(
    rows: "DataFrame | LocalTable",
    config: TuningConfig,
    *,
    features: str | Sequence[str] = "features",
    label: str = "label",
    weight: str | None = None,
    split: str | None = None,
    group: str | None = None,
    classes: Sequence[str] | None = None,
    invalid: Invalid = "error",
    subject: Subject | None = None,
    run: str | None = None,
    emit: Emit = ignore,
) -> Searched:
    """Search on rows, choose, and train the chosen configuration; of rows on the test side nothing is read.

    Args:
        rows: A DataFrame of Spark, whose trials are small jobs; or a table that this process holds (see `fit_table`).
        config: How.
        features: As in `train`.
        label: As in `train`.
        weight: As in `train`.
        split: Column of the sides. None: all rows train, and `folds` or the base's `validation_fraction` say which of
            them validate.
        group: Column of what folds must not divide.
        classes: As in `train`.
        invalid: As in `train`.
        subject: What is trained; None: a head on the features.
        run: A run's folder (path or URI) that driver and workers share, in which a search goes on that was begun
            there; None: a temporary one on this machine's disk.
        emit: What takes the events.

    Raises:
        ColumnError: A column is missing or of another type; rows that cannot be trained on, counted by what is wrong.
        InputError: Nothing says which rows validate, or none does; more `threads` than a task has cores; no trial that
            could be chosen.
    """
    subject, columns = subject or Head(), Columns.of(features, label, weight, split)
    timed, checked = _Stages(emit), {"subject": subject, "classes": classes, "invalid": invalid}
    with _folder(run) as folder, _runner(rows, config, columns, folder, checked | {"group": group}) as runner:
        with timed("search", config.trials, "trials"):
            trials = Search(config, runner, storage.join(folder, TUNING), emit=emit).run()
        wanted = best_trials(trials, config.base.direction, config.candidates, config.max_seconds_per_row)
        folds = config.folds or 1
        seeds = [config.base.seed + 1 + number for number in range(config.seeds)]
        with timed("selection", len(wanted) * len(seeds) * folds, "trainings"):
            again = Retraining(
                runner,
                config.base.monitor,
                seeds,
                folds,
                config.base.epochs,
                storage.join(folder, TUNING, "selection"),
                lambda done: emit(Progress("selection", "0", done)),
            )
            candidates = again.run(wanted)
        slots = runner.slots
    chosen = choose(candidates, config.base.direction)
    named = {"features": features, "label": label, "weight": weight}
    with timed("training"):
        trained = _train(rows, config, chosen, trials[chosen.trial], split, run, emit, named | checked)
    validated = trained.rows.get("validation" if config.folds is None else "train", 0)
    return Searched(trials, candidates, chosen, trained, validated, slots, timed.seconds)


@contextlib.contextmanager
def _runner(
    rows: "DataFrame | LocalTable", config: TuningConfig, columns: Columns, folder: str, common: dict[str, Any]
) -> Iterator[Runner]:
    """Open what trains the trials: jobs of Spark, or this process."""
    common = common | {"folds": config.folds, "costs": config.costs, "together": config.together}
    kept = storage.join(folder, TUNING)
    runner: Runner
    if isinstance(rows, DataFrame):
        runner = SparkRunner(rows, config.base, kept, columns, **common)
    else:
        runner = LocalRunner(rows, config.base, kept, columns, **common)
    try:
        yield runner
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong is to be told, not what cannot be tidied up after it
            runner.close()
        raise
    runner.close()


def _train(
    rows: "DataFrame | LocalTable",
    config: TuningConfig,
    chosen: Candidate,
    trial: Trial,
    split: str | None,
    run: str | None,
    emit: Emit,
    common: dict[str, Any],
) -> TrainingResult:
    """Train the chosen configuration with the search's seed, as a training that nothing came before would.

    Without folds `train` of the same rows gives the same model. With them there is no validation side: all rows train,
    for the median of the best epochs that folds and seeds found, over which the schedule then stretches.
    """
    own = configure(config.base, chosen.values)
    common = common | {"subject": augmented(common["subject"], chosen.values), "run": run, "emit": emit}
    if config.folds is not None:
        rows, split = _untested(rows, split), None
        found = round(median(chosen.epochs))
        own = as_it_was(own, trial.history).replace(epochs=found, patience=None, refit=False)
    if isinstance(rows, DataFrame):
        return train(rows, own, split=split, keep_checkpoints=run is not None, **common)
    return fit_table(rows, own, split=split, **common)


def _untested(rows: "DataFrame | LocalTable", split: str | None) -> "DataFrame | LocalTable":
    """Return the rows that are not on the test side."""
    if split is None:
        return rows
    if isinstance(rows, DataFrame):
        return rows.where(F.col(f"`{split}`").eqNullSafe("test") == F.lit(False))
    table = to_arrow(rows, column_names(rows))
    return table.filter(pc.fill_null(pc.not_equal(table[split], "test"), True))


@contextlib.contextmanager
def _folder(run: str | None) -> Iterator[str]:
    """Return the run's folder, or one that is gone afterwards."""
    if run is not None:
        yield storage.to_uri(run)
        return
    with tempfile.TemporaryDirectory(prefix="sparkwright-tuning-", ignore_cleanup_errors=True) as folder:
        yield storage.to_uri(folder)


class _Stages:
    """Tells of the stages of a search, and what they took."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str, total: int = 0, unit: str = "epochs") -> Iterator[None]:
        self._emit(StageStarted(name, total, unit))
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)
        self._emit(StageEnded(name, self.seconds[name], rows=total))
