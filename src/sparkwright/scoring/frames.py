"""The engine on a DataFrame: check the columns, ship the network, add the outputs' columns. Lazy."""

import hashlib
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sparkwright.errors import ColumnError, InputError, did_you_mean
from sparkwright.events import Address
from sparkwright.scoring.forward.devices import choose_device
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.forward.memory import check_memory
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.inputs.sources import AHEAD_BYTES, Source, source_of
from sparkwright.scoring.outputs import Output, error_field
from sparkwright.scoring.process.arrow import ScoringPlan
from sparkwright.scoring.process.supervisor import ScoringTask
from sparkwright.session import executor_cores, ship_file, ship_library, threads_per_task

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructField

__all__ = [
    "BATCH_SIZE",
    "FORWARD_TIMEOUT_S",
    "MAX_ERROR_RATE",
    "ROW_TIMEOUT_S",
    "find_column",
    "holds_photos",
    "join_columns",
    "numbers_width",
    "score_frame",
    "shipped",
]

BATCH_SIZE = 8
"""Photos in a micro-batch: fast networks fit it into the processor's cache, and it suffices for slow ones."""

GPU_BATCH_SIZE = 64
"""Photos in a micro-batch on a GPU, unless another number than `BATCH_SIZE` is asked for."""

MAX_ERROR_RATE = 0.05
"""The share of rows that may fail."""

ROW_TIMEOUT_S = 60.0
"""What takes longer to be decoded never ends."""

FORWARD_TIMEOUT_S = 600.0
"""Nor does a run of the network over a micro-batch that takes longer."""

_shipped: "WeakKeyDictionary[SparkSession, dict[tuple[str, bool], tuple[str, str]]]" = WeakKeyDictionary()


def score_frame(
    rows: "DataFrame",
    graph: Graph,
    outputs: Sequence[Output],
    *,
    input_column: str,
    error_column: str = "error",
    drop_input: bool = False,
    digest_column: str | None = None,
    batch_size: int = BATCH_SIZE,
    max_error_rate: float | None = MAX_ERROR_RATE,
    failfast: bool = False,
    fetch: FetchLimits | None = None,
    stage: str = "scoring",
    channel: Address | None = None,
    device: str = "auto",
) -> "DataFrame":
    """Return `rows` with the outputs' columns and an error column. Lazy; every row is kept, in its partition and place.

    Args:
        rows: Holds `input_column`: for a network with preprocessing photos, as bytes (binary), paths or URLs (string)
            or Spark's images (struct), or sounds, as bytes, paths or URLs, or texts; else numbers (array or Spark ML
            vector).
        graph: The network.
        outputs: Columns to add.
        input_column: What the network reads.
        error_column: Null, or ``struct<kind,message>`` for rows that failed; their outputs are null.
        drop_input: Leave `input_column` out.
        digest_column: Add the SHA-256 of the photo's bytes under this name.
        batch_size: Photos in a micro-batch.
        max_error_rate: A task of which a larger share of rows fails stops the job; None for any share.
        failfast: The first row that fails stops the job, and is named.
        fetch: What a photo may take that lies behind a path or URL; by default `FetchLimits` as it is.
        stage: What progress is reported as.
        channel: Where progress is reported to.
        device: Where the network runs: ``cpu``, ``cuda``, or ``auto``: GPUs where Spark schedules them.

    Raises:
        ColumnError: a column is missing, of the wrong type, or there already.
        InputError: `batch_size` or `max_error_rate` is out of its range.
        EnvironmentNotReadyError: the executors' memory does not suffice for the network.
    """
    from pyspark.sql.types import StringType, StructField, StructType

    if batch_size < 1:
        raise InputError(f"batchSize must be at least 1; got {batch_size}.")
    if max_error_rate is not None and not 0 <= max_error_rate <= 1:
        raise InputError(f"maxErrorRate must lie between 0 and 1; got {max_error_rate}.")
    source = source_of(find_column(rows, input_column), graph.preprocessing)
    photos = source != "numbers"
    if photos and graph.preprocessing is None:
        raise ColumnError(
            f"Column `{input_column}` holds photos, but {graph.name} takes {prod(graph.input_shape)} numbers a row. "
            "Give it a column of arrays or vectors, or a network with a preprocessing."
        )
    kept = [field for field in rows.schema.fields if not (drop_input and field.name == input_column)]
    added = [field for output in outputs for field in output.fields()]
    if digest_column:
        added.append(StructField(digest_column, StringType()))
    added.append(error_field(error_column))
    _check_names(kept, added)
    plan = ScoringPlan(
        **shipped(rows.sparkSession, graph, source, batch_size, device),
        preprocessing=graph.preprocessing if photos else None,
        input_column=input_column,
        source=source,
        fetch=fetch or FetchLimits(),
        keep=tuple(field.name for field in kept),
        outputs=tuple(outputs),
        error_column=error_column,
        digest_column=digest_column,
        max_error_rate=max_error_rate,
        failfast=failfast,
        row_timeout_s=ROW_TIMEOUT_S,
        forward_timeout_s=FORWARD_TIMEOUT_S,
        stage=stage,
        channel=channel,
    )
    return rows.mapInArrow(ScoringTask(plan), StructType([*kept, *added]))


