"""Rows that fail in stages and in predictions: listed, or the end of the job."""

from pathlib import Path
from typing import Any

import pytest

from sparkwright.errors import ErrorRateError, WorkerError
from sparkwright.scoring import predictions
from sparkwright.scoring.featurizer import Featurizer
from sparkwright.scoring.predictions import write_predictions

from .photos import means_network, photo_rows, png
from .test_model_transformer import photo_model

PHOTOS = [*[png(red) for red in range(20)], b"text", None]


@pytest.mark.connect
def test_predictions_list_the_rows_that_failed_beside_them(spark: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "predictions")
    assert write_predictions(photo_rows(spark, PHOTOS), photo_model(), out, max_error_rate=0.2) == (22, 2)
    assert spark.read.parquet(out).count() == 22
    failed = spark.read.parquet(f"{out}/_errors")
    assert failed.columns == ["path", "sha256", "kind", "message"]
    assert sorted((row.path, row.kind) for row in failed.collect()) == [
        ("photo00020", "unreadable"),
        ("photo00021", "empty"),
    ]
    write_predictions(photo_rows(spark, PHOTOS[:20]), photo_model(), out, overwrite=True)
    assert not (tmp_path / "predictions" / "_errors").exists()


def test_the_first_row_that_fails_ends_predictions_if_asked(spark: Any, tmp_path: Path) -> None:
    with pytest.raises(ErrorRateError, match=r"The row with path photo0002\d failed, .*: (unreadable|empty): "):
        write_predictions(photo_rows(spark, PHOTOS), photo_model(), str(tmp_path / "out"), failfast=True)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_ends_with_the_first_failed_row_or_keeps_them_all_and_is_saved_so(spark: Any, tmp_path: Path) -> None:
    stage = Featurizer(network=means_network(), mode="failfast")
    stage.write().overwrite().save(str(tmp_path / "stage"))
    stage = Featurizer.load(str(tmp_path / "stage"))
    assert stage.getMode() == "failfast"
    with pytest.raises(Exception, match=r"The row with path photo00020 failed, and in the mode failfast none may"):
        stage.transform(photo_rows(spark, PHOTOS[:21])).collect()
    assert len(stage.setMode("permissive").setMaxErrorRate(0.5).transform(photo_rows(spark, PHOTOS)).collect()) == 22
    with pytest.raises(TypeError, match=r"mode must be permissive or failfast; got 'fast'"):
        stage.setMode("fast")


def test_predictions_of_paths_that_a_stopped_call_has_left_are_not_made_again(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [str(tmp_path / f"{red}.png") for red in range(10)]
    for red, place in enumerate(places):
        Path(place).write_bytes(png(red))
    rows = spark.createDataFrame(list(enumerate(places)), "number int, path string")

    def stop(*_: object) -> None:
        raise WorkerError("stopped")

    out, known = str(tmp_path / "out"), rows.where("number < 9")
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "_check_rate", stop)
        with pytest.raises(WorkerError, match="stopped"):
            write_predictions(known, photo_model(), out, input_column="path")
    for place in places[:9]:
        Path(place).unlink()
    assert write_predictions(rows, photo_model(), out, input_column="path", resume=True) == (10, 0)
    written = spark.read.parquet(out)
    assert sorted((row.number, row.path) for row in written.collect()) == list(enumerate(places))
    assert "sha256" not in written.columns
    assert [path.name for path in tmp_path.iterdir() if path.name != "9.png"] == ["out"]
