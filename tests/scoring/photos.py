"""A network small enough to check by hand: the mean of each channel, times two."""

import io
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.networks.preprocessing import Preprocessing

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

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


def endless(limit: int) -> bytes:
    """ONNX: (N, 3, 8, 8) → the mean of each channel, (N, 3); never if one is above `limit`."""
    floats, flag = TensorProto.FLOAT, TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["again"], ["more"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", flag, []),
            helper.make_tensor_value_info("x", floats, None),
        ],
        [helper.make_tensor_value_info("more", flag, []), helper.make_tensor_value_info("y", floats, None)],
    )
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("ReduceMax", ["flat"], ["most"], keepdims=0),
        helper.make_node("Constant", [], ["limit"], value_float=float(limit)),
        helper.make_node("Greater", ["most", "limit"], ["bad"]),
        helper.make_node("Loop", ["", "bad", "flat"], ["output"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("input", floats, ["batch", 3, *SIZE])],
        [helper.make_tensor_value_info("output", floats, ["batch", 3])],
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


def means_network() -> OnnxNetwork:
    """The network of `channel_means`."""
    return OnnxNetwork.from_bytes("means", channel_means(), PREPROCESSING)


def pixels_network(preprocessing: Preprocessing, name: str = "pixels") -> OnnxNetwork:
    """A network whose features are its input: what a photo became before any layer saw it."""
    shape = preprocessing.shape
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["output"])],
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", prod(shape)])],
    )
    return OnnxNetwork.from_bytes(name, _serialise(graph), preprocessing)


def photo_rows(spark: "SparkSession", contents: Sequence[bytes | None], partitions: int = 2) -> "DataFrame":
    """A DataFrame of numbered photos: path, content, label."""
    rows = [(f"photo{number:05d}", content, f"class{number % 3}") for number, content in enumerate(contents)]
    return spark.createDataFrame(rows, "path string, content binary, label string").repartition(partitions)