def shipped(
    spark: "SparkSession", graph: Graph, source: Source, batch_size: int = BATCH_SIZE, device: str = "auto"
) -> dict[str, Any]:
    """Send library and network to the executors; return what a `ScoringPlan` says of both.

    Raises:
        InputError: the device is unknown, or not one for this network.
        EnvironmentNotReadyError: the executors' memory does not suffice for the network.
    """
    where = choose_device(spark, device, torch=graph.torch is not None, name=graph.name)
    torch = graph.runs_in_torch(where)
    if where == "cuda" and batch_size == BATCH_SIZE:
        batch_size = GPU_BATCH_SIZE
    elif where == "cpu" and graph.preprocessing is not None:
        ahead_bytes = AHEAD_BYTES if source == "locations" else 0
        batch_size = check_memory(spark, graph, batch_size, torch=torch, ahead_bytes=ahead_bytes)
    ship_library(spark)
    name, sha256 = _ship(spark, graph, torch=torch)
    return {
        "network": name,
        "sha256": sha256,
        "batch_size": batch_size,
        "device": where,
        "input_shape": graph.input_shape,
        "output_shape": graph.output_shape,
        "threads": threads_per_task(spark),
        "cores": executor_cores(spark),
    }


def find_column(rows: "DataFrame", name: str) -> "StructField":
    """Return a column's name and type.

    Raises:
        ColumnError: there is no such column.
    """
    if name not in rows.columns:
        raise ColumnError(f"Column `{name}` not found in {rows.columns}.{did_you_mean(name, rows.columns)}")
    return rows.schema[name]


def join_columns(rows: "DataFrame", columns: Sequence[str], name: str, *, drop: bool = False) -> "DataFrame":
    """Return `rows` with a column `name`: the numbers of several columns, one after the other, as ``array<float>``.

    Nulls and NaN among them stay, and the array is null where an array or vector is.

    Args:
        rows: Holds `columns`: numbers, booleans, arrays of numbers or vectors.
        columns: Their names.
        name: Of the column that is added.
        drop: Leave `columns` out.

    Raises:
        ColumnError: There is no such column, or it holds something else; all of them in one message.
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import functions as F  # noqa: N812  its usual name
    from pyspark.sql.types import ArrayType, BooleanType, DecimalType, NumericType

    parts, problems = [], []
    for column in columns:
        if column not in rows.columns:
            problems.append(f"Column `{column}` not found in {rows.columns}.{did_you_mean(column, rows.columns)}")
            continue
        type_, values = rows.schema[column].dataType, F.col(f"`{column}`")
        if isinstance(type_, VectorUDT):
            parts.append(vector_to_array(values, "float32"))
        elif isinstance(type_, ArrayType) and isinstance(type_.elementType, NumericType):
            parts.append(values.cast("array<float>"))
        elif isinstance(type_, NumericType | BooleanType):
            if isinstance(type_, DecimalType):  # by way of a double, as in training
                values = values.cast("double")
            parts.append(F.array(values.cast("float")))
        else:
            problems.append(
                f"Column `{column}` must hold numbers, arrays of numbers or vectors; it is of type "
                f"{type_.simpleString()}."
            )
    if problems:
        raise ColumnError.listing("The columns cannot be put together", problems)
    joined = rows.withColumn(name, F.concat(*parts))
    return joined.drop(*columns) if drop else joined


def numbers_width(rows: "DataFrame", columns: Sequence[str]) -> int | None:
    """Return how many numbers a row has in some columns; None if one of them does not hold one number a row."""
    from pyspark.sql.types import BooleanType, NumericType

    types = [field.dataType for field in rows.schema.fields if field.name in columns]
    alone = len(types) == len(columns) and all(isinstance(type_, NumericType | BooleanType) for type_ in types)
    return len(columns) if alone else None


def holds_photos(field: "StructField") -> bool:
    """Tell photos (bytes, paths and URLs, Spark's images: true) from numbers (false).

    Raises:
        ColumnError: the column holds neither.
    """
    return source_of(field) != "numbers"


def _check_names(kept: Sequence["StructField"], added: Sequence["StructField"]) -> None:
    names = [field.name for field in kept]
    for field in added:
        if field.name in names:
            raise ColumnError(
                f"Column `{field.name}` is to be added, but is there already. Drop or rename it, or give the new "
                f"column another name. Columns: {names}."
            )
        names.append(field.name)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ColumnError(f"Columns must have different names; {twice} occur more than once. Rename them.")


def _ship(spark: "SparkSession", graph: Graph, *, torch: bool) -> tuple[str, str]:
    """Send the network to the executors, once per session; return its file's name there, and its SHA-256."""
    names = _shipped.setdefault(spark, {})
    key = (graph.sha256, torch)
    if key not in names:
        data = graph.safetensors if torch else graph.onnx
        with tempfile.TemporaryDirectory(prefix="sparkwright-") as folder:
            path = Path(folder) / ("network.safetensors" if torch else "network.onnx")
            path.write_bytes(data)
            names[key] = ship_file(spark, path), hashlib.sha256(data).hexdigest()
    return names[key]
