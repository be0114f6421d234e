"""P16: rows of one group never sit on both sides of a split, if a group is named; duplicates are found and reported."""

import random

import pytest

from sparkwright.data.splits import find_duplicates, split, split_by_column


@pytest.mark.parametrize("method", ["stratified", "stable"])
def test_no_group_is_on_two_sides(spark, method):
    draw = random.Random(16)
    rows = [(f"{index}.jpg", f"class {draw.randrange(4)}", f"patient {draw.randrange(60)}") for index in range(600)]
    frame = spark.createDataFrame(rows, "key string, label string, patient string")
    divided = split(frame, group="patient", method=method, seed=1).select("patient", "split").distinct().collect()
    assert len(divided) == 60
    assert {row["split"] for row in divided} == {"train", "validation", "test"}


def test_validation_rows_taken_from_given_training_rows_divide_no_group_either(spark):
    rows = [(f"{index}", "ab"[index % 2], f"p{index % 20}", ("train", "test")[index % 20 > 14]) for index in range(200)]
    frame = spark.createDataFrame(rows, "key string, label string, patient string, side string")
    divided = split_by_column(frame, "side", group="patient").select("patient", "split").distinct().collect()
    assert len(divided) == 20
    assert {row["split"] for row in divided} == {"train", "validation", "test"}


def test_equal_photos_on_two_sides_are_reported(spark):
    rows = [("a.jpg", "5eed", "train"), ("copy of a.jpg", "5eed", "test"), ("b.jpg", "beef", "train")]
    found = find_duplicates(spark.createDataFrame(rows, "key string, sha256 string, split string"))
    assert found.across_sides == 1
    assert sorted(found.examples[0]) == ["a.jpg", "copy of a.jpg"]
