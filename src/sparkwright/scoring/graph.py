"""What the engine needs to know of a network: its ONNX graph, and how to feed it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Self

from sparkwright.networks.preprocessing import Preprocessing

if TYPE_CHECKING:
    from sparkwright.models import ModelFiles
    from sparkwright.networks.network import Network

__all__ = ["Graph"]


@dataclass(frozen=True)
class Graph:
    """A network ready for ONNX Runtime. Needs neither torch nor Spark.

    Attributes:
        name: What messages call it.
        onnx: The ONNX file's bytes.
        preprocessing: From a photo's bytes to one input; None for networks of numbers.
        input_shape: Of one row, without the batch.
        output_shape: Of one row, without the batch.
    """

    name: str
    onnx: bytes = field(repr=False)
    preprocessing: Preprocessing | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @classmethod
    def of_network(cls, network: "Network") -> Self:
        """Export a network."""
        return cls(
            name=network.name,
            onnx=network.to_onnx(),
            preprocessing=network.preprocessing,
            input_shape=tuple(network.input_shape),
            output_shape=tuple(network.output_shape),
        )

    @classmethod
    def of_layers(cls, network: "Network", layers: Sequence[str]) -> tuple[Self, dict[str, tuple[int, int]]]:
        """Export a network with the outputs of several layers, flattened, behind one another.

        Returns:
            The graph; and for each layer the index of its first value in a row and the one behind its last.

        Raises:
            NameUnknownError: no such layer.
        """
        if len(layers) == 1:
            graph = cls.of_network(network.cut(layers[0]))
            return graph, {layers[0]: (0, prod(graph.output_shape))}
        from sparkwright.networks.joined import export_layers

        onnx, places = export_layers(network, layers)
        width = max(stop for _, stop in places.values())
        return cls(network.name, onnx, network.preprocessing, tuple(network.input_shape), (width,)), places

    @classmethod
    def of_model(cls, files: "ModelFiles", name: str = "the model") -> Self:
        """Take the whole way, from photo or features to scores, out of a model's files."""
        from sparkwright.models import ONNX

        manifest = files.manifest
        spec = manifest["preprocessing"]
        return cls(
            name=name,
            onnx=files.files[ONNX],
            preprocessing=Preprocessing.from_dict(spec) if spec is not None else None,
            input_shape=tuple(manifest["input_shape"]),
            output_shape=tuple(manifest["output_shape"]),
        )

    @cached_property
    def sha256(self) -> str:
        """Of the ONNX file, in hexadecimal."""
        return hashlib.sha256(self.onnx).hexdigest()
