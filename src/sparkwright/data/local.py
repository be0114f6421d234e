"""Tables that this process holds: pandas' DataFrames, Arrow tables, mappings from names to arrays of NumPy.

`to_arrow` gives all of them as Arrow; `join_numbers` makes one row of numbers of several columns. Both need no Spark.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from sparkwright.errors import ColumnError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LocalTable", "column_names", "is_local", "join_numbers", "numbers_of", "to_arrow"]


LocalTable: TypeAlias = "pd.DataFrame | pa.Table | Mapping[str, ArrayLike]"


def is_local(table: object) -> "TypeGuard[LocalTable]":
    """Tell whether this is a table that the process holds itself."""
    return isinstance(table, Mapping | pa.Table) or _is_pandas(table)


def column_names(table: "LocalTable") -> list[str]:
    """Return the names of all columns, as text."""
    names = table.column_names if isinstance(table, pa.Table) else table.keys()
    return [str(name) for name in names]


def to_arrow(table: "LocalTable", names: Sequence[str]) -> pa.Table:
    """Return those of the columns that the table has, as Arrow; NaN in pandas' columns of objects counts as null.

    Raises:
        ColumnError: A column's values are of several types, its array has more than two axes, or it occurs twice;
            columns of other lengths. All of them in one message.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    problems = []
    there = column_names(table)
    for name in names:
        if there.count(name) > 1:
            problems.append(f"Column `{name}` occurs {there.count(name)} times. Rename all but one.")
        elif name in there:
            try:
                columns[name] = _column(table, there.index(name), name)
            except ColumnError as error:
                problems.append(str(error))
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        problems.append(f"All columns must have as many rows; they have {lengths}.")
    if problems:
        raise ColumnError.listing("The table cannot be read", problems)
    return pa.table(columns)


def numbers_of(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return how many numbers each row of a column has, and all of them as float32; nulls among them are NaN.

    Args:
        column: Numbers, booleans, or arrays of numbers; null arrays have no numbers.
    """
    if pa.types.is_decimal(column.type):  # as pandas and Spark do: to a double first, which is exact for most
        column = column.cast(pa.float64())
    if not pa.types.is_nested(column.type):
        values = np.array(column.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False), np.float32)
        return np.ones(len(values), np.int64), values
    column = column.cast(pa.list_(pa.float32()), safe=False)
    lengths = np.array(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False), np.int64)
    # A copy, because the buffer may be read as bytes from its beginning.
    return lengths, np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)


def join_numbers(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Put each row's numbers of several columns, as `numbers_of` gives them, one after the other."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.sum([own for own, _ in parts], axis=0)
    values = np.empty(lengths.sum(), np.float32)
    starts = np.cumsum(lengths) - lengths
    for own, numbers in parts:
        within = np.arange(len(numbers)) - np.repeat(np.cumsum(own) - own, own)
        values[np.repeat(starts, own) + within] = numbers
        starts += own
    return lengths, values


def _column(table: "LocalTable", place: int, name: str) -> pa.ChunkedArray:
    if isinstance(table, pa.Table):
        column = table.column(place)
    elif _is_pandas(table):
        column = _converted(table.iloc[:, place], name)
    else:
        values = next(value for key, value in table.items() if str(key) == name)
        column = _converted(values, name) if isinstance(values, list) else _of_array(np.asarray(values), name)
    column = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    if pa.types.is_dictionary(column.type):  # pandas' categories
        column = column.cast(column.type.value_type)
    return column


def _of_array(array: NDArray[Any], name: str) -> pa.Array:
    if array.ndim == 1:
        return _converted(array, name)
    if array.ndim != 2:
        raise ColumnError(
            f"Column `{name}` must be an array of shape (rows,) or (rows, features); its shape is {array.shape}. "
            "Reshape it, for instance with x.reshape(len(x), -1)."
        )
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def _converted(values: Any, name: str) -> pa.Array:
    """Return a column of pandas, or an array, as Arrow."""
    known = [value for value in values[:1] if hasattr(value, "toArray")]
    if known:  # Spark's vectors, as `toPandas` gives them
        values = [None if value is None else value.toArray() for value in values]
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ColumnError(f"Column `{name}` {_mixture(values) or f'cannot be read: {error}'}.") from error


def _mixture(values: Any) -> str:
    """Say of which types the values are; empty if of one."""
    first: dict[str, tuple[int, Any]] = {}
    count: Counter[str] = Counter()
    for row, value in enumerate(values):
        kind = type(value).__name__
        if value is None or kind in ("NAType", "NaTType") or (isinstance(value, float) and np.isnan(value)):
            continue
        count[kind] += 1
        first.setdefault(kind, (row, value))
    if len(count) < 2:
        return ""
    listed = ", ".join(f"{kind} ({n:,} rows)" for kind, n in count.most_common())
    rarest = min(count, key=lambda kind: count[kind])
    row, value = first[rarest]
    return f"holds values of several types: {listed}; for instance {value!r} in row {row}"


def _is_pandas(table: object) -> "TypeGuard[pd.DataFrame]":
    pandas = sys.modules.get("pandas")  # who gives such a table has imported it: half a second for who does not
    return pandas is not None and isinstance(table, pandas.DataFrame)
