"""Cut the rows of each class into sides at hashes of their keys: exact, and without moving a row.

Rows are ranked by the SHA-256 of seed and key (or group). Cutting a class means to find the hash of the last row of
each side; that is a few strings a class, which are joined to the rows by broadcast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sparkwright.errors import InputError
from sparkwright.events import Emit, Warned
from sparkwright.session import worker_errors

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SIDES = ("train", "validation", "test")

MOST_CLASSES = 100_000

_SHOWN = 5


@dataclass(frozen=True)
class Fractions:
    """The share of each side."""

    train: float
    validation: float
    test: float

    @classmethod
    def checked(cls, given: Sequence[float]) -> Self:
        """Take three fractions.

        Raises:
            InputError: They do not add up to 1, or there is nothing to train on.
        """
        shares = [float(share) for share in given]
        if len(shares) != 3 or not min(shares) >= 0 or abs(sum(shares) - 1) > 1e-6 or not shares[0]:
            raise InputError(
                "The fractions must be three numbers for train, validation and test that add up to 1, the first above "
                f"0, not {', '.join(f'{share:g}' for share in shares) or 'none'} (sum {sum(shares):g})."
            )
        return cls(*shares)

    def ends(self, size: int) -> tuple[int, int, int]:
        """Return after how many rows of a class of `size` each side ends."""
        train, validation, _ = allocate(size, (self.train, self.validation, self.test))
        return train, train + validation, size

    def wants(self, side: str) -> bool:
        """Whether the side should have rows."""
        return bool(getattr(self, side) > 0)


@dataclass(frozen=True)
class PerClass:
    """The rows of each side in every class; None for the test side takes what is left."""

    train: int
    validation: int
    test: int | None

    @classmethod
    def checked(cls, given: Sequence[int | None]) -> Self:
        """Take three counts.

        Raises:
            InputError: They are no such counts, or there is nothing to train on.
        """
        train, validation, test = given if len(given) == 3 else (None, None, None)
        if train is None or validation is None or train < 1 or validation < 0 or (test is not None and test < 0):
            raise InputError(
                "The rows per class must be three whole numbers for train (1 or more), validation and test, the last "
                f"of which may be None for all that are left, not {tuple(given)}."
            )
        return cls(train, validation, test)

    def ends(self, size: int) -> tuple[int, int, int]:
        """Return after how many rows of a class of `size` each side ends; rows beyond are on no side."""
        train = min(size, self.train)
        validation = min(size, train + self.validation)
        return train, validation, size if self.test is None else min(size, validation + self.test)

    def wants(self, side: str) -> bool:
        """Whether the side should have rows."""
        return bool(getattr(self, side) != 0)


@dataclass(frozen=True)
class Ranking:
    """What rows are ranked by, and within what.

    Attributes:
        seed: Another seed, another ranking.
        key: Column that names a row.
        label: Column of the class; None for one class.
        group: Column of what stays together; rows without one are on their own.
    """

    seed: int
    key: str
    label: str | None
    group: str | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that rows must have."""
        return tuple(filter(None, (self.key, self.label, self.group)))

    def place(self) -> "Column":
        """Return the SHA-256 of seed and key or group, as 64 hex digits."""
        from pyspark.sql import functions as F  # noqa: N812

        unit = F.col(self.key) if self.group is None else F.coalesce(F.col(self.group), F.col(self.key))
        return F.sha2(F.concat(F.lit(f"{self.seed}:"), unit.cast("string")), 256)

    def stratum(self) -> "Column":
        """Return the class as a string; null is a class too."""
        from pyspark.sql import functions as F  # noqa: N812

        return F.lit(None).cast("string") if self.label is None else F.col(self.label).cast("string")


def allocate(rows: int, fractions: Sequence[float]) -> list[int]:
    """Divide a number of rows by fractions, exactly up to rounding (largest remainders, earlier sides first in ties).

    The first side gets a row whenever there is one.
    """
    exact = [rows * fraction for fraction in fractions]
    whole = [int(share + 1e-9) for share in exact]
    order = sorted(range(len(exact)), key=lambda side: (round(whole[side] - exact[side], 9), side))
    for side in order[: rows - sum(whole)]:
        whole[side] += 1
    if rows and not whole[0]:
        whole[whole.index(max(whole))] -= 1
        whole[0] = 1
    return whole


