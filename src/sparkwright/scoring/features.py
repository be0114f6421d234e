"""Make features once and reuse them: the cache by content, the commit, the limit on failures, the list of them."""

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sparkwright import storage
from sparkwright.errors import ErrorRateError, ExistsError, InputError
from sparkwright.events import Address, Channel, Emit, ignore
from sparkwright.networks.network import Network
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.feature_set import MANIFEST, FeatureManifest, FeatureSet, open_features, read_manifest
from sparkwright.scoring.featurizer import graph_of
from sparkwright.scoring.forward.devices import choose_device
from sparkwright.scoring.frames import BATCH_SIZE, MAX_ERROR_RATE, find_column, score_frame
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.inputs.sources import source_of
from sparkwright.scoring.ledger import write_failed
from sparkwright.scoring.outputs import Features
from sparkwright.scoring.salvage import ROWS_PER_FILE, begin, divide, holds_rows, salvage
from sparkwright.session import driver_hosts, slots, worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["featurize", "rehearsal"]

log = logging.getLogger(__name__)

_CONTENT, _DIGEST, _FEATURES, _ERROR = "content", "sha256", "features", "error"
_SCHEMA = "sha256 string, features array<float>, error struct<kind: string, message: string>"


def featurize(
    spark: "SparkSession",
    images: "DataFrame",
    network: Network,
    out: str,
    *,
    input_column: str = _CONTENT,
    reuse: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    max_error_rate: float = MAX_ERROR_RATE,
    failfast: bool = False,
    fetch: FetchLimits | None = None,
    overwrite: bool = False,
    device: str = "auto",
    emit: Emit = ignore,
) -> FeatureSet:
    """Run a network over photos and write the features; compute only what is not known.

    Known are photos whose bytes have features of the same key (network, weights, layer, preprocessing, engine) in
    `reuse`, or in `out` itself. Called again on a folder with ten more photos, it computes ten. Called again after it
    was stopped, by whatever, it goes on: what had been written is not computed again. The driver sees counts alone;
    photos' bytes are never shuffled.

    Paths, URLs and Spark's images do not tell what is known, so photos given as these are all computed.

    Rows that failed keep their place, without features; they are also listed on their own (`FeatureSet.failed`).

    Args:
        spark: The session.
        images: Rows with photos, as `read_images` gives them or any others.
        network: Already cut at the layer whose output is wanted.
        out: Folder to write, on any file system that Spark writes.
        input_column: Holds photos' bytes, or where they lie (paths, URLs; this stays in the output), or Spark's images.
        reuse: Folders of features made earlier.
        batch_size: Photos that the network sees at once.
        max_error_rate: Share of all rows that may fail; more, and nothing is committed.
        failfast: The first row that fails ends the job.
        fetch: What a photo may take that lies behind a path or URL; by default `FetchLimits` as it is.
        overwrite: Replace features of another key or of other photos in `out`.
        device: Where the network runs: ``cpu``, ``cuda``, or ``auto``: GPUs where Spark schedules them.
        emit: Told of progress.

    Raises:
        ExistsError: `out` has features of another key, or of photos that are not among `images`; or something else is
            there.
        StorageError: `out` cannot be written.
        ErrorRateError: too many rows failed; says how, with examples. What was there in `out` stays as it was.
        WorkerError: a process of the cluster failed, more often than Spark tries again.
        EnvironmentNotReadyError: the executors' memory does not suffice for the network.
        ColumnError: `images` has no photos in `input_column`, or has a column of a name that is to be added.
    """
    source = source_of(find_column(images, input_column), network.preprocessing)
    device = choose_device(spark, device, torch=bool(network.weights()), name=network.name)
    key = FeatureKey.of(network, device)
    earlier = _earlier(out, key, overwrite)
    known = _known(spark, [*([out] if earlier and earlier.key.digest == key.digest else []), *reuse], key)
    if earlier is not None and not overwrite:
        _check_superset(spark, images, out)
    root = storage.to_uri(out)
    stopped = _stopped(root, earlier)
    known = _union(known, salvage(spark, stopped, key.digest, _SCHEMA)) if source == "bytes" else None
    data = f"data-{uuid.uuid4().hex[:12]}"
    begin(storage.join(root, data), key.digest)
    with ExitStack() as stack:
        channel = None
        if emit is not ignore:
            channel = stack.enter_context(Channel(emit, driver_hosts(spark))).address

        def compute(rows: "DataFrame", uri: str) -> None:
            scored = _compute(rows, network, key, input_column, batch_size, channel, failfast, fetch, device)
            scored.write.option("maxRecordsPerFile", ROWS_PER_FILE).parquet(uri)

        try:
            manifest = _write(spark, images, input_column, known, compute, root, data, key)
            _check_rate(spark, manifest, root, max_error_rate, input_column)
            manifest = _list_failed(spark, manifest, root, data, input_column)
        except BaseException:
            _remove(storage.join(root, data), keep_rows=True)  # the next call goes on from them
            raise
    preprocessing = network.preprocessing.plain.to_dict() if network.preprocessing else None
    manifest = replace(manifest, preprocessing=preprocessing)
    storage.write_bytes(storage.join(root, MANIFEST), manifest.to_json())
    for name in storage.list_files(root):  # of earlier versions, and what calls that died have left
        if name.startswith("data-") and name != data:
            _remove(storage.join(root, name))
    return open_features(spark, out)


