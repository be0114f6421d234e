"""Tables that say something about files: read them, match their paths, put their values on rows.

A table is CSV or Parquet with a column `path` and a column of values (`label`, `split`, `group`). A path may be given
whole, or by its unambiguous end.
"""

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkwright.errors import ColumnError, InputError, did_you_mean
from sparkwright.session import worker_errors

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame, SparkSession

EXAMPLES = 5

CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")

SCHEME = r"^[A-Za-z][A-Za-z0-9+.\-]*:(//[^/]*)?"


@dataclass(frozen=True)
class Match:
    """Which value of a table each file gets.

    Attributes:
        values: `path` and the table's column, one row for each file that the table names; distinct paths.
        missing: How many rows of the table name no file.
        missing_examples: The paths of some of them, as the table has them.
    """

    values: "DataFrame"
    missing: int
    missing_examples: tuple[str, ...]


def read_table(spark: "SparkSession", path: str, column: str) -> "DataFrame":
    """Read the columns `path` and `column` of a CSV file (with a header) or Parquet data, both as strings.

    A path without scheme that exists on the driver's disk is read there, so that executors need not see it; every
    other path is read by Spark.

    Raises:
        NotFoundError: Nothing is there.
        ColumnError: One of the two columns is missing.
        InputError: It is neither CSV nor Parquet.
    """
    if os.path.exists(path):
        schema = f"path string, {column} string"
        return spark.createDataFrame(_read_here(path, column), schema)
    return checked_table(read_columns(spark, path), column, path)


def read_columns(spark: "SparkSession", path: str) -> "DataFrame":
    """Read all columns of CSV (with a header; all of them text) or Parquet by Spark, wherever it lies.

    Raises:
        NotFoundError: Nothing is there.
        InputError: It is neither CSV nor Parquet.
    """
    with worker_errors():
        try:
            if path.lower().rstrip("/").endswith(CSV):
                separator = "\t" if ".tsv" in path.lower()[-7:] else ","
                rows = spark.read.csv(path, header=True, sep=separator, escape='"')
            else:
                rows = spark.read.parquet(path)
            rows.schema  # noqa: B018  Spark Connect looks only now
            return rows
        except Exception as error:
            if "UNABLE_TO_INFER_SCHEMA" in str(error) or "FAILED_READ_FILE" in str(error):
                raise _not_a_table(path) from error
            raise


def read_numbers(spark: "SparkSession", path: str, columns: Sequence[str], others: Sequence[str] = ()) -> "DataFrame":
    """Read a table with columns of numbers; those of CSV, which is all text, become numbers, null where they are none.

    Args:
        spark: The session.
        path: CSV with a header, or Parquet, wherever Spark reads.
        columns: Of numbers, vectors or arrays.
        others: Columns that must be there too.

    Raises:
        NotFoundError: Nothing is there.
        ColumnError: Columns are missing; all of them are named.
        InputError: It is neither CSV nor Parquet.
    """
    from pyspark.sql import functions as F  # noqa: N812

    rows = read_columns(spark, path)
    told = [
        f"Column `{name}` not found in {rows.columns}.{did_you_mean(name, rows.columns)}"
        for name in dict.fromkeys((*columns, *others))
        if name not in rows.columns
    ]
    if told:
        raise ColumnError.listing(f"{path} cannot be used", told)
    if path.lower().rstrip("/").endswith(CSV):
        rows = rows.withColumns({name: F.col(f"`{name}`").try_cast("double") for name in columns})
    return rows


def _read_here(path: str, column: str) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.lower().endswith(CSV):
            table = csv.read_csv(
                path,
                parse_options=csv.ParseOptions(delimiter="\t" if ".tsv" in path.lower()[-7:] else ","),
                convert_options=csv.ConvertOptions(
                    column_types={"path": pa.string(), column: pa.string()}, null_values=[""], strings_can_be_null=True
                ),
            )
        else:
            table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _not_a_table(path) from error
    _check_names(table.column_names, column, path)
    return pa.table({name: table[name].cast(pa.string()) for name in ("path", column)})


def _check_names(names: list[str], column: str, where: str) -> None:
    for needed in ("path", column):
        if needed not in names:
            raise ColumnError(f"Column `{needed}` not found in {names} of {where}.{did_you_mean(needed, names)}")


def _not_a_table(path: str) -> InputError:
    return InputError(f"{path} must be a CSV file (*.csv, *.tsv; with a header) or Parquet data; it is neither.")


def checked_table(table: "DataFrame", column: str, where: str = "the table") -> "DataFrame":
    """Return the columns `path` and `column` of a table as strings.

    Raises:
        ColumnError: One of them is missing.
    """
    from pyspark.sql import functions as F  # noqa: N812

    _check_names(table.columns, column, where)
    return table.select(F.col("path").cast("string"), F.col(f"`{column}`").cast("string").alias(column))


