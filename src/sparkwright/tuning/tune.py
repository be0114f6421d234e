"""The job from labelled rows to a tested model, hyperparameters included: what `train` is, with a search before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkwright.events import Emit, Sink, ignore
from sparkwright.labelled import Fractions
from sparkwright.models import Model
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.population import Invalid
from sparkwright.training.subject import Subject
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.selection import Candidate
from sparkwright.tuning.trials import Trial

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkwright.data.local import LocalTable

__all__ = ["Searched", "TuningResult", "search_rows", "tune"]


@dataclass(frozen=True)
class Searched:
    """What `search_rows` gives.

    Attributes:
        trials: All that were tried, by number.
        candidates: The best few, trained again with other seeds.
        chosen: The one of them that is kept.
        trained: It, trained with the search's seed as `train` does.
    """

    trials: list[Trial]
    candidates: list[Candidate]
    chosen: Candidate
    trained: TrainingResult


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

    The test rows are read after the choice, for the chosen configuration alone.

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
    """
    raise NotImplementedError


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
    """
    raise NotImplementedError
