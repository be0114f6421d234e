"""A pipeline stage from photos, or features, to a model's predictions."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import pyarrow as pa
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.sql import DataFrame

from sparkwright.data.local import column_names, is_local, to_arrow
from sparkwright.errors import ColumnError, InputError
from sparkwright.events import Address
from sparkwright.models import MANIFEST, Model, ModelFiles
from sparkwright.networks.network import Network
from sparkwright.scoring._base import ScoringStage
from sparkwright.scoring.feature_key import FeatureKey, engine
from sparkwright.scoring.forward.devices import choose_device
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.frames import find_column, holds_photos, join_columns, numbers_width, score_frame
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.inputs.sources import source_of
from sparkwright.scoring.local import score_table
from sparkwright.scoring.outputs import Output, make_outputs
from sparkwright.scoring.several import several_outputs, to_outputs

if TYPE_CHECKING:
    from pyspark.sql.types import StructField

__all__ = ["ModelTransformer", "predict"]


JOINED = "sparkwright_features"
"""Column of the numbers of `inputCols`, while they are scored."""


def _to_names(value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise TypeError(f"inputCols must be a list of columns' names; got {value!r}.")
    return [str(name) for name in value]


def _to_model(value: Any) -> str | ModelFiles:
    if isinstance(value, Network):
        value = Model.of_network(value)
    if isinstance(value, Model):
        model: Model = value
        if model.network is not None and model.head is not None and "features" not in model.lineage:
            # Later the network's own fingerprint is not to be had: an ONNX network is saved as one graph with its head.
            key = FeatureKey.of(model.network).to_dict()
            model = model.replace(lineage={**model.lineage, "features": key})
        return model.to_files()
    if isinstance(value, str | ModelFiles):
        return value
    raise TypeError(f"model must be a path, a Model or a Network; got {type(value).__name__}.")


class ModelTransformer(ScoringStage):
    """Adds a model's predictions: the label, its probability, all probabilities, the best labels.

    The input column decides what runs: photos go through the whole model, features (array or vector) through
    its head alone. Where the network itself takes numbers, they go through the whole, unless the column says that a
    network has made them. A row that cannot be scored keeps its place: predictions null, and the error column says why.

    Args:
        model: A `Model`, or where one was saved (folder or zip, on any file system); or a `Network` with its
            classifier.
        inputCol: Photos, as bytes (binary), paths and URLs (string) or Spark's images (struct); or features.
        inputCols: Instead of `inputCol`: several columns of numbers, arrays or vectors, which together are a row's
            features, in this order.
        predictionCol: The most probable class's label; where a row has any number of labels, an array of them; of a
            regression the value. Of a model of several outputs each has columns of its own, which begin with its name:
            ``kind_prediction``, ``kind_probability``, ``height_prediction``.
        probabilityCol: Its probability; not where a row has any number of labels.
        probabilitiesCol: All probabilities in the order of the model's classes; empty for none.
        topCol: The `top` best, ``array<struct<label,probability>>``; empty for none (the default).
        top: How many those are.
        outputs: Instead of all these columns, those that are wanted, from one pass over the network: column → a layer
            (its output, flattened, as ``array<float>``), ``logits``, or a kind (``label``, ``probability``,
            ``probabilities``, ``top``; for regression ``value``).
        errorCol: Null, or ``struct<kind,message>``.
        batchSize: Photos that the network sees at once.
        maxErrorRate: Share of a task's rows that may fail; more stop the job with an `ErrorRateError`.
        mode: ``permissive``, or ``failfast``: the first row that fails stops the job, and is named.
        device: Where the network runs: ``cpu``, ``cuda``, or ``auto``: GPUs where Spark schedules them.
        dropInput: Leave `inputCol` out of the result.
        fetchLimits: What a photo may take that lies behind a path or URL: time, bytes, requests at once.

    Tables are taken without Spark too: `transform` of a DataFrame of pandas, a table of Arrow or a
    mapping from names to arrays returns a DataFrame of pandas.

    Example:
        >>> ModelTransformer(model="run/model").transform(images.rows).select("path", "prediction")  # doctest: +SKIP
        >>> both = ModelTransformer(model="run/model", outputs={"embedding": "pool", "kind": "label"})  # doctest: +SKIP
    """

    artefact = "model"

    model = Param[Any](Params._dummy(), "model", "model to score with: a Model, or its path", _to_model)
    inputCols = Param[list[str]](
        Params._dummy(), "inputCols", "columns whose numbers are the input, instead of inputCol", _to_names
    )
    predictionCol = Param[str](Params._dummy(), "predictionCol", "column of labels or values", TypeConverters.toString)
    probabilityCol = Param[str](
        Params._dummy(), "probabilityCol", "column of the label's probability", TypeConverters.toString
    )
    probabilitiesCol = Param[str](
        Params._dummy(), "probabilitiesCol", "column of all probabilities; empty for none", TypeConverters.toString
    )
    topCol = Param[str](Params._dummy(), "topCol", "column of the best labels; empty for none", TypeConverters.toString)
    top = Param[int](Params._dummy(), "top", "how many labels topCol holds", TypeConverters.toInt)
    outputs = Param[dict[str, str]](
        Params._dummy(), "outputs", "columns wanted instead of the usual: column → layer or kind", to_outputs
    )

    def __init__(
        self,
        *,
        model: str | Model | Network | None = None,
        inputCol: str | None = None,
        inputCols: Sequence[str] | None = None,
        predictionCol: str | None = None,
        probabilityCol: str | None = None,
        probabilitiesCol: str | None = None,
        topCol: str | None = None,
        top: int | None = None,
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
        self._last: tuple[ModelFiles, Model, Network] | None = None  # rebuilt once: the model, and the whole of it
        self._setDefault(
            predictionCol="prediction",
            probabilityCol="probability",
            probabilitiesCol="probabilities",
            topCol="",
            top=5,
        )
        self.setParams(
            model=model,
            inputCol=inputCol,
            inputCols=inputCols,
            predictionCol=predictionCol,
            probabilityCol=probabilityCol,
            probabilitiesCol=probabilitiesCol,
            topCol=topCol,
            top=top,
            outputs=outputs,
            errorCol=errorCol,
            batchSize=batchSize,
            maxErrorRate=maxErrorRate,
            mode=mode,
            device=device,
            dropInput=dropInput,
            fetchLimits=fetchLimits,
        )

    def setModel(self, value: str | Model | Network) -> Self:
        """Set the model to score with."""
        return self.setParams(model=value)

    def setInputCols(self, value: Sequence[str]) -> Self:
        """Set the columns whose numbers are the input, instead of `inputCol`."""
        return self.setParams(inputCols=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set the column of labels or values."""
        return self.setParams(predictionCol=value)

    def setProbabilityCol(self, value: str) -> Self:
        """Set the column of the label's probability."""
        return self.setParams(probabilityCol=value)

    def setProbabilitiesCol(self, value: str) -> Self:
        """Set the column of all probabilities; empty for none."""
        return self.setParams(probabilitiesCol=value)

    def setTopCol(self, value: str) -> Self:
        """Set the column of the best labels; empty for none."""
        return self.setParams(topCol=value)

    def setTop(self, value: int) -> Self:
        """Set how many labels `topCol` holds."""
        return self.setParams(top=value)

    def setOutputs(self, value: Mapping[str, str]) -> Self:
        """Set the columns wanted instead of the usual: column → layer or kind."""
        return self.setParams(outputs=value)

    def getModel(self) -> Model:
        """Return the model; needs torch where the model's networks are torch.

        Raises:
            InputError: none is set.
        """
        return self._rebuilt()[0]

    def _rebuilt(self) -> tuple[Model, Network]:
        """Return the model, and its whole way from the input to the scores."""
        files = self.files()
        if self._last is None or self._last[0] is not files:
            model = Model.from_files(files)
            self._last = (files, model, model.full)
        return self._last[1:]

    def getInputCols(self) -> list[str] | None:
        """Return the columns whose numbers are the input; None for `inputCol`."""
        return self.getOrDefault(self.inputCols) if self.isSet(self.inputCols) else None

    def getPredictionCol(self) -> str:
        """Return the column of labels or values."""
        return self.getOrDefault(self.predictionCol)

    def getProbabilityCol(self) -> str:
        """Return the column of the label's probability."""
        return self.getOrDefault(self.probabilityCol)

    def getProbabilitiesCol(self) -> str:
        """Return the column of all probabilities."""
        return self.getOrDefault(self.probabilitiesCol)

    def getTopCol(self) -> str:
        """Return the column of the best labels."""
        return self.getOrDefault(self.topCol)

    def getTop(self) -> int:
        """Return how many labels `topCol` holds."""
        return self.getOrDefault(self.top)

    def getOutputs(self) -> dict[str, str] | None:
        """Return the columns wanted instead of the usual; None for the usual."""
        return self.getOrDefault(self.outputs) if self.isSet(self.outputs) else None

    def files(self) -> ModelFiles:
        """Return the model's files; a path is read now.

        Raises:
            InputError: no model is set.
            NotFoundError: there is no model at that place.
        """
        if not self.isSet(self.model):
            raise InputError("ModelTransformer needs a model. Set it: ModelTransformer(model=…) or setModel(…).")
        value = self.getOrDefault(self.model)
        if isinstance(value, str):
            value = ModelFiles.read(value)
            self.setParams(model=value)
        return cast(ModelFiles, value)

    def _transform(self, dataset: Any) -> Any:
        return self._score(dataset, channel=None) if isinstance(dataset, DataFrame) else self._score_local(dataset)

    def _score_local(self, table: Any) -> Any:
        """Score a table that this process holds."""
        if not is_local(table):
            raise InputError(
                f"transform takes a DataFrame of Spark or pandas, a table of Arrow, or a mapping from names to arrays; "
                f"it got {type(table).__name__}."
            )
        columns = self.getInputCols() or [self.getInputCol()]
        field = _local_field(table, columns)
        graph, outputs = self._plan(field)
        return score_table(
            table,
            columns,
            graph,
            outputs,
            error_column=self.getErrorCol(),
            drop_input=self.getDropInput(),
            max_error_rate=self.getMaxErrorRate(),
            failfast=self.getMode() == "failfast",
            source=source_of(field, graph.preprocessing),
        )

    def _score(self, dataset: DataFrame, channel: Address | None, digest_column: str | None = None) -> DataFrame:
        """Transform, with progress reported to a channel, and the photos' SHA-256 in a column of its own."""
        options = {**self._engine_options(), "digest_column": digest_column}
        columns, width = self.getInputCols(), None
        if columns is not None:
            width = numbers_width(dataset, columns)
            dataset = join_columns(dataset, columns, JOINED, drop=self.getDropInput())
            options |= {"input_column": JOINED, "drop_input": True}
        graph, outputs = self._plan(find_column(dataset, options["input_column"]))
        if width not in (None, *graph.input_shape):
            raise InputError(
                f"`inputCols` names {width} columns of one number each; the model takes {graph.input_shape[0]}: "
                "those that it was trained on, in their order."
            )
        return score_frame(dataset, graph, outputs, stage="predictions", channel=channel, **options)

    def _key(self, dataset: DataFrame) -> str:
        """Return a SHA-256 of all that predictions of photos depend on beside the photo, in hexadecimal."""
        graph, outputs = self._plan(find_column(dataset, self.getInputCol()))
        device = choose_device(dataset.sparkSession, self.getDevice(), torch=graph.torch is not None, name=graph.name)
        runs = engine(graph.runs_in_torch(device), device)
        parts = (graph.sha256, graph.precision, graph.preprocessing, outputs, runs)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _plan(self, field: "StructField") -> tuple[Graph, list[Output]]:
        """Return what runs on a column, and what it adds."""
        files = self.files()
        photos = holds_photos(field) or _takes_series(field, files.manifest)
        self._check_input(field, files.manifest, photos)
        # Numbers are what a network takes that takes no photos, unless the column says that a network has made them.
        numbers = files.manifest["preprocessing"] is None and FeatureKey.of_column(field) is None
        wanted = self.getOutputs()
        if wanted is None:
            parts = (files.manifest["network"], files.manifest["head"])
            graph = Graph.of_model(files) if photos or numbers or None in parts else self._head_graph()
            outputs = self._outputs(files.manifest)
        else:
            self._check_columns()
            model, whole = self._rebuilt()
            graph, outputs = several_outputs(
                whole if photos or numbers or model.head is None else model.head,
                wanted,
                task=model.task,
                classes=model.classes,
                link=model.link,
                thresholds=model.thresholds,
                k=self.getTop(),
            )
        if not photos:
            _check_width(field, graph)
        return graph, outputs

    def _head_graph(self) -> Graph:
        return Graph.of_network(cast(Network, self.getModel().head))

    def _check_input(self, field: "StructField", manifest: Mapping[str, Any], photos: bool) -> None:
        """Refuse photos for a model of features, and features that the model was not trained on."""
        if photos:
            if manifest["preprocessing"] is None:
                raise ColumnError(
                    f"Column `{field.name}` holds photos, but the model is one of features: it has no network that "
                    "reads photos. Give it a column of features."
                )
            return
        if manifest["head"] is None and manifest["preprocessing"] is not None:
            raise ColumnError(
                f"Column `{field.name}` holds numbers, but the model is a whole network without a head of its own: "
                "give it photos."
            )
        given, told = FeatureKey.of_column(field), manifest["lineage"].get("features")
        if given is not None and told:
            given.check_fits(FeatureKey.from_dict(told), f"Column `{field.name}`")

    def _check_columns(self) -> None:
        if self.getTop() < 1:
            raise InputError(f"top must be at least 1; got {self.getTop()}.")
        others = (self.predictionCol, self.probabilityCol, self.probabilitiesCol, self.topCol)
        both = [param.name for param in others if self.isSet(param)]
        if both:
            raise InputError(f"outputs names all columns that are added; leave out {', '.join(both)}.")

    def _outputs(self, manifest: Mapping[str, Any]) -> list[Output]:
        if self.getTop() < 1:
            raise InputError(f"top must be at least 1; got {self.getTop()}.")
        return make_outputs(
            manifest,
            prediction=self.getPredictionCol(),
            probability=self.getProbabilityCol(),
            probabilities=self.getProbabilitiesCol() or None,
            top_labels=self.getTopCol() or None,
            k=self.getTop(),
        )

    def to_files(self) -> dict[str, bytes]:
        files = self.files()
        return {**files.files, MANIFEST: json.dumps(files.manifest).encode()}

    def set_from_files(self, files: Mapping[str, bytes]) -> None:
        manifest = json.loads(files[MANIFEST])
        self.setParams(model=ModelFiles(manifest, {name: data for name, data in files.items() if name != MANIFEST}))


