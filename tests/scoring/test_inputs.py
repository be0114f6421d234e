"""Where photos come from, through Spark: bytes, paths, URLs and Spark's images give one and the same answer."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import functions as F  # noqa: N812

from sparkwright.errors import ErrorRateError
from sparkwright.scoring.features import featurize
from sparkwright.scoring.featurizer import Featurizer, graph_of
from sparkwright.scoring.frames import score_frame
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.outputs import Features
from sparkwright.scoring.predictions import write_predictions
from sparkwright.session import worker_errors

from .photo_server import PhotoServer, photo_server
from .photos import answer, means_network, photo_rows, png
from .test_model_transformer import photo_model

Spark = Any

LIMITS = FetchLimits(timeout_s=3, silence_timeout_s=0.5, retries=1, max_bytes=1 << 20, allow_private=True)


@pytest.fixture
def server() -> Iterator[PhotoServer]:
    with photo_server() as server:
        yield server


def collect(rows: Any, by: str = "path") -> list[Any]:
    with worker_errors():
        return sorted(rows.collect(), key=lambda row: row[by])


@pytest.mark.connect
def test_good_and_broken_urls_and_paths_of_one_column_all_keep_their_rows(
    spark: Spark, server: PhotoServer, tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_bytes(png(5))
    (tmp_path / "text.png").write_bytes(b"text")
    good = {f"{server.url}/photo/{red}": red for red in range(100)}
    good |= {f"{tmp_path}/x.png": 5, f"file:{tmp_path}/x.png": 5, f"{server.url}/busy/503/1": 7}
    bad = {
        f"{tmp_path}/none.png": "not found",
        f"{tmp_path}/text.png": "unreadable",
        f"{server.url}/status/404": "not found",
        f"{server.url}/status/500": "network failure",
        f"{server.url}/break-off": "network failure",
        f"{server.url}/round": "network failure",
        f"{server.url}/stall": "timeout",
        f"{server.url}/drip": "timeout",
        f"{server.url}/announce/5368709120": "too large",
        f"{server.url}/typed/text/html": "wrong type",
        f"{server.url}/to/file:///etc/passwd": "not allowed",
        f"{server.url}/zeros/1000": "unreadable",
        "ftp://127.0.0.1/x": "unsupported",
    }
    locations = [*good, *bad]
    rows = spark.createDataFrame([(n, location) for n, location in enumerate(locations)], "n int, url string")
    scored = score_frame(
        rows.repartition(3),
        graph_of(means_network()),
        [Features("features")],
        input_column="url",
        digest_column="sha256",
        max_error_rate=0.5,
        fetch=LIMITS,
    )
    found = collect(scored, "n")
    assert [row.url for row in found] == locations
    assert {row.url: row.error.kind for row in found if row.error} == bad
    for row, red in zip(found, good.values(), strict=False):
        assert row.features == answer(red).tolist()
        assert row.sha256 == hashlib.sha256(png(red)).hexdigest()


def test_private_addresses_are_refused_unless_the_stage_allows_them(spark: Spark, server: PhotoServer) -> None:
    rows = spark.createDataFrame([(f"{server.url}/photo/3",)], "url string")
    stage = Featurizer(network=means_network(), inputCol="url")
    assert collect(stage.transform(rows), "url")[0].error.kind == "not allowed"
    assert server.connections == 0
    stage.setFetchLimits(LIMITS)
    assert collect(stage.transform(rows), "url")[0].features == answer(3).tolist()
    many = rows.withColumn("n", F.explode(F.sequence(F.lit(1), F.lit(40)))).withColumn("url", F.lit("/no/file"))
    with pytest.raises(ErrorRateError, match="40 x not found: There is no file /no/file"):
        collect(stage.transform(many.coalesce(1)), "n")


def test_limits_are_saved_with_the_stage(spark: Spark, tmp_path: Path) -> None:
    assert Featurizer().getFetchLimits() == FetchLimits()
    stage = Featurizer(network=means_network(), fetchLimits=LIMITS)
    Pipeline(stages=[stage]).fit(photo_rows(spark, [png(1)])).write().overwrite().save(str(tmp_path / "stage"))
    loaded = PipelineModel.load(str(tmp_path / "stage")).stages[0]
    assert loaded.getFetchLimits() == LIMITS
    assert asdict(loaded.copy().getFetchLimits()) == asdict(LIMITS)
    with pytest.raises(TypeError, match="fetchLimits must be FetchLimits; got str"):
        Featurizer(fetchLimits="5 s")


@pytest.mark.connect
def test_sparks_own_images_give_what_the_same_photos_bytes_give(spark: Spark, tmp_path: Path) -> None:
    for red in range(5):
        (tmp_path / f"{red}.png").write_bytes(png(red, 2 * red, 3 * red))
    (tmp_path / "x.png").write_bytes(b"text")
    images = spark.read.format("image").option("dropInvalid", False).load(f"{tmp_path}/*.png")
    files = spark.read.format("binaryFile").load(f"{tmp_path}/*.png")
    stage = Featurizer(network=means_network(), maxErrorRate=1.0)
    name = F.regexp_extract("path", "[^/]*$", 0)
    from_bytes = collect(stage.transform(files).withColumn("path", name))
    from_paths = collect(stage.copy().setInputCol("path").transform(files.select("path")).withColumn("path", name))
    pixels = stage.copy().setInputCol("image").transform(images).withColumn("path", F.col("image.origin"))
    from_pixels = collect(pixels.withColumn("path", name))
    assert [row.path for row in from_bytes] == [*(f"{red}.png" for red in range(5)), "x.png"]
    for found in (from_bytes, from_paths, from_pixels):
        features = [row.features for row in found[:5]]
        assert np.array_equal(features, [answer(red, 2 * red, 3 * red) for red in range(5)])
        assert found[5].error.kind == "unreadable"


def test_features_and_predictions_of_urls_are_written_beside_the_urls(
    spark: Spark, server: PhotoServer, tmp_path: Path
) -> None:
    urls = [f"{server.url}/photo/{red}" for red in range(4)] + [f"{server.url}/status/404", None]
    rows = spark.createDataFrame([(url,) for url in urls], "url string")
    with pytest.raises(ErrorRateError, match=r"2 of 6 rows failed.*\n  1 x empty: The path or URL is null\. \(null\)"):
        featurize(spark, rows, means_network(), str(tmp_path / "no"), input_column="url", fetch=LIMITS)
    out = str(tmp_path / "features")
    features = featurize(spark, rows, means_network(), out, input_column="url", fetch=LIMITS, max_error_rate=0.5)
    assert (features.manifest.rows, features.manifest.errors, features.manifest.computed) == (6, 2, 6)
    assert features.rows.columns == ["url", "features", "sha256", "error"]
    found = collect(features.rows.where("error IS NULL"), "url")
    assert [row.features for row in found] == [answer(red).tolist() for red in range(4)]
    assert [row.sha256 for row in found] == [hashlib.sha256(png(red)).hexdigest() for red in range(4)]

    counts = write_predictions(
        rows, photo_model(), str(tmp_path / "out.csv"), input_column="url", fetch=LIMITS, max_error_rate=0.5
    )
    assert counts == (6, 2)
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "url,prediction,probability,error"
    assert len(lines) == 7
    assert f"{server.url}/status/404,,,not found: 127.0.0.1: HTTP 404 Not Found." in lines
