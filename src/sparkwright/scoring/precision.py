"""Networks of reduced precision: faster, and as exact as they measure themselves to be.

int8 is static quantisation by ONNX Runtime: weights a channel, activations by the ranges seen on a sample of the user's
own photos. bfloat16 is torch's: it needs no sample, but a processor (or GPU) that has it. Both are measured against
float32 on photos that calibrated nothing, and refused below a threshold.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparkwright.errors import ColumnError, InputError, PrecisionError, did_you_mean
from sparkwright.models import Model
from sparkwright.networks.network import Network, Precision
from sparkwright.networks.preprocessing import ImageError, Preprocessing
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.inputs.sources import Source, reading, source_of

if TYPE_CHECKING:
    import onnx
    import pyarrow as pa
    from pyspark.sql import DataFrame

__all__ = ["PRECISIONS", "THRESHOLD", "check_precision", "draw_sample", "measure", "quantise", "reduce_precision"]

PRECISIONS = ("float32", "int8", "bfloat16")

THRESHOLD = 0.98
"""The agreement with float32 that a network of reduced precision must reach."""

_SAMPLE = 192  # photos: every third calibrates, the others measure
_FEWEST = 24
_BATCH = 8
_SPREAD = 1e-9  # a length that counts as none

N = TypeVar("N", bound=Network | Model)


def reduce_precision(
    network: N,
    photos: "DataFrame",
    precision: Literal["int8", "bfloat16"] | str = "int8",
    *,
    input_column: str = "content",
    threshold: float = THRESHOLD,
    fetch: FetchLimits | None = None,
) -> N:
    """Return a network, or a model with its network, in reduced precision; it goes wherever the old one went.

    Up to 192 photos, chosen by a hash of their names, are preprocessed on the workers and come to the driver: a
    third calibrates, the others measure. The bytes of all photos are read once for it. What was measured is kept in the
    network (`Network.precision`), in a saved model's ``model.json`` and in the key of features. A model's head
    stays as it is.

    Args:
        network: A network, cut or whole, or a model with a network.
        photos: Like those that will be scored.
        precision: ``int8`` or ``bfloat16`` (networks of torch).
        input_column: Photos' bytes, paths or URLs, or Spark's images.
        threshold: The least agreement with float32: the share of photos with the same best class where the output is
            classes, else the mean cosine between the features.
        fetch: What a photo may take that lies behind a path or URL.

    Raises:
        PrecisionError: the agreement is below `threshold`; says how large it is.
        InputError: the network does not take photos or cannot be reduced, or there are too few photos.
    """
    whole = cast(Network, network.network if isinstance(network, Model) else network)
    check_precision(precision, PRECISIONS[1:])
    if whole is None or not isinstance(whole.preprocessing, Preprocessing):
        raise InputError("Only networks that read photos can be reduced in precision; this one reads none.")
    if whole.precision is not None:
        raise InputError(f"`{whole.name}` is of precision {whole.precision.name} already.")
    sample = draw_sample(photos, whole.preprocessing, input_column, fetch)
    calibrating, measuring = sample[::3], sample[np.arange(len(sample)) % 3 > 0]
    reduced = quantise(whole, calibrating) if precision == "int8" else _bfloat16(whole)
    calibrated = len(calibrating) if precision == "int8" else 0
    if isinstance(network, Model):
        model = network.replace(network=reduced)
        found = measure(network.full, model.full, measuring, network.link == "softmax", precision, calibrated)
        _check(found, threshold, network.full)
        lineage = {**network.lineage, "precision": found.to_dict()}
        return cast(N, model.replace(network=replace(reduced, precision=found), lineage=lineage))
    found = measure(whole, reduced, measuring, whole.classes is not None, precision, calibrated)
    _check(found, threshold, whole)
    return cast(N, replace(reduced, precision=found))


def check_precision(name: str, known: Sequence[str] = PRECISIONS) -> None:
    """Refuse a precision that there is not.

    Raises:
        InputError: `name` is not among `known`.
    """
    if name not in known:
        raise InputError(f"precision must be one of {', '.join(known)}; got {name!r}.{did_you_mean(name, known)}")


def draw_sample(
    photos: "DataFrame", preprocessing: Preprocessing, column: str = "content", fetch: FetchLimits | None = None
) -> NDArray[np.float32]:
    """Return preprocessed photos, float32 of shape (at most 192, channels, height, width), the same in every call.

    Raises:
        ColumnError: there is no such column, or it is not of photos.
        InputError: there are too few that can be read.
    """
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    from sparkwright.scoring.frames import find_column
    from sparkwright.session import ship_library, worker_errors

    source = source_of(find_column(photos, column))
    if source == "numbers":
        raise ColumnError(f"Column `{column}` must hold photos to draw a sample from; it holds numbers.")
    ship_library(photos.sparkSession)
    name = next((name for name in ("key", "path") if name in photos.columns), column)
    rows = photos.select(F.xxhash64(name).alias("order"), name, F.col(column).alias("content"))
    with worker_errors():
        if name == column:
            rows = rows.orderBy("order").limit(_SAMPLE)
        else:  # names alone first: that reads no photo, and nothing large is sorted
            names = rows.select("order", name).orderBy("order", name).limit(_SAMPLE).collect()
            rows = rows.where(F.col(name).isin([row[1] for row in names])).limit(_SAMPLE)
        prepared = rows.select("order", "content").mapInArrow(
            _Prepare(preprocessing, source, fetch or FetchLimits()), "order long, input binary"
        )
        found = prepared.toArrow().sort_by("order")["input"]
    if len(found) < _FEWEST:
        raise InputError(
            f"To measure a reduced precision takes at least {_FEWEST} photos that can be read; found {len(found)}."
        )
    return np.stack([np.frombuffer(data.as_buffer(), np.float32).reshape(preprocessing.shape) for data in found])


@dataclass(frozen=True)
class _Prepare:
    """Photos → the network's input; photos that cannot be read are left out. Runs on executors."""

    preprocessing: Preprocessing
    source: Source
    fetch: FetchLimits

    def __call__(self, batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        with reading(self.source, self.fetch) as readers:
            for batch, photo in filter(None, readers(batches, "content")):
                for row, order in enumerate(batch.column("order").to_pylist()):
                    try:
                        x = self.preprocessing.apply(cast(bytes | Image.Image, photo(row)))
                    except (ImageError, OSError, ValueError):
                        continue
                    columns = [pa.array([order], pa.int64()), pa.array([x.tobytes()], pa.binary())]
                    yield pa.RecordBatch.from_arrays(columns, ["order", "input"])


def measure(
    exact: Network, reduced: Network, inputs: NDArray[np.float32], classes: bool, name: str, calibrated: int
) -> Precision:
    """Compare a reduced network with the exact one.

    Args:
        exact: In float32.
        reduced: The same in reduced precision.
        inputs: float32 of shape (rows, *input_shape).
        classes: Whether the outputs are scores of classes.
        name: Of the precision.
        calibrated: On how many other rows.
    """
    true, found = (_outputs(network, inputs).astype(np.float64) for network in (exact, reduced))
    lengths = np.maximum(np.linalg.norm(true, axis=1), _SPREAD)
    if classes:
        agreement = float(np.mean(true.argmax(axis=1) == found.argmax(axis=1)))
    else:
        others = np.maximum(np.linalg.norm(found, axis=1), _SPREAD)
        agreement = float(np.mean((true * found).sum(axis=1) / lengths / others))
    drift = float(np.max(np.linalg.norm(found - true, axis=1) / lengths))
    return Precision(name, "top-1" if classes else "cosine", agreement, drift, len(inputs), calibrated)


def _outputs(network: Network, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return outputs flattened, by what will run the network: torch for bfloat16, else ONNX Runtime."""
    from sparkwright.scoring.forward.runtime import OnnxSession

    bfloat16 = network.precision is not None and network.precision.name == "bfloat16"
    run = network.forward if bfloat16 else OnnxSession(network.to_onnx())
    parts = [run(inputs[start : start + _BATCH]) for start in range(0, len(inputs), _BATCH)]
    return np.concatenate(parts).reshape(len(inputs), -1)


def _check(found: Precision, threshold: float, network: Network) -> None:
    if found.agreement >= threshold:
        return
    kind = "best class of" if found.measure == "top-1" else "mean cosine with"
    raise PrecisionError(
        f"`{network.name}` in {found.name} agrees with float32 by {found.agreement:.4f} ({kind} {found.rows} photos "
        f"that calibrated nothing; largest drift {found.drift:.3f}), less than the threshold {threshold:g}. Keep "
        "float32, or pass a lower threshold (--min-agreement) if what you gain is worth it."
    )


def _bfloat16(network: Network) -> Network:
    from sparkwright.networks.torch_network import TorchNetwork

    if not isinstance(network, TorchNetwork):
        raise InputError(
            f"`{network.name}` is an ONNX graph, and ONNX Runtime computes no bfloat16 on CPUs: only networks of torch "
            "can. Use int8, or load the network by its catalogue name."
        )
    # Figures that `reduce_precision` replaces: a network knows how to run from the name.
    return replace(network, precision=Precision("bfloat16", "cosine", 0.0, 0.0, 0, 0))


def quantise(network: Network, inputs: NDArray[np.float32]) -> Network:
    """Return a network in int8: an ONNX graph with QuantizeLinear and DequantizeLinear around each operator.

    Activations are unsigned and weights signed 8 bit numbers, which is what the dot products of VNNI multiply; weights
    have a scale a channel. The graph is fused first: BatchNorm hides in the convolution before it.
    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Args:
        network: In float32.
        inputs: To find the ranges of activations on: float32 of shape (rows, *input_shape).
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from sparkwright.networks.onnx_network import OnnxNetwork

    with tempfile.TemporaryDirectory(prefix="sparkwright-") as name, _quiet():
        folder = Path(name)
        exact, fused, result = (folder / f"{stage}.onnx" for stage in ("exact", "fused", "int8"))
        exact.write_bytes(network.to_onnx())
        quant_pre_process(str(exact), str(fused), skip_symbolic_shape=True)
        quantize_static(
            str(fused),
            str(result),
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(str(result))
    reduced = OnnxNetwork.from_model(network.name, _renamed(model, network.layer), network.preprocessing)
    return reduced.with_classes(network.classes)


def _renamed(model: "onnx.ModelProto", layer: str) -> "onnx.ModelProto":
    """Name the output after the layer, as messages and keys of features call it."""
    from sparkwright.networks.export import rename_tensor

    rename_tensor(model.graph, model.graph.output[0].name, f"{layer}.int8")
    return model


class _Reader:
    """Hands inputs to the calibration in batches; see `onnxruntime.quantization.CalibrationDataReader`."""

    def __init__(self, inputs: NDArray[np.float32]) -> None:
        self._batches = iter([inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)])

    def get_next(self) -> dict[str, Any] | None:
        from sparkwright.networks.network import INPUT

        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what ONNX Runtime's tools log on the root logger, such as advice to do what was done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
