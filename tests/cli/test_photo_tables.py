"""Tables of URLs and paths on the command line; reduced precision."""

import csv
import json

import numpy as np
import pytest
from scoring.photo_server import photo_server

from sparkwright.scoring.feature_set import open_features


def write_csv(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_predict_labels_the_photos_behind_the_urls_of_a_table(sparkwright, photos, done, tmp_path):
    with photo_server(folder=photos) as server:
        urls = [f"{server.url}/file/{path.relative_to(photos)}" for path in sorted(photos.glob("*/*.png"))[::50]]
        table = write_csv(tmp_path / "links.csv", ("id", "url"), *enumerate(urls), (99, f"{server.url}/status/404"))
        words = ("predict", done, table, "--max-error-rate", "0.5")
        code, out, _ = sparkwright(*words, "--out", tmp_path / "labels.csv", "--allow-private", "--json")
        assert (code, json.loads(out)["rows"], json.loads(out)["errors"]) == (0, len(urls) + 1, 1)
        code, out, _ = sparkwright(*words, "--allow-private")
        assert code == 0
        assert f"{urls[0]}  5 " in out
        code, _, err = sparkwright(*words, "--out", tmp_path / "refused")
        assert code == 1
        assert "not allowed" in err
    with (tmp_path / "labels.csv").open() as file:
        labels = {row["url"]: row for row in csv.DictReader(file)}
    right = [url.split("/")[-2] == labels[url]["prediction"] for url in urls]
    assert np.mean(right) > 0.8
    assert labels[f"{server.url}/status/404"]["error"].startswith("not found")


def test_featurize_keeps_the_columns_of_a_table_of_paths_and_train_takes_them(sparkwright, spark, photos, tmp_path):
    paths = sorted(photos.glob("*/*.png"))[::4]
    sides = ("train", "train", "train", "validation", "test")
    rows = [(str(path), path.parent.name, sides[number % 5]) for number, path in enumerate(paths)]
    spark.createDataFrame(rows, "path string, label string, split string").write.parquet(str(tmp_path / "t.parquet"))
    words = ("featurize", tmp_path / "t.parquet", "--network", "digits_cnn", "--out", tmp_path / "features", "--json")
    code, out, _ = sparkwright(*words)
    assert (code, json.loads(out)["rows"]) == (0, len(paths))
    found = open_features(spark, str(tmp_path / "features")).rows
    assert set(found.columns) == {"path", "label", "split", "features", "sha256", "error"}
    assert found.where("features IS NOT NULL").count() == len(paths)
    code, _, err = sparkwright(*words, "--labels", "folder")
    assert code == 2
    assert "Leave out --labels" in err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("id", "link"), (1, "x")], "has a column `content` (bytes), `url` or `path`"),
        ([("id", "url")], "has no rows"),
    ],
)
def test_a_table_without_photos_is_refused(sparkwright, done, tmp_path, rows, message):
    code, _, err = sparkwright("predict", done, write_csv(tmp_path / "table.csv", *rows))
    assert code == 2
    assert message in err


def test_reduced_precision_is_asked_for_and_measured(sparkwright, spark, photos, done, tmp_path):
    words = ("featurize", photos, "--network", "digits_cnn", "--out", tmp_path / "features", "--precision", "int8")
    code, out, _ = sparkwright(*words, "--json")
    assert code == 0
    assert json.loads(out)["precision"]["agreement"] > 0.98
    assert open_features(spark, str(tmp_path / "features")).manifest.key.precision == "int8"
    code, _, err = sparkwright("predict", done, photos, "--out", tmp_path / "x", "--precision", "int9")
    assert code == 2
    assert "Did you mean `int8`?" in err
    words = ("predict", done, photos, "--out", tmp_path / "x", "--precision", "int8", "--min-agreement", "1.0")
    code, _, err = sparkwright(*words)
    assert code == 2 or (tmp_path / "x").exists()  # refused, unless they do agree on all photos
    assert code == 0 or "less than the threshold 1" in err
