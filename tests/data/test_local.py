"""Tables of pandas, Arrow and NumPy, read as Arrow."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sparkwright.data.local import column_names, is_local, join_numbers, numbers_of, to_arrow
from sparkwright.errors import ColumnError


def test_what_a_process_can_hold_is_told_from_what_it_cannot() -> None:
    assert all(is_local(table) for table in (pd.DataFrame(), pa.table({}), {"x": np.zeros(3)}))
    assert not any(is_local(table) for table in (np.zeros(3), [1, 2], None, "table.csv"))


@pytest.mark.parametrize("kind", ["pandas", "arrow", "numpy", "lists"])
def test_all_kinds_of_tables_are_read_alike(kind: str) -> None:
    columns = {"age": np.array([30.0, 40.0]), "label": np.array(["a", "b"]), "other": np.array([object, object])}
    tables = {
        "pandas": lambda: pd.DataFrame(columns),
        "arrow": lambda: pa.table({"age": columns["age"], "label": ["a", "b"], "other": [1, 2]}),
        "numpy": lambda: columns,
        "lists": lambda: {"age": [30.0, 40.0], "label": ["a", "b"], "other": [1, 2]},
    }
    table = tables[kind]()
    assert column_names(table) == ["age", "label", "other"]
    read = to_arrow(table, ["label", "age", "none"])
    assert read.to_pydict() == {"label": ["a", "b"], "age": [30.0, 40.0]}


def test_missing_values_of_pandas_are_nulls_and_categories_are_text() -> None:
    table = pd.DataFrame(
        {"label": pd.Categorical(["a", None, "b"]), "age": [1.0, np.nan, 3.0], "n": ["x", np.nan, "y"]}
    )
    assert to_arrow(table, ["label", "age", "n"]).to_pydict() == {
        "label": ["a", None, "b"],
        "age": [1.0, None, 3.0],
        "n": ["x", None, "y"],
    }


def test_rows_of_features_are_lists_whatever_holds_them() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    vector = SimpleNamespace(toArray=lambda: np.array([1.0, 2.0]))  # as Spark's
    for values in (x, list(x), x.tolist(), np.asfortranarray(x)):
        assert to_arrow({"x": values}, ["x"])["x"].to_pylist() == x.tolist()
    assert to_arrow(pd.DataFrame({"x": [vector, None]}), ["x"])["x"].to_pylist() == [[1.0, 2.0], None]


def test_columns_whose_names_are_numbers_are_called_by_their_text() -> None:
    assert to_arrow(pd.DataFrame(np.eye(2)), ["1", "0"]).to_pydict() == {"1": [0.0, 1.0], "0": [1.0, 0.0]}


def test_all_columns_that_cannot_be_read_are_named_at_once() -> None:
    table = pd.DataFrame({"age": [30, "?", 50, None], "a": 1, "b": 2}).rename(columns={"b": "a"})
    with pytest.raises(ColumnError) as caught:
        to_arrow(table, ["age", "a"])
    assert caught.value.problems == (
        "Column `age` holds values of several types: int (2 rows), str (1 rows); for instance '?' in row 1.",
        "Column `a` occurs 2 times. Rename all but one.",
    )
    with pytest.raises(ColumnError, match=r"its shape is \(5, 28, 28\)\. Reshape it"):
        to_arrow({"x": np.zeros((5, 28, 28))}, ["x"])
    with pytest.raises(ColumnError, match=r"as many rows; they have {'x': 5, 'y': 4}"):
        to_arrow({"x": np.zeros((5, 2)), "y": np.zeros(4)}, ["x", "y"])


def test_numbers_of_several_columns_stand_one_after_the_other() -> None:
    columns = [pa.array([1, None]), pa.array([[2.0, 3.0], [4.0]]), pa.array([None, [5]]), pa.array([True, False])]
    lengths, values = join_numbers([numbers_of(column) for column in columns])
    assert lengths.tolist() == [4, 4]
    np.testing.assert_array_equal(values, np.array([1, 2, 3, 1, np.nan, 4, 5, 0], np.float32))
