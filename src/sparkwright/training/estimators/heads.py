"""Spark ML estimators that train a head on columns of features; they also take tables without Spark."""

# ruff: noqa: N815  Params are camelCase

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
from pyspark.ml import Estimator
from pyspark.ml.param import TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable, MLWriter
from pyspark.sql import DataFrame

from sparkwright.data.local import column_names, is_local, to_arrow
from sparkwright.errors import ColumnError, InputError
from sparkwright.events import Bus, Emit, Stamped, Warned, WorkerLost
from sparkwright.models import Model
from sparkwright.monitoring.progress import TerminalProgress
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.training.arrays import fit_table
from sparkwright.training.checkpoints import CHECKPOINT_S
from sparkwright.training.cluster.fit import MEMORY_MIB, STALL_LIMIT_S, train, transport_problems
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.models import (
    MLPClassificationModel,
    MLPRegressionModel,
    TrainedModel,
    to_model,
)
from sparkwright.training.estimators.params import (
    SHARED,
    TrainingParams,
    anything,
    naming,
    numbers,
    param,
    whole_or_none,
)
from sparkwright.training.rows.columns import Columns, Payload, arrow_schema, column_problems
from sparkwright.training.rows.population import invalid_problems
from sparkwright.training.subject import Subject

__all__ = ["Checked", "MLPClassifier", "MLPRegressor", "TrainingEstimator"]

log = logging.getLogger(__name__)


def _names_or_none(value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"a list of columns' names is needed, not {value!r}.")
    return [str(name) for name in value]


def _to_initial(value: Any) -> str | Model | None:
    if isinstance(value, ModelTransformer):
        return value.getModel()
    if value is None or isinstance(value, str | Model):
        return value
    raise TypeError(f"a model or the path of one is needed, not {type(value).__name__}.")


@dataclass(frozen=True)
class Checked:
    """What a `fit` trains, on a table that it can be trained on.

    Attributes:
        config: How.
        columns: On what.
        subject: A whole network; None for a head on the features.
        alone: Whether one column holds a row's features, or its content.
        key: What the features are, as far as the column tells.
    """

    config: TrainingConfig
    columns: Columns
    subject: Subject | None
    alone: bool
    key: FeatureKey | None


