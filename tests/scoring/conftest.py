"""A network small enough to check by hand: the mean of each channel, times two."""

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.scoring.graph import Graph

SIZE = (8, 8)
PREPROCESSING = Preprocessing(SIZE, resize="exact", scale=1.0)


def channel_means() -> bytes:
    """ONNX: (N, 3, 8, 8) → twice the mean of each channel, (N, 3)."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Add", ["flat", "flat"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, *SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
    )
    return _serialise(graph)


def doubled(width: int) -> bytes:
    """ONNX: (N, width) → twice that."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "input"], ["output"])],
        "doubled",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", width])],
    )
    return _serialise(graph)


def _serialise(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def png(red: int, green: int = 0, blue: int = 0, size: tuple[int, int] = (16, 12)) -> bytes:
    """A photo of one colour, lossless."""
    file = io.BytesIO()
    Image.new("RGB", size, (red, green, blue)).save(file, "PNG")
    return file.getvalue()


def answer(red: int, green: int = 0, blue: int = 0) -> np.ndarray:
    """What the network of `channel_means` says about such a photo."""
    return 2 * np.array([red, green, blue], np.float32)


@pytest.fixture
def means() -> Graph:
    return Graph("means", channel_means(), PREPROCESSING, (3, *SIZE), (3,))


@pytest.fixture
def means_file(tmp_path: Path) -> Path:
    path = tmp_path / "means.onnx"
    path.write_bytes(channel_means())
    return path
