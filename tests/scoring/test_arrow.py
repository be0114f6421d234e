import hashlib
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.errors import ErrorRateError
from sparkwright.events import Event, Progress, TaskTimed
from sparkwright.scoring.forward.runtime import OnnxSession
from sparkwright.scoring.outputs import Classification, Features, Regression
from sparkwright.scoring.process.arrow import ScoringPlan, run

from .photos import PREPROCESSING, SIZE, answer, channel_means, doubled, png

PHOTOS = ScoringPlan(
    network="means.onnx",
    sha256="",
    preprocessing=PREPROCESSING,
    input_shape=(3, *SIZE),
    output_shape=(3,),
    input_column="content",
    keep=("path",),
    outputs=(Features("features"),),
    error_column="error",
    batch_size=4,
)
NUMBERS = replace(
    PHOTOS, preprocessing=None, input_shape=(2,), output_shape=(2,), input_column="numbers", keep=("numbers",)
)


def photo_batch(contents: list[bytes | None], start: int = 0) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "path": [f"photo{start + row}" for row in range(len(contents))],
            "content": pa.array(contents, pa.binary()),
        }
    )


def score_photos(batches: list[pa.RecordBatch], plan: ScoringPlan = PHOTOS, **kwargs: object) -> pa.Table:
    return pa.Table.from_batches(run(iter(batches), plan, OnnxSession(channel_means()), **kwargs))


def score_numbers(column: pa.Array, plan: ScoringPlan = NUMBERS) -> pa.Table:
    batch = pa.RecordBatch.from_pydict({"numbers": column})
    return pa.Table.from_batches(run(iter([batch]), plan, OnnxSession(doubled(2))))


def test_a_plan_is_small_and_survives_pickling() -> None:
    data = pickle.dumps(PHOTOS)
    assert len(data) < 2000
    assert pickle.loads(data) == PHOTOS


def test_rows_keep_their_columns_order_and_answers_across_batches_of_any_size() -> None:
    sizes = [3, 1, 0, 10, 6]
    colours = list(range(20))
    batches, start = [], 0
    for size in sizes:
        batches.append(photo_batch([png(red) for red in colours[start : start + size]], start))
        start += size
    table = score_photos(batches, replace(PHOTOS, threads=2))
    assert table.column("path").to_pylist() == [f"photo{row}" for row in range(20)]
    assert np.array_equal(np.array(table.column("features").to_pylist()), [answer(red) for red in colours])
    assert table.column("error").to_pylist() == [None] * 20
    assert "content" not in table.column_names


def test_bad_rows_keep_their_place_with_kind_and_message() -> None:
    table = score_photos([photo_batch([png(1), None, b"", b"no photo", png(2)[:40], png(3)])])
    features, errors = table.column("features").to_pylist(), table.column("error").to_pylist()
    assert [value is None for value in features] == [False, True, True, True, True, False]
    assert [error and error["kind"] for error in errors] == [None, "empty", "empty", "unreadable", "unreadable", None]
    assert errors[1]["message"] == "The row's content is null."
    assert np.array_equal(features[5], answer(3))


def test_features_are_float_lists_without_nulls_inside() -> None:
    column = score_photos([photo_batch([png(1), None])]).schema.field("features")
    assert column.type == pa.list_(pa.field("element", pa.float32(), nullable=False))


def test_digests_are_of_the_bytes_also_where_decoding_fails() -> None:
    plan = replace(PHOTOS, digest_column="sha256")
    digests = score_photos([photo_batch([b"no photo", None])], plan).column("sha256").to_pylist()
    assert digests == [hashlib.sha256(b"no photo").hexdigest(), None]


def test_a_huge_batch_leaves_in_pieces() -> None:
    batch = photo_batch([png(1)] * 1000)
    sizes = [part.num_rows for part in run(iter([batch]), PHOTOS, OnnxSession(channel_means()))]
    assert sum(sizes) == 1000
    assert max(sizes) <= 256


def test_wide_outputs_leave_in_smaller_pieces() -> None:
    plan = replace(NUMBERS, input_shape=(2,), output_shape=(1 << 19,))
    batch = pa.RecordBatch.from_pydict({"numbers": [[1.0, 2.0]] * 40})

    def wide(x: np.ndarray) -> np.ndarray:
        return np.zeros((len(x), 1 << 19), np.float32)

    assert [part.num_rows for part in run(iter([batch]), plan, wide)] == [4] * 10


def test_progress_counts_rows_and_errors_of_the_task() -> None:
    events: list[Event] = []
    score_photos([photo_batch([png(1), None] * 10)], task="7", emit=events.append)
    assert events[-2] == Progress("scoring", "7", done=20, errors=10)


def test_a_task_tells_where_its_time_went() -> None:
    events: list[Event] = []
    start = time.perf_counter()
    score_photos([photo_batch([png(1), png(2)] * 10)], task="7", emit=events.append)
    taken = time.perf_counter() - start
    timed = events[-1]
    assert isinstance(timed, TaskTimed)
    assert (timed.stage, timed.task, timed.rows) == ("scoring", "7", 20)
    assert {"decode", "resize", "forward"} <= set(timed.seconds)
    assert all(0 <= seconds <= 2 * taken for seconds in timed.seconds.values())


