"""Spark ML estimator that searches the settings of another one; it also takes tables without Spark."""

# ruff: noqa: N815  Params are camelCase

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from pyspark.ml import Estimator
from pyspark.ml.param import TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable, DefaultParamsWriter, MLWriter

from sparkwright.errors import InputError
from sparkwright.models import Model
from sparkwright.training.estimators.heads import Checked, MLPClassifier, MLPRegressor, TrainingEstimator
from sparkwright.training.estimators.models import TrainedModel, to_model
from sparkwright.training.estimators.networks import NetworkClassifier, NetworkRegressor
from sparkwright.training.estimators.params import (
    NamedParams,
    anything,
    naming,
    number_or_none,
    param,
    under_params,
    whole_or_none,
)
from sparkwright.training.rows.readers import ImageReader
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.result import Searched
from sparkwright.tuning.search_rows import search_rows
from sparkwright.tuning.space import Space
from sparkwright.tuning.trials import Trial

__all__ = ["Tuner"]

_ESTIMATORS = {kind.__name__: kind for kind in (MLPClassifier, MLPRegressor, NetworkClassifier, NetworkRegressor)}


def _to_estimator(value: Any) -> TrainingEstimator:
    """Convert to an estimator: one, or what `Tuner.write` keeps of one."""
    if isinstance(value, Mapping) and value.get("class") in _ESTIMATORS:
        estimator = _ESTIMATORS[value["class"]](**value["params"])
        return estimator._resetUid(value["uid"])
    if isinstance(value, TrainingEstimator):
        return value
    raise TypeError(f"one of {', '.join(_ESTIMATORS)} is needed, not {type(value).__name__}.")


