"""What the engine needs to know of a network: its ONNX graph, and how to feed it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Self
from weakref import ref

from sparkwright.errors import InputError
from sparkwright.networks.preprocessing import AnyPreprocessing, as_preprocessing

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
        preprocessing: From a photo's bytes, a text or a sound to one input; None for networks of numbers.
        input_shape: Of one row, without the batch.
        output_shape: Of one row, without the batch.
        precision: ``float32``, ``int8`` or ``bfloat16``; torch runs the last one.
        torch: Gives the network itself, if torch can run it.
        layers: Whose outputs leave, behind one another; none for the network's own.
    """

    name: str
    onnx: bytes = field(repr=False)
    preprocessing: AnyPreprocessing | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    precision: str = "float32"
    torch: "Callable[[], Network] | None" = field(default=None, repr=False, compare=False)
    layers: tuple[str, ...] = ()

    @classmethod
    def of_network(cls, network: "Network", layer: str | None = None) -> Self:
        """Export a network, whole or up to a layer."""
        part = network if layer is None else network.cut(layer)
        return cls(
            name=part.name,
            onnx=part.to_onnx(),
            preprocessing=part.preprocessing,
            input_shape=tuple(part.input_shape),
            output_shape=tuple(part.output_shape),
            precision=part.precision.name if part.precision else "float32",
            torch=partial(_recall, ref(network), layer) if part.weights() else None,
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
            graph = cls.of_network(network, layers[0])
            return graph, {layers[0]: (0, prod(graph.output_shape))}
        from sparkwright.networks.joined import export_layers

        onnx, places = export_layers(network, layers)
        width = max(stop for _, stop in places.values())
        graph = cls(
            name=network.name,
            onnx=onnx,
            preprocessing=network.preprocessing,
            input_shape=tuple(network.input_shape),
            output_shape=(width,),
            precision=network.precision.name if network.precision else "float32",
            torch=partial(_recall, ref(network), None) if network.weights() else None,
            layers=tuple(layers),
        )
        return graph, places

    @classmethod
    def of_model(cls, files: "ModelFiles", name: str = "the model") -> Self:
        """Take the whole way, from photo or features to scores, out of a model's files."""
        from sparkwright.models import ONNX, Model

        manifest = files.manifest
        parts = [manifest[name] for name in ("network", "head") if manifest[name]]
        precision = (manifest["network"] or {}).get("precision") or {"name": "float32"}
        spec = manifest["preprocessing"]
        return cls(
            name=name,
            onnx=files.files[ONNX],
            preprocessing=as_preprocessing(spec) if spec is not None else None,
            input_shape=tuple(manifest["input_shape"]),
            output_shape=tuple(manifest["output_shape"]),
            precision=precision["name"],
            torch=(lambda: Model.from_files(files).full) if all(part["kind"] == "torch" for part in parts) else None,
        )

    def runs_in_torch(self, device: str) -> bool:
        """Tell whether torch runs it on a device (``cpu`` or ``cuda``); else ONNX Runtime does."""
        return device == "cuda" or self.precision == "bfloat16"

    @cached_property
    def safetensors(self) -> bytes:
        """The network as one file for torch.

        Raises:
            InputError: it is an ONNX graph.
        """
        if self.torch is None:
            raise InputError(f"`{self.name}` is an ONNX graph, which torch cannot run.")
        from sparkwright.networks.torch_network import TorchNetwork
        from sparkwright.scoring.forward.torch_runtime import pack_network

        network = self.torch()
        assert isinstance(network, TorchNetwork)
        return pack_network(network, self.layers)

    @cached_property
    def sha256(self) -> str:
        """Of the ONNX file, in hexadecimal."""
        return hashlib.sha256(self.onnx).hexdigest()


def _recall(network: "ref[Network]", layer: str | None) -> "Network":
    """Return the network that a graph was made of. Graphs are kept for a network as long as it lives, and no longer."""
    found = network()
    assert found is not None, "the graph of a network is used while the network is"
    return found if layer is None else found.cut(layer)