def match_table(listing: "DataFrame", table: "DataFrame", column: str) -> Match:
    """Find the files that a table's paths name: whole, without their scheme, or by their end.

    Runs two small jobs on paths alone.

    Args:
        listing: One row a file, with its full URI in `path`.
        table: `path` and `column`, as `read_table` returns them.
        column: The column with the values; rows where it is null count as absent.

    Raises:
        InputError: A path of the table fits several files, or a file is given two values.
    """
    from pyspark.sql import functions as F  # noqa: N812

    named = table.where(F.col("path").isNotNull() & F.col(column).isNotNull()).dropDuplicates()
    named = named.select(
        F.col("path").alias("given"),
        F.col(column).alias("value"),
        _without_scheme(F.col("path")).alias("end"),
        F.col("path").rlike(f"{SCHEME}|^/").alias("whole"),
    ).withColumn("parts", F.size(F.split("end", "/")))
    with worker_errors():
        # How deep the table's paths are: a few numbers. Files are matched by as many of their last parts.
        depths = [row["parts"] for row in named.select("parts").distinct().limit(1000).collect()]
    parts = F.split(_without_scheme(F.col("path")), "/")
    files = (
        listing.select("path", F.size(parts).alias("depth"), parts.alias("all_parts"))
        .withColumn("file_parts", F.explode(F.array(*[F.lit(depth) for depth in depths]).cast("array<int>")))
        .where(F.col("depth") >= F.col("file_parts"))
        .withColumn("file_end", F.array_join(F.expr("slice(all_parts, depth - file_parts + 1, file_parts)"), "/"))
        .select("path", "file_end", "file_parts", "depth")
    )
    fits = (F.col("end") == F.col("file_end")) & (F.col("parts") == F.col("file_parts"))
    found = named.join(files, fits & (~F.col("whole") | (F.col("depth") == F.col("file_parts"))), "left")
    missing, examples = _check_paths(found)
    matched = found.where(F.col("path").isNotNull())
    # Kept, because every later job on the files needs them, and would list and match the files again.
    values = matched.groupBy("path").agg(F.min("value").alias(column)).persist()
    return Match(values, missing, examples)


def put_values(rows: "DataFrame", values: "DataFrame", column: str) -> "DataFrame":
    """Add the table's `column` to the rows by their `path`, null where the table has none; no row is moved.

    The values are broadcast under two hashes of the path (96 bits) instead of the path itself, so that ten million
    of them fit into some 600 MB; the rows, which may hold photos, are never shuffled.
    """
    from pyspark.sql import functions as F  # noqa: N812

    keyed = values.select(F.xxhash64("path").alias("hash_64"), F.hash("path").alias("hash_32"), column)
    return (
        rows.withColumn("hash_64", F.xxhash64("path"))
        .withColumn("hash_32", F.hash("path"))
        .join(F.broadcast(keyed), ["hash_64", "hash_32"], "left")
        .drop("hash_64", "hash_32")
    )


def without_scheme(path: str) -> str:
    """Return a path or URI without scheme, authority and needless parts: ``hdfs://n:8020/a/./b`` → ``/a/b``."""
    return posixpath.normpath(re.sub(SCHEME, "", path))


def _without_scheme(path: "Column") -> "Column":
    from pyspark.sql import functions as F  # noqa: N812

    return F.regexp_replace(F.regexp_replace(path, SCHEME, ""), r"^(\./)+|^/+|/+$", "")


def _check_paths(found: "DataFrame") -> tuple[int, tuple[str, ...]]:
    """Return how many of a table's paths fit no file, and some of them. One job, if nothing is wrong.

    Args:
        found: `given` and `value` of the table with the `path` of each file that fits, null where none does.

    Raises:
        InputError: A path fits several files, or a file has several values.
    """
    from pyspark.sql import functions as F  # noqa: N812

    by_given = found.groupBy("given").agg(
        *(F.count_distinct("path").alias("files"), F.min("path").alias("path"), F.max("path").alias("last")),
        *(F.min("value").alias("lowest"), F.max("value").alias("highest")),
    )
    by_path = by_given.groupBy("path").agg(
        F.count("*").alias("rows"),
        F.count_if(F.col("files") > 1).alias("ambiguous"),
        *(F.min("lowest").alias("lowest"), F.max("highest").alias("highest")),
    )
    known = F.col("path").isNotNull()
    with worker_errors():
        ambiguous, missing, conflicts = by_path.agg(
            F.sum("ambiguous"),
            F.sum(F.when(~known, F.col("rows"))),
            F.count_if(known & (F.col("lowest") != F.col("highest"))),
        ).collect()[0]
        if ambiguous:
            shown = by_given.where("files > 1").orderBy("given").limit(EXAMPLES).collect()
            lines = [f"  {row['given']} fits {row['files']} files: {row['path']}, {row['last']} …" for row in shown]
            raise InputError(
                "A path in a table must fit one file only; write more of its end (folder/name).\n" + "\n".join(lines)
            )
        if conflicts:
            shown = by_path.where(known & F.expr("lowest <> highest")).orderBy("path").limit(EXAMPLES).collect()
            lines = [f"  {row['path']}: {row['lowest']!r} and {row['highest']!r}" for row in shown]
            raise InputError("A table must give a file one value only, but it gives\n" + "\n".join(lines))
        shown = by_given.where("files = 0").orderBy("given").limit(EXAMPLES).collect() if missing else []
    return missing or 0, tuple(row["given"] for row in shown)