@contextmanager
def rehearsal(spark: "SparkSession", network: Network, out: str) -> Iterator[None]:
    """Rehearse `featurize` with a row without a photo a slot, in the background, while the body prepares the photos.

    So the workers have imported the engine and loaded the network when the first photo comes, and an output folder in
    which they cannot write is known before hours of work, not after.

    Raises:
        StorageError: `out` cannot be written.
        WorkerError: a worker failed.
    """
    root = storage.to_uri(out)
    folder = storage.join(root, f"data-{uuid.uuid4().hex[:12]}")

    def rehearse() -> None:
        tasks = slots(spark)
        rows = spark.range(0, tasks, 1, tasks).selectExpr(f"CAST(NULL AS binary) AS {_CONTENT}")
        storage.check_writable(folder)
        try:
            with worker_errors():
                _compute(rows, network, FeatureKey.of(network), _CONTENT, 1, None).write.parquet(
                    storage.join(folder, "rows")
                )
            _count(spark, storage.join(folder, "rows"))
        finally:
            _remove(folder)
            if not storage.list_files(root):  # as it was before, so that a job refused for its photos leaves nothing
                _remove(root)

    with ThreadPoolExecutor(1, thread_name_prefix="sparkwright-rehearsal") as pool:
        rehearsed = pool.submit(rehearse)
        yield
        rehearsed.result()


def _compute(
    rows: "DataFrame",
    network: Network,
    key: FeatureKey,
    column: str,
    batch_size: int,
    channel: Address | None,
    failfast: bool = False,
    fetch: FetchLimits | None = None,
    device: str = "cpu",
) -> "DataFrame":
    """Return the rows with their features instead of the photos; where these lie stays."""
    return score_frame(
        rows,
        graph_of(network),
        [Features(_FEATURES, key.metadata())],
        input_column=column,
        error_column=_ERROR,
        drop_input=source_of(rows.schema[column]) != "locations",
        digest_column=_DIGEST,
        batch_size=batch_size,
        max_error_rate=None,  # the whole job's rate counts, in `featurize`
        failfast=failfast,
        fetch=fetch,
        stage="features",
        channel=channel,
        device=device,
    )


def _remove(uri: str, keep_rows: bool = False) -> None:
    """Delete a folder that no manifest lists; that it cannot be deleted must hide no other error."""
    try:
        if not (keep_rows and holds_rows(uri)):
            storage.remove(uri)
    except Exception as error:  # any file system's
        log.warning("%s could not be removed: %s", uri, error)


def _earlier(out: str, key: FeatureKey, overwrite: bool) -> FeatureManifest | None:
    """Return the manifest of what is in `out`; refuse to touch what may not be replaced."""
    earlier = read_manifest(out)
    if overwrite:
        return earlier
    if earlier is None:
        foreign = [name for name in storage.list_files(out) if not name.startswith("data-")]
        if foreign:
            raise ExistsError(
                f"{out} exists and holds no features, but {', '.join(foreign[:5])}. Choose another folder."
            )
        return None
    if earlier.key.digest != key.digest:
        raise ExistsError(
            f"{out} holds features of {earlier.key}, not of {key}. Choose another folder, or pass overwrite=True "
            "(--overwrite)."
        )
    return earlier


def _check_superset(spark: "SparkSession", images: "DataFrame", out: str) -> None:
    """Refuse to replace features of photos that are not among `images`."""
    names = [name for name in ("key", "path") if name in images.columns]
    old = open_features(spark, out).rows
    if not names or names[0] not in old.columns:
        return
    with worker_errors():
        lost = old.select(names[0]).join(images.select(names[0]), names[0], "left_anti")
        count = lost.count()
        examples = [str(row[0]) for row in lost.limit(3).collect()] if count else []
    if count:
        raise ExistsError(
            f"{out} holds features of {count:,} photos that are not among those given ({', '.join(examples)} …). "
            "Choose another folder, or pass overwrite=True (--overwrite); reuse=[…] takes features over."
        )


