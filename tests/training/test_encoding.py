from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.errors import ColumnError
from sparkwright.training.rows.columns import Columns, check_columns
from sparkwright.training.rows.encoding import ENCODED, Encoding
from sparkwright.training.rows.store import Rows, Store

COLUMNS = Columns(("features",), "label", "weight", "split")


def table(**columns: object) -> pa.RecordBatch:
    rows = {
        "features": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], pa.list_(pa.float32())),
        "label": pa.array(["a", "b", "a", "b"]),
        "weight": pa.array([1.0, 2.0, 1.0, 1.0]),
        "split": pa.array(["train", "train", "validation", "test"]),
        **columns,
    }
    return pa.RecordBatch.from_pydict(rows)


def encode(batch: pa.RecordBatch, task: str = "classification", seed: int = 0, replicas: int = 4) -> pa.RecordBatch:
    return Encoding(COLUMNS, task, seed, tuple(range(replicas))).encode(batch)


def test_rows_keep_their_place_and_their_values() -> None:
    encoded = encode(table())
    assert encoded.schema == ENCODED
    assert [np.frombuffer(row, np.float32).tolist() for row in encoded["features"].to_pylist()] == [
        [1, 2],
        [3, 4],
        [5, 6],
        [7, 8],
    ]
    assert encoded["label"].to_pylist() == [["a"], ["b"], ["a"], ["b"]]
    assert encoded["side"].to_pylist() == [0, 0, 1, 2]
    assert encoded["problem"].null_count == 4
    assert encoded["replica"].equals(encoded["worker"])


def test_a_row_is_placed_by_its_content_and_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    features = pa.array(rng.normal(size=(200, 3)).astype(np.float32).tolist(), pa.list_(pa.float32()))
    columns = {"features": features, "label": pa.array(["a", "b"] * 100), "weight": pa.array([1.0] * 200)}
    batch = table(**columns, split=pa.array(["train"] * 200))
    whole = encode(batch)
    assert encode(batch.slice(50, 20))["key"].equals(whole["key"].slice(50, 20))
    shuffled = pa.array(rng.permutation(200))
    assert encode(batch.take(shuffled))["key"].equals(whole["key"].take(shuffled))
    assert min(np.bincount(whole["replica"].to_numpy(), minlength=4)) > 30
    assert not encode(batch, seed=1)["key"].equals(whole["key"])


@pytest.mark.parametrize(
    "type_",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2), pa.list_(pa.int64())],
)
def test_the_type_of_the_feature_column_changes_nothing(type_: pa.DataType) -> None:
    other = table(features=pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], type_))
    assert encode(other).equals(encode(table()))


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"features": pa.array([[1.0, 2.0], None, [5.0, 6.0], [7.0, 8.0]])}, "`features` is null"),
        ({"features": pa.array([[1.0, 2.0], [], [5.0, 6.0], [7.0, 8.0]])}, "`features` is empty"),
        ({"features": pa.array([[1.0, 2.0], [3.0, None], [5.0, 6.0], [7.0, 8.0]])}, "holds NaN, infinity or null"),
        ({"features": pa.array([[1.0, 2.0], [np.nan, 4.0], [5.0, 6.0], [7.0, 8.0]])}, "holds NaN, infinity or null"),
        ({"features": pa.array([[1.0, 2.0], [1e300, 4.0], [5.0, 6.0], [7.0, 8.0]])}, "holds NaN, infinity or null"),
        ({"label": pa.array(["a", None, "b", "b"])}, "`label` is null"),
        ({"label": pa.array([0.0, np.nan, 1.0, 1.0])}, "`label` is NaN or infinite"),
        ({"label": pa.array([0.0, np.inf, 1.0, 1.0])}, "`label` is NaN or infinite"),
        ({"label": pa.array([0.0, 0.5, 1.0, 1.0])}, "`label` is no whole number (for regression use Tr"),
        ({"weight": pa.array([1.0, -1.0, 1.0, 1.0])}, "`weight` is null, negative, NaN or infinite"),
        ({"weight": pa.array([1.0, None, 1.0, 1.0])}, "`weight` is null, negative, NaN or infinite"),
        ({"split": pa.array(["train", "valid", "test", "test"])}, "`split` is none of train, validation, test"),
        ({"split": pa.array(["train", None, "test", "test"])}, "`split` is null"),
    ],
)
def test_a_row_that_cannot_be_trained_on_keeps_its_place_and_says_why(
    columns: dict[str, pa.Array], problem: str
) -> None:
    encoded = encode(table(**columns))
    problems = encoded["problem"].to_pylist()
    assert [text is None for text in problems] == [True, False, True, True]
    assert problem in problems[1]
    assert [text is None for text in encoded["example"].to_pylist()] == [True, False, True, True]
    assert encoded["features"][1].as_py() is None
    assert encoded["replica"][1].as_py() == 0


