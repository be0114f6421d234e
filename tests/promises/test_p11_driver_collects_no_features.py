"""P11: the driver never collects rows, features or predictions."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyspark.sql.classic.dataframe import DataFrame
from scoring.photos import pixels_network

from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.scoring.features import featurize

ROWS = 300


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
    featurize(spark, images, pixels_network(Preprocessing((32, 32))), out)
    made = featurize(
        spark, images.union(images.selectExpr("path || 'b'", "content")), pixels_network(Preprocessing((32, 32))), out
    )
    assert (made.computed, made.reused) == (0, 2 * ROWS)
    broken = images.selectExpr("path", "CAST(NULL AS binary) AS content")
    failed = featurize(
        spark, broken, pixels_network(Preprocessing((32, 32))), str(tmp_path / "failed"), max_error_rate=1.0
    )
    assert failed.manifest.errors == ROWS
    assert brought, "the counts come this way"
    assert max(brought) < 1000
