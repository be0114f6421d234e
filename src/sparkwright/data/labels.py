"""Rules that give a photo its label or its group: the folder, a regular expression on the key, or a table."""

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkwright.data.tables import Match, checked_table, match_table, put_values, read_table
from sparkwright.errors import InputError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# The name of the folder that a file lies in; null for a file directly in the folder that was read.
_FOLDER = r"([^/]+)/[^/]+$"


@dataclass(frozen=True)
class Rule:
    """Gives rows with `path` and `key` a further column; null where the rule matches nothing.

    Attributes:
        column: The column's name.
        pattern: A regular expression on the key, in Java's syntax; None for a table or for no rule.
        part: Which group of the pattern is the value.
        match: What the table says; None for a pattern or for no rule.
    """

    column: str
    pattern: str | None = None
    part: int = 1
    match: Match | None = None

    def put(self, rows: "DataFrame") -> "DataFrame":
        """Return the rows with the column; lazy, and moves no row."""
        from pyspark.sql import functions as F  # noqa: N812

        if self.match is not None:
            return put_values(rows, self.match.values, self.column)
        value: Column = F.lit(None).cast("string")
        if self.pattern is not None:
            value = F.nullif(F.regexp_extract("key", self.pattern, self.part), F.lit(""))
        return rows.withColumn(self.column, value)


def read_rule(given: "str | DataFrame | None", column: str, photos: "DataFrame") -> Rule:
    """Understand what the user gave as the rule for `column`.

    Args:
        given: ``"folder"``, a regular expression with a group in parentheses, the path of a table, or a table.
        column: ``"label"`` or ``"group"``: the expression's named group and the table's column.
        photos: `path` of every photo, for a table to be matched with.

    Raises:
        InputError: It is none of these, or a table's paths are ambiguous.
        ColumnError: The table lacks a column.
    """
    if given is None:
        return Rule(column)
    if not isinstance(given, str):
        return Rule(column, match=match_table(photos, checked_table(given, column), column))
    if given == "folder":
        return Rule(column, _FOLDER)
    looks_like_table = os.path.exists(given) or given.lower().endswith((".csv", ".tsv", ".parquet", ".gz"))
    if "(" in given and not looks_like_table:
        return Rule(column, *_expression(given, column))
    try:
        table = read_table(photos.sparkSession, given, column)
    except NotFoundError as error:
        raise InputError(
            f"The {column} rule must be `folder`, a regular expression with a group in parentheses, or the path of a "
            f"table with the columns `path` and `{column}`; {given!r} is none: {error}{did_you_mean(given, ['folder'])}"
        ) from error
    return Rule(column, match=match_table(photos, table, column))


def _expression(given: str, name: str) -> tuple[str, int]:
    """Return the pattern for Spark, without the names of groups, and the number of the group that is the value."""
    try:
        pattern = re.compile(re.sub(r"\(\?<(?![=!])", "(?P<", given))  # Java's way to name a group is understood too
    except re.error as error:
        raise InputError(f"The {name} rule {given!r} is no regular expression: {error}.") from error
    if pattern.groups == 0:
        raise InputError(f"The {name} rule {given!r} needs a group in parentheses that holds the {name}.")
    return re.sub(r"\(\?P?<(?![=!])\w+>", "(", given), pattern.groupindex.get(name, 1)
