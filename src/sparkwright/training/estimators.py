"""Spark ML estimators that train a head on columns of features; they also take tables without Spark."""

# ruff: noqa: N815  Params are camelCase

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import pyarrow as pa
from pyspark.ml import Estimator
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable, MLWriter
from pyspark.sql import DataFrame

from sparkwright.data.local import column_names, is_local, to_arrow
from sparkwright.errors import ColumnError, InputError, NameUnknownError, did_you_mean
from sparkwright.events import Bus, Emit, Stamped, Warned, WorkerLost
from sparkwright.models import Model
from sparkwright.monitoring.progress import TerminalProgress
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.training.arrays import fit_table
from sparkwright.training.checkpoints import CHECKPOINT_S
from sparkwright.training.cluster.fit import MEMORY_MIB, STALL_LIMIT_S, TRANSPORTS, train
from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.columns import Columns, arrow_schema, column_problems
from sparkwright.training.trained_models import (
    MLPClassificationModel,
    MLPRegressionModel,
    TrainedModel,
    to_model,
)

__all__ = ["MLPClassifier", "MLPRegressor"]

log = logging.getLogger(__name__)

# Param → field of TrainingConfig, which also has its default.
_SHARED = {
    "hiddenLayers": "hidden",
    "activation": "activation",
    "dropout": "dropout",
    "optimizer": "optimizer",
    "learningRate": "learning_rate",
    "momentum": "momentum",
    "nesterov": "nesterov",
    "beta2": "beta2",
    "epsilon": "epsilon",
    "weightDecay": "weight_decay",
    "rateDecay": "rate_decay",
    "layerRates": "layer_rates",
    "clipNorm": "clip_norm",
    "clipValue": "clip_value",
    "accumulate": "accumulate",
    "schedule": "schedule",
    "warmup": "warmup",
    "dropAt": "drop_at",
    "dropFactor": "drop_factor",
    "plateauPatience": "plateau_patience",
    "rateTable": "rate_table",
    "rateTableUnit": "rate_table_unit",
    "weightAverage": "weight_average",
    "emaDecay": "ema_decay",
    "swaFrom": "swa_from",
    "batchNorm": "batch_norm",
    "device": "device",
    "precision": "precision",
    "channelsLast": "channels_last",
    "compile": "compile",
    "epochs": "epochs",
    "batchSize": "batch_size",
    "replicas": "replicas",
    "strategy": "strategy",
    "syncEvery": "sync_every",
    "syncShare": "sync_share",
    "outerRate": "outer_rate",
    "outerMomentum": "outer_momentum",
    "pull": "pull",
    "compression": "compression",
    "compressionShare": "compression_share",
    "patience": "patience",
    "validateEvery": "validate_every",
    "healthEvery": "health_every",
    "monitor": "monitor",
    "refit": "refit",
    "validationFraction": "validation_fraction",
    "standardise": "standardise",
    "timeLimitSeconds": "time_limit_s",
    "onNotFinite": "on_not_finite",
    "loss": "loss",
    "seed": "seed",
    "threads": "threads",
}


def _whole_or_none(value: Any) -> int | None:
    return None if value is None else TypeConverters.toInt(value)


def _number_or_none(value: Any) -> float | None:
    return None if value is None else TypeConverters.toFloat(value)


def _anything(value: Any) -> Any:  # checked with all others by TrainingConfig
    return value


def _widths(value: Any) -> list[int]:
    return TypeConverters.toListInt(value if isinstance(value, Sequence) else [value])


def _numbers(value: Any) -> list[float]:
    return TypeConverters.toListFloat(value if isinstance(value, Sequence) else [value])


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


def _param(name: str, doc: str, converter: Any) -> Any:
    return Param(Params._dummy(), name, doc, converter)


