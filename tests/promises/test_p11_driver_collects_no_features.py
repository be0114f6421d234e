"""P11: the driver never collects rows, features or predictions."""

import io
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from PIL import Image
from pyspark.sql.classic.dataframe import DataFrame

from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.scoring.features import featurize

ROWS = 300


def wide_network() -> OnnxNetwork:
    """As many features as there are pixels: 3,072 a row."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["output"])],
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3072])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return OnnxNetwork.from_bytes("wide", model.SerializeToString(), Preprocessing((32, 32)))


def photo(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (number % 256, number // 256, 0)).save(file, "PNG")
    return file.getvalue()


def test_featurize_brings_counts_alone_to_the_driver(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[int] = []
    for name in ("collect", "toArrow", "toPandas", "toLocalIterator", "head", "take", "first", "tail"):
        original = getattr(DataFrame, name)

        def watched(self: DataFrame, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            result = _original(self, *args, **kwargs)
            brought.append(len(str(result)))
            return result

        monkeypatch.setattr(DataFrame, name, watched)
    images = spark.createDataFrame([(str(n), photo(n)) for n in range(ROWS)], "path string, content binary")
    out = str(tmp_path / "features")
    featurize(spark, images, wide_network(), out)
    made = featurize(spark, images.union(images.selectExpr("path || 'b'", "content")), wide_network(), out)
    assert (made.computed, made.reused) == (0, 2 * ROWS)
    broken = images.selectExpr("path", "CAST(NULL AS binary) AS content")
    failed = featurize(spark, broken, wide_network(), str(tmp_path / "failed"), max_error_rate=1.0)
    assert failed.manifest.errors == ROWS
    assert brought, "the counts come this way"
    assert max(brought) < 1000
