"""Spark ML estimators that train a head on a column of features."""

# ruff: noqa: N815  Params are camelCase

from typing import Any, ClassVar, Self

from pyspark.ml import Estimator
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame

from sparkwright.errors import NameUnknownError, did_you_mean
from sparkwright.events import EpochEnded, Event
from sparkwright.models import Model
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fit import MEMORY_MIB, TrainingResult, train

__all__ = ["MLPClassificationModel", "MLPClassifier", "MLPRegressionModel", "MLPRegressor"]

# Param → field of TrainingConfig, which also has its default.
_SHARED = {
    "hiddenLayers": "hidden",
    "activation": "activation",
    "dropout": "dropout",
    "optimizer": "optimizer",
    "learningRate": "learning_rate",
    "momentum": "momentum",
    "nesterov": "nesterov",
    "weightDecay": "weight_decay",
    "schedule": "schedule",
    "warmup": "warmup",
    "epochs": "epochs",
    "batchSize": "batch_size",
    "replicas": "replicas",
    "strategy": "strategy",
    "syncEvery": "sync_every",
    "outerRate": "outer_rate",
    "outerMomentum": "outer_momentum",
    "pull": "pull",
    "compression": "compression",
    "compressionShare": "compression_share",
    "patience": "patience",
    "validateEvery": "validate_every",
    "monitor": "monitor",
    "refit": "refit",
    "validationFraction": "validation_fraction",
    "standardise": "standardise",
    "seed": "seed",
    "threads": "threads",
}


def _whole_or_none(value: Any) -> int | None:
    return None if value is None else TypeConverters.toInt(value)


def _number_or_none(value: Any) -> float | None:
    return None if value is None else TypeConverters.toFloat(value)


def _anything(value: Any) -> Any:  # checked with all others by TrainingConfig
    return value


def _param(name: str, doc: str, converter: Any) -> Any:
    return Param(Params._dummy(), name, doc, converter)


class _TrainedModel(ModelTransformer):
    """What both kinds of trained model share."""

    @property
    def history(self) -> list[EpochEnded]:
        """One event for each epoch of the selection, in order: losses of all replicas, validation metrics, rate."""
        events = [Event.from_dict(event) for event in self.getModel().lineage["training"]["history"]]
        return [event for event in events if isinstance(event, EpochEnded)]

    @property
    def bestEpoch(self) -> int:  # noqa: N802  as Spark's models name their attributes
        """The epoch that the validation rows chose; the last without them."""
        return int(self.getModel().lineage["training"]["best_epoch"])


class MLPClassificationModel(_TrainedModel):
    """Adds a trained classifier's predictions to features; see `ModelTransformer` for the columns.

    `getModel` gives the `Model`, to save without Spark or to put on its network; `history` the epochs of the training.
    """


class MLPRegressionModel(_TrainedModel):
    """Adds a trained regression's predictions to features; see `ModelTransformer` for the columns.

    `getModel` gives the `Model`, to save without Spark or to put on its network; `history` the epochs of the training.
    """


