"""What features depend on beside the photo's bytes: features of equal keys may stand beside each other."""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnxruntime

from sparkwright.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql.types import StructField

    from sparkwright.networks.network import Network

__all__ = ["FeatureKey", "engine"]

_METADATA = "sparkwright.features"


@dataclass(frozen=True)
class FeatureKey:
    """Identifies features.

    Attributes:
        network: The network's name, for messages.
        layer: Whose output they are.
        width: Numbers in a row.
        fingerprint: SHA-256 of the network's structure, weights, layer and preprocessing.
        precision: Of the computation.
        engine: What ran the network, with its version.
    """

    network: str
    layer: str
    width: int
    fingerprint: str
    precision: str = "float32"
    engine: str = f"onnxruntime {onnxruntime.__version__}"

    @classmethod
    def of(cls, network: "Network", device: str = "cpu") -> Self:
        """Return the key of the features that `network`, already cut, makes on a device (``cpu`` or ``cuda``)."""
        precision = network.precision.name if network.precision else "float32"
        width = int(np.prod(network.output_shape))
        runs = engine(device != "cpu" or precision == "bfloat16", device)
        return cls(network.name, network.layer, width, network.fingerprint(), precision, runs)

    def __str__(self) -> str:
        precision = "" if self.precision == "float32" else f"{self.precision}, "
        return (
            f"`{self.network}` at layer `{self.layer}` ({precision}{self.engine}, fingerprint {self.fingerprint[:12]})"
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all fields but the network's name, in hexadecimal."""
        fields = {name: value for name, value in asdict(self).items() if name != "network"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild a key from `to_dict`'s result."""
        return cls(**data)

    def metadata(self) -> dict[str, Any]:
        """Return Spark metadata for the features' column; Parquet keeps it."""
        return {_METADATA: json.dumps(self.to_dict())}

    @classmethod
    def of_column(cls, field: "StructField") -> Self | None:
        """Return the key that a column's metadata holds; None if the column says nothing of its origin."""
        text = (field.metadata or {}).get(_METADATA)
        return cls.from_dict(json.loads(text)) if text else None

    def check_fits(self, expected: "FeatureKey", where: str) -> None:
        """Refuse features that a model was not trained on.

        Raises:
            InputError: this key's network, layer or preprocessing is not the expected one.
        """
        if self.fingerprint == expected.fingerprint:
            return
        raise InputError(
            f"{where} holds features of {self}; the model expects those of {expected}: another network, layer, weights "
            "or preprocessing. Make the features again with the model's network, or give the model photos."
        )


def engine(torch: bool, device: str) -> str:
    """Return what runs a network (torch, or ONNX Runtime), with its version, without importing torch."""
    if not torch:
        return f"onnxruntime {onnxruntime.__version__}"
    return f"torch {metadata.version('torch')}" + (f" on {device}" if device != "cpu" else "")
