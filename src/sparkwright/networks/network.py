"""The contract of all networks.

A `Network` is immutable: cutting, freezing and new heads return another one, which shares the weights. Two kinds exist:
`TorchNetwork` (layers of torch, which can be trained) and `OnnxNetwork` (a graph that runs as it is in ONNX Runtime).
Both know their layers by name, their own preprocessing, and how to become one ONNX file.
"""

import hashlib
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from sparkwright.errors import InputError, ModelError, NameUnknownError, did_you_mean
from sparkwright.networks.augmentation import Augmentation, as_augmentation
from sparkwright.networks.preprocessing import AnyPreprocessing, Preprocessing, as_preprocessing

if TYPE_CHECKING:
    from sparkwright.networks.summary import Summary

__all__ = [
    "INPUT",
    "OUTPUT",
    "Network",
    "Precision",
    "Shape",
    "find_layer",
    "from_spec",
    "home",
    "read_precision",
    "spec_digest",
    "write_atomically",
]

Shape = tuple[int, ...]

INPUT, OUTPUT = "input", "output"  # names of the tensors in every ONNX file that `to_onnx` makes


@dataclass(frozen=True)
class Precision:
    """How exact a network of reduced precision is, measured against the same network in float32.

    Attributes:
        name: ``int8`` or ``bfloat16``.
        measure: What `agreement` is: ``top-1``, the share of rows with the same best class; or ``cosine``, the mean
            cosine between the outputs.
        agreement: Between 0 and 1.
        drift: The largest distance of a row's output from float32's, as a share of the latter's length.
        rows: On how many rows it was measured; none of them calibrated anything.
        calibrated: On how many rows the ranges of the 8 bit numbers were found; 0 for bfloat16, which needs none.
    """

    name: str
    measure: str
    agreement: float
    drift: float
    rows: int
    calibrated: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Network(ABC):
    """A network: layers with names, weights, preprocessing, and the names of the classes.

    Attributes:
        name: What the catalogue or the file calls it.
        preprocessing: From an image's bytes, a text or a sound to the input; None where that is numbers (a head, say).
        classes: Names of the outputs, in order; None if unknown or if the output is not classes.
        layer: Name of the layer whose output is the network's output.
        feature_layer: Layer whose output feeds the classifier, where transfer cuts by default; None if unknown or cut
            already.
        frozen: Names of the layers whose weights and running statistics stay as they are in training.
        precision: How exact it is, if it was reduced; None for float32.
    """

    name: str
    preprocessing: AnyPreprocessing | None
    classes: tuple[str, ...] | None
    layer: str
    feature_layer: str | None
    frozen: frozenset[str]
    precision: Precision | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def input_shape(self) -> Shape:
        """Shape of one input, without the batch: ``(3, 224, 224)``."""

    @property
    @abstractmethod
    def output_shape(self) -> Shape:
        """Shape of one output, without the batch: ``(1000,)``."""

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Names that `cut` accepts, in the order of the computation; aliases (``fc2``, ``block5``, ``pool``) first."""

    @abstractmethod
    def cut(self, layer: str) -> Self:
        """Return the network up to `layer`, whose output becomes the network's.

        Raises:
            NameUnknownError: No such layer.
        """

    @abstractmethod
    def with_head(self, head: "Network") -> "Network":
        """Return this network with `head` on its output; the head's classes become the network's.

        Raises:
            InputError: The head's input is not as wide as this network's output.
        """

    @abstractmethod
    def freeze(self, until: str | None = None) -> Self:
        """Return the network with all layers up to and including `until` frozen (all without `until`).

        A frozen layer keeps its weights and BatchNorm's running statistics bit for bit in training.
        """

    @abstractmethod
    def unfreeze(self, from_: str | None = None) -> Self:
        """Return the network with all layers from `from_` on trainable (all without `from_`)."""

    @abstractmethod
    def summary(self) -> "Summary":
        """Return the table of layers: shapes, parameters, multiply-adds, memory."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the SHA-256 of what determines the output: structure, weights, layer, preprocessing (hex)."""

    @abstractmethod
    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the outputs of a batch as in inference.

        Args:
            batch: float32 of shape (N, *input_shape).

        Returns:
            float32 of shape (N, *output_shape).
        """

    @abstractmethod
    def to_onnx(self) -> bytes:
        """Return the network as one ONNX file: tensor ``input`` (any batch) → tensor ``output``."""

    @abstractmethod
    def to_spec(self) -> dict[str, Any]:
        """Return what JSON can hold of it: all but weights and graph; see `from_spec`."""

    @abstractmethod
    def weights(self) -> dict[str, NDArray[Any]]:
        """Return the weights by name, in torch's names and layout; empty for an ONNX graph, which holds its own."""

    def new_head(
        self,
        classes: int | Sequence[str],
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        activation: str = "relu",
        seed: int = 0,
    ) -> "Network":
        """Return the network with a new, randomly initialised classifier.

        On a network that was not cut it replaces the old classifier: it sits on `feature_layer`. On a cut network it
        sits on the layer where it was cut.

        Args:
            classes: Their names, or how many.
            hidden: Widths of hidden layers in between.
            dropout: Share of each hidden layer's outputs (without hidden layers: of the inputs) dropped in training.
            activation: Of the hidden layers: see `sparkwright.networks.mlp.mlp`.
            seed: Of the initial weights.
        """
        from sparkwright.networks.mlp import mlp

        names = None if isinstance(classes, int) else tuple(classes)
        outputs = classes if isinstance(classes, int) else len(classes)
        base = self.cut(self.feature_layer) if self.feature_layer else self
        head = mlp(int(np.prod(base.output_shape)), outputs, hidden, activation, dropout, seed)
        return base.with_head(replace(head, classes=names))

    def with_preprocessing(self, preprocessing: AnyPreprocessing | Mapping[str, Any] | str | None) -> Self:
        """Return the network with another preprocessing.

        Raises:
            InputError: Its result is not of the network's input shape.
        """
        value = None if preprocessing is None else as_preprocessing(preprocessing)
        if value is not None and value.shape != self.input_shape:
            raise InputError(
                f"The network `{self.name}` takes inputs of shape {self.input_shape}; the preprocessing makes "
                f"{value.shape}. {_fitting(value, self.input_shape)}"
            )
        return replace(self, preprocessing=value)

    def with_augmentation(self, augmentation: Augmentation | Mapping[str, Any] | str | None) -> Self:
        """Return the network with another augmentation in its preprocessing: what photos go through in training.

        Raises:
            InputError: The network does not take photos, or not such as the augmentation needs.
        """
        if not isinstance(self.preprocessing, Preprocessing):
            has = "no preprocessing" if self.preprocessing is None else type(self.preprocessing).__name__
            raise InputError(
                f"Augmentation changes photos, and the network `{self.name}` does not read photos: it has {has}. Leave "
                "the augmentation out."
            )
        value = None if augmentation is None else as_augmentation(augmentation)
        return replace(self, preprocessing=replace(self.preprocessing, augmentation=value))

    def with_classes(self, classes: Sequence[str] | None) -> Self:
        """Return the network with other names of the classes.

        Raises:
            InputError: Not as many names as outputs.
        """
        if classes is not None and (len(classes),) != self.output_shape:
            raise InputError(
                f"The network `{self.name}` gives outputs of shape {self.output_shape}; got {len(classes)} classes."
            )
        return replace(self, classes=None if classes is None else tuple(classes))

    def _spec_head(self) -> dict[str, Any]:
        """Fields that the specs of both kinds share."""
        return {
            "name": self.name,
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
            "classes": list(self.classes) if self.classes else None,
            "layer": self.layer,
            "feature_layer": self.feature_layer,
            "frozen": sorted(self.frozen),
            "input_shape": list(self.input_shape),
            "output_shape": list(self.output_shape),
            **({"precision": self.precision.to_dict()} if self.precision else {}),
        }


