"""Many small files → few large ones: the photos' own bytes in Parquet, sorted by key.

::

    packed/
      pack.json        the manifest: which files belong to the pack, what they hold; written last
      photos/00000/    the Parquet files of one stretch of keys
      _progress/       notes of a packing under way; gone at its end

Reading many small files costs an open file each, and on HDFS an entry in the name node. A packed folder reads as the
loose files do: `read_images` takes it, and gives the same paths, keys, labels and contents. It trusts the manifest
alone.

A packing that died goes on where it was, when it is called again: keys are cut into stretches by the files' sizes, each
stretch is one Spark job, and a note is put down when it is done. The notes hold for the same files (names, sizes, times
of change) and the same size of the parts; for others the call is refused.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sparkwright
from sparkwright import storage
from sparkwright.data.listing import LONGEST_FILE, PACK, Listing, escape, list_files, no_photos
from sparkwright.errors import ExistsError, InputError, NotFoundError, StorageError
from sparkwright.events import Emit, Progress, ignore
from sparkwright.session import slots, worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["FORMAT", "MANIFEST", "PART_BYTES", "Pack", "open_pack", "pack"]

FORMAT = 1
"""Version of the format; readers refuse newer ones."""

MANIFEST, PHOTOS, PROGRESS, PLAN = PACK, "photos", "_progress", "plan.json"

PART_BYTES = 128 << 20
"""Bytes of photos in a Parquet file."""

# Spark decodes a row group at once, and splits files between them.
_GROUP_BYTES = 16 << 20

_MOST_STRETCHES = 64  # each looks through the names of all files
_PARTS_PER_SLOT = 2

_SCHEMA = "path string, key string, length bigint, sha256 string, content binary"


@dataclass(frozen=True)
class Pack:
    """A packed folder.

    Attributes:
        uri: Where it is.
        photos: How many it holds.
        size_bytes: Of the photos.
        files: The Parquet files, below `uri`.
        reused: Photos that an earlier call had packed.
    """

    uri: str
    photos: int
    size_bytes: int
    files: tuple[str, ...]
    reused: int = 0


@dataclass(frozen=True)
class _Part:
    """What goes into one Parquet file: the photos from one path to another."""

    first: str
    last: str
    photos: int
    size_bytes: int


def pack(
    spark: "SparkSession",
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str,
    *,
    part_bytes: int = PART_BYTES,
    recursive: bool = True,
    overwrite: bool = False,
    emit: Emit = ignore,
) -> Pack:
    """Write the photos' original bytes into Parquet files of a given size, sorted by key.

    Each row holds `path`, `key`, `length` (bytes), `sha256` of the bytes (hexadecimal) and `content`; a file above
    `LONGEST_FILE` has a null content, as in `read_images`. Called again after it died, it goes on; called again when
    all is done, it does nothing.

    Args:
        spark: The session, classic or Connect.
        images: A file, folder or glob that Spark can read, or several.
        out: A new folder, on any file system that Spark writes.
        part_bytes: Bytes of photos in one Parquet file; larger photos have a file of their own.
        recursive: Look into folders below.
        overwrite: Replace a pack, or the beginning of one.
        emit: Hears of the progress (stage ``pack``).

    Raises:
        NotFoundError: there is no such path, or no photo in it.
        ExistsError: `out` holds a pack of other photos, or something else than a pack.
        InputError: `part_bytes` is not positive.
        StorageError: `out` cannot be written, or photos changed while they were packed.
    """
    if part_bytes < 1:
        raise InputError(f"part_bytes must be at least 1; got {part_bytes}.")
    out = storage.to_uri(out)
    storage.check_replaceable(out, "a pack", lambda name: name in {MANIFEST, PHOTOS, PROGRESS})
    paths = [os.fspath(one) for one in ([images] if isinstance(images, str | os.PathLike) else images)]
    found = list_files(spark, paths, recursive)
    plan = _plan(found, paths, part_bytes)
    if overwrite and _known_plan(out) != plan:
        storage.remove(out)
    if not _may_go_on(out, plan):
        return _from_manifest(out, _read(out, MANIFEST), plan["photos"])
    parts = _parts(found, part_bytes)
    if not storage.exists(storage.join(out, PROGRESS, PLAN)):
        most = max(_PARTS_PER_SLOT * slots(spark), -(-len(parts) // _MOST_STRETCHES))
        storage.write_bytes(storage.join(out, PROGRESS, PLAN), json.dumps({**plan, "stretch": most}).encode())
    most = _read(out, f"{PROGRESS}/{PLAN}")["stretch"]
    stretches = [parts[start : start + most] for start in range(0, len(parts), most)]
    files: list[str] = []
    done = reused = 0
    for number, stretch in enumerate(stretches):
        note = f"{PROGRESS}/{number:05d}.json"
        photos = sum(part.photos for part in stretch)
        if storage.exists(storage.join(out, note)):
            reused += photos
        else:
            names = _write(found, stretch, storage.join(out, PHOTOS, f"{number:05d}"))
            storage.write_bytes(storage.join(out, note), json.dumps(names).encode())
        files += [f"{PHOTOS}/{number:05d}/{name}" for name in _read(out, note)]
        done += photos
        emit(Progress("pack", "0", done))
    manifest = {"format": FORMAT, "version": sparkwright.__version__, "root": found.root, **plan, "files": files}
    storage.write_bytes(storage.join(out, MANIFEST), json.dumps(manifest, indent=2, ensure_ascii=False).encode())
    storage.remove(storage.join(out, PROGRESS))
    return _from_manifest(out, manifest, reused)


def _plan(found: Listing, paths: Sequence[str], part_bytes: int) -> dict[str, Any]:
    """Return what a packing is known by: the files, whatever order Spark lists them in, and the size of the parts."""
    from pyspark.sql import functions as F  # noqa: N812

    digest = F.sum(F.xxhash64("key", "length", "modified").cast("decimal(38,0)"))
    totals = found.files.where("photo").agg(F.count("*"), F.sum(_size()), digest)
    with worker_errors():
        photos, size_bytes, listing = totals.collect()[0]
    if not photos:
        raise no_photos(found, paths)
    return {"photos": photos, "bytes": size_bytes, "part_bytes": part_bytes, "listing": str(listing)}


def _size() -> Any:
    """The bytes that a photo takes up in a pack."""
    from pyspark.sql import functions as F  # noqa: N812

    return F.when(F.col("length") <= LONGEST_FILE, F.col("length")).otherwise(0)


def _read(out: str, name: str) -> Any:
    return json.loads(storage.read_bytes(storage.join(out, name)))


def _known_plan(out: str) -> dict[str, Any] | None:
    """Return the plan of the pack at `out`, whole or begun."""
    for name in (MANIFEST, f"{PROGRESS}/{PLAN}"):
        if storage.exists(storage.join(out, name)):
            document = _read(out, name)
            return {key: document.get(key) for key in ("photos", "bytes", "part_bytes", "listing")}
    return None


def _may_go_on(out: str, plan: dict[str, Any]) -> bool:
    """Tell whether there is something left to do at `out`.

    Raises:
        ExistsError: what is there is of another plan.
    """
    known = _known_plan(out)
    if known is not None and known != plan:
        changed = ", ".join(f"{key} {known[key]} (now {plan[key]})" for key in plan if known[key] != plan[key])
        raise ExistsError(
            f"{out} holds a pack of other photos, or of the same before they changed, or in other parts: {changed}. "
            "Choose another folder, or pass overwrite=True (--overwrite)."
        )
    return not storage.exists(storage.join(out, MANIFEST))


def _from_manifest(out: str, manifest: dict[str, Any], reused: int) -> Pack:
    return Pack(out, manifest["photos"], manifest["bytes"], tuple(manifest["files"]), reused)


def _parts(found: Listing, part_bytes: int) -> list[_Part]:
    """Cut the sorted paths where the photos before fill another part. One task sorts names and sizes."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F  # noqa: N812

    # One partition on purpose; without any, Spark warns.
    before = Window.partitionBy(F.lit(0)).orderBy("path").rowsBetween(Window.unboundedPreceding, -1)
    photos = found.files.where("photo").select("path", _size().alias("size"))
    numbered = photos.withColumn("part", F.floor(F.coalesce(F.sum("size").over(before), F.lit(0)) / part_bytes))
    bounds = numbered.groupBy("part").agg(F.min("path"), F.max("path"), F.count("*"), F.sum("size")).orderBy("part")
    with worker_errors():
        return [_Part(*row[1:]) for row in bounds.collect()]