def _local_field(table: Any, columns: Sequence[str]) -> "StructField":
    """Return the column of a table of this process as Spark would have it; several are arrays of numbers."""
    from pyspark.sql.types import ArrayType, BinaryType, FloatType, StringType, StructField

    kind = None
    if len(columns) == 1 and columns[0] in column_names(table):
        kind = to_arrow(table, columns).schema.field(0).type
    if kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return StructField(columns[0], StringType())
    if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return StructField(columns[0], BinaryType())
    return StructField(", ".join(columns), ArrayType(FloatType()))


def _takes_series(field: "StructField", manifest: Mapping[str, Any]) -> bool:
    """Whether a column of arrays goes through the whole network: a model of series, and the arrays are no features."""
    preprocessing = manifest["preprocessing"] or {}
    return preprocessing.get("kind") == "series" and FeatureKey.of_column(field) is None


def _check_width(field: "StructField", graph: Graph) -> None:
    given = FeatureKey.of_column(field)
    if given is not None and (given.width,) != graph.input_shape:
        width = graph.input_shape[0]
        raise InputError(f"Column `{field.name}` has {given.width} features a row; the model takes {width}.")


def predict(
    rows: DataFrame,
    model: str | Model | Network,
    *,
    input_column: str = "content",
    top: int | None = None,
    channel: Address | None = None,
    **params: Any,
) -> DataFrame:
    """Return `rows` with a model's predictions; lazy.

    Args:
        rows: Photos, or features made with the model's network.
        model: A `Model`, or where one was saved; or a `Network` with its classifier.
        input_column: Photos' bytes, or features.
        top: Add the column ``top`` with that many labels.
        channel: Where progress is reported to (stage ``predictions``).
        params: Other Params of `ModelTransformer` (``errorCol``, ``batchSize``, ``maxErrorRate``, ``dropInput`` …).

    Raises:
        ColumnError: a column is missing, of the wrong type, or there already.
        InputError: the features were made by another network or layer than the model expects.
    """
    stage = ModelTransformer(model=model, inputCol=input_column, **params)
    if top is not None:
        stage.setParams(top=top, topCol=None if "outputs" in params else params.get("topCol", "top"))
    return stage._score(rows, channel)