def _known(spark: "SparkSession", uris: Sequence[str], key: FeatureKey) -> "DataFrame | None":
    """Return ``sha256`` and ``features`` of all photos with features of this key; None if there are none."""
    known = None
    for uri in dict.fromkeys(uris):
        inside = storage.join(uri, "features")  # of a run
        found = open_features(spark, inside if read_manifest(uri) is None and read_manifest(inside) else uri)
        if found.manifest.key.digest != key.digest:
            log.info("%s is not reused: its features are of another network, layer or engine", uri)
            continue
        rows = found.rows.where(found.rows[_ERROR].isNull()).select(_DIGEST, _FEATURES)
        known = _union(known, rows)
    return known


def _union(some: "DataFrame | None", others: "DataFrame | None") -> "DataFrame | None":
    if some is None or others is None:
        return some if others is None else others
    return some.union(others)


def _stopped(root: str, earlier: FeatureManifest | None) -> list[str]:
    """Return the folders that calls have left which did not come to their end."""
    committed = {folder.split("/")[0] for folder in earlier.data} if earlier else set()
    names = [name for name in storage.list_files(root) if name.startswith("data-") and name not in committed]
    return [storage.join(root, name) for name in names]


def _write(
    spark: "SparkSession",
    images: "DataFrame",
    column: str,
    known: "DataFrame | None",
    compute: Callable[["DataFrame", str], None],
    root: str,
    data: str,
    key: FeatureKey,
) -> FeatureManifest:
    """Write the Parquet folders and count their rows."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    computed, reused = f"{data}/computed", f"{data}/reused"
    with worker_errors():
        if known is None:
            compute(images, storage.join(root, computed))
        else:
            unknown, matched = divide(images, column, known)
            compute(unknown, storage.join(root, computed))
            order = [name for name in images.columns if name != column]
            features = F.col(_FEATURES).alias(_FEATURES, metadata=key.metadata())
            matched.select(*order, features, _DIGEST, _ERROR).write.parquet(storage.join(root, reused))
    folders = (computed,) if known is None else (computed, reused)
    counts = [_count(spark, storage.join(root, folder)) for folder in folders]
    return FeatureManifest(
        key=key,
        preprocessing=None,
        data=folders,
        rows=sum(rows for rows, _ in counts),
        errors=sum(errors for _, errors in counts),
        computed=counts[0][0],
        reused=sum(rows for rows, _ in counts[1:]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _count(spark: "SparkSession", uri: str) -> tuple[int, int]:
    """Return rows and errors of a Parquet folder."""
    from pyspark.sql import functions as F  # noqa: N812

    with worker_errors():
        row = spark.read.parquet(uri).agg(F.count("*"), F.count(_ERROR)).first()
    if row is None:
        raise InputError(f"{uri} cannot be counted.")
    return int(row[0]), int(row[1])


def _check_rate(spark: "SparkSession", manifest: FeatureManifest, root: str, limit: float, column: str) -> None:
    """Refuse a job of which too many rows failed, with the most frequent messages and examples."""
    from pyspark.sql import functions as F  # noqa: N812

    if manifest.errors <= limit * manifest.rows:
        return
    rows = spark.read.parquet(*(storage.join(root, folder) for folder in manifest.data))
    name = next(name for name in ("path", "key", column, _DIGEST) if name in rows.columns)
    shown = F.coalesce(F.col(name), F.lit("null"))
    with worker_errors():
        most = (
            rows.where(rows[_ERROR].isNotNull())
            .groupBy(f"{_ERROR}.kind", f"{_ERROR}.message")
            .agg(F.count("*").alias("count"), F.min(shown).alias("first"), F.max(shown).alias("last"))
            .orderBy(F.desc("count"), "kind", "message")
            .limit(5)
            .collect()
        )
    listed = "".join(
        f"\n  {row['count']:,} x {row['kind']}: {row['message']} ({', '.join(sorted({row['first'], row['last']}))})"
        for row in most
    )
    raise ErrorRateError(
        f"{manifest.errors:,} of {manifest.rows:,} rows failed, more than max_error_rate={limit:g} allows; nothing was "
        f"committed. Most frequent:{listed}\nMend or remove these files, or raise the limit (--max-error-rate). What "
        "was computed is not computed again."
    )


def _list_failed(
    spark: "SparkSession", manifest: FeatureManifest, root: str, data: str, column: str
) -> FeatureManifest:
    """Write which rows failed, and why, if any did."""
    if not manifest.errors:
        return manifest
    folder = f"{data}/errors"
    rows = spark.read.parquet(*(storage.join(root, part) for part in manifest.data))
    write_failed(rows, storage.join(root, folder), column)
    return replace(manifest, failed=folder)
