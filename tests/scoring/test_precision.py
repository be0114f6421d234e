"""Reduced precision: what it measures, what it refuses, where it goes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sparkwright.errors import ColumnError, InputError, PrecisionError
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.scoring import precision
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.precision import measure, quantise, reduce_precision

from .photos import means_network, photo_rows, png

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SMALL = {"width": 8}
RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def digits() -> TorchNetwork:
    """A dense network of photos' size whose export costs nothing."""
    network = mlp(3 * 8 * 8, 4, hidden=[32])
    return network.with_classes(["a", "b", "c", "d"])


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return RNG.normal(size=(96, 192)).astype(np.float32)


def test_a_quantised_network_is_a_graph_of_eight_bit_numbers_and_close_to_the_exact_one(
    digits: TorchNetwork, inputs: np.ndarray
) -> None:
    reduced = quantise(digits, inputs[:32])
    assert reduced.classes == digits.classes
    assert reduced.layer == "output.int8"
    assert len(reduced.to_onnx()) < 0.6 * len(digits.to_onnx())
    found = measure(digits, reduced, inputs[32:], False, "int8", 32)
    assert found.measure == "cosine"
    assert found.agreement > 0.995
    assert 0 < found.drift < 0.2
    assert (found.rows, found.calibrated) == (64, 32)
    assert measure(digits, digits, inputs, True, "int8", 0).agreement == 1.0


def test_a_networks_precision_is_part_of_its_fingerprint_and_of_the_features_key(digits: TorchNetwork) -> None:
    reduced = precision._bfloat16(digits)
    assert reduced.fingerprint() != digits.fingerprint()
    exact, key = FeatureKey.of(digits), FeatureKey.of(reduced)
    assert (exact.precision, key.precision) == ("float32", "bfloat16")
    assert key.engine.startswith("torch ")
    assert exact.engine.startswith("onnxruntime ")
    assert "bfloat16, torch" in str(key)
    assert FeatureKey.of(digits, "cuda").engine.endswith(" on cuda")


def test_a_saved_model_tells_its_precision(tmp_path: Path, inputs: np.ndarray) -> None:
    body = mlp(192, 16, hidden=[32])
    reduced = quantise(body, inputs[:32])
    found = measure(body, reduced, inputs[32:], False, "int8", 32)
    head = mlp(16, 4)
    model = Model(replace(reduced, precision=found), head, "classification", ("a", "b", "c", "d"))
    model.save(str(tmp_path / "model"))
    loaded = Model.load(str(tmp_path / "model"))
    assert loaded.network is not None
    assert loaded.network.precision == found
    assert np.array_equal(loaded.full.forward(inputs[:5]), model.full.forward(inputs[:5]))


def test_only_networks_of_photos_and_known_precisions_are_taken() -> None:
    with pytest.raises(InputError, match=r"precision must be one of int8, bfloat16; got 'int4'. Did you mean `int8`"):
        reduce_precision(means_network(), None, "int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Only networks that read photos"):
        reduce_precision(mlp(4, 2), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is an ONNX graph, and ONNX Runtime computes no bfloat16"):
        precision._bfloat16(means_network())


@pytest.mark.connect
def test_a_sample_is_the_same_however_the_photos_lie_and_too_few_are_refused(spark: "SparkSession") -> None:
    contents = [png(red, 255 - red, 3 * red % 256) for red in range(0, 200)] + [b"no photo", None]
    shape = means_network().preprocessing
    assert shape is not None
    few = precision.draw_sample(photo_rows(spark, contents, 5), shape)
    assert 190 <= len(few) <= 192
    assert np.array_equal(few, precision.draw_sample(photo_rows(spark, contents[::-1][::-1], 2), shape))
    with pytest.raises(InputError, match="at least 24 photos that can be read; found 3"):
        precision.draw_sample(photo_rows(spark, contents[:3]), shape)


def test_a_sample_of_paths_is_that_of_the_photos_that_lie_there(spark: "SparkSession", tmp_path: Path) -> None:
    contents = [png(red, 255 - red, 3 * red % 256) for red in range(0, 200, 8)]
    places = [str(tmp_path / f"{number}.png") for number in range(len(contents))]
    for place, content in zip(places, contents, strict=True):
        Path(place).write_bytes(content)
    rows = spark.createDataFrame(list(zip(places, contents, strict=True)), "path string, content binary")
    shape = means_network().preprocessing
    assert shape is not None
    found = precision.draw_sample(rows.select("path"), shape, "path")
    assert np.array_equal(found, precision.draw_sample(rows, shape))
    with pytest.raises(ColumnError, match="Column `x` must hold photos to draw a sample from; it holds numbers"):
        precision.draw_sample(spark.sql("SELECT array(1.0) AS x"), shape, "x")


def test_what_agrees_too_little_is_refused_with_the_figures(spark: "SparkSession") -> None:
    photos = photo_rows(spark, [png(red, 255 - red, 3 * red % 256) for red in range(0, 60)])
    reduced = reduce_precision(means_network(), photos, "int8")
    assert reduced.precision is not None
    assert reduced.precision.agreement > 0.99
    assert (reduced.precision.calibrated, reduced.precision.rows) == (20, 40)
    with pytest.raises(PrecisionError, match=r"in int8 agrees with float32 by \d\.\d+ \(mean cosine with 40 photos"):
        reduce_precision(means_network(), photos, "int8", threshold=1.01)