class TrainingEstimator(TrainingParams, Estimator[Any], DefaultParamsReadable[Any], DefaultParamsWritable):
    """What classifier and regressor share."""

    model_class: ClassVar[type[TrainedModel]]

    featuresCol = param("featuresCol", "column of vectors or arrays of numbers", TypeConverters.toString)
    featuresCols = param("featuresCols", "columns that together are the features, of numbers too", _names_or_none)
    labelCol = param("labelCol", "column of labels, or of numbers for a regression", TypeConverters.toString)
    weightCol = param("weightCol", "column of rows' weights; none weighs all alike", anything)
    splitCol = param("splitCol", "column of train, validation, test; without it all rows train", anything)
    predictionCol = param("predictionCol", "column that the model adds", TypeConverters.toString)
    numWorkers = param("numWorkers", "tasks that train; None: as replicas and slots allow", whole_or_none)
    handleInvalid = param("handleInvalid", "rows that cannot be trained on: error or skip", TypeConverters.toString)
    initialModel = param("initialModel", "model to go on from, or its path; None: random weights", _to_initial)
    transport = param("transport", "gang: workers that talk; rounds: Spark jobs", TypeConverters.toString)
    runDir = param("runDir", "folder of the training's run, to go on from; None: none", anything)
    checkpointSeconds = param("checkpointSeconds", "seconds between two checkpoints", TypeConverters.toFloat)
    stallLimitSeconds = param("stallLimitSeconds", "how long a worker may stall", TypeConverters.toFloat)
    progress = param("progress", "show progress where there is a terminal", TypeConverters.toBoolean)
    memoryMib = param("memoryMib", "features that a worker keeps in memory, in MiB", TypeConverters.toInt)

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._setDefault(
            featuresCol="features",
            featuresCols=None,
            labelCol="label",
            predictionCol="prediction",
            weightCol=None,
            splitCol=None,
            numWorkers=None,
            handleInvalid="error",
            initialModel=None,
            transport="gang",
            runDir=None,
            checkpointSeconds=CHECKPOINT_S,
            stallLimitSeconds=STALL_LIMIT_S,
            progress=True,
            memoryMib=MEMORY_MIB,
            **self.defaults(),
        )
        self.setParams(**params)

    def write(self) -> MLWriter:
        if isinstance(self.getOrDefault(self.initialModel), Model):
            raise InputError(
                "An estimator is saved with the path of its `initialModel`, not with the model: save the model first, "
                "and set initialModel to where it lies."
            )
        return super().write()

    def fit(self, dataset: Any, params: Any = None) -> Any:
        """Train on a table; `params` override the estimator's own: a mapping, or a list of such for a list of models.

        Args:
            dataset: A DataFrame of Spark; or, to train in this process, a DataFrame of pandas, a table of Arrow, or a
                mapping from names to arrays.
            params: As Spark's estimators take them.

        Raises:
            InputError: Params or the table cannot be used; all that is wrong is in one message.
        """
        if not isinstance(params, dict | list | tuple | None):
            raise InputError(
                '`fit` takes one table, with the labels in it: fit({"features": x, "label": y}). The second argument '
                f"overrides Params; it is {type(params).__name__}."
            )
        with naming(self.regressor):
            return super().fit(dataset, params)

    @contextmanager
    def listening(self) -> Iterator[Emit]:
        """Return what hears of the training."""
        if not (self.getOrDefault(self.progress) and sys.stderr.isatty()):
            yield Bus([_log_warning]).emit
            return
        with TerminalProgress() as terminal:
            yield Bus([terminal]).emit

    def _subject(self) -> Subject | None:
        """Return what is trained; None: a head on the features.

        Raises:
            InputError: It cannot be trained.
        """
        return None

    def _fit(self, dataset: Any) -> TrainedModel:
        """Train on a gang of workers, or in this process for a table without Spark; see `train` and `fit_table`."""
        checked = self.checked(dataset)
        config, columns, subject = checked.config, checked.columns, checked.subject
        initial = self.getOrDefault(self.initialModel)
        common: dict[str, Any] = {
            "features": columns.features,
            "label": columns.label,
            "weight": columns.weight,
            "split": columns.split,
            "invalid": self.getOrDefault(self.handleInvalid),
            "subject": subject,
            "initial": None if subject else Model.load(initial) if isinstance(initial, str) else initial,
            "run": self.getOrDefault(self.runDir),
            "checkpoint_s": self.getOrDefault(self.checkpointSeconds),
        }
        with self.listening() as emit:
            if isinstance(dataset, DataFrame):
                result = train(
                    dataset,
                    config,
                    num_workers=self.getOrDefault(self.numWorkers),
                    transport=self.getOrDefault(self.transport),
                    stall_limit_s=self.getOrDefault(self.stallLimitSeconds),
                    memory_mib=self.getOrDefault(self.memoryMib),
                    emit=emit,
                    **common,
                )
            else:
                result = fit_table(dataset, config, emit=emit, **common)
        return self.stage(to_model(result, checked.key), checked)

    def stage(self, model: Model, checked: Checked) -> TrainedModel:
        """Return the transformer that adds a trained model's predictions."""
        features = checked.columns.features
        stage = self.model_class(
            model=model,
            inputCol=features[0] if checked.alone else None,
            inputCols=None if checked.alone else features,
            predictionCol=self.getOrDefault(self.predictionCol),
        )
        return stage._resetUid(self.uid)

    def checked(self, dataset: Any) -> Checked:
        """Return what is trained and on what, if all of it can be used, and with this table.

        Raises:
            InputError: All that is wrong, in one message.
        """
        named = self.getOrDefault(self.featuresCols)
        columns = Columns.of(
            self.getOrDefault(self.featuresCol) if named is None else named,
            *(self.getOrDefault(name) for name in (self.labelCol, self.weightCol, self.splitCol)),
        )
        problems, wrong, types, names = list[str](), list[str](), pa.schema([]), list[str]()
        try:
            types, names = _types(dataset, columns)
        except InputError as error:
            wrong += error.problems
        task = self.task
        if task == "classification" and columns.label in types.names:
            task = "multilabel" if pa.types.is_nested(types.field(columns.label).type) else task
        try:
            config = self._config(task)
        except InputError as error:
            problems += error.problems
        subject: Subject | None = None
        payload: Payload | None = None  # what the columns must hold is the subject's to say
        try:
            subject = self._subject()
            payload = subject.reader.payload if subject else "numbers"
        except InputError as error:
            problems += error.problems or [str(error)]
        if named is not None and self.isSet(self.featuresCol):
            problems.append("`featuresCol` and `featuresCols` are both set; leave one out.")
        problems += self._run_problems()
        if not wrong:
            wrong = column_problems(columns, types, names, task, payload)
        if problems or wrong:
            kind = InputError if problems else ColumnError
            raise kind.listing(f"{type(self).__name__} cannot train like this", problems + wrong)
        nested = pa.types.is_nested(types.field(columns.features[0]).type)
        alone = len(columns.features) == 1 and (nested or subject is not None)
        spark = alone and nested and isinstance(dataset, DataFrame)
        key = FeatureKey.of_column(dataset.schema[columns.features[0]]) if spark else None
        return Checked(config, columns, subject, alone, key)

    def _run_problems(self) -> list[str]:
        """Return what is wrong with the Params that the result does not depend on."""
        run = self.getOrDefault(self.runDir)
        problems = invalid_problems(self.getOrDefault(self.handleInvalid))
        problems += transport_problems(self.getOrDefault(self.transport), run)
        for own, least in ((self.memoryMib, 1), (self.checkpointSeconds, 0), (self.stallLimitSeconds, 1)):
            value = self.getOrDefault(own)
            if not value >= least:
                problems.append(f"`{own.name}` must be at least {least}, not {value}.")
        if run is not None and not isinstance(run, str):
            problems.append(f"`runDir` must be the path of a folder, as text, not {run!r}.")
        return problems


