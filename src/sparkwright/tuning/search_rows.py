"""A search on rows that are there: trials, the best few again, and the chosen one trained; no row of a test is read."""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  its usual name

from sparkwright import storage
from sparkwright.data.local import column_names, to_arrow
from sparkwright.events import Emit, StageEnded, StageStarted, Warned, ignore
from sparkwright.runs import CHECKPOINTS, TUNING
from sparkwright.training.arrays import fit_table
from sparkwright.training.cluster.fit import train
from sparkwright.training.loop import cpu_threads
from sparkwright.training.recorded import asked_for
from sparkwright.training.replica.schedule import as_it_was
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.columns import Columns
from sparkwright.training.rows.population import Invalid
from sparkwright.training.subject import Head, Subject, allowed_classes
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.recorded import recorded
from sparkwright.tuning.result import Searched
from sparkwright.tuning.runners._base import Runner
from sparkwright.tuning.runners.local import LocalRunner
from sparkwright.tuning.runners.spark import SparkRunner
from sparkwright.tuning.search import Search
from sparkwright.tuning.selection import Candidate, Retraining, best_trials, choose
from sparkwright.tuning.setup import Setup
from sparkwright.tuning.shared_rows import check_same_rows
from sparkwright.tuning.space import configure
from sparkwright.tuning.trial_task import augmented
from sparkwright.tuning.trials import Trial

if TYPE_CHECKING:
    from sparkwright.data.local import LocalTable

__all__ = ["search_rows"]


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
    folder: str | None = None,
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
        run: A run's folder (path or URI) that driver and workers share, for configuration, events, trials, metrics and
            report. A search that was interrupted goes on there; one that has ended is replaced. None keeps no run.
        folder: The folder of a run that the caller keeps, in place of `run`, in which a search goes on that was begun
            there. With neither it is kept in a temporary one on this machine's disk.
        emit: What takes the events.

    Raises:
        ColumnError: A column is missing or of another type; rows that cannot be trained on, counted by what is wrong.
        InputError: Nothing says which rows validate, or none does; more `threads` than a task has cores; other rows
            than those of the search that goes on, or another configuration; no trial that could be chosen.
        ExistsError: Another process searches in `run`, or it holds something else than a search's run.
    """
    setup = Setup(
        config.base,
        Columns.of(features, label, weight, split),
        subject or Head(),
        classes=classes,
        invalid=invalid,
        group=group,
        folds=config.folds,
        costs=config.costs,
        together=config.together,
        losses=config.losses,
    )
    allowed = allowed_classes(classes, setup.subject)
    asked = asked_for(config.base, setup.columns, allowed, invalid, setup.subject)
    search = {name: value for name, value in config.to_dict().items() if name != "base"}
    asked |= {"group": group, "search": search}

    def searched(kept: str | None, told: Emit) -> Searched:
        return _searched(rows, config, setup, kept, told)

    return recorded(searched, config, asked, run, folder, emit)


def _searched(
    rows: "DataFrame | LocalTable", config: TuningConfig, setup: Setup, run: str | None, emit: Emit
) -> Searched:
    """Search, choose and train; what the search goes on from is kept in a run's folder, if there is one."""
    timed = _Stages(emit)
    with _folder(run) as folder, _runner(rows, setup, folder) as runner:
        census = runner.population.census
        if skipped := census.problems.total():
            emit(Warned(f"{skipped:,} rows cannot be trained on, so the search leaves them out: {census.listed()}."))
        with timed("search", config.trials, "trials"), _proposing(rows):
            trials = Search(config, runner, folder, emit=emit).run()
        wanted = best_trials(trials, config.direction, config.candidates, config.max_seconds_per_row)
        folds = config.folds or 1
        seeds = [config.base.seed + 1 + number for number in range(config.seeds)]
        with timed("selection", len(wanted) * len(seeds) * folds, "trainings"):
            again = Retraining(
                runner,
                config.metric,
                seeds,
                folds,
                config.base.epochs,
                config.trial_time_limit_s,
                storage.join(folder, "selection"),
                emit,
            )
            candidates = again.run(wanted)
        slots = runner.slots
    chosen = choose(candidates, config.direction)
    with timed("training"):
        trained = _train(rows, setup, chosen, trials[chosen.trial], run, emit)
    validated = trained.rows.get("validation" if config.folds is None else "train", 0)
    return Searched(trials, candidates, chosen, trained, validated, slots, timed.seconds)


@contextlib.contextmanager
def _runner(rows: "DataFrame | LocalTable", setup: Setup, folder: str) -> Iterator[Runner]:
    """Open what trains the trials: jobs of Spark, or this process."""
    runner: Runner
    if isinstance(rows, DataFrame):
        runner = SparkRunner(rows, setup, folder)
    else:
        runner = LocalRunner(rows, setup, folder)
        _note_rows(folder, runner.population.fingerprint())
    try:
        yield runner
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong is to be told, not what cannot be tidied up after it
            runner.close()
        raise
    runner.close()


def _proposing(rows: "DataFrame | LocalTable") -> contextlib.AbstractContextManager[None]:
    """Let the driver's torch compute with one thread while samplers propose.

    The products of Optuna's Gaussian processes are so small that a second thread takes ten times the processor's
    seconds. Where trials train in this process their threads are theirs, and nobody may change them meanwhile.
    """
    return cpu_threads(1) if isinstance(rows, DataFrame) else contextlib.nullcontext()


def _note_rows(folder: str, now: dict[str, Any]) -> None:
    """Keep what tells the rows of a table from others; refuse others than those of the search that goes on."""
    path = storage.join(folder, "rows.json")
    if storage.exists(path):
        check_same_rows(folder, json.loads(storage.read_bytes(path)), now)
    else:
        storage.write_bytes(path, json.dumps(now).encode())


def _train(
    rows: "DataFrame | LocalTable", setup: Setup, chosen: Candidate, trial: Trial, run: str | None, emit: Emit
) -> TrainingResult:
    """Train the chosen configuration with the search's seed, as a training that nothing came before would.

    Without folds `train` of the same rows gives the same model. With them there is no validation side: all rows train,
    for the median of the best epochs that folds and seeds found, over which the schedule then stretches.
    """
    own, columns, split = configure(setup.base, chosen.values), setup.columns, setup.columns.split
    if setup.folds is not None:
        rows, split = _untested(rows, split), None
        found = round(median(chosen.epochs))
        own = as_it_was(own, trial.history, found).replace(patience=None, refit=False)
    common: dict[str, Any] = {
        "features": columns.features,
        "label": columns.label,
        "weight": columns.weight,
        "split": split,
        "classes": setup.classes,
        "invalid": setup.invalid,
        "subject": augmented(setup.subject, chosen.values),
        "checkpoints": None if run is None else storage.join(run, CHECKPOINTS),
        "emit": emit,
    }
    return train(rows, own, **common) if isinstance(rows, DataFrame) else fit_table(rows, own, **common)


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
    """Return the search's folder in the run's, or one that is gone afterwards."""
    if run is not None:
        yield storage.join(storage.to_uri(run), TUNING)
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
