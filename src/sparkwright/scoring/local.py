"""The engine on a table that this process holds, without Spark: the same code as in a task, and the same bits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sparkwright.data.local import column_names, join_numbers, numbers_of, to_arrow
from sparkwright.errors import ColumnError, ErrorRateError, InputError, did_you_mean
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.forward.runtime import OnnxSession
from sparkwright.scoring.inputs.sources import Source
from sparkwright.scoring.outputs import Output
from sparkwright.scoring.process.arrow import ScoringPlan, run
from sparkwright.session import cores

if TYPE_CHECKING:
    import pandas as pd

    from sparkwright.data.local import LocalTable

__all__ = ["score_table"]

_INPUT = "input"


def score_table(
    table: "LocalTable",
    columns: Sequence[str],
    graph: Graph,
    outputs: Sequence[Output],
    *,
    error_column: str = "error",
    drop_input: bool = False,
    max_error_rate: float | None = None,
    failfast: bool = False,
    source: Source = "numbers",
) -> "pd.DataFrame":
    """Return the table's columns, and those of the outputs; every row is kept, in its place.

    Args:
        table: A DataFrame of pandas, a table of Arrow, or a mapping from names to arrays of NumPy.
        columns: Of numbers or arrays of numbers, which together are the network's input; or one of what `source` says.
        graph: The network.
        outputs: What is added.
        error_column: None, or a dict with ``kind`` and ``message`` for rows that failed.
        drop_input: Leave the columns of the input out of the result.
        max_error_rate: Share of rows that may fail; None for any share.
        failfast: The first row that fails ends the call.
        source: What the columns hold.

    Raises:
        ColumnError: A column is missing, of the wrong type, or there already.
        InputError: They hold another number of numbers than the network takes.
        ErrorRateError: More rows failed than may.
    """
    names = column_names(table)
    missing = [
        f"Column `{name}` not found in {names}.{did_you_mean(name, names)}" for name in columns if name not in names
    ]
    added = [field.name for output in outputs for field in output.fields()] + [error_column]
    kept = [name for name in names if not (drop_input and name in columns)]
    missing += [f"Column `{name}` is to be added, but is there already." for name in added if name in kept]
    if missing:
        raise ColumnError.listing("The table cannot be scored", missing)
    rows = to_arrow(table, columns)
    numbers = source == "numbers"
    alone = numbers and not any(pa.types.is_nested(field.type) for field in rows.schema)
    if alone and len(columns) not in graph.input_shape:
        raise InputError(
            f"The model takes {graph.input_shape[0]} numbers a row, and got the columns {', '.join(columns)}: name "
            "those that it was trained on, in their order."
        )
    batches = (_joined(rows, columns) if numbers else rows.rename_columns([_INPUT])).to_batches()
    plan = ScoringPlan(
        network=graph.name,
        sha256=graph.sha256,
        preprocessing=None if numbers else graph.preprocessing,
        input_shape=graph.input_shape,
        output_shape=graph.output_shape,
        input_column=_INPUT,
        keep=(),
        outputs=tuple(outputs),
        error_column=error_column,
        source=source,
        threads=cores(),
        max_error_rate=max_error_rate,
    )
    scored = list(run(iter(batches), plan, OnnxSession(graph.onnx, cores() if numbers else 1)))
    if failfast:
        _refuse_failed(scored, error_column)
    result = _to_pandas(table)[kept]
    for name in added:
        values = pa.chunked_array([batch.column(name) for batch in scored]) if scored else pa.chunked_array([[]])
        result[name] = values.to_pandas().to_numpy()
    return result


def _joined(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return the columns as one of lists; null where one is."""
    for name in columns:
        type_ = rows.schema.field(name).type
        value = type_.value_type if pa.types.is_nested(type_) and not pa.types.is_struct(type_) else type_
        if not (pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_boolean(value)):
            raise ColumnError(f"Column `{name}` must hold numbers or arrays of numbers; it holds {type_}.")
    lists = []
    for batch in rows.to_batches():
        lengths, values = join_numbers([numbers_of(batch.column(name)) for name in columns])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        lists.append(pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values)))
    return pa.table({_INPUT: pa.chunked_array(lists, pa.large_list(pa.float32()))})


def _refuse_failed(scored: Sequence[pa.RecordBatch], error_column: str) -> None:
    row = 0
    for batch in scored:
        for error in batch.column(error_column).to_pylist():
            if error is not None:
                raise ErrorRateError(f"Row {row} failed: {error['kind']}: {error['message']}")
            row += 1


def _to_pandas(table: Any) -> "pd.DataFrame":
    import pandas as pd

    if isinstance(table, pa.Table):
        result: pd.DataFrame = table.to_pandas()
        return result
    if isinstance(table, pd.DataFrame):
        copy = table.copy(deep=False)
        copy.columns = copy.columns.map(str)
        return copy
    return pd.DataFrame({str(name): list(values) for name, values in table.items()})
