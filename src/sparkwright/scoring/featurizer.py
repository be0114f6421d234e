"""A pipeline stage from photos to features."""

from collections.abc import Mapping
from typing import Any, Self, cast

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.sql import DataFrame

from sparkwright.errors import InputError
from sparkwright.networks.network import Network
from sparkwright.scoring._base import ScoringStage
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.frames import score_frame
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.outputs import Features, Output
from sparkwright.scoring.persistence import network_from_files, network_to_files
from sparkwright.scoring.several import layers_graph, several_outputs, to_outputs

__all__ = ["Featurizer"]


def _to_network(value: Any) -> str | Network:
    if isinstance(value, str | Network):
        return value
    raise TypeError(f"network must be a name, a path or a Network; got {type(value).__name__}.")


class Featurizer(ScoringStage):
    """Runs a network over photos and adds the output of one of its layers as ``array<float>``.

    A photo that cannot be read keeps its row: features null, and the error column says why. ``transform`` is lazy and
    computes anew each time that its result is used; `sparkwright.featurize` writes features once and reuses them.

    Args:
        network: A `Network`, or a name or path that `load_network` takes.
        layer: Where the network is cut; by default the layer that feeds its classifier, or its last if it was cut.
        inputCol: Photos: bytes (binary), paths and URLs (string), or Spark's images (struct).
        outputCol: The features, flattened, float32.
        outputs: Instead of `layer` and `outputCol`, several layers from one pass over the network: column → layer.
        errorCol: Null, or ``struct<kind,message>``.
        batchSize: Photos that the network sees at once.
        maxErrorRate: Share of a task's rows that may fail; more stop the job with an `ErrorRateError`.
        mode: ``permissive``, or ``failfast``: the first row that fails stops the job, and is named.
        device: Where the network runs: ``cpu``, ``cuda``, or ``auto``: GPUs where Spark schedules them.
        dropInput: Leave `inputCol` out of the result.
        fetchLimits: What a photo may take that lies behind a path or URL: time, bytes, requests at once.

    Example:
        >>> featurizer = Featurizer(network="mobilenet_v1", layer="pool")       # doctest: +SKIP
        >>> featurizer.transform(images.rows).select("path", "features")        # doctest: +SKIP
    """

    artefact = "network"

    network = Param[Any](Params._dummy(), "network", "network to run: a Network, a name or a path", _to_network)
    layer = Param[str](Params._dummy(), "layer", "layer whose output is wanted", TypeConverters.toString)
    outputCol = Param[str](Params._dummy(), "outputCol", "column of features", TypeConverters.toString)
    outputs = Param[dict[str, str]](
        Params._dummy(), "outputs", "columns of several layers, from one pass: column → layer", to_outputs
    )

    def __init__(
        self,
        *,
        network: str | Network | None = None,
        layer: str | None = None,
        inputCol: str | None = None,
        outputCol: str | None = None,
        outputs: Mapping[str, str] | None = None,
        errorCol: str | None = None,
        batchSize: int | None = None,
        maxErrorRate: float | None = None,
        mode: str | None = None,
        device: str | None = None,
        dropInput: bool | None = None,  # noqa: N803
        fetchLimits: FetchLimits | None = None,  # noqa: N803
    ) -> None:
        super().__init__()
        self._last: tuple[Network, str, Network] | None = None  # network, layer, and the one cut there
        self._setDefault(outputCol="features")
        self.setParams(
            network=network,
            layer=layer,
            inputCol=inputCol,
            outputCol=outputCol,
            outputs=outputs,
            errorCol=errorCol,
            batchSize=batchSize,
            maxErrorRate=maxErrorRate,
            mode=mode,
            device=device,
            dropInput=dropInput,
            fetchLimits=fetchLimits,
        )

    def setNetwork(self, value: str | Network) -> Self:
        """Set the network to run."""
        return self.setParams(network=value)

    def setLayer(self, value: str) -> Self:
        """Set the layer whose output is wanted."""
        return self.setParams(layer=value)

    def setOutputCol(self, value: str) -> Self:
        """Set the column of features."""
        return self.setParams(outputCol=value)

    def setOutputs(self, value: Mapping[str, str]) -> Self:
        """Set the columns of several layers: column → layer."""
        return self.setParams(outputs=value)

    def getNetwork(self) -> Network:
        """Return the network, whole; a name is looked up now.

        Raises:
            InputError: none is set.
        """
        if not self.isSet(self.network):
            raise InputError("Featurizer needs a network. Set it: Featurizer(network=…) or setNetwork(…).")
        value = self.getOrDefault(self.network)
        if isinstance(value, str):
            from sparkwright.networks.catalogue import load_network

            value = load_network(value)
            self.setParams(network=value)
        return cast(Network, value)

    def getLayer(self) -> str:
        """Return the layer whose output is wanted."""
        return self._cut().layer

    def getOutputCol(self) -> str:
        """Return the column of features."""
        return self.getOrDefault(self.outputCol)

    def getOutputs(self) -> dict[str, str] | None:
        """Return the columns of several layers; None for one."""
        return self.getOrDefault(self.outputs) if self.isSet(self.outputs) else None

    def _cut(self) -> Network:
        network = self.getNetwork()
        layer = self.getOrDefault(self.layer) if self.isSet(self.layer) else network.feature_layer
        if layer is None:
            return network
        if self._last is None or self._last[:2] != (network, layer):
            self._last = (network, layer, network.cut(layer))
        return self._last[2]

    def _transform(self, dataset: DataFrame) -> DataFrame:
        graph, outputs = self._plan()
        return score_frame(dataset, graph, outputs, stage="features", **self._engine_options())

    def _plan(self) -> tuple[Graph, list[Output]]:
        """Return what runs, and what it adds."""
        wanted = self.getOutputs()
        if wanted is None:
            network = self._cut()
            return graph_of(network), [Features(self.getOutputCol(), FeatureKey.of(network).metadata())]
        both = [param.name for param in (self.layer, self.outputCol) if self.isSet(param)]
        if both:
            raise InputError(
                f"outputs names all columns that are added, and their layers; leave out {', '.join(both)}."
            )
        return several_outputs(self.getNetwork(), wanted)

    def to_files(self) -> dict[str, bytes]:
        return network_to_files(self.getNetwork())

    def set_from_files(self, files: Mapping[str, bytes]) -> None:
        self.setParams(network=network_from_files(files))


def graph_of(network: Network) -> Graph:
    """Return the network's graph; a network that is in use is exported once."""
    return layers_graph(network, [network.layer])[0]