def _fitting(value: AnyPreprocessing, shape: Shape) -> str:
    """Say how a preprocessing comes to make inputs of a shape."""
    if isinstance(value, Preprocessing):
        return f"Give a Preprocessing with size={shape[1:]}." if len(shape) == 3 else "It does not take images."
    return "Give both the same `max_length`, and the network as many channels as there are bands."


def from_spec(
    spec: Mapping[str, Any], weights: Mapping[str, NDArray[Any]] | None = None, onnx: bytes | None = None
) -> Network:
    """Rebuild a network from `Network.to_spec` and its weights (torch) or its graph (ONNX).

    Raises:
        ModelError: The spec is of an unknown kind, or the weights do not fit it.
    """
    kind = spec.get("kind")
    if kind == "torch":
        from sparkwright.networks.torch_network import TorchNetwork

        if weights is None:
            raise ModelError(f"The network `{spec.get('name')}` needs its weights; none were given.")
        return TorchNetwork.from_spec(spec, weights)
    if kind == "onnx":
        from sparkwright.networks.onnx_network import OnnxNetwork

        if onnx is None:
            raise ModelError(f"The network `{spec.get('name')}` needs its ONNX graph; none was given.")
        return OnnxNetwork.from_spec(spec, onnx)
    raise ModelError(f"A network's `kind` must be torch or onnx; got {kind!r}. A newer version may have written it.")


def read_precision(spec: Mapping[str, Any]) -> Precision | None:
    """Return the precision that a spec tells of; None for float32."""
    return Precision(**spec["precision"]) if spec.get("precision") else None


def find_layer(name: str, known: Iterable[str], aliases: Mapping[str, str], network: str) -> str:
    """Return the layer that `name` (a layer or an alias) stands for.

    Raises:
        NameUnknownError: Neither; says which there are.
    """
    known = list(known)
    if name in known:
        return name
    if name in aliases:
        return aliases[name]
    names = [*aliases, *known]
    shown = ", ".join(names[:40]) + (f" … ({len(names)} in all)" if len(names) > 40 else "")
    raise NameUnknownError(
        f"The network `{network}` has no layer `{name}`.{did_you_mean(name, names)} It has: {shown}."
    )


def spec_digest(spec: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).digest()


def home() -> Path:
    """Return the cache folder: ``$SPARKWRIGHT_HOME``, by default under the user's cache; it may not exist yet."""
    if named := os.environ.get("SPARKWRIGHT_HOME"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "sparkwright"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that other processes see whole or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