class Tuner(NamedParams, Estimator[Any], DefaultParamsReadable[Any], DefaultParamsWritable):
    """Searches the settings of an estimator of this library and trains the best: `fit` gives that one's model.

    `fit` takes what the estimator takes: DataFrames of Spark, whose trials are small jobs on the executors; or, to
    search in this process, DataFrames of pandas, tables of Arrow, and mappings from names to arrays. Rows on the test
    side are not read. The model's `trials` is a DataFrame of pandas with a row a trial, its `best` the settings that
    were chosen; both are saved with it.

    Trials are compared on the estimator's validation rows (`splitCol`, `validationFraction`) or on folds, each at its
    best epoch by the estimator's `monitor`, and are stopped early where they are behind; its `epochs` are those of a
    trial that is not. The rest of its Params hold for all trials, where the space says nothing.

    Args:
        estimator: `MLPClassifier`, `MLPRegressor`, `NetworkClassifier` or `NetworkRegressor`.
        space: What is searched: a `Space`, a mapping, the path of a YAML or JSON file, or the name of one that comes
            with the library. None: ``"head"``, or ``"finetuning"`` for whole networks.
        trials: Configurations to try, at most.
        sampler: ``"tpe"``, ``"random"``, ``"grid"``, ``"cmaes"``, ``"gp"``, or a sampler of Optuna.
        objectives: What trials are compared by: a metric of the validation rows; then ``"parameters"`` and
            ``"seconds_per_row"``, if they are to be small, too. Empty: what the estimator monitors; of a
            classifier that monitors its loss, the calibrated loss.
        maxEpochs: Epochs that all trials together may train, about; None: no limit.
        minEpochs: Epochs after which trials are compared first. None: by `epochs`.
        eta: One of so many trials goes on from a comparison.
        folds: Parts of the training and validation rows, each of which validates once; None: no folds.
        groupCol: Column of what folds must not divide, such as a patient.
        candidates: The best so many configurations are trained again, with other seeds; the best of them is kept.
        seeds: So often each.
        parallelTrials: Jobs at a time; the trials are then the same on any number of slots. None: as many as there are
            slots, which does not repeat.
        together: ``"trial"``, ``"shared"`` or ``"auto"``: whether a job trains one trial, or many at once.
        maxParameters: Weights that a trial may have; None: any number.
        maxSecondsPerRow: What scoring a row may take; None: any time.
        timeLimitSeconds: Seconds after which no more trials start or go on; None: no limit.
        trialTimeLimitSeconds: Seconds that a trial may train, on each fold; one that takes longer has failed. None: any
            time.
        runDir: Folder (path or URI) that driver and executors share, in which the search is a run: configuration,
            events and trials, metrics and ``report.html`` at the end, also if it fails. A search that was interrupted
            goes on there when it is fitted again; one of other settings or other rows is refused. One that has ended is
            replaced. None: a temporary one on this machine, which executors of other machines cannot see.

    Example:
        >>> head = MLPClassifier(splitCol="split")
        >>> model = Tuner(estimator=head, trials=50).fit(features)           # doctest: +SKIP
        >>> model.trials.sort_values("value", ascending=False).head()        # doctest: +SKIP
    """

    fields: ClassVar[dict[str, str]] = {
        "trials": "trials",
        "sampler": "sampler",
        "objectives": "objectives",
        "maxEpochs": "max_epochs",
        "minEpochs": "min_epochs",
        "eta": "eta",
        "folds": "folds",
        "candidates": "candidates",
        "seeds": "seeds",
        "parallelTrials": "parallel_trials",
        "together": "together",
        "maxParameters": "max_parameters",
        "maxSecondsPerRow": "max_seconds_per_row",
        "timeLimitSeconds": "time_limit_s",
        "trialTimeLimitSeconds": "trial_time_limit_s",
    }

    estimator = param("estimator", "whose settings are searched", _to_estimator)
    space = param("space", "what is searched; None: by the estimator", anything)
    trials = param("trials", "configurations to try, at most", TypeConverters.toInt)
    sampler = param("sampler", "tpe, random, grid, cmaes, gp, or a sampler of Optuna", anything)
    objectives = param("objectives", "what trials are compared by; none: by the monitor", TypeConverters.toListString)
    maxEpochs = param("maxEpochs", "epochs of all trials together, about; None: no limit", whole_or_none)
    minEpochs = param("minEpochs", "epochs before the first comparison; None: by epochs", whole_or_none)
    eta = param("eta", "one of so many trials goes on from a comparison", TypeConverters.toInt)
    folds = param("folds", "parts of the rows, each of which validates once; None: none", whole_or_none)
    groupCol = param("groupCol", "column of what folds must not divide", anything)
    candidates = param("candidates", "best configurations that are trained again", TypeConverters.toInt)
    seeds = param("seeds", "how often each, with other seeds", TypeConverters.toInt)
    parallelTrials = param("parallelTrials", "jobs at a time; None: as slots allow", whole_or_none)
    together = param("together", "trial: a trial a job; shared: many; or auto", TypeConverters.toString)
    maxParameters = param("maxParameters", "weights of a trial; None: any number", whole_or_none)
    maxSecondsPerRow = param("maxSecondsPerRow", "what scoring a row may take; None: any time", number_or_none)
    timeLimitSeconds = param("timeLimitSeconds", "after which no trial starts; None: no limit", number_or_none)
    trialTimeLimitSeconds = param("trialTimeLimitSeconds", "that a trial may train; None: any time", number_or_none)
    runDir = param("runDir", "folder of the search's run, to go on from; None: none", anything)

    def __init__(self, **params: Any) -> None:
        super().__init__()
        usual = {f.name: f.default for f in fields(TuningConfig)}
        defaults = {name: usual[field] for name, field in self.fields.items()} | {"objectives": []}
        self._setDefault(estimator=None, space=None, groupCol=None, runDir=None, **defaults)
        self.setParams(**params)

    def copy(self, extra: Any = None) -> "Tuner":
        """Return a copy, with a copy of the estimator; `extra` may hold Params of both."""
        copied: Tuner = super().copy(extra)
        estimator = copied.getOrDefault(copied.estimator)
        return copied if estimator is None else copied.setParams(estimator=estimator.copy(extra))

    def write(self) -> MLWriter:
        """Return what saves it, the estimator's Params included.

        Raises:
            InputError: The estimator, or the sampler, is none of the library's, so that loading it would run code.
        """
        plain = self.copy()
        estimator, space = plain.getOrDefault(plain.estimator), plain.getOrDefault(plain.space)
        if not isinstance(plain.getOrDefault(plain.sampler), str):
            raise InputError("A Tuner is saved with the name of its `sampler`, not with a sampler of Optuna.")
        if estimator is not None:
            if type(estimator) is not _ESTIMATORS.get(type(estimator).__name__):
                raise InputError(f"A Tuner is saved with one of {', '.join(_ESTIMATORS)}, not {type(estimator)}.")
            estimator.write()  # which refuses what cannot be saved
            values = {own.name: value for own, value in estimator._paramMap.items()}
            kept = {"class": type(estimator).__name__, "uid": estimator.uid, "params": values}
            plain._paramMap[plain.estimator] = kept
        if isinstance(space, Space):
            plain._paramMap[plain.space] = space.to_dict()
        return DefaultParamsWriter(plain)

    def fit(self, dataset: Any, params: Any = None) -> Any:
        """Search on a table, and train the best; `params` override the Params of the Tuner and of its estimator.

        Args:
            dataset: As the estimator takes it.
            params: As Spark's estimators take them: a mapping, or a list of such for a list of models.

        Raises:
            InputError: Params, space or table cannot be used; no trial that could be chosen.
        """
        return super().fit(dataset, params)

    def _fit(self, dataset: Any) -> TrainedModel:
        """Search with `search_rows`; see there where it runs."""
        estimator: TrainingEstimator | None = self.getOrDefault(self.estimator)
        if estimator is None:
            raise InputError("Set the `estimator` whose settings are searched: Tuner(estimator=MLPClassifier(…)).")
        checked = estimator.checked(dataset)
        self._check_rows(estimator, checked)
        with estimator.listening() as emit, naming(estimator.regressor):
            found = search_rows(
                dataset,
                self._config(checked),
                features=checked.columns.features,
                label=checked.columns.label,
                weight=checked.columns.weight,
                split=checked.columns.split,
                group=self.getOrDefault(self.groupCol),
                invalid=estimator.getOrDefault(estimator.handleInvalid),
                subject=checked.subject,
                run=self.getOrDefault(self.runDir),
                emit=emit,
            )
        model = to_model(found.trained, checked.key)
        return estimator.stage(_with_trials(model, found), checked)

    def _check_rows(self, estimator: TrainingEstimator, checked: Checked) -> None:
        """Refuse what a search cannot do with an estimator that can be fitted itself."""
        folds, group = self.getOrDefault(self.folds), self.getOrDefault(self.groupCol)
        problems = []
        if folds is None and checked.columns.split is None and not checked.config.validation_fraction:
            problems.append(
                "A search needs validation rows: set `splitCol` or `validationFraction` of the estimator, or `folds`."
            )
        if group is not None and folds is None:
            problems.append("`groupCol` is of `folds`, which are not set.")
        if not isinstance(self.getOrDefault(self.runDir), str | None):
            problems.append(f"`runDir` must be the path of a folder, as text, not {self.getOrDefault(self.runDir)!r}.")
        if estimator.getOrDefault(estimator.runDir) is not None:
            problems.append("Set the Tuner's `runDir`, not its estimator's.")
        if checked.subject is None and estimator.getOrDefault(estimator.initialModel) is not None:
            problems.append("`initialModel` has the layers that it has; a search tries others. Leave it out.")
        if problems:
            raise InputError.listing("The search cannot be done like this", problems)

    def _config(self, checked: Checked) -> TuningConfig:
        """Return how to search.

        Raises:
            InputError: Values that cannot be used, under the Params' names; all of them in one message.
        """
        given = {field: self.getOrDefault(name) for name, field in self.fields.items()}
        space, photos = self.getOrDefault(self.space), False
        if checked.subject is not None:
            photos = isinstance(checked.subject.reader, ImageReader)
        if space is None or isinstance(space, str):
            usual = "head" if checked.subject is None else "finetuning"
            space = Space.load(space or usual, task=checked.config.task, photos=photos)
        try:
            config = TuningConfig(space=space, base=checked.config, **given)
            config.searched.check(config.base, config.metric, photos=photos)
        except InputError as error:
            problems = under_params(error.problems or (str(error),), self.fields)
            raise InputError.listing("The search cannot be done like this", problems) from None
        return config


def _with_trials(model: Model, found: Searched) -> Model:
    """Return the model with what it comes from, for `TrainedModel.trials` and `TrainedModel.best`."""
    tuning = {"trials": [_row(trial) for trial in found.trials], "best": found.chosen.to_dict()}
    return model.replace(lineage={**model.lineage, "tuning": tuning})


def _row(trial: Trial) -> dict[str, Any]:
    named = ("number", "state", "reason", "value", "epochs", "best_epoch", "seconds", "attempts", "metrics", "values")
    return {name: getattr(trial, name) for name in named}
