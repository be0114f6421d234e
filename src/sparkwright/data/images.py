"""Photos where they lie → rows of a DataFrame: path, key, content, label and group."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sparkwright.data.labels import read_rule
from sparkwright.data.listing import LONGEST_FILE, Listing, list_files, no_photos
from sparkwright.data.pack import open_pack
from sparkwright.errors import InputError
from sparkwright.session import worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Images", "read_images"]

MOST_LABELS = 100_000

# Spark looks for a checksum beside a local file, and takes what is before the colon of its name for a scheme.
_UNREADABLE_NAME = r"^file:.*:[^/]*$"


@dataclass(frozen=True)
class Images:
    """Photos as rows, and what a first look at their names and sizes showed.

    Attributes:
        rows: `path` (string, full URI), `key` (string, the path below the folder read: the same when the folder moves),
            `content` (binary; null for a file above `LONGEST_FILE`), `label` (string, null without a label), and
            `group` (string) if asked for. Lazy: nothing is read before an action.
        root: The folder that keys are relative to.
        classes: The labels, sorted; a label's place is its class index.
        counts: Photos of each label.
        files: Photos in all, those without a label too.
        size_bytes: Their size.
        unmatched: Photos that match no label rule; their label is null.
        unmatched_examples: Keys of some of them.
        ignored: Files that are no photos by their name's ending; they are not in the rows.
        ignored_examples: Keys of some of them.
        ungrouped: Photos that match no group rule; each is a group of its own.
        missing: Rows of the label table that name no photo.
        missing_examples: Their paths, some.
        too_large: Photos above `LONGEST_FILE`; their content is null.
        empty: Photos of zero bytes; their content is empty. None if there were too many files to look for them; Spark
            leaves those out then.
    """

    rows: "DataFrame" = field(repr=False)
    root: str
    classes: tuple[str, ...] = field(repr=False)
    counts: dict[str, int] = field(repr=False)
    files: int
    size_bytes: int
    unmatched: int = 0
    unmatched_examples: tuple[str, ...] = ()
    ignored: int = 0
    ignored_examples: tuple[str, ...] = ()
    ungrouped: int = 0
    missing: int = 0
    missing_examples: tuple[str, ...] = ()
    too_large: int = 0
    empty: int | None = 0


def read_images(
    spark: "SparkSession",
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    labels: "str | DataFrame | None" = None,
    group: "str | DataFrame | None" = None,
    recursive: bool = True,
) -> Images:
    """Find the photos under a path and make them the rows of a DataFrame.

    Lists the files and counts them by label (two small jobs that read names and sizes only); contents are read when
    `rows` are used. The driver holds Spark's list of the files, nothing of their content. Names that begin with ``_``
    or ``.`` are hidden files to Spark.

    Args:
        spark: The session, classic or Connect.
        path: A file, folder or glob that Spark can read (``/photos``, ``hdfs://…``, ``s3a://…``), or several; or a
            folder that `sparkwright.data.pack.pack` made, which reads as the loose files did.
        labels: Where a photo's label comes from. ``"folder"``: the name of the folder that it lies in. A regular
            expression, searched for in the key: its group named `label`, else its first group. A table with the columns
            `path` and `label`: the path of a CSV file or of Parquet data, or a DataFrame. None: no labels.
        group: Where a photo's group comes from, in the same ways (group or column `group`).
        recursive: Look into folders below.

    Raises:
        NotFoundError: There is no such path, or no photo in it.
        InputError: A rule is none of the above, matches nothing, or gives more than `MOST_CLASSES` labels.
        ColumnError: A table lacks a column.
    """
    from pyspark.sql import functions as F  # noqa: N812

    paths = [os.fspath(one) for one in ([path] if isinstance(path, str | os.PathLike) else path)]
    if not paths or not all(paths):
        raise InputError(f"The path of the photos must not be empty, got {path!r}.")
    found = list_files(spark, paths, recursive)
    if found.pack is not None:
        found = open_pack(spark, found.pack, recursive)
    photos = found.files.where("photo")
    label_rule = read_rule(labels, "label", photos)
    group_rule = read_rule(group, "group", photos)
    listed = label_rule.put(group_rule.put(found.files))
    seen = _count(listed)
    if not seen.files:
        raise no_photos(found, paths)
    unmatched = seen.by_label.pop(None, 0) if labels is not None else 0
    if labels is not None and not seen.by_label:
        raise _nothing_matches(found, labels)
    contents = found.contents(seen.files, seen.size_bytes, seen.others, seen.too_large)
    rows = group_rule.put(label_rule.put(contents))
    if group is not None:
        rows = rows.withColumn("group", F.coalesce("group", "key"))
    counts = {name: seen.by_label[name] for name in sorted(filter(None, seen.by_label))}
    return Images(
        rows=rows.select("path", "key", "content", "label", *(["group"] if group is not None else [])),
        root=found.root,
        classes=tuple(counts),
        counts=counts,
        files=seen.files,
        size_bytes=seen.size_bytes,
        unmatched=unmatched if labels is not None else 0,
        unmatched_examples=found.examples(listed, "photo AND label IS NULL")
        if labels is not None and unmatched
        else (),
        ignored=seen.others,
        ignored_examples=found.examples(listed, "NOT photo") if seen.others else (),
        ungrouped=seen.ungrouped if group is not None else 0,
        missing=label_rule.match.missing if label_rule.match else 0,
        missing_examples=label_rule.match.missing_examples if label_rule.match else (),
        too_large=seen.too_large,
        empty=None if found.empty is None else len(found.empty),
    )


@dataclass(frozen=True)
class _Seen:
    """What one pass over names and sizes counted."""

    by_label: dict[str | None, int]
    files: int
    size_bytes: int
    others: int
    ungrouped: int
    too_large: int


def _count(listed: "DataFrame") -> _Seen:
    """Count files by label in one job; what reaches the driver is a row a label."""
    from pyspark.sql import functions as F  # noqa: N812

    grouped = listed.groupBy("photo", "label").agg(
        F.count("*").alias("files"),
        F.sum("length").alias("bytes"),
        F.count_if(F.col("group").isNull()).alias("ungrouped"),
        F.count_if(F.col("length") > LONGEST_FILE).alias("too_large"),
        F.max(F.when(F.col("path").rlike(_UNREADABLE_NAME), F.col("path"))).alias("unreadable"),
    )
    with worker_errors():
        rows = grouped.limit(MOST_LABELS + 2).collect()
    photos = [row for row in rows if row["photo"]]
    if len(photos) > MOST_LABELS:
        some = ", ".join(repr(row["label"]) for row in photos[:3])
        raise InputError(
            f"The label rule gives more than {MOST_LABELS} labels ({some} …). A label must name a class, not a photo."
        )
    unreadable = [row["unreadable"] for row in photos if row["unreadable"]]
    if unreadable:
        raise InputError(
            f"Spark cannot read local files with a colon in their names; rename {unreadable[0]} and others."
        )
    return _Seen(
        by_label={row["label"]: row["files"] for row in photos},
        files=sum(row["files"] for row in photos),
        size_bytes=sum(row["bytes"] for row in photos),
        others=sum(row["files"] for row in rows if not row["photo"]),
        ungrouped=sum(row["ungrouped"] for row in photos),
        too_large=sum(row["too_large"] for row in photos),
    )


def _nothing_matches(found: Listing, labels: "str | DataFrame") -> InputError:
    examples = ", ".join(repr(key) for key in found.examples(found.files, "photo"))
    if labels == "folder":
        return InputError(
            f"The photos lie directly in {found.root} ({examples} …), so no folder names their class. Give the folder "
            "above, or another label rule (a regular expression or a table)."
        )
    rule = repr(labels) if isinstance(labels, str) else "the table"
    return InputError(f"The label rule {rule} matches no photo below {found.root}, for instance {examples}.")