def _log_warning(stamped: Stamped) -> None:
    if isinstance(stamped.event, Warned | WorkerLost):
        log.warning(stamped.event.message)


def _types(dataset: Any, columns: Columns) -> tuple[pa.Schema, list[str]]:
    """Return the types of the columns that a table has, and the names of all its columns.

    Raises:
        InputError: It is no table, or has no rows.
    """
    if isinstance(dataset, DataFrame):
        return arrow_schema(dataset.schema, columns), dataset.columns
    if is_local(dataset):
        table = to_arrow(dataset, columns.names)
        if table.num_columns and not table.num_rows:
            raise InputError.listing("The table cannot be trained on", ["The table has no rows."])
        return table.schema, column_names(dataset)
    problem = (
        "`fit` takes a DataFrame of Spark or pandas, a table of Arrow, or a mapping from names to arrays, such as "
        f'{{"features": x, "label": y}}; it got {type(dataset).__name__}.'
    )
    raise InputError.listing("The table cannot be read", [problem])


class MLPClassifier(TrainingEstimator):
    """Trains a classifier of features: a linear layer, or a multi-layer perceptron, by averaging replicas.

    `fit` takes DataFrames of Spark; or, without Spark and with the same result, DataFrames of pandas, tables of Arrow
    and mappings from names to arrays of NumPy. The Params are the fields of `TrainingConfig` in camelCase, with its
    defaults, and:

    Args:
        featuresCol: Vectors or arrays of numbers.
        featuresCols: Instead of `featuresCol`: several columns of numbers, arrays or vectors, which together are a
            row's features, in this order.
        labelCol: Text or whole numbers. Or arrays of them: a row then has any number of labels, none too, and the
            model adds an array of those that it predicts.
        weightCol: Weights of rows.
        splitCol: ``train``, ``validation`` (chooses the best epoch) and ``test`` (left alone).
        predictionCol: What the model adds.
        numWorkers: Tasks that train; the result does not depend on it.
        handleInvalid: ``"error"``, or ``"skip"`` to leave out rows that cannot be trained on.
        initialModel: A model, or where one was saved, whose head has the same layers and classes: training goes on from
            its weights.
        transport: ``"gang"``: workers that live all the time and talk to each other; ``"rounds"``: ordinary Spark jobs,
            without open ports and for dynamic allocation. The result is the same.
        runDir: Folder (path or URI) that driver and workers share, in which the training is a run: configuration,
            events and checkpoints while it trains, metrics and ``report.html`` at the end, also if it fails. A
            training that was interrupted goes on there when it is fitted again; one of another configuration or other
            rows is refused. One that has ended is replaced.
        checkpointSeconds: Seconds between two checkpoints.
        stallLimitSeconds: How long a worker may neither take a step nor wait for others.
        progress: Show stages, epochs, rate and time left on standard error, where that is a terminal. Warnings go to
            Python's logging where it is none.
        memoryMib: Features that a worker keeps in memory; more are read from its local disk when they are wanted.

    Example:
        >>> model = MLPClassifier(splitCol="split", hiddenLayers=[128]).fit(features)   # doctest: +SKIP
        >>> model.transform(features).select("label", "prediction")                     # doctest: +SKIP
        >>> table = {"x": [0.0, 1.0, 2.0, 3.0] * 9, "y": ["low", "low", "high", "high"] * 9}
        >>> model = MLPClassifier(featuresCols=["x"], labelCol="y", hiddenLayers=[8]).fit(table)
        >>> model.transform({"x": [0.5, 2.5]})["prediction"].tolist()
        ['low', 'high']
    """

    task = "classification"
    model_class: ClassVar[type[TrainedModel]] = MLPClassificationModel
    fields: ClassVar[dict[str, str]] = {
        **SHARED,
        "focalGamma": "focal_gamma",
        "classWeights": "class_weights",
        "labelSmoothing": "label_smoothing",
        "sampling": "sampling",
        "thresholdMetric": "threshold_metric",
        "calibrate": "calibrate",
    }

    focalGamma = param("focalGamma", "exponent of the focal loss", TypeConverters.toFloat)
    classWeights = param("classWeights", "None, balanced, or a weight for each class", anything)
    labelSmoothing = param("labelSmoothing", "share of the target spread over classes", TypeConverters.toFloat)
    sampling = param("sampling", "rows of an epoch: shuffled, or balanced over classes", TypeConverters.toString)
    thresholdMetric = param("thresholdMetric", "what thresholds are chosen for: f1, balanced_accuracy", anything)
    calibrate = param("calibrate", "fit probabilities to the validation rows", TypeConverters.toBoolean)


class MLPRegressor(TrainingEstimator):
    """Trains a regression on features: a linear layer, or a multi-layer perceptron, by averaging replicas.

    The Params are those of `MLPClassifier` without those of classes; `labelCol` holds numbers. And:

    Args:
        huberDelta: Where the Huber loss goes over from squared to absolute, in deviations of the targets.
        quantiles: Of the quantile loss; several give an array of predictions.

    Example:
        >>> model = MLPRegressor(labelCol="price").fit(table)       # doctest: +SKIP
    """

    task = "regression"
    model_class: ClassVar[type[TrainedModel]] = MLPRegressionModel
    fields: ClassVar[dict[str, str]] = {**SHARED, "huberDelta": "huber_delta", "quantiles": "quantiles"}

    huberDelta = param("huberDelta", "where the Huber loss becomes absolute, in deviations", TypeConverters.toFloat)
    quantiles = param("quantiles", "of the quantile loss, an output each", numbers)
