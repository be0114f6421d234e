import hashlib
import random
from collections import Counter

import pytest

from sparkwright.data.cuts import allocate
from sparkwright.data.splits import (
    find_duplicates,
    split,
    split_by_column,
    split_by_folder,
    split_by_table,
    split_counts,
)
from sparkwright.errors import ColumnError, InputError
from sparkwright.events import Event, Warned


def rows_of(spark, classes: dict[str | None, int], partitions: int = 3):
    rows = [(f"{name}/{index}.jpg", name) for name, number in classes.items() for index in range(number)]
    random.Random(1).shuffle(rows)
    return spark.createDataFrame(rows, "key string, label string").repartition(partitions)


def sides(rows) -> dict[str, str]:
    return {row["key"]: row["split"] for row in rows.select("key", "split").collect()}


def test_allocate_gives_exact_fractions_by_largest_remainders():
    assert allocate(31, (0.6, 0.2, 0.2)) == [19, 6, 6]
    assert allocate(10, (0.6, 0.2, 0.2)) == [6, 2, 2]
    assert allocate(3, (1 / 3, 1 / 3, 1 / 3)) == [1, 1, 1]
    assert allocate(2, (0.6, 0.2, 0.2)) == [1, 1, 0]
    assert allocate(1, (0.2, 0.4, 0.4)) == [1, 0, 0]
    assert allocate(0, (0.6, 0.2, 0.2)) == [0, 0, 0]
    for rows in range(200):
        assert sum(allocate(rows, (0.7, 0.2, 0.1))) == rows


@pytest.mark.connect
def test_each_class_is_cut_at_exact_fractions(spark):
    counts = split_counts(split(rows_of(spark, {"a": 50, "b": 31, "c": 7}), (0.6, 0.2, 0.2)))
    assert counts == {
        "train": {"a": 30, "b": 19, "c": 4},
        "validation": {"a": 10, "b": 6, "c": 2},
        "test": {"a": 10, "b": 6, "c": 1},
    }
    assert list(counts) == ["train", "validation", "test"]


def test_a_class_is_ranked_by_the_hash_of_seed_and_key(spark):
    found = sides(split(rows_of(spark, {"a": 10, "b": 10}), (0.5, 0.2, 0.3), seed=7))
    ranked = sorted(
        (f"a/{index}.jpg" for index in range(10)), key=lambda k: hashlib.sha256(f"7:{k}".encode()).hexdigest()
    )
    assert [found[key] for key in ranked] == ["train"] * 5 + ["validation"] * 2 + ["test"] * 3


def test_the_split_depends_on_neither_order_nor_partitions(spark):
    classes = {"a": 40, "b": 25}
    once = sides(split(rows_of(spark, classes, 1), seed=3))
    assert sides(split(rows_of(spark, classes, 7).orderBy("key"), seed=3)) == once
    assert sides(split(rows_of(spark, classes), seed=4)) != once


def test_a_fixed_number_of_each_class(spark):
    rows = rows_of(spark, {"a": 31, "b": 12})
    seen: list[Event] = []
    counts = split_counts(split(rows, per_class=(15, 5, None), emit=seen.append))
    assert counts == {"train": {"a": 15, "b": 12}, "validation": {"a": 5}, "test": {"a": 11}}
    assert [event.message for event in seen if isinstance(event, Warned)] == [
        "1 of 2 classes have too few rows for the validation side: b",
        "1 of 2 classes have too few rows for the test side: b",
    ]
    counts = split_counts(split(rows, per_class=(5, 2, 3)))
    assert counts["test"] == {"a": 3, "b": 3}
    assert counts[None] == {"a": 21, "b": 2}


def test_the_stable_method_moves_no_row_when_others_come(spark):
    few = sides(split(rows_of(spark, {"a": 100, "b": 100}), method="stable"))
    more = sides(split(rows_of(spark, {"a": 200, "b": 150, "c": 30}), method="stable"))
    assert all(more[key] == side for key, side in few.items())
    assert 0.5 < Counter(more.values())["train"] / len(more) < 0.7