def _write(found: Listing, parts: Sequence[_Part], folder: str) -> list[str]:
    """Write a stretch, a Parquet file for each part; return the files' names.

    Raises:
        StorageError: photos came, went or changed their size meanwhile.
    """
    from pyspark.sql import functions as F  # noqa: N812

    storage.remove(folder)  # what a call that died has left
    photos = found.between(parts[0].first, parts[-1].last)
    starts = F.array(*(F.lit(part.first) for part in parts))
    number = F.size(F.filter(starts, lambda start: start <= F.col("path"))) - 1
    rows = photos.withColumn("sha256", F.sha2("content", 256)).repartitionById(len(parts), number)
    writer = rows.select("path", "key", "length", "sha256", "content").sortWithinPartitions("key").write
    settings: dict[str, bool | float | int | str | None] = {
        "compression": "none",  # photos are compressed
        "parquet.block.size": _GROUP_BYTES,
        "parquet.page.size.row.check.min": 1,  # else a hundred photos, whatever their size, are a group
        "parquet.enable.dictionary#content": "false",
    }
    with worker_errors():
        writer.options(**settings).parquet(folder)
        written = found.files.sparkSession.read.schema(_SCHEMA).parquet(escape(folder))
        count, size = written.agg(F.count("*"), F.sum(_size())).collect()[0]
    expected = sum(part.photos for part in parts), sum(part.size_bytes for part in parts)
    if (count, size or 0) != expected:
        raise StorageError(
            f"Photos from {parts[0].first} to {parts[-1].last} changed while they were packed: {count:,} with "
            f"{size or 0:,} bytes instead of {expected[0]:,} with {expected[1]:,}. Start again with overwrite=True "
            "(--overwrite)."
        )
    return [name for name in storage.list_files(folder) if name.endswith(".parquet")]


