"""Predictions of a whole job, written once all of it is known to be good."""

import re
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sparkwright import storage
from sparkwright.errors import ErrorRateError, ExistsError
from sparkwright.events import Channel, Emit, ignore
from sparkwright.models import Model
from sparkwright.scoring.fetch import FetchLimits
from sparkwright.scoring.frames import MAX_ERROR_RATE, find_column
from sparkwright.scoring.ledger import write_failed
from sparkwright.scoring.model_transformer import predict
from sparkwright.scoring.sources import source_of
from sparkwright.session import driver_hosts, worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["write_predictions"]


def write_predictions(
    rows: "DataFrame",
    model: str | Model,
    out: str,
    *,
    input_column: str = "content",
    top: int | None = None,
    max_error_rate: float = MAX_ERROR_RATE,
    failfast: bool = False,
    fetch: FetchLimits | None = None,
    overwrite: bool = False,
    emit: Emit = ignore,
) -> tuple[int, int]:
    """Predict all rows and write them: Parquet, or one CSV file if `out` ends in ``.csv``.

    Written are the rows' columns but the input (paths and URLs stay), and ``prediction``, ``probability``, ``error``;
    with `top` also the best labels (CSV: ``label_2, probability_2 …``). Nothing stands under `out` before all rows are
    there and few enough failed. The driver sees counts alone. `fetch` limits what a photo may take that lies behind a
    path or URL. With `failfast` the first row that fails ends the job.

    Rows that failed are also listed on their own, in the folder ``_errors`` inside of `out`, which readers of Parquet
    skip (CSV: they have the column ``error``).

    Returns:
        How many rows, and how many of them failed.

    Raises:
        ExistsError: `out` is there and `overwrite` is false, or it is a folder with something else in it.
        StorageError: `out` cannot be written.
        ErrorRateError: more than `max_error_rate` of the rows failed.
        ColumnError: a column is missing or of the wrong type.
        InputError: the features were made by another network or layer than the model expects.
    """
    if storage.exists(out):
        if not overwrite:
            raise ExistsError(f"{out} exists. Choose another place, or pass overwrite=True (--overwrite).")
        storage.check_replaceable(out, "predictions", _is_sparks)
    final = storage.to_uri(out)
    scratch = f"{final}.{uuid.uuid4().hex[:12]}.tmp"
    spark = rows.sparkSession
    located = source_of(find_column(rows, input_column)) == "locations"
    with ExitStack() as stack:
        storage.check_writable(scratch)
        stack.callback(storage.remove, scratch)
        channel = None
        if emit is not ignore:
            channel = stack.enter_context(Channel(emit, driver_hosts(spark))).address
        scored = predict(
            rows,
            model,
            input_column=input_column,
            top=top,
            channel=channel,
            probabilitiesCol="",
            dropInput=not located,
            fetchLimits=fetch,
            maxErrorRate=1.0,  # the whole job's rate counts, below
            mode="failfast" if failfast else "permissive",
        )
        with worker_errors():
            scored.write.parquet(f"{scratch}/rows")
            written = spark.read.parquet(f"{scratch}/rows")
            total, failed = written.count(), written.where("error IS NOT NULL").count()
            _check_rate(written, failed, total, max_error_rate)
            if failed:
                write_failed(written, f"{scratch}/rows/_errors", input_column)
            if final.endswith(".csv"):
                flat = _flat(written, top, input_column).repartition(1)
                flat.sortWithinPartitions(flat.columns[0]).write.csv(f"{scratch}/csv", header=True)
        if final.endswith(".csv"):
            part = next(name for name in storage.list_files(f"{scratch}/csv") if name.startswith("part-"))
            storage.move(f"{scratch}/csv/{part}", final)
        else:
            storage.move(f"{scratch}/rows", final)
    return total, failed


def _is_sparks(name: str) -> bool:
    """Whether Spark gives such a name to a file of Parquet output."""
    known = name.startswith(("_SUCCESS", "._SUCCESS")) or name == "_errors"
    return known or re.fullmatch(r"\.?part-.*\.parquet(\.crc)?", name) is not None


def _check_rate(written: "DataFrame", failed: int, total: int, limit: float) -> None:
    if failed <= limit * total:
        return
    counted = written.where("error IS NOT NULL").groupBy("error.kind", "error.message").count()
    most = counted.orderBy(counted["count"].desc(), "message").limit(5).collect()
    listed = "".join(f"\n  {row['count']:,} x {row['kind']}: {row['message']}" for row in most)
    raise ErrorRateError(
        f"{failed:,} of {total:,} rows failed, more than max_error_rate={limit:g} allows; nothing was written. Most "
        f"frequent:{listed}\nMend or remove them, or raise the limit (--max-error-rate)."
    )


def _flat(rows: "DataFrame", top: int | None, input_column: str) -> "DataFrame":
    """Return columns that CSV can hold."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    first = [name for name in dict.fromkeys(("path", input_column)) if name in rows.columns]
    kept = [*first, *(name for name in ("label", "prediction", "probability") if name in rows.columns)]
    columns = [F.col(name) for name in kept]
    # `prediction` and `probability` are the first; a model may have fewer classes than were asked for.
    best = rows.agg(F.max(F.size("top"))).collect()[0][0] or 0 if top is not None and top > 1 else 0
    for place in range(1, best):
        pair = F.get("top", F.lit(place))
        columns += [pair["label"].alias(f"label_{place + 1}"), pair["probability"].alias(f"probability_{place + 1}")]
    error = F.when(F.col("error").isNotNull(), F.concat_ws(": ", "error.kind", "error.message"))
    return rows.select(*columns, error.alias("error"))