def test_the_stable_method_leaves_a_side_of_fraction_zero_empty(spark):
    found = sides(split(rows_of(spark, {"a": 300}), (0.8, 0.2, 0.0), method="stable", label=None))
    assert set(found.values()) == {"train", "validation"}


def test_groups_in_one_class_each_are_cut_class_by_class(spark):
    rows = [(f"{name}{g}_{i}", name, f"{name}{g}") for name in "ab" for g in range(20) for i in range(1 + g % 5)]
    frame = spark.createDataFrame(rows, "key string, label string, patient string")
    divided = split(frame, group="patient").collect()
    by_patient: dict[str, set[str]] = {}
    for row in divided:
        by_patient.setdefault(row["patient"], set()).add(row["split"])
    assert all(len(found) == 1 for found in by_patient.values())
    for name in "ab":
        counts = Counter(row["split"] for row in divided if row["label"] == name)
        assert abs(counts["train"] - 36) <= 5
        assert abs(counts["validation"] - 12) <= 5
        assert sum(counts.values()) == 60


def test_groups_over_several_classes_never_straddle_either(spark):
    rows = [(f"{g}_{i}", "ab"[i % 2], f"g{g}") for g in range(50) for i in range(4)] + [("alone", "a", None)]
    frame = spark.createDataFrame(rows, "key string, label string, patient string")
    divided = split(frame, group="patient").collect()
    assert len({(row["patient"], row["split"]) for row in divided}) == 51
    assert abs(Counter(row["split"] for row in divided)["train"] - 120) <= 4
    with pytest.raises(InputError, match="needs groups that lie in one class each"):
        split(frame, per_class=(3, 1, None), group="patient")


def test_rows_without_a_label_are_divided_too_and_none_is_lost(spark):
    counts = split_counts(split(rows_of(spark, {"a": 10, "b": 10, None: 10})))
    assert counts["train"] == {"a": 6, "b": 6, None: 6}
    assert sum(sum(side.values()) for side in counts.values()) == 30


def test_a_class_with_one_photo_goes_to_train_with_a_warning(spark):
    seen: list[Event] = []
    counts = split_counts(split(rows_of(spark, {"a": 10, "b": 1}), emit=seen.append))
    assert counts["train"]["b"] == 1
    assert Warned("1 of 2 classes have too few rows for the test side: b") in seen


def test_one_class_only_is_an_error(spark):
    with pytest.raises(InputError, match="All labelled rows are of one class, 'a'; a classifier needs two"):
        split(rows_of(spark, {"a": 10}))
    assert len(split_counts(split(rows_of(spark, {"a": 10}), label=None))) == 3


def test_no_rows_are_an_error(spark):
    with pytest.raises(InputError, match="no rows to divide"):
        split(spark.createDataFrame([], "key string, label string"))


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.3), (0.5, 0.5), (1.2, -0.2, 0.0), (0.0, 0.5, 0.5)])
def test_fractions_that_cannot_be_are_an_error(spark, fractions):
    with pytest.raises(InputError, match=r"three numbers .* add up to 1, .*sum "):
        split(rows_of(spark, {"a": 2, "b": 2}), fractions)


def test_other_wrong_arguments_are_errors(spark):
    rows = rows_of(spark, {"a": 2, "b": 2})
    with pytest.raises(InputError, match="three whole numbers"):
        split(rows, per_class=(0, 1, 1))
    with pytest.raises(InputError, match="must be `stratified` or `stable`"):
        split(rows, method="random")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs the method `stratified`"):
        split(rows, per_class=(1, 1, None), method="stable")
    with pytest.raises(ColumnError, match=r"Column `lable` not found in \['key', 'label'\]. Did you mean `label`"):
        split(rows, label="lable")


