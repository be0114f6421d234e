"""Columns made of outputs, for every link and kind of model."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from sparkwright.errors import InputError
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.labels import choose, choose_labels, to_probabilities, to_values
from sparkwright.scoring.outputs import Classification, MultiLabel, Regression
from sparkwright.training.tasks.classification import sequential_logits

OUTPUTS = (np.random.default_rng(0).normal(size=(20, 3)) * 3).astype(np.float32)
FINE = np.zeros(20, bool)


def test_probabilities_are_those_that_the_training_saw() -> None:
    outputs = torch.from_numpy(OUTPUTS)
    for link, classes, expected in (
        ("softmax", 3, outputs.softmax(1)),
        ("sequential", 4, sequential_logits(outputs).softmax(1)),
        ("sigmoid", 3, outputs.sigmoid()),
    ):
        np.testing.assert_allclose(to_probabilities(OUTPUTS, link, classes), expected, rtol=1e-5, atol=1e-7)
    both = to_probabilities(OUTPUTS[:, :1], "sigmoid", 2)
    np.testing.assert_allclose(both[:, 1], outputs[:, 0].sigmoid(), rtol=1e-5)
    np.testing.assert_allclose(both.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("link", ["sigmoid", "sequential"])
def test_outputs_of_any_size_give_probabilities(link: str) -> None:
    extreme = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], np.float32)
    found = to_probabilities(extreme, link, 4 if link == "sequential" else 3)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_thresholds_decide() -> None:
    p = np.array([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]], np.float32)
    assert choose(p).tolist() == [0, 0, 1]
    assert choose(p, (0.2,)).tolist() == [1, 1, 1]
    assert choose_labels(p).tolist() == [[True, False], [True, True], [False, True]]
    assert choose_labels(p, (0.9, 0.2)).tolist() == [[False, True], [False, True], [False, True]]


def test_labels_of_a_row_are_an_array_and_failed_rows_are_null() -> None:
    output = MultiLabel(("a", "b", "c"), (0.5, 0.9, 0.5), "labels", "all", "top", k=2)
    outputs = np.array([[3, 1, -1], [9, 9, 9], [-1, -2, -3]], np.float32)
    labels, every, best = output.arrays(outputs, np.array([False, True, False]))
    assert [field.name for field in output.fields()] == ["labels", "all", "top"]
    assert labels.type == pa.list_(pa.field("element", pa.string(), False))
    assert labels.to_pylist() == [["a"], None, []]
    assert every.to_pylist()[1] is best.to_pylist()[1] is None
    assert [pair["label"] for pair in best.to_pylist()[0]] == ["a", "b"]


def test_the_probability_is_that_of_the_label_which_the_threshold_chose() -> None:
    output = Classification(("no", "yes"), "label", "p", link="sigmoid", thresholds=(0.1,))
    label, probability = output.arrays(np.array([[-1.0], [-9.0]], np.float32), FINE[:2])
    assert label.to_pylist() == ["yes", "no"]
    assert probability.to_pylist() == pytest.approx([1 / (1 + np.e), 1 / (1 + np.exp(-9))], rel=1e-5)


def test_counts_are_what_the_outputs_are_the_logarithms_of() -> None:
    (values,) = Regression("y", link="exp").arrays(np.array([[0.0], [2.0]], np.float32), FINE[:2])
    assert values.to_pylist() == pytest.approx([1, np.exp(2)])
    assert to_values(OUTPUTS, "identity") is OUTPUTS


@pytest.mark.parametrize(
    ("task", "classes", "thresholds"), [("multilabel", ("a", "b"), (0.5,)), ("classification", "abc", (0.5,))]
)
def test_a_model_takes_a_threshold_a_label_or_one_for_two_classes(
    task: str, classes: tuple[str, ...], thresholds: tuple[float, ...]
) -> None:
    with pytest.raises(InputError, match="one probability for each of several labels, or one for two classes; got 1"):
        Model(None, mlp(4, 3), task, tuple(classes), thresholds=thresholds)  # type: ignore[arg-type]
