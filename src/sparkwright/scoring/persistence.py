"""Files inside a saved pipeline stage, written and read by Spark: on any file system that Spark knows, without pickles.

A file becomes rows (name, part, data) of a small Parquet table under the stage's folder.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkwright.errors import ModelError
from sparkwright.session import worker_errors

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkwright.networks.network import Network

__all__ = ["network_from_files", "network_to_files", "read_files", "write_files"]

_PART_BYTES = 8 << 20  # well below what one message of Spark Connect may hold

_SPEC, _WEIGHTS, _ONNX = "network.json", "weights.safetensors", "network.onnx"


def write_files(spark: "SparkSession", path: str, files: Mapping[str, bytes]) -> None:
    """Write files under a new folder `path`."""
    rows = [
        (name, part, data[start : start + _PART_BYTES])
        for name, data in files.items()
        for part, start in enumerate(range(0, max(1, len(data)), _PART_BYTES))
    ]
    schema = pa.schema([("name", pa.string()), ("part", pa.int32()), ("data", pa.binary())])
    names, parts, contents = zip(*rows, strict=True)
    with worker_errors():
        # Compressed already, or not compressible.
        table = spark.createDataFrame(pa.table([names, parts, contents], schema=schema))
        table.coalesce(1).write.option("compression", "none").parquet(path)


def read_files(spark: "SparkSession", path: str) -> dict[str, bytes]:
    """Read what `write_files` wrote.

    Raises:
        ModelError: a part is missing.
    """
    with worker_errors():
        rows = spark.read.parquet(path).toArrow().to_pylist()
    parts: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
    for row in rows:
        parts[row["name"]][row["part"]] = row["data"]
    for name, found in parts.items():
        if sorted(found) != list(range(len(found))):
            raise ModelError(f"{path}: parts of {name} are missing. Save or copy the stage again.")
    return {name: b"".join(found[part] for part in sorted(found)) for name, found in parts.items()}


def network_to_files(network: "Network") -> dict[str, bytes]:
    """Return a network as files."""
    from safetensors.numpy import save

    from sparkwright.networks.onnx_network import OnnxNetwork

    files = {_SPEC: json.dumps(network.to_spec()).encode()}
    if isinstance(network, OnnxNetwork):  # as it came: an export of it would have another fingerprint
        return files | {_ONNX: network.graph}
    return files | {_WEIGHTS: save(network.weights())}


def network_from_files(files: Mapping[str, bytes]) -> "Network":
    """Rebuild a network from `network_to_files`' result.

    Raises:
        ModelError: a file is missing or does not fit.
    """
    from safetensors.numpy import load

    from sparkwright.networks.network import from_spec

    if _SPEC not in files:
        raise ModelError(f"A saved network must have {_SPEC}; found {sorted(files)}.")
    weights = load(files[_WEIGHTS]) if _WEIGHTS in files else None
    return from_spec(json.loads(files[_SPEC]), weights, files.get(_ONNX))