def test_the_folders_above_the_classes_can_be_the_sides(spark):
    keys = [f"{side}/{name}/{i}.jpg" for side in ("train", "Val", "test") for name in "ab" for i in range(5)]
    frame = spark.createDataFrame([(key, key.split("/")[1]) for key in keys], "key string, label string")
    assert split_counts(split_by_folder(frame)) == {
        "train": {"a": 5, "b": 5},
        "validation": {"a": 5, "b": 5},
        "test": {"a": 5, "b": 5},
    }


def test_without_a_validation_folder_training_rows_validate(spark):
    keys = [f"data/{side}/{name}/{i}.jpg" for side in ("train", "test") for name in "ab" for i in range(10)]
    frame = spark.createDataFrame([(key, key.split("/")[2]) for key in keys], "key string, label string")
    divided = split_by_folder(frame, validation_fraction=0.2, seed=1)
    assert split_counts(divided) == {
        "train": {"a": 8, "b": 8},
        "validation": {"a": 2, "b": 2},
        "test": {"a": 10, "b": 10},
    }
    assert divided.columns == ["key", "label", "split"]


def test_a_row_outside_of_the_folders_is_an_error(spark):
    frame = spark.createDataFrame([("train/a/1.jpg", "a"), ("b/2.jpg", "b")], "key string, label string")
    with pytest.raises(InputError, match=r"1 rows lie in no folder named train.*'b/2\.jpg'"):
        split_by_folder(frame)
    frame = spark.createDataFrame([("test/a/1.jpg", "a"), ("val/b/2.jpg", "b")], "key string, label string")
    with pytest.raises(InputError, match=r"No row is on the train side; the sides found: \['test', 'validation'\]"):
        split_by_folder(frame)


@pytest.mark.connect
def test_a_table_can_name_the_sides_and_what_it_leaves_out_is_counted(spark, tmp_path):
    rows = [(f"file:/d/{name}/{i}.jpg", f"{name}/{i}.jpg", name) for name in "ab" for i in range(4)]
    frame = spark.createDataFrame(rows, "path string, key string, label string")
    table = tmp_path / "split.csv"
    lines = [f"{name}/{i}.jpg,{side}" for name in "ab" for i, side in enumerate(("train", "Valid", " test"))]
    table.write_text("\n".join(["path,split", *lines, "c/9.jpg,test"]))
    seen: list[Event] = []

    divided = split_by_table(frame, str(table), emit=seen.append)

    assert split_counts(divided) == {
        "train": {"a": 1, "b": 1},
        "validation": {"a": 1, "b": 1},
        "test": {"a": 1, "b": 1},
        None: {"a": 1, "b": 1},
    }
    assert [event.message for event in seen if isinstance(event, Warned)] == [
        "1 paths of the split table name no row: c/9.jpg",
        "2 rows are on no side; they are neither trained on nor evaluated.",
    ]


def test_a_side_that_is_none_says_which_it_may_be(spark):
    frame = spark.createDataFrame([("1", "a", "train"), ("2", "b", "tset")], "key string, label string, part string")
    with pytest.raises(InputError, match=r"must be train, validation or test, but `split` holds 'tset'.*mean `test`"):
        split_by_column(frame, "part")


@pytest.mark.connect
def test_equal_bytes_across_sides_are_found(spark):
    rows = [("1", "x", "train"), ("2", "x", "test"), ("3", "y", "train"), ("4", "y", "train"), ("5", "y", "train")]
    rows += [("6", "z", "test"), ("7", None, "test"), ("8", None, "train")]
    found = find_duplicates(spark.createDataFrame(rows, "key string, sha256 string, split string"))
    assert (found.count, found.across_sides) == (3, 1)
    assert set(found.examples[0]) == {"1", "2"}
    assert found.examples[1] == ("3", "5")


def test_no_photo_is_read_or_moved_to_divide(spark, tmp_path):
    from sparkwright.data.images import read_images

    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(5):
            with (tmp_path / name / f"{index}.jpg").open("wb") as file:
                file.truncate(2**29)  # reading ten of them would take a while and 5 GiB
    divided = split(read_images(spark, tmp_path, labels="folder").rows)
    assert split_counts(divided)["train"] == {"a": 3, "b": 3}