class _MLPEstimator(Estimator[Any], DefaultParamsReadable[Any], DefaultParamsWritable):
    """What classifier and regressor share. The Params' defaults are those of `TrainingConfig`."""

    task: ClassVar[str]
    model_class: ClassVar[type[_TrainedModel]]
    fields: ClassVar[dict[str, str]] = _SHARED

    featuresCol = _param("featuresCol", "column of vectors or arrays of numbers", TypeConverters.toString)
    labelCol = _param("labelCol", "column of labels, or of numbers for a regression", TypeConverters.toString)
    weightCol = _param("weightCol", "column of rows' weights; none weighs all alike", _anything)
    splitCol = _param("splitCol", "column of train, validation, test; without it all rows train", _anything)
    predictionCol = _param("predictionCol", "column that the model adds", TypeConverters.toString)
    hiddenLayers = _param("hiddenLayers", "widths of the hidden layers; none: linear", TypeConverters.toListInt)
    activation = _param("activation", "activation after hidden layers", TypeConverters.toString)
    dropout = _param("dropout", "share of hidden outputs (linear: of features) dropped; None: by task", _number_or_none)
    optimizer = _param("optimizer", "sgd, adam or adamw", TypeConverters.toString)
    learningRate = _param("learningRate", "the schedule's highest rate; None: by optimizer", _number_or_none)
    momentum = _param("momentum", "of SGD; first-moment decay of Adam", TypeConverters.toFloat)
    nesterov = _param("nesterov", "whether SGD's momentum looks ahead", TypeConverters.toBoolean)
    weightDecay = _param("weightDecay", "L2 penalty of weights; None: by task and optimizer", _number_or_none)
    schedule = _param("schedule", "constant, cosine, linear or step", TypeConverters.toString)
    warmup = _param("warmup", "epochs during which the rate rises", TypeConverters.toFloat)
    epochs = _param("epochs", "passes over the training rows, at most", TypeConverters.toInt)
    batchSize = _param("batchSize", "rows that a replica takes a step, at most", TypeConverters.toInt)
    replicas = _param("replicas", "copies of the weights; part of the result", TypeConverters.toInt)
    syncEvery = _param("syncEvery", "steps between two syncs", TypeConverters.toInt)
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
    monitor = _param("monitor", "metric that chooses the best epoch", TypeConverters.toString)
    refit = _param("refit", "train again on train and validation rows", TypeConverters.toBoolean)
    validationFraction = _param("validationFraction", "share of training rows that validate", TypeConverters.toFloat)
    standardise = _param("standardise", "shift and scale features", TypeConverters.toBoolean)
    seed = _param("seed", "of weights, shards, order and dropout", TypeConverters.toInt)
    threads = _param("threads", "CPU threads a replica computes with", TypeConverters.toInt)
    numWorkers = _param("numWorkers", "tasks that train; None: as replicas and slots allow", _whole_or_none)
    handleInvalid = _param("handleInvalid", "rows that cannot be trained on: error or skip", TypeConverters.toString)
    memoryMib = _param("memoryMib", "features that a worker keeps in memory, in MiB", TypeConverters.toInt)

    def __init__(self, **params: Any) -> None:
        super().__init__()
        config = TrainingConfig(task=self.task)
        self._setDefault(
            featuresCol="features",
            labelCol="label",
            predictionCol="prediction",
            weightCol=None,
            splitCol=None,
            numWorkers=None,
            handleInvalid="error",
            memoryMib=MEMORY_MIB,
            **{param: _plain(getattr(config, field)) for param, field in self.fields.items()},
        )
        self.setParams(**params)

    def setParams(self, **params: Any) -> Self:
        """Set Params by name.

        Raises:
            NameUnknownError: There is no such Param.
        """
        known = [param.name for param in self.params]
        for name in params:
            if name not in known:
                raise NameUnknownError(
                    f"{type(self).__name__} has no Param `{name}`.{did_you_mean(name, known)} It has: "
                    f"{', '.join(known)}."
                )
        self._set(**params)
        return self

    def config(self) -> TrainingConfig:
        """Return the Params of the training as one value, checked.

        Raises:
            InputError: Values that cannot be used; all of them in one message.
        """
        fields = {field: self.getOrDefault(param) for param, field in self.fields.items()}
        return TrainingConfig.from_dict({"task": self.task, **fields})

    def _fit(self, dataset: DataFrame) -> _TrainedModel:
        """Train on a gang of workers; see `sparkwright.training.fit.train`."""
        features = self.getOrDefault(self.featuresCol)
        result = train(
            dataset,
            self.config(),
            features=features,
            label=self.getOrDefault(self.labelCol),
            weight=self.getOrDefault(self.weightCol),
            split=self.getOrDefault(self.splitCol),
            num_workers=self.getOrDefault(self.numWorkers),
            invalid=self.getOrDefault(self.handleInvalid),
            memory_mib=self.getOrDefault(self.memoryMib),
        )
        key = FeatureKey.of_column(dataset.schema[features])
        model = self.model_class(
            model=to_model(result, key), inputCol=features, predictionCol=self.getOrDefault(self.predictionCol)
        )
        return model._resetUid(self.uid)


def to_model(result: TrainingResult, features: FeatureKey | None = None) -> Model:
    """Return the model of features that a training gave; its lineage tells how.

    Args:
        result: What `train` or `fit_arrays` returned.
        features: What the features are; a model refuses others.
    """
    training = {
        "config": result.config.to_dict(),
        "best_epoch": result.best_epoch,
        "temperature": result.temperature,
        "history": [event.to_dict() for event in result.history],
        "rows": result.rows,
        "skipped": result.skipped,
        "seconds": result.seconds,
    }
    return Model(
        network=None,
        head=result.head,
        task="regression" if result.config.task == "regression" else "classification",
        classes=result.classes,
        metrics={"validation": result.validation} if result.validation else {},
        lineage={"training": training} | ({"features": features.to_dict()} if features is not None else {}),
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class MLPClassifier(_MLPEstimator):
    """Trains a classifier of features: a linear layer, or a multi-layer perceptron, by averaging replicas.

    The Params are the fields of `TrainingConfig` in camelCase, with its defaults, and:

    Args:
        featuresCol: Vectors or arrays of numbers.
        labelCol: Text or whole numbers.
        weightCol: Weights of rows.
        splitCol: ``train``, ``validation`` (chooses the best epoch) and ``test`` (left alone).
        predictionCol: What the model adds.
        numWorkers: Tasks that train; the result does not depend on it.
        handleInvalid: ``"error"``, or ``"skip"`` to leave out rows that cannot be trained on.
        memoryMib: Features that a worker keeps in memory; more are memory-mapped.

    Example:
        >>> model = MLPClassifier(splitCol="split", hiddenLayers=[128]).fit(features)   # doctest: +SKIP
        >>> model.transform(features).select("label", "prediction")                     # doctest: +SKIP
    """

    task = "classification"
    model_class = MLPClassificationModel
    fields: ClassVar[dict[str, str]] = {
        **_SHARED,
        "classWeights": "class_weights",
        "labelSmoothing": "label_smoothing",
        "calibrate": "calibrate",
    }

    classWeights = _param("classWeights", "None, balanced, or a weight for each class", _anything)
    labelSmoothing = _param("labelSmoothing", "share of the target spread over classes", TypeConverters.toFloat)
    calibrate = _param("calibrate", "fit probabilities to the validation rows", TypeConverters.toBoolean)


class MLPRegressor(_MLPEstimator):
    """Trains a regression on features: a linear layer, or a multi-layer perceptron, by averaging replicas.

    The Params are those of `MLPClassifier`, without ``classWeights``, ``labelSmoothing`` and ``calibrate``; `labelCol`
    holds numbers.

    Example:
        >>> model = MLPRegressor(labelCol="price").fit(table)       # doctest: +SKIP
    """

    task = "regression"
    model_class = MLPRegressionModel
