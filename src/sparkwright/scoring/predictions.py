"""Predictions of a whole job, written once all of it is known to be good."""

import re
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql.types import ArrayType, BinaryType, StructType, UserDefinedType

from sparkwright import storage
from sparkwright.errors import ErrorRateError, ExistsError, InputError
from sparkwright.events import Address, Channel, Emit, ignore
from sparkwright.models import Model, outputs_in
from sparkwright.scoring.frames import MAX_ERROR_RATE, find_column
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.inputs.sources import source_of
from sparkwright.scoring.ledger import write_failed
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.scoring.salvage import begin, divide, holds_rows, salvage
from sparkwright.session import driver_hosts, worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["write_predictions"]

_DIGEST = "sha256"
_ROWS_PER_FILE = 1 << 15  # what a stopped task loses at most


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
    resume: bool = False,
    emit: Emit = ignore,
) -> tuple[int, int]:
    """Predict all rows and write them: Parquet, or one CSV file if `out` ends in ``.csv``.

    Written are the rows' columns but the input (paths and URLs stay), and ``prediction``, ``probability``, ``error``;
    with `top` also the best labels (CSV: ``label_2, probability_2 …``). Of the rows' columns CSV has the path or URL
    and the label; of rows without a path all but arrays and bytes. Several labels of a row are joined by ``;`` there.
    Nothing stands under `out` before all rows are there and few enough failed. The driver sees counts alone.
    `fetch` limits what a photo may take that lies behind a path or URL. With `failfast` the first row that fails ends
    the job.

    With `resume` photos' bytes that a call to the same `out` has predicted before it was stopped, by whatever, with the
    same model, are not predicted again; its rows lie in a folder beside `out`, which is then removed. So predictions of
    bytes have the column ``sha256``. Photos behind paths and URLs are taken to be those that the stopped call read
    there.

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
    stopped = _stopped(final) if resume else []
    scratch = f"{final}.{uuid.uuid4().hex[:12]}.tmp"
    spark = rows.sparkSession
    source = source_of(find_column(rows, input_column))
    stage = ModelTransformer(
        model=model,
        inputCol=input_column,
        probabilitiesCol="",
        top=top,
        topCol="top" if top is not None else None,
        dropInput=source != "locations",
        fetchLimits=fetch,
        maxErrorRate=1.0,  # the whole job's rate counts, below
        mode="failfast" if failfast else "permissive",
    )
    with ExitStack() as stack:
        storage.check_writable(scratch)
        stack.push(partial(_clear, scratch))
        channel = None
        if emit is not ignore:
            channel = stack.enter_context(Channel(emit, driver_hosts(spark))).address
        with worker_errors():
            # What the next call finds photos by, if this one is stopped: a column of their bytes', or where they lie.
            digest = _DIGEST if source == "bytes" and _DIGEST not in rows.columns else None
            found_again = digest is not None or (source == "locations" and _DIGEST not in rows.columns)
            if found_again:
                begin(scratch, stage._key(rows))
            _write(rows, stage, channel, digest, stopped if found_again else [], f"{scratch}/rows")
            written = spark.read.parquet(f"{scratch}/rows")
            total, failed = written.count(), written.where("error IS NOT NULL").count()
            _check_rate(written, failed, total, max_error_rate)
            if failed:
                write_failed(written, f"{scratch}/rows/_errors", input_column)
            if final.endswith(".csv"):
                names = [f"{output.name}_" for output in outputs_in(stage.files().manifest)] or [""]
                flat = _flat(written, top, input_column, names).repartition(1)
                flat.sortWithinPartitions(flat.columns[0]).write.csv(f"{scratch}/csv", header=True)
        if final.endswith(".csv"):
            part = next(name for name in storage.list_files(f"{scratch}/csv") if name.startswith("part-"))
            storage.move(f"{scratch}/csv/{part}", final)
        else:
            storage.move(f"{scratch}/rows", final)
    for folder in stopped:
        storage.remove(folder)
    return total, failed


def _write(
    rows: "DataFrame",
    stage: ModelTransformer,
    channel: Address | None,
    digest: str | None,
    stopped: list[str],
    uri: str,
) -> None:
    """Write the rows with their predictions; what stopped calls have left is not computed again."""
    scored, known, matched = stage._score(rows, channel, digest), None, None
    if stopped:
        location = stage.getInputCol() if digest is None else None
        wanted = [field for field in scored.schema.fields if field.name not in rows.columns or field.name == location]
        known = salvage(rows.sparkSession, stopped, stage._key(rows), StructType(wanted), location)
    if known is not None:
        unknown, matched = divide(rows, stage.getInputCol(), known)
        scored = stage._score(unknown, channel, digest)
    scored.write.option("maxRecordsPerFile", _ROWS_PER_FILE).parquet(uri)
    if matched is not None:
        matched.select(scored.columns).write.mode("append").parquet(uri)


def _stopped(final: str) -> list[str]:
    """Return the folders beside `final` that calls have left which did not come to their end."""
    folder, _, name = final.rpartition("/")
    pattern = re.escape(name) + r"\.[0-9a-f]{12}\.tmp"
    return [storage.join(folder, entry) for entry in storage.list_files(folder) if re.fullmatch(pattern, entry)]


def _clear(scratch: str, kind: type[BaseException] | None, *_: object) -> bool:
    """Delete the folder in which predictions were written, unless a call that goes on could use it."""
    useful = kind is not None and not issubclass(kind, InputError | ErrorRateError) and holds_rows(scratch)
    if not useful:
        storage.remove(scratch)
    return False


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


def _flat(rows: "DataFrame", top: int | None, input_column: str, names: Sequence[str] = ("",)) -> "DataFrame":
    """Return columns that CSV can hold; `names` are what those of each output begin with."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    told = [f"{name}{column}" for name in names for column in ("prediction", "probability")]
    first = [name for name in dict.fromkeys(("path", input_column)) if name in rows.columns]
    if not first:  # rows of numbers, which nothing but their own columns tells apart
        nested = (ArrayType, StructType, BinaryType, UserDefinedType)
        own = [field.name for field in rows.schema.fields if not isinstance(field.dataType, nested)]
        first = [name for name in own if name not in told]
    kept = [*first, *(name for name in ("label", *told) if name in rows.columns)]
    kept = list(dict.fromkeys(kept))
    several = {field.name for field in rows.schema.fields if isinstance(field.dataType, ArrayType)}
    columns = [
        F.array_join(F.col(name).cast("array<string>"), ";").alias(name) if name in several else F.col(name)
        for name in kept
    ]
    # `prediction` and `probability` are the first; a model may have fewer classes than were asked for.
    for name in (name for name in names if top is not None and top > 1 and f"{name}top" in rows.columns):
        best = rows.agg(F.max(F.size(f"{name}top"))).collect()[0][0] or 0
        for place in range(0 if f"{name}prediction" in several else 1, best):
            pair, number = F.get(f"{name}top", F.lit(place)), place + 1
            columns += [pair[what].alias(f"{name}{what}_{number}") for what in ("label", "probability")]
    error = F.when(F.col("error").isNotNull(), F.concat_ws(": ", "error.kind", "error.message"))
    return rows.select(*columns, error.alias("error"))
