"""Find photos below a path: names and sizes first, contents when they are used."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sparkwright.data.tables import EXAMPLES, SCHEME, without_scheme
from sparkwright.errors import InputError, NotFoundError, SparkwrightError, did_you_mean
from sparkwright.session import causes, explain, slots, worker_errors

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

EXTENSIONS = ("bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp")

# A longer file is not read: Spark cannot hold 2 GiB in a row, and no photo is as large.
LONGEST_FILE = 2**29

# Finding files of zero bytes takes the driver some 0.1 ms a file, so that it is left out above this number.
MOST_FILES_TO_COMPARE = 1_000_000

# The manifest of a packed folder.
PACK = "pack.json"

_PARTITION_BYTES = 128 * 2**20
_PARTITIONS_PER_SLOT = 2  # so that a slow task leaves the other slots something to do; each costs a start
_IS_PHOTO = rf"(?i)\.({'|'.join(EXTENSIONS)})$"
_GLOB_CHARACTERS = re.compile(r"[*?\[\]{}]")


@dataclass(frozen=True)
class Listing:
    """The files below a path.

    Attributes:
        files: `path` (full URI), `key` (the path below `root`), `length` (bytes), `modified` (time of the last change;
            null for files of zero bytes), `photo` (by the name's ending).
        root: The folder that keys are relative to, as a full URI.
        empty: Photos of zero bytes; None where there were too many files to look for them.
        pack: The full URI of the manifest, where `root` is a packed folder.
    """

    files: "DataFrame"
    root: str
    empty: tuple[str, ...] | None
    _source: "DataFrame"
    _paths: tuple[str, ...]
    _recursive: bool
    pack: str | None = None

    def contents(self, files: int, size_bytes: int, others: int, too_large: int) -> "DataFrame":
        """Return `path`, `key` and `content` of the photos, in partitions of a size that suits decoding.

        Args:
            files: How many photos `files` lists.
            size_bytes: Their size.
            others: How many files are no photos.
            too_large: How many photos are above `LONGEST_FILE`; their content is null.
        """
        from pyspark.sql import functions as F  # noqa: N812

        spark = self.files.sparkSession
        # Spark would read the contents of the others too, whatever they are; leaving them out lists the folder again.
        source = _load(spark, self._paths, self._recursive, photos_only=True) if others else self._source
        # Spark counts 4 MiB for opening each file, and would make a task of every 32 small photos.
        partitions = max(-(-size_bytes // _PARTITION_BYTES), min(files, _PARTITIONS_PER_SLOT * slots(spark)), 1)
        if too_large:
            # On the length alone Spark filters before it reads.
            read = source.where(F.col("length") <= LONGEST_FILE).select("path", "content")
            left = source.where(F.col("length") > LONGEST_FILE)
            source = read.unionAll(left.select("path", F.lit(None).cast("binary").alias("content")))
        source = source.coalesce(partitions).select("path", "content")
        if self.empty:
            source = source.unionAll(_as_rows(spark, self.empty).withColumn("content", F.to_binary(F.lit(""))))
        rows = source.select("path", _key(self.root).alias("key"), "content")
        return rows if self._recursive else rows.where(~F.contains("key", F.lit("/")))

    def between(self, first: str, last: str) -> "DataFrame":
        """Return `path`, `key`, `length` and `content` of the photos from one path to another, in the order of paths.

        Others are not opened, for Spark looks at names before it plans tasks. A file above `LONGEST_FILE` has a null
        content.
        """
        from pyspark.sql import functions as F  # noqa: N812

        spark, length = self.files.sparkSession, F.col("length")
        # Spark gives names as URLs here, in which a plus is no blank.
        name = F.url_decode(F.replace(F.col("_metadata.file_path"), F.lit("+"), F.lit("%2B")))
        source = self._source.where(name.between(first, last) & F.regexp_like(name, F.lit(_IS_PHOTO)))
        source = source.coalesce(_PARTITIONS_PER_SLOT * slots(spark))
        read = source.where(length <= LONGEST_FILE).select("path", "length", "content")
        left = source.where(length > LONGEST_FILE).select("path", "length", F.lit(None).cast("binary").alias("content"))
        rows = read.unionAll(left)
        if empty := [path for path in self.empty or () if first <= path <= last]:
            nothing = F.lit(0).cast("long").alias("length"), F.to_binary(F.lit("")).alias("content")
            rows = rows.unionAll(_as_rows(spark, empty).select("path", *nothing))
        rows = rows.select("path", _key(self.root).alias("key"), "length", "content")
        return rows if self._recursive else rows.where(~F.contains("key", F.lit("/")))

    def examples(self, files: "DataFrame", condition: str) -> tuple[str, ...]:
        """Return the keys of the first few of `files` that fulfil an SQL condition."""
        with worker_errors():
            chosen = files.where(condition).select("key").orderBy("key").limit(EXAMPLES).collect()
        return tuple(row["key"] for row in chosen)


def list_files(spark: "SparkSession", paths: Sequence[str], recursive: bool) -> Listing:
    """List what lies below `paths`; on the driver, which holds Spark's list of the files.

    Raises:
        NotFoundError: One of the paths does not exist, or nothing lies below any.
        InputError: Spark cannot read a path of that kind.
    """
    from pyspark.sql import functions as F  # noqa: N812

    found, spelled = _load_as_spelled(spark, paths, recursive)
    names = found.coalesce(_PARTITIONS_PER_SLOT * slots(spark)).select(
        "path", "length", F.col("modificationTime").alias("modified")
    )
    manifest = F.max(F.when(F.endswith("path", F.lit(f"/{PACK}")), F.col("path")))
    with worker_errors():
        filled, example, pack = names.agg(F.count("*"), F.min("path"), manifest).collect()[0]
        empty = _empty_files(found, names, filled) if filled <= MOST_FILES_TO_COMPARE else None
    if not filled and not empty:
        raise NotFoundError(f"No photos in {_quoted(paths)}: the folder is empty.")
    root = _root(example or empty[0], paths)  # type: ignore[index]
    if empty:
        nothing = F.lit(0).cast("long").alias("length"), F.lit(None).cast("timestamp").alias("modified")
        names = names.unionAll(_as_rows(spark, empty).select("path", *nothing))
    files = names.select(
        "path", _key(root).alias("key"), "length", "modified", F.regexp_like("path", F.lit(_IS_PHOTO)).alias("photo")
    )
    if not recursive:
        files = files.where(~F.contains("key", F.lit("/")))
        _refuse_doubles(files, paths)
    photos = tuple(path for path in empty if re.search(_IS_PHOTO, path)) if empty is not None else None
    return Listing(files, root, photos, found, spelled, recursive, pack if pack == f"{root}/{PACK}" else None)


def _empty_files(found: "DataFrame", names: "DataFrame", filled: int) -> tuple[str, ...]:
    """Return the paths of files of zero bytes, which Spark lists for itself but leaves out of every scan.

    Args:
        found: The source.
        names: `path` of the files that its scan shows.
        filled: How many these are.
    """
    from pyspark.sql import functions as F  # noqa: N812

    # Spark gives these as URLs: file:///a%20b for what a row calls file:/a b.
    listed = {re.sub(r"^(\w+:)///", r"\1/", unquote(url)) for url in found.inputFiles()}
    if len(listed) == filled:
        return ()
    every = _as_rows(found.sparkSession, sorted(listed))
    return tuple(row["path"] for row in every.join(names, "path", "left_anti").orderBy(F.col("path")).collect())


def _as_rows(spark: "SparkSession", paths: Sequence[str]) -> "DataFrame":
    return spark.createDataFrame([(path,) for path in paths], "path string")


def no_photos(listing: Listing, paths: Sequence[str]) -> NotFoundError:
    """Return the error that says what is there instead of photos."""
    from pyspark.sql import functions as F  # noqa: N812

    ending = F.lower(F.regexp_extract("key", r"(\.[^./]*)?$", 0))
    with worker_errors():
        kinds = listing.files.groupBy(ending.alias("ending")).count().orderBy(F.desc("count"), "ending")
        common = kinds.limit(EXAMPLES).collect()
    there = ", ".join(f"{row['count']} {row['ending'] or 'without an ending'}" for row in common)
    return NotFoundError(
        f"No photos in {_quoted(paths)}. Photos end in {', '.join(EXTENSIONS)} (any case); the files there: "
        f"{there or 'none'}."
    )


def _load(spark: "SparkSession", paths: Sequence[str], recursive: bool, *, photos_only: bool) -> "DataFrame":
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", recursive)
    if photos_only:
        either_case = ("".join(f"[{letter}{letter.upper()}]" for letter in ending) for ending in EXTENSIONS)
        reader = reader.option("pathGlobFilter", f"*.{{{','.join(either_case)}}}")
    return reader.load(list(paths))


def _load_as_spelled(
    spark: "SparkSession", paths: Sequence[str], recursive: bool
) -> tuple["DataFrame", tuple[str, ...]]:
    """Return the files and the paths as Spark must get them: a name may hold characters that globs are made of."""
    absolute = tuple(escape(os.path.abspath(path)) if os.path.exists(path) else path for path in paths)
    escaped = tuple(escape(path) for path in paths)
    failure: SparkwrightError | None = None
    for spelled in dict.fromkeys((absolute, tuple(paths), escaped)):
        try:
            found = _load(spark, spelled, recursive, photos_only=False)
            found.schema  # noqa: B018  Spark Connect looks for the path only now
        except Exception as error:
            explained = explain(error)
            if explained is None:
                raise InputError(f"Spark cannot read {_quoted(paths)}: {causes(error)}") from error
            if not isinstance(explained, NotFoundError):
                raise explained from error
            failure = failure or explained
        else:
            return found, spelled
    raise _no_such_path(paths, failure) from failure


def missing_here(path: str) -> NotFoundError | None:
    """Return the error for a path that should be on this machine's disk and is not.

    None if it is there, and for what only Spark can tell: globs and paths with a scheme.
    """
    if re.match(SCHEME, path) or _GLOB_CHARACTERS.search(path) or os.path.exists(path):
        return None
    parent, name = os.path.split(os.path.abspath(path))
    if os.path.isdir(parent):
        return NotFoundError(f"No such path: {path}.{did_you_mean(name, os.listdir(parent))}")
    return NotFoundError(f"No such path: {path}; its folder {parent} does not exist either.")


def _no_such_path(paths: Sequence[str], failure: SparkwrightError | None) -> NotFoundError:
    for path in paths:
        missing = missing_here(path)
        if missing is not None:
            return missing
        if os.path.exists(path) and not _GLOB_CHARACTERS.search(path):
            there = os.path.abspath(path)
            return NotFoundError(
                f"{failure} It is on this machine's disk, though: write file:{there} to read it there."
            )
    return NotFoundError(str(failure))


def _refuse_doubles(files: "DataFrame", paths: Sequence[str]) -> None:
    """Raise if a file is listed twice, which Spark does for overlapping paths when it does not look into folders."""
    if len(paths) == 1 and not _GLOB_CHARACTERS.search(paths[0]):
        return
    with worker_errors():
        twice = files.groupBy("path").count().where("count > 1").limit(1).collect()
    if twice:
        raise InputError(f"The paths {_quoted(paths)} overlap: {twice[0]['path']} is in more than one.")


def escape(path: str) -> str:
    """Return a path as Spark must get it to read no glob out of it."""
    return _GLOB_CHARACTERS.sub(r"\\\g<0>", path)


def _quoted(paths: Sequence[str]) -> str:
    shown = ", ".join(repr(path) for path in paths[:EXAMPLES])
    return shown if len(paths) <= EXAMPLES else f"{shown} … ({len(paths)} paths)"


def _root(example: str, paths: Sequence[str]) -> str:
    """Return the folder, as a URI, that keys are relative to: the deepest above all `paths`, before the first glob.

    Args:
        example: The full URI of one file found below the paths; it says how Spark writes scheme and authority.
        paths: As the user gave them.
    """
    authority = re.match(SCHEME, example)
    prefix = authority[0] if authority else ""
    file = example[len(prefix) :]
    folders = [_folder(path, file) for path in paths]
    root = os.path.commonpath(folders) if len(folders) > 1 else folders[0]
    if file == root:  # a path that names one file
        root = os.path.dirname(file)
    return prefix + root.rstrip("/")


def _folder(path: str, file: str) -> str:
    """Return the absolute folder that `path` says, of which `file` is an example below (or below another path)."""
    wanted = without_scheme(path)
    if not os.path.exists(path.removeprefix("file:")) and _GLOB_CHARACTERS.search(wanted):
        literal = wanted[: _GLOB_CHARACTERS.search(wanted).start()]  # type: ignore[union-attr]
        wanted = os.path.dirname(literal)
    if wanted.startswith("/"):
        return wanted
    here = os.path.abspath(wanted)
    if f"{file}/".startswith(f"{here.rstrip('/')}/"):
        return here
    inside = f"/{wanted}/" if wanted not in (".", "") else "/"
    at = f"{file}/".find(inside)  # relative to a folder that only Spark knows (the user's home on HDFS)
    return file[: at + len(inside) - 1] if at >= 0 and len(inside) > 1 else os.path.dirname(file)


def _key(root: str) -> "Column":
    from pyspark.sql import functions as F  # noqa: N812

    path = F.col("path")
    return F.when(path.startswith(f"{root}/"), F.substr(path, F.lit(len(root) + 2))).otherwise(path)