def cut_by_class(
    rows: "DataFrame",
    divided: "DataFrame",
    column: str,
    wanted: Fractions | PerClass,
    ranking: Ranking,
    emit: Emit,
) -> "DataFrame":
    """Add the sides to `rows` as `column`, cut so that those in `divided` (all, or some) meet what is `wanted`.

    Two small jobs on labels and keys.

    Raises:
        InputError: There are no rows, one class only, or counts per class for groups that hold several classes.
    """
    from pyspark.sql import functions as F  # noqa: N812

    place, stratum = ranking.place(), ranking.stratum()
    units = divided.select(stratum.alias("stratum"), place.alias("place"))
    if ranking.group is None:
        units = units.withColumn("rows", F.lit(1))
    else:
        units, straddles = _whole_groups(units)
        if straddles:
            if isinstance(wanted, PerClass):
                raise InputError("A fixed number per class needs groups that lie in one class each; some hold several.")
            stratum = F.lit(None).cast("string")
            units = units.withColumn("stratum", stratum)
    cuts = _cuts(units, wanted, one_class_is_wrong=ranking.label is not None)
    _warn_of_gaps(cuts, wanted, emit)
    spark = rows.sparkSession
    table = spark.createDataFrame(
        [(cut.stratum, *cut.last) for cut in cuts], "stratum string, last_0 string, last_1 string, last_2 string"
    )
    placed = rows.drop(column).withColumns({"split_stratum": stratum, "split_place": place})
    joined = placed.join(F.broadcast(table), F.col("split_stratum").eqNullSafe(F.col("stratum")), "left")
    side = F.when(F.col("split_place") <= F.col("last_0"), SIDES[0])
    side = side.when(F.col("split_place") <= F.col("last_1"), SIDES[1])
    side = side.when(F.col("split_place") <= F.col("last_2"), SIDES[2])
    return joined.withColumn(column, side).drop("split_stratum", "split_place", "stratum", "last_0", "last_1", "last_2")


@dataclass(frozen=True)
class _Cut:
    """Where a class is cut: the last hash of each side (of this side or an earlier one), and the rows of each side."""

    stratum: str | None
    last: tuple[str | None, str | None, str | None]
    rows: tuple[int, int, int]


def _cuts(units: "DataFrame", wanted: Fractions | PerClass, *, one_class_is_wrong: bool) -> list[_Cut]:
    """Find the cuts of every class. A group is on the side that its middle row would be on.

    Args:
        units: `stratum`, `place` (the hash) and `rows` of what stays together.
        wanted: Fractions, or numbers per class.
        one_class_is_wrong: Whether all rows having the same label is an error.

    Raises:
        InputError: No rows, or one class only.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F  # noqa: N812

    with worker_errors():
        counted = units.groupBy("stratum").agg(F.sum("rows")).limit(MOST_CLASSES + 1).collect()
    sizes: dict[str | None, int] = {row[0]: row[1] for row in counted}
    if len(sizes) > MOST_CLASSES:
        raise InputError(f"There are more than {MOST_CLASSES} classes; a label must name a class, not a row.")
    if not sizes:
        raise InputError("There are no rows to divide into train, validation and test.")
    classes = [name for name in sizes if name is not None]
    if one_class_is_wrong and len(classes) == 1:
        raise InputError(f"All labelled rows are of one class, {classes[0]!r}; a classifier needs two at least.")
    ends = [(name, *wanted.ends(size)) for name, size in sizes.items()]
    spark = units.sparkSession
    targets = spark.createDataFrame(ends, "name string, end_0 long, end_1 long, end_2 long")
    until = F.sum("rows").over(Window.partitionBy("stratum").orderBy("place"))
    middle = F.col("until") - F.col("rows") / 2
    sided = (
        units.withColumn("until", until)
        .join(F.broadcast(targets), F.col("stratum").eqNullSafe(F.col("name")))
        .withColumns({f"in_{side}": middle <= F.col(f"end_{side}") for side in range(3)})
    )
    last = [F.max(F.when(F.col(f"in_{side}"), F.col("place"))) for side in range(3)]
    total = [F.coalesce(F.sum(F.when(F.col(f"in_{side}"), F.col("rows"))), F.lit(0)) for side in range(3)]
    with worker_errors():
        found = sided.groupBy("stratum").agg(*last, *total).collect()
    return [
        _Cut(row[0], (row[1], row[2], row[3]), (row[4], row[5] - row[4], row[6] - row[5]))
        for row in sorted(found, key=lambda row: (row[0] is None, row[0] or ""))
    ]


def _whole_groups(units: "DataFrame") -> tuple["DataFrame", bool]:
    """Return a row a group, and whether some group holds several classes."""
    from pyspark.sql import functions as F  # noqa: N812

    groups = units.groupBy("place").agg(
        F.min("stratum").alias("stratum"),
        F.max("stratum").alias("other"),
        F.count_if(F.col("stratum").isNull()).alias("unlabelled"),
        F.count("*").alias("rows"),
    )
    mixed = groups.where("stratum <> other OR (unlabelled > 0 AND unlabelled < rows)")
    with worker_errors():
        straddles = bool(mixed.limit(1).collect())
    return groups.select("stratum", "place", "rows"), straddles


def _warn_of_gaps(cuts: list[_Cut], wanted: Fractions | PerClass, emit: Emit) -> None:
    """Tell which classes have no row on a side that should have some."""
    for side, name in enumerate(SIDES):
        without = [cut.stratum for cut in cuts if wanted.wants(name) and cut.stratum is not None and not cut.rows[side]]
        if without:
            shown = ", ".join(without[:_SHOWN]) + (" …" if len(without) > _SHOWN else "")
            emit(Warned(f"{len(without)} of {len(cuts)} classes have too few rows for the {name} side: {shown}"))