def test_a_task_with_too_many_failures_stops_and_says_what_failed() -> None:
    batches = [photo_batch([png(1)] * 80 + [b"no photo"] * 20, start=100 * n) for n in range(50)]
    pulled = 0

    def pull() -> Iterator[pa.RecordBatch]:
        nonlocal pulled
        for batch in batches:
            pulled += 1
            yield batch

    plan = replace(PHOTOS, max_error_rate=0.05)
    with pytest.raises(ErrorRateError, match=r"of task 3 failed, more than maxErrorRate=0.05 allows") as caught:
        list(run(pull(), plan, OnnxSession(channel_means()), task="3"))
    assert "x unreadable: The image cannot be decoded" in str(caught.value)
    assert pulled < 5


@pytest.mark.parametrize(("good", "bad"), [(15, 4), (96, 5), (1000, 50)])
def test_few_rows_or_few_failures_stop_no_task(good: int, bad: int) -> None:
    contents = [png(1)] * good + [None] * bad
    assert score_photos([photo_batch(contents)], replace(PHOTOS, max_error_rate=0.05)).num_rows == good + bad


def test_a_small_task_is_checked_at_its_end() -> None:
    with pytest.raises(ErrorRateError, match=r"10 of 30 rows"):
        score_photos([photo_batch([png(1)] * 20 + [None] * 10)], replace(PHOTOS, max_error_rate=0.05))


@pytest.mark.parametrize(
    "type_",
    [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.int32())],
)
def test_arrays_of_any_number_type_are_inputs(type_: pa.DataType) -> None:
    table = score_numbers(pa.array([[1, 2], [3, 4]], type_))
    assert table.column("features").to_pylist() == [[2, 4], [6, 8]]


def test_bad_arrays_keep_their_place_with_kind_and_message() -> None:
    nan, inf = float("nan"), float("inf")
    rows = [[1.0, 2.0], None, [1.0], [], [nan, 0.0], [0.0, inf], [None, 1.0], [5.0, 6.0]]
    table = score_numbers(pa.array(rows, pa.list_(pa.float64())))
    assert table.column("features").to_pylist() == [[2, 4], None, None, None, None, None, None, [10, 12]]
    errors = table.column("error").to_pylist()
    kinds = [error and error["kind"] for error in errors]
    assert kinds == [None, "empty", "wrong shape", "wrong shape", "not finite", "not finite", "not finite", None]
    assert errors[2]["message"] == "The row has 1 numbers; the network takes 2."


def test_a_sliced_column_of_arrays_is_read_from_its_own_rows() -> None:
    whole = pa.RecordBatch.from_pydict({"numbers": [[1.0, 1.0], [2.0, 2.0], None, [4.0, 4.0]]})
    table = pa.Table.from_batches(run(iter([whole.slice(1, 3)]), NUMBERS, OnnxSession(doubled(2))))
    assert table.column("features").to_pylist() == [[4, 4], None, [8, 8]]


def test_dense_and_sparse_vectors_are_inputs() -> None:
    type_ = pa.struct(
        [
            ("type", pa.int8()),
            ("size", pa.int32()),
            ("indices", pa.list_(pa.int32())),
            ("values", pa.list_(pa.float64())),
        ]
    )
    dense = {"type": 1, "size": None, "indices": None, "values": [1.0, 2.0]}
    sparse = {"type": 0, "size": 2, "indices": [1], "values": [5.0]}
    assert score_numbers(pa.array([dense, None], type_)).column("features").to_pylist() == [[2, 4], None]
    assert score_numbers(pa.array([dense, None, sparse], type_)).column("features").to_pylist() == [
        [2, 4],
        None,
        [0, 10],
    ]


def test_labels_probabilities_and_the_best_are_written() -> None:
    output = Classification(("cat", "dog"), "label", "p", probabilities="all", top_labels="top", k=5)
    table = score_numbers(pa.array([[0.0, 1.0], None, [3.0, 3.0]]), replace(NUMBERS, outputs=(output,)))
    p = float(np.float32(1 / (1 + np.exp(-2.0))))
    assert table.column("label").to_pylist() == ["dog", None, "cat"]
    assert table.column("p").to_pylist() == pytest.approx([p, None, 0.5])
    assert table.column("all").to_pylist()[0] == pytest.approx([1 - p, p])
    assert table.column("top").to_pylist()[1] is None
    first, second = table.column("top").to_pylist()[0]
    assert (first["label"], second["label"]) == ("dog", "cat")
    assert first["probability"] == pytest.approx(p)


@pytest.mark.parametrize(
    ("classes", "type_"), [((3, 7), pa.int64()), ((0.5, 1), pa.float64()), (("a", 1), pa.string())]
)
def test_labels_have_the_type_of_the_classes(classes: tuple[object, ...], type_: pa.DataType) -> None:
    output = Classification(classes, "label", "p")
    table = score_numbers(pa.array([[0.0, 1.0]]), replace(NUMBERS, outputs=(output,)))
    assert table.schema.field("label").type == type_


def test_regression_gives_a_number_or_several() -> None:
    one = replace(NUMBERS, outputs=(Regression("y"),))
    assert score_numbers(pa.array([[1.5, 9.0], None]), one).column("y").to_pylist() == [3.0, None]
    two = replace(NUMBERS, outputs=(Regression("y", targets=2),))
    assert score_numbers(pa.array([[1.5, 9.0]]), two).column("y").to_pylist() == [[3.0, 18.0]]
