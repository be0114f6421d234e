"""Spark ML estimators that train whole networks on photos, texts, sounds or arrays; also on tables without Spark."""

# ruff: noqa: N815  Params are camelCase

from typing import Any, ClassVar

from pyspark.ml.param import TypeConverters
from pyspark.ml.util import MLWriter

from sparkwright.errors import InputError
from sparkwright.models import Model
from sparkwright.networks.augmentation import as_augmentation
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.network import Network
from sparkwright.training.config import FINETUNING, TrainingConfig
from sparkwright.training.estimators.heads import MLPClassifier, MLPRegressor, TrainingEstimator
from sparkwright.training.estimators.models import NetworkClassificationModel, NetworkRegressionModel, TrainedModel
from sparkwright.training.estimators.params import param
from sparkwright.training.subject import WholeNetwork

__all__ = ["NetworkClassifier", "NetworkRegressor"]


def _to_network(value: Any) -> str | Network | None:
    if value is None or isinstance(value, str | Network):
        return value
    raise TypeError(f"a network, its name or its path is needed, not {type(value).__name__}.")


def _layer_or_none(value: Any) -> str | None:
    return None if value is None else TypeConverters.toString(value)


def _to_augmentation(value: Any) -> dict[str, Any] | None:
    return None if value is None else as_augmentation(value).to_dict()


class _NetworkEstimator(TrainingEstimator):
    """What classifier and regressor share."""

    # The network may have random weights too, which come with no statistics.
    regressor: ClassVar[str] = "NetworkRegressor"
    usual: ClassVar[TrainingConfig] = FINETUNING.replace(learning_rate=3e-4, weight_average=None, batch_norm="averaged")

    network = param("network", "network to train: a Network, its name or its path", _to_network)
    newHead = param("newHead", "whether it gets a new output layer", TypeConverters.toBoolean)
    trainFrom = param("trainFrom", "first layer that trains; all; None: as the network is frozen", _layer_or_none)
    augmentation = param("augmentation", "what training photos go through; None: the network's own", _to_augmentation)

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._setDefault(network=None, newHead=True, trainFrom=None, augmentation=None, featuresCol="content")
        self.setParams(**params)

    def write(self) -> MLWriter:
        if isinstance(self.getOrDefault(self.network), Network):
            raise InputError(
                "An estimator is saved with the name or the path of its `network`, not with the network: save a model "
                "of it first, and set network to where it lies."
            )
        return super().write()

    def _subject(self) -> WholeNetwork:
        network, initial = self.getOrDefault(self.network), self.getOrDefault(self.initialModel)
        if (network is None) == (initial is None):
            raise InputError(
                "Name the `network` to train, or the `initialModel` to go on from; "
                + ("neither is set." if network is None else "both are set.")
            )
        train_from = self.getOrDefault(self.trainFrom)
        augmentation = self.getOrDefault(self.augmentation)
        if initial is not None:
            model = Model.load(initial) if isinstance(initial, str) else initial
            network = model.network or model.head
            if augmentation is not None and network is not None:
                model = model.replace(network=network.with_augmentation(augmentation))
            return WholeNetwork.of(model, train_from=train_from)
        loaded = load_network(network) if isinstance(network, str) else network
        if augmentation is not None:
            loaded = loaded.with_augmentation(augmentation)
        return WholeNetwork.of(loaded, new_head=self.getOrDefault(self.newHead), train_from=train_from)


class NetworkClassifier(_NetworkEstimator, MLPClassifier):
    """Trains a whole network as a classifier, from its weights on: of photos, texts, sounds, or arrays of numbers.

    `fit` takes DataFrames of Spark; or, without Spark and with the same result, DataFrames of pandas, tables of Arrow
    and mappings from names to lists. The Params are those of `MLPClassifier`; those of the head (`hiddenLayers`,
    `activation`, `dropout`) are the new head's. The defaults of `epochs`, `learningRate`, `weightDecay`, `warmup`,
    `batchSize` and `patience` suit pre-trained networks. And:

    Args:
        network: A `Network`, or what `load_network` makes one of. Its preprocessing reads the rows, in training as in
            scoring; one without takes arrays of numbers.
        newHead: Whether it gets a new head as wide as there are classes: where it is cut, else instead of its
            classifier. False: it has an output a class.
        trainFrom: The first layer that trains: all before it stay bit for bit as they are, with BatchNorm's statistics.
            ``"all"`` trains all, ``"head"`` a new head alone; None trains what the network does not say is frozen.
        augmentation: What photos go through in training: the name of a preset or fields of an `Augmentation`. None:
            what the network's preprocessing says.
        featuresCol: The column of rows: files' bytes, or their paths; text; or arrays of numbers.
        initialModel: Instead of `network`: a model, or where one was saved, to go on from with its head and classes.

    Example:
        >>> model = NetworkClassifier(network="mobilenet_v2", trainFrom="features.14").fit(photos)  # doctest: +SKIP
        >>> model.transform(photos).select("path", "prediction")                                     # doctest: +SKIP
    """

    model_class: ClassVar[type[TrainedModel]] = NetworkClassificationModel


class NetworkRegressor(_NetworkEstimator, MLPRegressor):
    """Trains a whole network as a regression; see `NetworkClassifier` for the Params, without those of classes.

    Example:
        >>> model = NetworkRegressor(network="resnet18", labelCol="age").fit(photos)   # doctest: +SKIP
    """

    model_class: ClassVar[type[TrainedModel]] = NetworkRegressionModel
