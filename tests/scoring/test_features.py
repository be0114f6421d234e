import json
from pathlib import Path
from typing import Any

import pytest

from sparkwright.errors import ColumnError, ErrorRateError, ExistsError, ModelError, NotFoundError, StorageError
from sparkwright.events import Event, Progress
from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.feature_set import FeatureManifest, open_features
from sparkwright.scoring.features import featurize

from .photos import PREPROCESSING, answer, channel_means, means_network, photo_rows, png

Spark = Any


def other_network() -> OnnxNetwork:
    """The same graph cut one layer earlier: other features."""
    return means_network().cut("flat")


def features_of(found: Any) -> dict[str, Any]:
    return {row.path: row.features for row in found.rows.collect()}


def parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


@pytest.mark.connect
def test_features_are_written_with_all_columns_but_the_content(spark: Spark, tmp_path: Path) -> None:
    events: list[Event] = []
    out = str(tmp_path / "features")
    rows = photo_rows(spark, [*[png(red) for red in range(30)], b"text"])
    made = featurize(spark, rows, means_network(), out, emit=events.append)
    assert set(made.rows.columns) == {"path", "label", "sha256", "features", "error"}
    found = {row.path: row for row in made.rows.collect()}
    assert len(found) == 31
    assert [found[f"photo{n:05d}"].features for n in range(30)] == [answer(n).tolist() for n in range(30)]
    assert found["photo00030"].features is None
    assert found["photo00030"].error.kind == "unreadable"
    assert all(len(row.sha256) == 64 for row in found.values())
    manifest = made.manifest
    assert (manifest.rows, manifest.errors, made.computed, made.reused) == (31, 1, 31, 0)
    assert manifest.key == FeatureKey.of(means_network())
    assert manifest.preprocessing == PREPROCESSING.to_dict()
    assert open_features(spark, out).manifest == manifest
    last = {event.task: event for event in events if isinstance(event, Progress)}
    assert sum(event.done for event in last.values()) == 31
    assert sum(event.errors for event in last.values()) == 1


@pytest.mark.connect
def test_running_again_with_ten_new_photos_computes_ten(spark: Spark, tmp_path: Path) -> None:
    out = str(tmp_path / "features")
    contents = [png(red) for red in range(20)]
    featurize(spark, photo_rows(spark, contents), means_network(), out)
    again = featurize(spark, photo_rows(spark, contents + [png(100 + n) for n in range(10)]), means_network(), out)
    assert (again.computed, again.reused, again.manifest.rows) == (10, 20, 30)
    expected = {f"photo{n:05d}": answer(n if n < 20 else 80 + n).tolist() for n in range(30)}
    assert features_of(again) == expected
    assert again.rows.schema["features"].metadata == FeatureKey.of(means_network()).metadata()
    third = featurize(spark, photo_rows(spark, contents + [png(100 + n) for n in range(10)]), means_network(), out)
    assert (third.computed, third.reused) == (0, 30)
    assert features_of(third) == expected
    assert len(list((tmp_path / "features").glob("data-*"))) == 1


