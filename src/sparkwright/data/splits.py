"""Put each row on a side: train, validation or test.

A row's place is the SHA-256 of its key (or its group) and the seed, so that it depends on neither the order nor the
number of partitions, and anybody can compute it again. What is cut per class are ranges of that hash: a few numbers a
class, found on labels and keys alone. Photos are neither read nor moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sparkwright.data.cuts import SIDES, Fractions, PerClass, Ranking, cut_by_class
from sparkwright.data.tables import EXAMPLES, checked_table, match_table, put_values, read_table
from sparkwright.errors import ColumnError, InputError, NotFoundError, did_you_mean
from sparkwright.events import Emit, Warned, ignore
from sparkwright.session import worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = [
    "Duplicates",
    "find_duplicates",
    "split",
    "split_by_column",
    "split_by_folder",
    "split_by_table",
    "split_counts",
]

# Other names of the sides, as folders and tables have them.
_SIDE_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Duplicates:
    """Rows with the same bytes.

    Attributes:
        count: Rows that repeat another one (of three equal rows, two).
        across_sides: Sets of equal rows that lie on more than one side.
        examples: Keys of two equal rows, those across sides first.
    """

    count: int
    across_sides: int
    examples: tuple[tuple[str, str], ...]


def split(
    rows: "DataFrame",
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    *,
    per_class: Sequence[int | None] | None = None,
    seed: int = 0,
    key: str = "key",
    label: str | None = "label",
    group: str | None = None,
    method: Literal["stratified", "stable"] = "stratified",
    emit: Emit = ignore,
) -> "DataFrame":
    """Add the column `split`: ``train``, ``validation`` or ``test``.

    ``stratified`` gives each class the exact fractions, up to rounding (largest remainders; a class always has a
    training row), by two small jobs on labels and keys. ``stable`` looks at a row's own hash alone: the fractions are
    approximate, and a row stays where it is when others come or go. Rows of one group always share a side; then
    fractions are met as closely as whole groups allow, class by class if each group lies in one class, else overall.
    Rows without a label are divided as if they were a class. A row without a group is a group of its own.

    Args:
        rows: With the columns `key`, `label` and `group`; others are carried along.
        fractions: Of the train, validation and test side; their sum is 1.
        per_class: Rows of each class for the three sides instead of fractions; None for the last takes the rest. Rows
            beyond get null, and lie on no side.
        seed: Another seed, another division.
        key: Column that names a row, the same whenever it is read.
        label: Column of the class; None divides all rows as one class.
        group: Column of what must not be divided: patient, place, near-duplicate.
        method: ``"stratified"`` or ``"stable"``.
        emit: Hears of classes that lack rows on a side.

    Raises:
        ColumnError: A column is missing.
        InputError: Fractions or counts that cannot be; no rows; one class only.
    """
    from pyspark.sql import functions as F  # noqa: N812

    ranking = _ranking(rows, seed, key, label, group)
    if method not in ("stratified", "stable"):
        raise InputError(f"The method must be `stratified` or `stable`, not {method!r}.")
    shares = Fractions.checked(fractions)
    if method == "stratified":
        wanted = shares if per_class is None else PerClass.checked(per_class)
        return cut_by_class(rows, rows, "split", wanted, ranking, emit)
    if per_class is not None:
        raise InputError("A fixed number of rows per class needs the method `stratified`.")
    # 52 bits, which a double holds exactly.
    share = F.conv(F.substring(ranking.place(), 1, 13), 16, 10).cast("double") / 16.0**13
    last = "test" if shares.test else "validation" if shares.validation else "train"
    side = F.when(share < shares.train, "train").when(share < shares.train + shares.validation, "validation")
    return rows.withColumn("split", side.otherwise(last))


def split_by_folder(
    rows: "DataFrame",
    *,
    validation_fraction: float = 0.2,
    seed: int = 0,
    key: str = "key",
    label: str | None = "label",
    group: str | None = None,
    emit: Emit = ignore,
) -> "DataFrame":
    """Add the column `split` from the folders train, validation (valid, val) and test in the rows' keys.

    Without a folder for validation, `validation_fraction` of the training rows of each class validate, as `split` does
    it with `seed` and `group`.

    Raises:
        ColumnError: A column is missing.
        InputError: There is no folder ``train``, or rows lie outside of the folders.
    """
    from pyspark.sql import functions as F  # noqa: N812

    ranking = _ranking(rows, seed, key, label, group)
    folders = F.split(F.lower(key), "/")
    names = F.array(*[F.lit(name) for name in _SIDE_NAMES])
    above = F.slice(folders, 1, F.size(folders) - 1)
    named = F.get(F.filter(above, lambda folder: F.array_contains(names, folder)), 0)
    sided = rows.withColumn("split", named)
    found = _names_found(sided)
    if found.get(None):
        with worker_errors():
            lost = sided.where("split IS NULL").select(key).orderBy(key).limit(EXAMPLES).collect()
        examples = ", ".join(repr(row[0]) for row in lost)
        raise InputError(
            f"{found[None]} rows lie in no folder named train, validation or test, for instance {examples}. The "
            "folders must lie above those of the classes, below the folder that is read."
        )
    return _sides_from_names(sided, found, validation_fraction, ranking, emit)


def split_by_column(
    rows: "DataFrame",
    column: str,
    *,
    validation_fraction: float = 0.2,
    seed: int = 0,
    key: str = "key",
    label: str | None = "label",
    group: str | None = None,
    emit: Emit = ignore,
) -> "DataFrame":
    """Add the column `split` from one that names the sides: train, validation (valid, val, dev) or test, in any case.

    Rows where it is null lie on no side. Without rows for validation, `validation_fraction` of the training rows of
    each class validate, as `split` does it with `seed` and `group`.

    Raises:
        ColumnError: A column is missing.
        InputError: It holds other names, or no training rows.
    """
    from pyspark.sql import functions as F  # noqa: N812

    _check_columns(rows, column)
    ranking = _ranking(rows, seed, key, label, group)
    sided = rows.withColumn("split", F.lower(F.trim(F.col(column).cast("string"))))
    return _sides_from_names(sided, _names_found(sided), validation_fraction, ranking, emit)


def split_by_table(
    rows: "DataFrame",
    table: "str | DataFrame",
    *,
    validation_fraction: float = 0.2,
    seed: int = 0,
    key: str = "key",
    label: str | None = "label",
    group: str | None = None,
    emit: Emit = ignore,
) -> "DataFrame":
    """Add the column `split` from a table with the columns `path` and `split`.

    A path may be given by its unambiguous end. Rows that the table does not name lie on no side, and are counted in a
    warning, as are the table's paths that name no row. The rest is as in `split_by_column`.

    Args:
        rows: With the column `path`.
        table: CSV or Parquet by its path, or a DataFrame.
        validation_fraction: Share of the training rows that validate if the table names none.
        seed: For that share.
        key: Column that names a row.
        label: Column of the class.
        group: Column of what must not be divided when validation rows are taken from the training rows.
        emit: Hears the warnings.

    Raises:
        ColumnError: A column is missing.
        InputError: A path fits several rows, or the table names other sides or no training rows.
    """
    _check_columns(rows, "path")
    read = _read_sides(rows, table) if isinstance(table, str) else checked_table(table, "split")
    match = match_table(rows.select("path"), read, "split")
    if match.missing:
        emit(Warned(f"{match.missing} paths of the split table name no row: {', '.join(match.missing_examples)}"))
    named = put_values(rows.drop("split"), match.values, "split")
    return split_by_column(
        named, "split", validation_fraction=validation_fraction, seed=seed, key=key, label=label, group=group, emit=emit
    )


def split_counts(rows: "DataFrame", label: str = "label") -> dict[str | None, dict[str | None, int]]:
    """Count rows by side and label, sides in their usual order and labels sorted; None stands for null. One job."""
    _check_columns(rows, "split", label)
    with worker_errors():
        counted = rows.groupBy("split", label).count().collect()
    counts: dict[str | None, dict[str | None, int]] = {}
    order = {side: place for place, side in enumerate(SIDES)}
    for row in sorted(counted, key=lambda row: (order.get(row[0], len(SIDES)), row[1] is None, row[1] or "")):
        counts.setdefault(row[0], {})[row[1]] = row[2]
    return counts


def find_duplicates(rows: "DataFrame", *, key: str = "key") -> Duplicates:
    """Find rows with the same bytes, by the column `sha256`, and tell those that lie on different sides.

    Null hashes count for nothing. One job, and another for examples if there are any.

    Raises:
        ColumnError: One of the columns `sha256`, `split` and `key` is missing.
    """
    from pyspark.sql import functions as F  # noqa: N812

    _check_columns(rows, "sha256", "split", key)
    equal = (
        rows.where("sha256 IS NOT NULL")
        .groupBy("sha256")
        .agg(
            F.count("*").alias("rows"),
            F.count_distinct("split").alias("sides"),
            # The first key of the first side and the last of the last: on different sides, where there are several.
            F.min(F.struct(F.coalesce("split", F.lit("")), key)).getField(key).alias("first"),
            F.max(F.struct(F.coalesce("split", F.lit("")), key)).getField(key).alias("last"),
        )
    )
    equal = equal.where("rows > 1")
    with worker_errors():
        totals = equal.agg(F.sum(F.col("rows") - 1), F.count_if(F.col("sides") > 1)).collect()[0]
        if not totals[0]:
            return Duplicates(0, 0, ())
        shown = equal.orderBy(F.desc("sides"), "first").limit(EXAMPLES).collect()
    return Duplicates(totals[0], totals[1], tuple((row["first"], row["last"]) for row in shown))


def _read_sides(rows: "DataFrame", table: str) -> "DataFrame":
    try:
        return read_table(rows.sparkSession, table, "split")
    except NotFoundError as error:
        raise NotFoundError(
            "The split must be three fractions, `folder`, or the path of a table with the columns `path` and `split`; "
            f"{table!r} is none: {error}{did_you_mean(table, ['folder'])}"
        ) from error


def _names_found(sided: "DataFrame") -> dict[str | None, int]:
    """Count the rows of each name in `split`; a hundred names at most, which are too many anyway."""
    with worker_errors():
        return {row[0]: row[1] for row in sided.groupBy("split").count().limit(100).collect()}


def _sides_from_names(
    sided: "DataFrame",
    found: Mapping[str | None, int],
    validation_fraction: float,
    ranking: Ranking,
    emit: Emit,
) -> "DataFrame":
    """Turn the names in `split` into sides, and take validation rows from the training rows if there are none."""
    from pyspark.sql import functions as F  # noqa: N812

    for name in found:
        if name is not None and name not in _SIDE_NAMES:
            raise InputError(
                f"A side must be train, validation or test, but `split` holds {name!r}."
                + did_you_mean(name, _SIDE_NAMES)
            )
    if found.get(None):
        emit(Warned(f"{found[None]} rows are on no side; they are neither trained on nor evaluated."))
    present = {_SIDE_NAMES[name] for name in found if name is not None}
    if "train" not in present:
        raise InputError(f"No row is on the train side; the sides found: {sorted(present) or 'none'}.")
    names = F.create_map(*[F.lit(word) for pair in _SIDE_NAMES.items() for word in pair])
    sides = sided.withColumn("split", F.try_element_at(names, F.col("split")))
    if "validation" in present or not validation_fraction:
        return sides
    shares = Fractions.checked((1 - validation_fraction, validation_fraction, 0.0))
    trained = sides.where("split = 'train'")
    again = cut_by_class(sides, trained, "split_again", shares, ranking, emit)
    chosen = F.when(F.col("split") == "train", F.col("split_again")).otherwise(F.col("split"))
    return again.withColumn("split", chosen).drop("split_again")


def _ranking(rows: "DataFrame", seed: int, key: str, label: str | None, group: str | None) -> Ranking:
    ranking = Ranking(seed, key, label, group)
    _check_columns(rows, *ranking.columns)
    return ranking


def _check_columns(rows: "DataFrame", *needed: str) -> None:
    for name in needed:
        if name not in rows.columns:
            raise ColumnError(f"Column `{name}` not found in {rows.columns}.{did_you_mean(name, rows.columns)}")