class _MLPEstimator(Estimator[Any], DefaultParamsReadable[Any], DefaultParamsWritable):
    """What classifier and regressor share. The Params' defaults are those of `TrainingConfig`."""

    task: ClassVar[str]
    model_class: ClassVar[type[TrainedModel]]
    fields: ClassVar[dict[str, str]] = _SHARED

    featuresCol = _param("featuresCol", "column of vectors or arrays of numbers", TypeConverters.toString)
    featuresCols = _param("featuresCols", "columns that together are the features, of numbers too", _names_or_none)
    labelCol = _param("labelCol", "column of labels, or of numbers for a regression", TypeConverters.toString)
    weightCol = _param("weightCol", "column of rows' weights; none weighs all alike", _anything)
    splitCol = _param("splitCol", "column of train, validation, test; without it all rows train", _anything)
    predictionCol = _param("predictionCol", "column that the model adds", TypeConverters.toString)
    hiddenLayers = _param("hiddenLayers", "widths of the hidden layers; none: linear", _widths)
    activation = _param("activation", "activation after hidden layers", TypeConverters.toString)
    dropout = _param("dropout", "share of hidden outputs (linear: of features) dropped; None: by task", _number_or_none)
    optimizer = _param("optimizer", "sgd, adam, adamw, rmsprop, adadelta, adagrad, lamb, lars", TypeConverters.toString)
    learningRate = _param("learningRate", "the schedule's highest rate; None: by optimizer", _number_or_none)
    momentum = _param("momentum", "of SGD, LARS, RMSprop; first-moment decay of Adam and LAMB", TypeConverters.toFloat)
    nesterov = _param("nesterov", "whether SGD's momentum looks ahead", TypeConverters.toBoolean)
    weightDecay = _param("weightDecay", "L2 penalty of weights; None: by task and optimizer", _number_or_none)
    beta2 = _param("beta2", "decay of the mean of squared gradients; None: by optimizer", _number_or_none)
    epsilon = _param("epsilon", "what is added to the root of that mean; None: by optimizer", _number_or_none)
    rateDecay = _param("rateDecay", "share of the rate that each block below the head has", TypeConverters.toFloat)
    layerRates = _param("layerRates", "layer: what its rate is multiplied with", _anything)
    clipNorm = _param("clipNorm", "longest norm of a step's gradient; None: any", _number_or_none)
    clipValue = _param("clipValue", "largest element of a gradient; None: any", _number_or_none)
    accumulate = _param("accumulate", "parts of a step's rows whose gradients add up", TypeConverters.toInt)
    schedule = _param("schedule", "constant, cosine, linear, step, plateau, one_cycle, table", TypeConverters.toString)
    warmup = _param("warmup", "epochs during which the rate rises", TypeConverters.toFloat)
    dropAt = _param("dropAt", "shares of the epochs after which step lowers the rate", TypeConverters.toListFloat)
    dropFactor = _param("dropFactor", "what step and plateau multiply the rate with", TypeConverters.toFloat)
    plateauPatience = _param("plateauPatience", "looks after which plateau lowers the rate", TypeConverters.toInt)
    rateTable = _param("rateTable", "epoch or step: rate from there on", _anything)
    rateTableUnit = _param("rateTableUnit", "what rateTable counts: epoch or step", TypeConverters.toString)
    weightAverage = _param("weightAverage", "mean of weights that is kept: None, ema or swa", _anything)
    emaDecay = _param("emaDecay", "share of the ema that a step leaves", TypeConverters.toFloat)
    swaFrom = _param("swaFrom", "share of the epochs after which swa begins", TypeConverters.toFloat)
    batchNorm = _param("batchNorm", "running statistics: averaged, local or frozen", TypeConverters.toString)
    device = _param("device", "where replicas compute: cpu or cuda", TypeConverters.toString)
    precision = _param("precision", "of products: float32 or bfloat16", TypeConverters.toString)
    channelsLast = _param("channelsLast", "a pixel's channels lie side by side in memory", TypeConverters.toBoolean)
    compile = _param("compile", "torch.compile makes the network's kernels", TypeConverters.toBoolean)
    epochs = _param("epochs", "passes over the training rows, at most", TypeConverters.toInt)
    batchSize = _param("batchSize", "rows that a replica takes a step, at most", TypeConverters.toInt)
    replicas = _param("replicas", "copies of the weights; part of the result", TypeConverters.toInt)
    syncEvery = _param("syncEvery", "steps between two syncs; auto: measured", _anything)
    syncShare = _param("syncShare", "share of the time for syncs, where syncEvery is auto", TypeConverters.toFloat)
    strategy = _param("strategy", "how replicas combine: averaging, all_reduce or outer", TypeConverters.toString)
    outerRate = _param("outerRate", "learning rate of the outer optimiser", TypeConverters.toFloat)
    outerMomentum = _param("outerMomentum", "Nesterov's momentum of the outer optimiser", TypeConverters.toFloat)
    pull = _param("pull", "share of the way to the common weights that a replica moves", TypeConverters.toFloat)
    compression = _param("compression", "what replicas send: None, all; or float16, bfloat16, int8 …", _anything)
    compressionShare = _param(
        "compressionShare", "share of the values that topk and threshold send", TypeConverters.toFloat
    )
    patience = _param("patience", "epochs without a better monitor before stopping; None: all", _whole_or_none)
    validateEvery = _param("validateEvery", "epochs between two validations", TypeConverters.toInt)
    healthEvery = _param("healthEvery", "steps between two looks at how layers learn; None never", _whole_or_none)
    monitor = _param("monitor", "metric that chooses the best epoch", TypeConverters.toString)
    refit = _param("refit", "train again on train and validation rows", TypeConverters.toBoolean)
    validationFraction = _param("validationFraction", "share of training rows that validate", TypeConverters.toFloat)
    standardise = _param("standardise", "shift and scale features", TypeConverters.toBoolean)
    timeLimitSeconds = _param("timeLimitSeconds", "after which the selection ends; None: no limit", _number_or_none)
    onNotFinite = _param("onNotFinite", "loss of NaN or infinity: stop or retry", TypeConverters.toString)
    loss = _param("loss", "what is minimised; None: by task; or your own, package.module:function", _anything)
    seed = _param("seed", "of weights, shards, order and dropout", TypeConverters.toInt)
    threads = _param("threads", "CPU threads a replica computes with", TypeConverters.toInt)
    numWorkers = _param("numWorkers", "tasks that train; None: as replicas and slots allow", _whole_or_none)
    handleInvalid = _param("handleInvalid", "rows that cannot be trained on: error or skip", TypeConverters.toString)
    initialModel = _param("initialModel", "model to go on from, or its path; None: random weights", _to_initial)
    transport = _param("transport", "gang: workers that talk; rounds: Spark jobs", TypeConverters.toString)
    runDir = _param("runDir", "folder for checkpoints, to go on from; None: none", _anything)
    checkpointSeconds = _param("checkpointSeconds", "seconds between two checkpoints", TypeConverters.toFloat)
    stallLimitSeconds = _param("stallLimitSeconds", "how long a worker may stall", TypeConverters.toFloat)
    progress = _param("progress", "show progress where there is a terminal", TypeConverters.toBoolean)
    memoryMib = _param("memoryMib", "features that a worker keeps in memory, in MiB", TypeConverters.toInt)

    def __init__(self, **params: Any) -> None:
        super().__init__()
        config = TrainingConfig(task=self.task)
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
            **{param: _plain(getattr(config, field)) for param, field in self.fields.items()},
        )
        self.setParams(**params)

    def setParams(self, **params: Any) -> Self:
        """Set Params by name.

        Raises:
            NameUnknownError: There is no such Param.
            InputError: A value is of another type. All that is wrong is in one message.
        """
        known = [param.name for param in self.params]
        every = f" It has: {', '.join(known)}."
        unknown = [
            f"there is no Param `{name}`.{did_you_mean(name, known) or every}" for name in params if name not in known
        ]
        values, problems = {}, []
        for name, value in params.items():
            if name in known:
                try:
                    values[name] = value if value is None else self.getParam(name).typeConverter(value)
                except (TypeError, ValueError) as error:
                    problems.append(f"`{name}` cannot be {value!r}: {error}")
        if unknown or problems:
            what = f"{type(self).__name__} cannot be set up like this"
            raise (InputError if problems else NameUnknownError).listing(what, unknown + problems)
        self._set(**values)
        return self

    def config(self) -> TrainingConfig:
        """Return the Params of the training as one value, checked.

        Raises:
            InputError: Values that cannot be used; all of them in one message, under the Params' names.
        """
        return self._config(self.task)

    def _config(self, task: str) -> TrainingConfig:
        fields = {field: self.getOrDefault(param) for param, field in self.fields.items()}
        try:
            return TrainingConfig.from_dict({"task": task, **fields})
        except InputError as error:
            params = {field: param for param, field in self.fields.items()}
            problems = [
                re.sub(r"`(\w+)`", lambda name: f"`{params.get(name[1], name[1])}`", problem)
                for problem in error.problems
            ]
            raise InputError.listing(f"{type(self).__name__} cannot train like this", problems) from None

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
        return super().fit(dataset, params)

    @contextmanager
    def _listening(self) -> Iterator[Emit]:
        """Return what hears of the training."""
        if not (self.getOrDefault(self.progress) and sys.stderr.isatty()):
            yield Bus([_log_warning]).emit
            return
        with TerminalProgress() as terminal:
            yield Bus([terminal]).emit

    def _fit(self, dataset: Any) -> TrainedModel:
        """Train on a gang of workers, or in this process for a table without Spark; see `train` and `fit_table`."""
        config, columns, types = self._checked(dataset)
        initial = self.getOrDefault(self.initialModel)
        common: dict[str, Any] = {
            "features": columns.features,
            "label": columns.label,
            "weight": columns.weight,
            "split": columns.split,
            "invalid": self.getOrDefault(self.handleInvalid),
            "initial": Model.load(initial) if isinstance(initial, str) else initial,
            "run": self.getOrDefault(self.runDir),
            "checkpoint_s": self.getOrDefault(self.checkpointSeconds),
        }
        alone = len(columns.features) == 1 and pa.types.is_nested(types.field(columns.features[0]).type)
        key = None
        with self._listening() as emit:
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
                key = FeatureKey.of_column(dataset.schema[columns.features[0]]) if alone else None
            else:
                result = fit_table(dataset, config, emit=emit, **common)
        model = self.model_class(
            model=to_model(result, key),
            inputCol=columns.features[0] if alone else None,
            inputCols=None if alone else columns.features,
            predictionCol=self.getOrDefault(self.predictionCol),
        )
        return model._resetUid(self.uid)

    def _checked(self, dataset: Any) -> tuple[TrainingConfig, Columns, pa.Schema]:
        """Return the configuration, the columns and their types, if all Params can be used, and with this table.

        Raises:
            InputError: All that is wrong, in one message.
        """
        named = self.getOrDefault(self.featuresCols)
        columns = Columns.of(
            self.getOrDefault(self.featuresCol) if named is None else named,
            *(self.getOrDefault(param) for param in (self.labelCol, self.weightCol, self.splitCol)),
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
        if named is not None and self.isSet(self.featuresCol):
            problems.append("`featuresCol` and `featuresCols` are both set; leave one out.")
        problems += self._run_problems()
        if not wrong:
            wrong = column_problems(columns, types, names, task)
        if problems or wrong:
            kind = InputError if problems else ColumnError
            raise kind.listing(f"{type(self).__name__} cannot train like this", problems + wrong)
        return config, columns, types

    def _run_problems(self) -> list[str]:
        """Return what is wrong with the Params that the result does not depend on."""
        problems = []
        for param, known in ((self.handleInvalid, ("error", "skip")), (self.transport, TRANSPORTS)):
            value = self.getOrDefault(param)
            if value not in known:
                problems.append(
                    f"`{param.name}` must be {' or '.join(known)}, not {value!r}.{did_you_mean(value, known)}"
                )
        for param, least in ((self.memoryMib, 1), (self.checkpointSeconds, 0), (self.stallLimitSeconds, 1)):
            value = self.getOrDefault(param)
            if not value >= least:
                problems.append(f"`{param.name}` must be at least {least}, not {value}.")
        run = self.getOrDefault(self.runDir)
        if run is not None and not isinstance(run, str):
            problems.append(f"`runDir` must be the path of a folder, as text, not {run!r}.")
        if run is None and self.getOrDefault(self.transport) == "rounds":
            problems.append("`transport` rounds needs a `runDir`, a folder that driver and workers share.")
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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class MLPClassifier(_MLPEstimator):
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
        runDir: Folder for checkpoints (path or URI) that driver and workers share. A training that was interrupted
            goes on there when it is fitted again; one of another configuration or other rows is refused.
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
    model_class = MLPClassificationModel
    fields: ClassVar[dict[str, str]] = {
        **_SHARED,
        "focalGamma": "focal_gamma",
        "classWeights": "class_weights",
        "labelSmoothing": "label_smoothing",
        "sampling": "sampling",
        "thresholdMetric": "threshold_metric",
        "calibrate": "calibrate",
    }

    focalGamma = _param("focalGamma", "exponent of the focal loss", TypeConverters.toFloat)
    classWeights = _param("classWeights", "None, balanced, or a weight for each class", _anything)
    labelSmoothing = _param("labelSmoothing", "share of the target spread over classes", TypeConverters.toFloat)
    sampling = _param("sampling", "rows of an epoch: shuffled, or balanced over classes", TypeConverters.toString)
    thresholdMetric = _param("thresholdMetric", "what thresholds are chosen for: f1, balanced_accuracy", _anything)
    calibrate = _param("calibrate", "fit probabilities to the validation rows", TypeConverters.toBoolean)


class MLPRegressor(_MLPEstimator):
    """Trains a regression on features: a linear layer, or a multi-layer perceptron, by averaging replicas.

    The Params are those of `MLPClassifier` without those of classes; `labelCol` holds numbers. And:

    Args:
        huberDelta: Where the Huber loss goes over from squared to absolute, in deviations of the targets.
        quantiles: Of the quantile loss; several give an array of predictions.

    Example:
        >>> model = MLPRegressor(labelCol="price").fit(table)       # doctest: +SKIP
    """

    task = "regression"
    model_class = MLPRegressionModel
    fields: ClassVar[dict[str, str]] = {**_SHARED, "huberDelta": "huber_delta", "quantiles": "quantiles"}

    huberDelta = _param("huberDelta", "where the Huber loss becomes absolute, in deviations", TypeConverters.toFloat)
    quantiles = _param("quantiles", "of the quantile loss, an output each", _numbers)
