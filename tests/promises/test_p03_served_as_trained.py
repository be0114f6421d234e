"""P3: training and serving preprocess with the same code and get the same bytes."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scoring.photos import pixels_network

from sparkwright.models import Model
from sparkwright.networks.augmentation import PRESETS
from sparkwright.networks.mlp import mlp
from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.scoring.features import featurize
from sparkwright.scoring.featurizer import Featurizer
from sparkwright.scoring.model_transformer import predict
from sparkwright.scoring.predictor import Predictor
from sparkwright.training.rows.encoding import ENCODED
from sparkwright.training.rows.readers import ImageReader
from sparkwright.training.rows.store import Store

PREPROCESSING = Preprocessing((6, 5), short_side=7, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def pixels() -> OnnxNetwork:
    """What a photo became before any layer saw it."""
    return pixels_network(PREPROCESSING)


def photos() -> list[bytes]:
    """Photos of many kinds: JPEG with EXIF orientation, grey, CMYK, palette, alpha, 16 bit."""
    noise = np.random.default_rng(0).integers(0, 256, (23, 31, 4), np.uint8)
    colour = Image.fromarray(noise[:, :, :3])
    turned = Image.Exif()
    turned[0x0112] = 6
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colour, "PNG", {}),
        (colour, "JPEG", {"exif": turned}),
        (colour.convert("L"), "JPEG", {}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour.convert("P"), "GIF", {}),
        (Image.fromarray(noise), "PNG", {}),
        (Image.fromarray(noise[:, :, 0].astype(np.uint16) * 200), "PNG", {}),
    ]
    contents = []
    for image, format_, options in made:
        file = io.BytesIO()
        image.save(file, format_, **options)
        contents.append(file.getvalue())
    return contents


def rows(spark: Any) -> Any:
    return spark.createDataFrame([(str(n), photo) for n, photo in enumerate(photos())], "path string, content binary")


def vectors(frame: Any, column: str) -> np.ndarray:
    found = sorted(frame.collect(), key=lambda row: row.path)
    return np.array([row[column] for row in found], np.float32)


def test_every_way_through_the_library_gives_the_network_the_same_bytes(spark: Any, tmp_path: Path) -> None:
    expected = np.stack([PREPROCESSING.apply(photo).ravel() for photo in photos()])
    trained_on = featurize(spark, rows(spark), pixels(), str(tmp_path / "features")).rows
    assert vectors(trained_on, "features").tobytes() == expected.tobytes()
    served = Featurizer(network=pixels()).transform(rows(spark))
    assert vectors(served, "features").tobytes() == expected.tobytes()

    # A head that hands the pixels on: what the saved model sees, with Spark and without.
    head = mlp(90, 90).with_weights({"output.weight": np.eye(90, dtype=np.float32), "output.bias": np.zeros(90, "f4")})
    Model(pixels(), head, "regression").save(str(tmp_path / "model"))
    by_stage = vectors(predict(rows(spark), str(tmp_path / "model")), "prediction")
    alone = [answer.values for answer in Predictor.load(str(tmp_path / "model")).predict(photos())]
    assert by_stage.tobytes() == expected.tobytes()
    assert np.array(alone, np.float32).tobytes() == expected.tobytes()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_changes_no_byte(spark: Any, batch_size: int) -> None:
    expected = np.stack([PREPROCESSING.apply(photo).ravel() for photo in photos()])
    served = Featurizer(network=pixels(), batchSize=batch_size).transform(rows(spark))
    assert vectors(served, "features").tobytes() == expected.tobytes()


@pytest.mark.parametrize("memory_bytes", [1 << 20, 0], ids=["in memory", "in a file"])
def test_what_a_training_keeps_of_photos_becomes_the_bytes_that_scoring_gives_the_network(
    tmp_path: Path, memory_bytes: int
) -> None:
    reader = ImageReader(dataclasses.replace(PREPROCESSING, augmentation=PRESETS["photos"]))
    encoded = {name: pa.nulls(len(photos()), type_) for name, type_ in zip(ENCODED.names, ENCODED.types, strict=True)}
    places = {"worker": 0, "replica": 0, "side": 0, "weight": 1.0, "target": 0.0}
    encoded |= {name: pa.array([value] * len(photos()), ENCODED.field(name).type) for name, value in places.items()}
    encoded["features"] = pa.array(photos(), pa.binary())
    encoded["key"] = pa.array(range(len(photos())), pa.int64())
    store = Store(range(1), memory_bytes, tmp_path, reader)
    store.add(pa.record_batch(encoded, schema=ENCODED))
    kept = store.finish(0)[0]
    trained = reader.batch(kept.x.take(np.arange(len(photos()))), kept.key, None)
    assert np.array_equal(trained, np.stack([PREPROCESSING.apply(photo) for photo in photos()]))
