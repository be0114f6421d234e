"""The evaluation as a Spark job."""

import json

import numpy as np
import pytest
import sklearn.metrics as sk

from sparkwright.errors import ColumnError, InputError
from sparkwright.evaluation.evaluate import evaluate, evaluate_regression, most_confidently_wrong

pytestmark = pytest.mark.spark

CLASSES = ("cat", "dog", "emu")
SCHEMA = "path string, label string, probabilities array<float>, error struct<kind:string,message:string>"


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    made = []
    for i in range(200):
        p = rng.dirichlet(np.ones(3)).astype(np.float32)
        made.append((f"{i:03d}.jpg", CLASSES[rng.integers(3)], [float(x) for x in p], None))
    made[7] = ("007.jpg", "cat", None, {"kind": "unreadable", "message": "cut short"})
    made[8] = ("008.jpg", None, [0.5, 0.25, 0.25], None)
    return made


@pytest.fixture(scope="module")
def frame(spark, rows):
    return spark.createDataFrame(rows, SCHEMA).cache()


@pytest.fixture(scope="module")
def expected(rows):
    kept = [row for row in rows if row[1] and row[2]]
    return [CLASSES.index(row[1]) for row in kept], np.array([row[2] for row in kept])


@pytest.mark.connect
def test_evaluate_equals_scikit_learn_and_counts_every_row(frame, expected):
    labels, probabilities = expected
    found = evaluate(frame, CLASSES, top_k=2)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, probabilities.argmax(1)), abs=1e-12)
    assert found["log_loss"] == pytest.approx(-np.log(probabilities[range(198), labels]).mean(), abs=1e-9)
    assert found["top_k_accuracy"] == pytest.approx(sk.top_k_accuracy_score(labels, probabilities, k=2), abs=1e-12)
    area = sk.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert found["roc_area"] == pytest.approx(area, abs=found["roc_area_bound"] + 1e-12)
    assert (found["rows"], found["evaluated"], found["errors"], found["unlabelled"]) == (200, 198, 1, 1)
    assert found["error_kinds"] == {"unreadable": 1}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["classes"] == list(CLASSES)


def test_evaluate_is_the_same_bit_for_bit_for_any_partitioning(frame):
    whole = evaluate(frame.coalesce(1), CLASSES)
    for other in (frame.repartition(7), frame.repartition(3, "label"), frame.orderBy("path", ascending=False)):
        assert evaluate(other, CLASSES) == whole


def test_evaluate_of_no_rows_gives_none(frame):
    found = evaluate(frame.where("false"), CLASSES)
    assert (found["rows"], found["evaluated"], found["accuracy"]) == (0, 0, None)


@pytest.mark.connect
def test_evaluate_takes_vectors_numbers_and_other_names(spark):
    from pyspark.ml.functions import array_to_vector

    raw = spark.createDataFrame([(0, [0.9, 0.1]), (1, [0.8, 0.2])], "`the class` int, p array<double>")
    found = evaluate(
        raw.withColumn("p", array_to_vector("p")), ["a", "b"], label="the class", probabilities="p", error=None
    )
    assert found["accuracy"] == 0.5
    assert found["per_class"][1]["recall"] == 0.0


def test_evaluate_refuses_a_missing_column_and_says_which_was_meant(frame):
    with pytest.raises(ColumnError, match=r"Column `lable` not found in .*Did you mean `label`\?"):
        evaluate(frame, CLASSES, label="lable")


def test_evaluate_refuses_columns_of_the_wrong_type(frame):
    with pytest.raises(ColumnError, match=r"Column `probabilities` must hold strings or numbers, and is array<float>"):
        evaluate(frame, CLASSES, label="probabilities")
    with pytest.raises(ColumnError, match=r"Column `label` must be array<float>, array<double> or a vector"):
        evaluate(frame, CLASSES, probabilities="label")
    with pytest.raises(ColumnError, match=r"Column `probabilities` must be a string or struct<kind,…>"):
        evaluate(frame, CLASSES, error="probabilities")


def test_evaluate_refuses_one_class_and_doubled_classes(frame):
    with pytest.raises(InputError, match=r"at least 2 classes, and got \['cat'\]"):
        evaluate(frame, ["cat"])
    with pytest.raises(InputError, match=r"named twice: \['cat'\]"):
        evaluate(frame, ["cat", "cat"])


@pytest.mark.connect
def test_evaluate_with_classes_of_another_model_brings_the_workers_error_to_the_driver(frame):
    with pytest.raises(InputError, match="A row has 3 probabilities, and there are 2 classes"):
        evaluate(frame, ["cat", "dog"])


@pytest.mark.connect
def test_evaluate_regression_equals_scikit_learn_for_any_partitioning(spark):
    rng = np.random.default_rng(1)
    labels = rng.normal(100, 5, 60)
    predictions = labels + rng.normal(0, 1, 60)
    rows = [(float(y), float(x), None) for y, x in zip(labels, predictions, strict=True)]
    frame = spark.createDataFrame(
        [*rows, (None, 1.0, None), (1.0, None, "late")], "label double, prediction double, error string"
    )
    for parts in (1, 5):
        found = evaluate_regression(frame.repartition(parts))
        assert found["r2"] == pytest.approx(sk.r2_score(labels, predictions), abs=1e-9)
        assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(labels, predictions), abs=1e-9)
        assert (found["rows"], found["evaluated"], found["unlabelled"]) == (62, 60, 1)
        assert found["error_kinds"] == {"late": 1}


def test_evaluate_regression_refuses_words(spark):
    frame = spark.createDataFrame([("a", 1.0)], "label string, prediction double")
    with pytest.raises(ColumnError, match="Column `label` must hold numbers, and is string"):
        evaluate_regression(frame)


def test_most_confidently_wrong_lists_wrong_rows_alone_the_surest_first(frame, rows):
    found = most_confidently_wrong(frame, CLASSES, 5)
    wrong = []
    for path, label, p, _ in rows:
        if label and p and CLASSES[int(np.argmax(p))] != label:
            wrong.append({"path": path, "label": label, "predicted": CLASSES[int(np.argmax(p))], "probability": max(p)})
    wrong.sort(key=lambda row: (-row["probability"], row["path"]))
    assert found == wrong[:5]
