"""P4, of evaluation: no row is lost or doubled, whatever the partitions and batches; the last short batch too."""

import pytest

from sparkwright.evaluation.evaluate import evaluate

CLASSES = ["cat", "dog"]


@pytest.mark.spark
@pytest.mark.parametrize(("partitions", "batch_rows"), [(1, 1000), (1, 7), (5, 3), (13, 1)])
def test_evaluation_counts_every_row_once(spark, partitions, batch_rows):
    rows = [(CLASSES[i % 2], [0.25, 0.75] if i % 3 else [0.75, 0.25]) for i in range(101)]
    frame = spark.createDataFrame(rows, "label string, probabilities array<float>").repartition(partitions)
    option = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(option)
    spark.conf.set(option, batch_rows)
    try:
        found = evaluate(frame, CLASSES)
    finally:
        spark.conf.set(option, before)
    assert (found["rows"], found["evaluated"], found["errors"], found["unlabelled"]) == (101, 101, 0, 0)
    cats_right, dogs_right = sum(i % 3 == 0 for i in range(0, 101, 2)), sum(i % 3 != 0 for i in range(1, 101, 2))
    assert [row["correct"] for row in found["per_class"]] == [cats_right, dogs_right]
    assert [row["rows"] for row in found["per_class"]] == [51, 50]