def test_reuse_follows_the_bytes_not_the_name_and_doubles_no_row(spark: Spark, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    # The same photo under several names, in both sets.
    featurize(spark, photo_rows(spark, [png(1), png(1), png(2), png(3)]), means_network(), first)
    made = featurize(
        spark, photo_rows(spark, [png(3), png(9), png(1), png(1), None]), means_network(), second,
        reuse=[first], max_error_rate=0.5,
    )  # fmt: skip
    assert (made.computed, made.reused, made.manifest.rows, made.manifest.errors) == (2, 3, 5, 1)
    assert features_of(made) == {
        f"photo{n:05d}": None if red is None else answer(red).tolist() for n, red in enumerate([3, 9, 1, 1, None])
    }


def test_features_of_another_network_layer_or_preprocessing_are_not_reused(spark: Spark, tmp_path: Path) -> None:
    out = str(tmp_path / "features")
    rows = photo_rows(spark, [png(1)])
    featurize(spark, rows, means_network(), out)
    made = featurize(spark, rows, other_network(), str(tmp_path / "other"), reuse=[out])
    assert (made.computed, made.reused) == (1, 0)
    assert features_of(made) == {"photo00000": (answer(1) / 2).tolist()}


def test_other_features_are_overwritten_only_when_asked(spark: Spark, tmp_path: Path) -> None:
    out = str(tmp_path / "features")
    featurize(spark, photo_rows(spark, [png(1), png(2)]), means_network(), out)
    with pytest.raises(ExistsError, match=r"holds features of `means` at layer `output_0` .* Choose another folder"):
        featurize(spark, photo_rows(spark, [png(1), png(2)]), other_network(), out)
    with pytest.raises(ExistsError, match=r"features of 1 photos that are not among those given \(photo00001 …\)"):
        featurize(spark, photo_rows(spark, [png(1)]), means_network(), out)
    assert open_features(spark, out).manifest.rows == 2
    made = featurize(spark, photo_rows(spark, [png(1)]), other_network(), out, overwrite=True)
    assert features_of(made) == {"photo00000": (answer(1) / 2).tolist()}
    assert len(list((tmp_path / "features").glob("data-*"))) == 1


def test_a_folder_with_something_else_in_it_is_left_alone(spark: Spark, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExistsError, match=r"exists and holds no features, but notes.txt"):
        featurize(spark, photo_rows(spark, [png(1)]), means_network(), str(tmp_path))


def test_too_many_failures_commit_nothing_and_name_the_files(spark: Spark, tmp_path: Path) -> None:
    out = tmp_path / "features"
    contents = [png(1)] * 7 + [b"text", b"text too", None]
    with pytest.raises(ErrorRateError, match=r"3 of 10 rows failed, more than max_error_rate=0.05 allows") as caught:
        featurize(spark, photo_rows(spark, contents), means_network(), str(out))
    message = str(caught.value)
    assert "2 x unreadable: The image cannot be decoded" in message
    assert "(photo00007, photo00008)" in message
    assert "1 x empty: The row's content is null. (photo00009)" in message
    with pytest.raises(NotFoundError, match=r"No features at .*: it has no features.json"):
        open_features(spark, str(out))
    # What was computed before the limit was known to be passed is not computed again.
    made = featurize(spark, photo_rows(spark, contents), means_network(), str(out), max_error_rate=0.3)
    assert (made.manifest.errors, made.computed, made.reused) == (3, 3, 7)


def test_rows_that_failed_are_listed_with_path_kind_and_message(spark: Spark, tmp_path: Path) -> None:
    out = str(tmp_path / "features")
    contents = [*[png(1)] * 7, b"text", b"", None]
    made = featurize(spark, photo_rows(spark, contents), means_network(), out, max_error_rate=0.3)
    assert made.manifest.failed is not None
    failed = {row.path: row for row in made.failed.collect()}
    kinds = {path: row.kind for path, row in failed.items()}
    assert kinds == {"photo00007": "unreadable", "photo00008": "empty", "photo00009": "empty"}
    assert failed["photo00009"].message == "The row's content is null."
    assert set(made.failed.columns) == {"path", "sha256", "kind", "message"}
    again = featurize(spark, photo_rows(spark, [*[png(1)] * 7, png(2)]), means_network(), out, overwrite=True)
    assert again.failed is None
    assert not list(tmp_path.rglob("errors"))


def test_the_first_failed_row_can_stop_the_job_and_is_named(spark: Spark, tmp_path: Path) -> None:
    contents = [*[png(red) for red in range(20)], b"text", *[png(red) for red in range(20)]]
    with pytest.raises(ErrorRateError, match=r"The row with path photo00020 failed, .* failfast .*: unreadable: "):
        featurize(spark, photo_rows(spark, contents), means_network(), str(tmp_path / "features"), failfast=True)


def stopped(spark: Spark, rows: Any, network: OnnxNetwork, out: Path) -> Path:
    """Leave the folder of a job that was killed: no manifest, and the output where tasks have put it."""
    made = featurize(spark, rows, network, str(out), max_error_rate=1.0)
    data = out / made.manifest.data[0]
    task = data / "_temporary" / "0" / "task_202601010000_m_000000"
    task.mkdir(parents=True)
    for file in data.glob("part-*"):
        file.rename(task / file.name)
    (out / "features.json").unlink()
    return task


def test_what_a_stopped_job_has_written_is_not_computed_again(spark: Spark, tmp_path: Path) -> None:
    out = tmp_path / "features"
    contents = [*[png(red) for red in range(20)], b"text"]
    task = stopped(spark, photo_rows(spark, contents, partitions=3), means_network(), out)
    whole, attempt, cut = sorted(task.glob("part-*.parquet"))
    # A task that was stopped has closed one file, and not the next.
    under_way = out.joinpath(task.parents[1], "0", "_temporary", "attempt_202601010000_m_000001_0")
    under_way.mkdir(parents=True)
    attempt = attempt.rename(under_way / attempt.name)
    rows = sum(spark.read.parquet(str(file)).where("error IS NULL").count() for file in (whole, attempt))
    cut.write_bytes(cut.read_bytes()[:-7])
    (under_way / "part-00001-empty.parquet").touch()
    made = featurize(spark, photo_rows(spark, contents, partitions=2), means_network(), str(out))
    assert 0 < rows == made.reused < 20
    assert made.computed == 21 - rows
    assert features_of(made) == {
        f"photo{n:05d}": answer(n).tolist() if n < 20 else None for n in range(21)
    }  # fmt: skip
    assert [path.name for path in out.glob("data-*")] == [made.manifest.data[0].split("/")[0]]


def test_what_a_job_with_another_network_has_left_is_not_taken_over(spark: Spark, tmp_path: Path) -> None:
    out = tmp_path / "features"
    stopped(spark, photo_rows(spark, [png(1)]), other_network(), out)
    made = featurize(spark, photo_rows(spark, [png(1)]), means_network(), str(out))
    assert (made.computed, made.reused) == (1, 0)
    assert features_of(made) == {"photo00000": answer(1).tolist()}


def test_a_failed_update_leaves_what_was_there(spark: Spark, tmp_path: Path) -> None:
    out = str(tmp_path / "features")
    first = featurize(spark, photo_rows(spark, [png(1)]), means_network(), out)
    with pytest.raises(ErrorRateError, match="1 of 2 rows failed"):
        featurize(spark, photo_rows(spark, [png(1), b"text"]), means_network(), out)
    assert open_features(spark, out).manifest == first.manifest
    assert features_of(open_features(spark, out)) == {"photo00000": answer(1).tolist()}


def test_data_that_no_manifest_lists_is_not_read(spark: Spark, tmp_path: Path) -> None:
    out = tmp_path / "features"
    made = featurize(spark, photo_rows(spark, [png(1)]), means_network(), str(out))
    made.rows.write.parquet(str(out / "data-of-a-call-that-died"))
    assert open_features(spark, str(out)).rows.count() == 1
    # The next call that commits removes it.
    featurize(spark, photo_rows(spark, [png(1)]), means_network(), str(out))
    assert not (out / "data-of-a-call-that-died").exists()


def test_an_empty_frame_gives_an_empty_set(spark: Spark, tmp_path: Path) -> None:
    made = featurize(spark, photo_rows(spark, []), means_network(), str(tmp_path / "features"))
    assert made.manifest.rows == 0
    assert made.rows.collect() == []


def test_columns_in_the_way_and_missing_ones_are_named(spark: Spark, tmp_path: Path) -> None:
    rows = photo_rows(spark, [png(1)])
    with pytest.raises(ColumnError, match="Column `content` not found in"):
        featurize(spark, rows.drop("content"), means_network(), str(tmp_path / "features"))
    with pytest.raises(ColumnError, match="`sha256` is to be added, but is there already"):
        featurize(spark, rows.withColumnRenamed("label", "sha256"), means_network(), str(tmp_path / "features"))


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_computed(spark: Spark, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    events: list[Event] = []
    with pytest.raises(StorageError, match=r"file/features/.* cannot be written: Not a directory\. Let it be written"):
        featurize(
            spark, photo_rows(spark, [png(1)]), means_network(), str(tmp_path / "file" / "features"),
            emit=events.append,
        )  # fmt: skip
    assert events == []


def manifest() -> FeatureManifest:
    key = FeatureKey("net", "pool", 3, "ab" * 32)
    return FeatureManifest(key, None, ("data-1/computed",), 3, 0, 3, 0, "2026-01-01T00:00:00+00:00")


def test_a_manifest_survives_json() -> None:
    assert FeatureManifest.from_json(manifest().to_json(), "here") == manifest()


def test_a_damaged_or_newer_manifest_is_refused() -> None:
    with pytest.raises(ModelError, match=r"there/features.json is damaged .* Make the features again"):
        FeatureManifest.from_json(manifest().to_json()[:-20], "there/features.json")
    newer = json.dumps({**json.loads(manifest().to_json()), "format": 99}).encode()
    with pytest.raises(ModelError, match=r"is of format 99; sparkwright .* reads up to 2"):
        FeatureManifest.from_json(newer, "there/features.json")


def test_keys_differ_by_all_but_the_name() -> None:
    key = FeatureKey.of(means_network())
    renamed = OnnxNetwork.from_bytes("renamed", channel_means(), PREPROCESSING)
    assert FeatureKey.of(renamed).digest == key.digest
    assert FeatureKey.of(other_network()).digest != key.digest
    exact = means_network().with_preprocessing({**PREPROCESSING.to_dict(), "scale": 0.5})
    assert FeatureKey.of(exact).digest != key.digest