@dataclass(frozen=True)
class _PackedListing(Listing):
    """The photos of a packed folder, as `list_files` gives those of others."""

    def contents(self, files: int, size_bytes: int, others: int, too_large: int) -> "DataFrame":  # noqa: ARG002
        return self._source.select("path", "key", "content")


def open_pack(spark: "SparkSession", manifest: str, recursive: bool = True) -> Listing:
    """List the photos of a packed folder, under the paths and keys that they had.

    Args:
        spark: The session, classic or Connect.
        manifest: The full URI of its manifest.
        recursive: Also those that lay in folders below.

    Raises:
        InputError: the manifest is damaged, of a newer format, or names files that are not there.
    """
    from pyspark.sql import functions as F  # noqa: N812

    folder = manifest.removesuffix(f"/{MANIFEST}")
    with worker_errors():
        content = spark.read.format("binaryFile").load(escape(manifest)).select("content").collect()[0][0]
    try:
        document = json.loads(content)
        version, names, root = int(document["format"]), list(document["files"]), str(document["root"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{manifest} is damaged ({error!r}). Copy the pack again.") from error
    if version > FORMAT:
        raise InputError(
            f"{manifest} is of format {version}; sparkwright {sparkwright.__version__} reads up to {FORMAT}. Update "
            "it: pip install --upgrade sparkwright"
        )
    paths = tuple(escape(f"{folder}/{name}") for name in names)
    try:
        with worker_errors():
            rows = spark.read.schema(_SCHEMA).parquet(*paths)
            rows.schema  # noqa: B018  Spark Connect looks for the files only now
    except NotFoundError as error:
        raise InputError(f"The pack {folder} is not whole: {error} Copy or pack it again.") from error
    if not recursive:
        rows = rows.where(~F.contains("key", F.lit("/")))
    modified = F.lit(None).cast("timestamp").alias("modified")
    files = rows.select("path", "key", "length", modified, F.lit(True).alias("photo"))
    return _PackedListing(files, root, (), rows, paths, recursive)
