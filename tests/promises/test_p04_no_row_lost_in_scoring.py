"""P4: no row is lost, doubled or stale in scoring; the last short batch too."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scoring.photos import pixels_network

from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.scoring.features import featurize
from sparkwright.scoring.featurizer import Featurizer

ROWS = 333


def network() -> OnnxNetwork:
    """Hands the colour of one pixel on."""
    return pixels_network(Preprocessing((1, 1), resize="exact", scale=1.0))


def colour(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 7


def photo(number: int) -> bytes | None:
    """A photo that says its own number; every 50th is broken."""
    if number % 50 == 49:
        return b"broken"
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour(number)).save(file, "PNG")
    return file.getvalue()


def frame(spark: Any, partitions: int) -> Any:
    rows = [(number, photo(number)) for number in range(ROWS)]
    return spark.createDataFrame(rows, "number long, content binary").repartition(partitions)


def check(found: list[Any]) -> None:
    assert sorted(row.number for row in found) == list(range(ROWS))
    for row in found:
        if row.number % 50 == 49:
            assert row.features is None
            assert row.error.kind == "unreadable"
        else:
            assert np.array_equal(row.features, colour(row.number))
            assert row.error is None


@pytest.mark.parametrize(("partitions", "batch_size"), [(1, 8), (7, 5), (40, 8), (2, 1000)])
def test_every_row_has_exactly_one_answer_and_it_is_its_own(spark: Any, partitions: int, batch_size: int) -> None:
    featurizer = Featurizer(network=network(), batchSize=batch_size, maxErrorRate=0.5)
    check(featurizer.transform(frame(spark, partitions)).collect())


def test_rows_taken_over_and_rows_computed_are_all_rows(spark: Any, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    half = frame(spark, 3).where("number < 150")
    featurize(spark, half, network(), first, max_error_rate=0.5)
    made = featurize(spark, frame(spark, 3), network(), second, reuse=[first], max_error_rate=0.5)
    assert (made.computed, made.reused) == (ROWS - 147, 147)
    check(made.rows.collect())