@pytest.mark.parametrize(
    ("columns", "example"),
    [
        ({"label": pa.array(["a", None, "b", "b"])}, "`features` [3, 4], `weight` 2, `split` 'train'"),
        ({"label": pa.array([0.0, 0.5, 1.0, 1.0])}, "`label` 0.5, `features` [3, 4], `weight` 2"),
        ({"weight": pa.array([1.0, np.nan, 1.0, 1.0])}, "`weight` nan, `features` [3, 4], `label` 'b'"),
        ({"split": pa.array(["train", "valid", "test", "test"])}, "`split` 'valid', `features` [3, 4], `label` 'b'"),
        (
            {"features": pa.array([[1.0] * 9, [0.25, 2, None, 4, 5, 6, 7, 8, 9], [1.0] * 9, [1.0] * 9])},
            "`features` [0.25, 2, null, 4, …], `label` 'b', `weight` 2",
        ),
        (
            {"label": pa.array(["a", "/photos/" + "x" * 80 + "/accordion/image_0001.jpg", "a", "b"])}
            | {"weight": pa.array([1.0, None, 1.0, 1.0])},
            f"`features` [3, 4], `label` '/photos/{'x' * 22}…xxxxx/accordion/image_0001.jpg', `split` 'train'",
        ),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_told_by_its_values(columns: dict[str, pa.Array], example: str) -> None:
    assert encode(table(**columns))["example"][1].as_py() == example


def test_a_photo_whose_label_is_missing_is_told_by_its_size() -> None:
    photos = Encoding(Columns(("photo",), "label"), "classification", 0, (0,), payload="bytes")
    batch = pa.RecordBatch.from_pydict({"photo": [b"x" * 1234, None], "label": pa.nulls(2, pa.string())})
    assert photos.encode(batch)["example"].to_pylist() == ["`photo` 1,234 bytes", ""]


def test_the_example_of_a_problem_is_the_same_in_any_order_of_rows() -> None:
    batch = table(label=pa.array([0.5, 1.5, 2.5, 0.0]))
    told = set()
    for rows in ([0, 1, 2, 3], [3, 2, 1, 0]):
        store = Store(range(4), 1 << 20, Path())
        for row in rows:
            store.add(encode(batch.slice(row, 1)))
        told.add(store.census.listed())
    assert told == {
        '3 where `label` is no whole number (for regression use TrainingConfig(task="regression")), for example '
        "`label` 0.5, `features` [1, 2], `weight` 1"
    }


def test_an_infinite_target_is_refused() -> None:
    encoded = encode(table(label=pa.array([1, -np.inf, 3, 4])), task="regression")
    assert encoded["target"].to_pylist() == [1, 0, 3, 4]
    assert encoded["problem"].to_pylist() == [None, "`label` is NaN or infinite", None, None]
    assert encoded["example"][1].as_py() == "`label` -inf, `features` [3, 4], `weight` 2"


def test_targets_of_a_regression_are_numbers() -> None:
    encoded = encode(table(label=pa.array([1, None, 3, 4])), task="regression")
    assert encoded["target"].to_pylist() == [1, 0, 3, 4]
    assert encoded["problem"].to_pylist() == [None, "`label` is null", None, None]


def test_whole_numbers_and_booleans_are_labels() -> None:
    assert encode(table(label=pa.array([10, 2, 10, 2])))["label"].to_pylist() == [["10"], ["2"], ["10"], ["2"]]
    assert encode(table(label=pa.array([0.0, 1.0, 0.0, 1.0])))["label"].to_pylist() == [["0"], ["1"], ["0"], ["1"]]
    assert encode(table(label=pa.array([True, False] * 2)))["label"].to_pylist() == [["true"], ["false"]] * 2


@pytest.mark.parametrize(
    ("schema", "task", "message"),
    [
        (
            {"features": pa.binary()},
            "classification",
            "`features` must hold vectors, arrays of numbers, or numbers; it holds",
        ),
        ({"features": pa.list_(pa.string())}, "classification", "`features` must hold vectors, arrays of numbers, or"),
        ({"features": pa.string()}, "classification", "it holds string. Text of numbers: read the file with"),
        ({"features": pa.date32()}, "classification", "Make numbers of times"),
        ({"label": pa.string()}, "regression", "`label` must hold numbers for a regression; it holds string"),
        ({"label": pa.date32()}, "classification", "`label` must hold text or whole numbers; it holds date32"),
        ({"weight": pa.string()}, "classification", "`weight` must hold numbers; it holds string"),
        ({"split": pa.int32()}, "classification", "`split` must hold one of train, validation, test; it holds int32"),
    ],
)
def test_columns_of_other_types_are_refused(schema: dict[str, pa.DataType], task: str, message: str) -> None:
    fields = {"features": pa.list_(pa.float32()), "label": pa.int32(), "weight": pa.float32(), "split": pa.string()}
    with pytest.raises(ColumnError, match=message):
        check_columns(COLUMNS, pa.schema({**fields, **schema}), [*fields], task)


def test_all_that_is_wrong_with_the_columns_is_said_at_once() -> None:
    columns = Columns(("age", "Hours", "label", "age"), "label", "wieght")
    fields = pa.schema({"age": pa.string(), "label": pa.binary(), "weight": pa.float32()})
    with pytest.raises(ColumnError) as caught:
        check_columns(columns, fields, ["age", "hours", "label", "weight"], "classification")
    assert caught.value.problems == (
        "Column `Hours` not found in ['age', 'hours', 'label', 'weight']. Did you mean `hours`?",
        "Column `wieght` not found in ['age', 'hours', 'label', 'weight']. Did you mean `weight`?",
        "Column `age` is among the features more than once.",
        "Column `label` is among the features, and is the label: a model that sees the answer learns nothing else.",
        "Column `age` must hold vectors, arrays of numbers, or numbers; it holds string. Text of numbers: read the "
        "file with a schema, or cast the column. Text of categories: make columns of it with pandas' get_dummies, or "
        "with Spark's StringIndexer and OneHotEncoder.",
        "Column `label` must hold vectors, arrays of numbers, or numbers; it holds binary. `Featurizer` makes features "
        "of photos: name their column here.",
        "Column `label` must hold text or whole numbers; it holds binary.",
    )


def test_a_photo_beside_columns_of_numbers_is_told_the_way_by_features() -> None:
    columns = Columns(("photo", "age"), "label")
    schema = pa.schema({"photo": pa.binary(), "age": pa.float64(), "label": pa.string()})
    with pytest.raises(
        ColumnError, match=r"The network reads one column; 2 are named\. .* make features of the ph"
    ) as one:
        check_columns(columns, schema, schema.names, "classification", "bytes")
    assert len(one.value.problems) == 1
    with pytest.raises(
        ColumnError, match=r"`photo` must hold .* numbers; it holds binary\. `Featurizer` makes features"
    ):
        check_columns(columns, schema, schema.names, "classification", "numbers")


def test_several_columns_are_as_one_of_arrays() -> None:
    columns = {
        "age": pa.array([1, 3, 5, 7], pa.int64()),
        "tail": pa.array([[2.0], [4.0], [6.0], [8.0]]),
        "old": pa.array([False, True, True, True]),
    }
    several = Encoding(Columns(("age", "tail", "old"), "label", "weight", "split"), "classification", 0, (0, 1, 2, 3))
    joined = [[1.0, 2.0, 0.0], [3.0, 4.0, 1.0], [5.0, 6.0, 1.0], [7.0, 8.0, 1.0]]
    assert several.encode(table(**columns)).equals(encode(table(features=pa.array(joined))))
    broken = several.encode(
        table(**columns | {"age": pa.array([1, None, 5, 7]), "tail": pa.array([[2.0], [4.0], [], None])})
    )
    assert broken["problem"].to_pylist() == [
        None,
        "`age` is null, NaN or infinite",
        "`tail` is empty",
        "`tail` is null",
    ]


def test_a_share_of_the_training_rows_validates_chosen_by_their_content() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[1::2] = x[::2]  # every row twice
    batch = pa.RecordBatch.from_pydict(
        {
            "features": pa.array(x.tolist(), pa.list_(pa.float32())),
            "label": pa.array(["a"] * n),
            "weight": pa.array([1.0] * n),
            "split": pa.array(["train"] * (n // 2) + ["test"] * (n // 2)),
        }
    )
    encoded = Encoding(COLUMNS, "classification", 0, (0, 1, 2, 3), validation_fraction=0.3).encode(batch)
    side, replica = encoded["side"].to_numpy(), encoded["replica"].to_numpy()
    assert 0.25 < (side[: n // 2] == 1).mean() < 0.35
    assert (side[n // 2 :] == 2).all()
    assert (side[::2] == side[1::2]).all()
    assert min(np.bincount(replica[side == 1], minlength=4)) > 40  # whatever replica they belong to
    again = Encoding(COLUMNS, "classification", 0, (0, 1, 2, 3), validation_fraction=0.3).encode(batch.slice(500, 100))
    assert again["side"].to_pylist() == side[500:600].tolist()


def stored(batches: list[pa.RecordBatch], limit_bytes: int, folder: Path) -> tuple[dict[int, Rows], Store]:
    store = Store(range(4), limit_bytes, folder)
    for batch in batches:
        store.add(batch)
    return store.finish(int(next(iter(store.census.widths), 0))), store


def test_rows_are_the_same_in_memory_and_mapped_and_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 500
    batch = pa.RecordBatch.from_pydict(
        {
            "features": pa.array(rng.normal(size=(n, 6)).astype(np.float32).tolist(), pa.list_(pa.float32())),
            "label": pa.array(rng.choice(["a", "b"], n)),
            "weight": pa.array(rng.random(n)),
            "split": pa.array(rng.choice(["train", "validation"], n)),
        }
    )
    kept, store = stored([encode(batch)], 1 << 30, tmp_path)
    shuffled = batch.take(pa.array(rng.permutation(n)))
    mapped, other = stored([encode(shuffled.slice(i * 50, 50)) for i in range(10)], 1000, tmp_path)
    assert not mapped[0].x.in_memory
    assert kept[0].x.in_memory
    assert list(tmp_path.iterdir()) == []  # the files have no name
    assert sum(len(rows.x) for rows in kept.values()) == n
    assert store.census == other.census
    for replica in range(4):
        for sides in ([0], [1], [0, 1]):
            a, b = kept[replica].order(sides), mapped[replica].order(sides)
            np.testing.assert_array_equal(kept[replica].x.take(a), mapped[replica].x.take(b))
            assert kept[replica].label.take(pa.array(a)).equals(mapped[replica].label.take(pa.array(b)))
            np.testing.assert_array_equal(kept[replica].weight[a], mapped[replica].weight[b])


def test_a_replica_without_rows_has_empty_rows(tmp_path: Path) -> None:
    rows, _ = stored([encode(table(), replicas=1)], 1 << 20, tmp_path)
    assert rows[3].x.values.shape == (0, 2)
    assert rows[3].order([0, 1]).tolist() == []
