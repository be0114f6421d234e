"""P5: a bad photo neither kills the job nor vanishes: its row stays, with an error (kind, message)."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparkwright.data.images import read_images
from sparkwright.errors import ErrorRateError
from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.scoring.features import featurize


def small_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def huge_png() -> bytes:
    """30,000 x 30,000 pixels in its header; a decoder that believes it needs 2.7 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


BAD = {
    "truncated.jpg": (small_jpeg()[:600], "unreadable"),
    "text.jpg": (b"this is text", "unreadable"),
    "zero bytes.jpg": (b"", "empty"),
    "huge.png": (huge_png(), "too large"),
}
GOOD = ["plain.jpg", "with space.jpg", 'with "quote".jpg', "with 100%.jpg", "größe-日本.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos" / "class one"
    photos.mkdir(parents=True)
    for name in GOOD:
        (photos / name).write_bytes(small_jpeg())
    for name, (content, _) in BAD.items():
        (photos / name).write_bytes(content)
    return photos.parent


def test_bad_photos_keep_their_rows_with_kind_and_message(
    spark: Any, folder: Path, pooled: OnnxNetwork, tmp_path: Path
) -> None:
    images = read_images(spark, str(folder), labels="folder").rows
    made = featurize(spark, images, pooled, str(tmp_path / "features"), max_error_rate=0.5)
    found = {row.key.rpartition("/")[2]: row for row in made.rows.collect()}
    assert len(found) == len(GOOD) + len(BAD) == made.manifest.rows
    assert made.manifest.errors == len(BAD)
    for name in GOOD:
        assert len(found[name].features) == 3
        assert found[name].error is None
    for name, (_, kind) in BAD.items():
        assert found[name].features is None
        assert found[name].error.kind == kind
        assert len(found[name].error.message) > 10
        assert found[name].label == "class one"
    assert made.failed is not None
    listed = {row.key.rpartition("/")[2]: row.kind for row in made.failed.collect()}
    assert listed == {name: kind for name, (_, kind) in BAD.items()}


def test_too_many_bad_photos_stop_the_job_before_it_commits_and_are_named(
    spark: Any, folder: Path, pooled: OnnxNetwork, tmp_path: Path
) -> None:
    images = read_images(spark, str(folder), labels="folder").rows
    with pytest.raises(ErrorRateError, match="4 of 9 rows failed") as caught:
        featurize(spark, images, pooled, str(tmp_path / "features"))
    for name in ("truncated.jpg", "huge.png"):
        assert name in str(caught.value)
    assert not (tmp_path / "features" / "features.json").exists()


@pytest.fixture
def pooled() -> OnnxNetwork:
    """The mean of each channel."""
    from onnx import TensorProto, helper

    from sparkwright.networks.preprocessing import Preprocessing

    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["input"], ["mean"]), helper.make_node("Flatten", ["mean"], ["output"])],
        "pooled",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return OnnxNetwork.from_bytes("pooled", model.SerializeToString(), Preprocessing((16, 16)))
