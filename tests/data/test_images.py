import csv
import os
from pathlib import Path

import pytest
from PIL import Image

from sparkwright.data.images import Images, read_images
from sparkwright.errors import ColumnError, EnvironmentNotReadyError, InputError, NotFoundError

pytestmark = pytest.mark.connect(only=True)

ODD_NAMES = (
    *("a b.jpg", "50%.jpg", "%41.jpg", "ö'\".JPG", "[x]/y.jpg", "k=v/z.Png", "日本/é😀.jpeg", "{q}.jpg", "a#b,c?.jpg"),
    *("plus+.webp", "back\\slash.bmp"),
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of 4, 3 and 1 tiny real photos."""
    folder = tmp_path / "photos"
    for name, number in {"cat": 4, "dog": 3, "eel": 1}.items():
        (folder / name).mkdir(parents=True)
        for index in range(number):
            Image.new("RGB", (8, 8), (index * 20, 100, 0)).save(folder / name / f"{name}_{index}.png")
    return folder


def keys(images: Images) -> list[str]:
    return sorted(row["key"] for row in images.rows.select("key").collect())


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.mark.connect
def test_a_photo_becomes_a_row_with_path_key_content_and_label(spark, photos):
    images = read_images(spark, photos, labels="folder")

    assert images.rows.columns == ["path", "key", "content", "label"]
    assert images.classes == ("cat", "dog", "eel")
    assert images.counts == {"cat": 4, "dog": 3, "eel": 1}
    assert (images.files, images.unmatched, images.ignored) == (8, 0, 0)
    rows = {row["key"]: row for row in images.rows.collect()}
    assert len(rows) == 8
    row = rows["cat/cat_2.png"]
    assert row["path"] == f"file:{photos}/cat/cat_2.png"
    assert row["content"] == (photos / "cat" / "cat_2.png").read_bytes()
    assert row["label"] == "cat"
    assert images.size_bytes == sum(len(row["content"]) for row in rows.values())


def test_keys_stay_when_the_folder_moves(spark, photos, tmp_path):
    before = keys(read_images(spark, photos))
    photos.rename(tmp_path / "elsewhere")
    assert keys(read_images(spark, tmp_path / "elsewhere")) == before


@pytest.mark.connect
def test_names_with_odd_characters_are_read_as_they_are(spark, tmp_path):
    for name in ODD_NAMES:
        file = tmp_path / "odd [1] ü%20" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())

    images = read_images(spark, tmp_path / "odd [1] ü%20", labels="folder")

    rows = images.rows.collect()
    assert {row["key"]: bytes(row["content"]).decode() for row in rows} == {name: name for name in ODD_NAMES}
    assert images.classes == ("[x]", "k=v", "日本")
    assert images.unmatched == 8


def test_a_local_name_with_a_colon_is_an_error_that_names_it(spark, photos):
    (photos / "cat" / "10:30.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"colon in their names; rename file:/.*/cat/10:30\.png"):
        read_images(spark, photos)


def test_the_label_can_be_a_regular_expression_on_the_key(spark, photos):
    images = read_images(spark, photos, labels=r"(?P<animal>\w+)_(?P<label>[0-2])")
    assert images.counts == {"0": 3, "1": 2, "2": 2}
    assert images.unmatched == 1
    assert images.unmatched_examples == ("cat/cat_3.png",)
    assert images.rows.where("label IS NULL").count() == 1
    assert read_images(spark, photos, labels=r"/([cd])").classes == ("c", "d")


@pytest.mark.connect
def test_the_label_can_come_from_a_table_by_the_end_of_the_path(spark, photos, tmp_path):
    table = write_table(
        tmp_path / "labels.csv",
        ("path", "label"),
        [
            ("cat_0.png", "NA"),
            ("cat/cat_1.png", "ä, b"),
            (f"file:{photos}/cat/cat_2.png", "whole URI"),
            (f"{photos}/cat/cat_3.png", "whole path"),
            ("/cat_1.png", "no such path"),
            ("t_1.png", "half a name"),
            ("dog_0.png", ""),
        ],
    )

    images = read_images(spark, photos, labels=table)

    found = {row["key"]: row["label"] for row in images.rows.where("label IS NOT NULL").collect()}
    assert found == {
        "cat/cat_0.png": "NA",
        "cat/cat_1.png": "ä, b",
        "cat/cat_2.png": "whole URI",
        "cat/cat_3.png": "whole path",
    }
    assert images.unmatched == 4
    assert images.missing == 2
    assert images.missing_examples == ("/cat_1.png", "t_1.png")


@pytest.mark.connect
def test_a_table_can_be_parquet_or_a_data_frame(spark, photos, tmp_path):
    table = spark.createDataFrame([("cat_0.png", 3), ("dog_1.png", 4)], "path string, label int")
    table.write.parquet(str(tmp_path / "labels"))
    assert read_images(spark, photos, labels=str(tmp_path / "labels")).counts == {"3": 1, "4": 1}
    assert read_images(spark, photos, labels=f"file:{tmp_path}/labels").counts == {"3": 1, "4": 1}
    assert read_images(spark, photos, labels=table).counts == {"3": 1, "4": 1}


def test_a_path_in_a_table_that_fits_several_photos_is_an_error(spark, photos, tmp_path):
    (photos / "dog" / "cat_0.png").write_bytes(b"")
    table = write_table(tmp_path / "labels.csv", ("path", "label"), [("cat_0.png", "a"), ("cat_1.png", "b")])
    with pytest.raises(InputError, match=r"(?s)must fit one file only.*cat_0\.png fits 2 files: .*/cat/cat_0\.png"):
        read_images(spark, photos, labels=table)


def test_a_table_that_gives_a_photo_two_labels_is_an_error(spark, photos, tmp_path):
    table = write_table(tmp_path / "labels.csv", ("path", "label"), [("cat_0.png", "a"), ("cat/cat_0.png", "b")])
    with pytest.raises(InputError, match=r"(?s)one value only.*cat_0\.png: 'a' and 'b'"):
        read_images(spark, photos, labels=table)


def test_a_table_without_the_label_column_says_which_it_may_be(spark, photos, tmp_path):
    table = write_table(tmp_path / "labels.csv", ("path", "lable"), [("cat_0.png", "a")])
    with pytest.raises(ColumnError, match=r"Column `label` not found in \['path', 'lable'\] of .*Did you mean `lable`"):
        read_images(spark, photos, labels=table)


def test_a_table_that_is_none_is_an_error(spark, photos, tmp_path):
    (tmp_path / "labels.parquet").write_text("path,label")
    with pytest.raises(InputError, match="must be a CSV file"):
        read_images(spark, photos, labels=str(tmp_path / "labels.parquet"))


def test_the_group_has_the_same_rules_and_a_photo_without_one_is_its_own(spark, photos):
    images = read_images(spark, photos, labels="folder", group=r"_([01])\.")
    groups = {row["key"]: row["group"] for row in images.rows.drop("content").collect()}
    assert groups["cat/cat_0.png"] == groups["dog/dog_0.png"] == "0"
    assert groups["cat/cat_3.png"] == "cat/cat_3.png"
    assert images.ungrouped == 3


def test_other_files_are_counted_and_not_read(spark, photos):
    (photos / "cat" / "notes.txt").write_text("x")
    with (photos / "film.mp4").open("wb") as film:
        film.truncate(3 * 2**30)  # more than Spark can read
    images = read_images(spark, photos, labels="folder")
    assert (images.files, images.ignored) == (8, 2)
    assert images.ignored_examples == ("cat/notes.txt", "film.mp4")
    assert len(images.rows.collect()) == 8


def test_listing_reads_no_content_and_a_photo_too_large_keeps_its_row(spark, photos):
    with (photos / "dog" / "huge.png").open("wb") as huge:
        huge.truncate(3 * 2**30)
    images = read_images(spark, photos, labels="folder")
    assert (images.files, images.too_large) == (9, 1)
    rows = images.rows.collect()
    assert len(rows) == 9
    assert [row["key"] for row in rows if row["content"] is None] == ["dog/huge.png"]


def test_a_file_of_zero_bytes_keeps_its_row(spark, photos):
    for name in ("cat/zero 1%.png", "zero.txt"):
        (photos / name).write_bytes(b"")
    images = read_images(spark, photos, labels="folder")
    assert (images.files, images.empty, images.ignored) == (9, 1, 1)
    assert images.counts["cat"] == 5
    rows = {row["key"]: row for row in images.rows.collect()}
    assert len(rows) == 9
    assert (rows["cat/zero 1%.png"]["content"], rows["cat/zero 1%.png"]["label"]) == (b"", "cat")


def test_a_folder_of_nothing_but_files_of_zero_bytes_is_read(spark, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    images = read_images(spark, tmp_path)
    assert [(row["key"], row["content"]) for row in images.rows.collect()] == [("a.png", b"")]


def test_folders_below_can_be_left_out(spark, photos):
    Image.new("RGB", (8, 8)).save(photos / "top.png")
    assert keys(read_images(spark, photos, recursive=False)) == ["top.png"]
    assert len(keys(read_images(spark, photos))) == 9


def test_several_paths_and_globs_share_a_root_so_that_keys_stay_distinct(spark, photos):
    two = [photos / "cat", photos / "dog"]
    assert read_images(spark, two, labels="folder").counts == {"cat": 4, "dog": 3}
    assert read_images(spark, f"{photos}/*o*", labels="folder").counts == {"dog": 3}
    assert read_images(spark, f"{photos}/{{cat,eel}}/*_0.png", labels="folder").counts == {"cat": 1, "eel": 1}
    assert keys(read_images(spark, photos / "cat" / "cat_1.png")) == ["cat_1.png"]
    assert len(keys(read_images(spark, [photos, photos / "cat"]))) == 8


@pytest.mark.connect
def test_a_relative_path_is_relative_to_this_process(spark, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert read_images(spark, "photos", labels="folder").classes == ("cat", "dog", "eel")
    monkeypatch.chdir(photos)
    assert keys(read_images(spark, "."))[0] == "cat/cat_0.png"


def test_small_photos_share_partitions(spark, tmp_path):
    for index in range(200):
        (tmp_path / f"{index}.jpg").write_bytes(b"x" * 1000)
    images = read_images(spark, tmp_path)
    assert images.rows.selectExpr("spark_partition_id()").distinct().count() <= 6


@pytest.mark.connect
def test_a_missing_folder_says_which_it_may_be(spark, photos):
    with pytest.raises(NotFoundError, match=r"No such path: .*photo\. Did you mean `photos`\?"):
        read_images(spark, photos.parent / "photo")
    with pytest.raises(NotFoundError, match=r"its folder .*/nowhere does not exist either"):
        read_images(spark, photos / "nowhere" / "deep")
    with pytest.raises(NotFoundError, match=r"No such path: file:.*nothing\*"):
        read_images(spark, f"{photos}/nothing*")


def test_a_folder_without_photos_says_what_is_there(spark, tmp_path):
    with pytest.raises(NotFoundError, match=r"No photos in .*the folder is empty"):
        read_images(spark, tmp_path)
    for name in ("a.txt", "b.TXT", "README"):
        (tmp_path / name).write_text("x")
    with pytest.raises(NotFoundError, match=r"No photos in .*the files there: 2 \.txt, 1 without an ending"):
        read_images(spark, tmp_path)


def test_a_label_rule_that_matches_nothing_is_an_error(spark, photos):
    with pytest.raises(InputError, match=r"The photos lie directly in .*'cat_0\.png'.*Give the folder above"):
        read_images(spark, photos / "cat", labels="folder")
    with pytest.raises(InputError, match=r"'\(\\\\d\{9\}\)' matches no photo below .*'cat/cat_0\.png'"):
        read_images(spark, photos, labels=r"(\d{9})")


def test_a_label_rule_that_is_none_is_an_error(spark, photos):
    with pytest.raises(InputError, match=r"must be `folder`, a regular expression .*'foldr' is none.*mean `folder`"):
        read_images(spark, photos, labels="foldr")
    with pytest.raises(InputError, match=r"is no regular expression: .*unterminated"):
        read_images(spark, photos, labels="(a")
    with pytest.raises(InputError, match="needs a group in parentheses"):
        read_images(spark, photos, labels=r"\(a\)")


def test_too_many_labels_are_an_error(spark, photos, monkeypatch):
    monkeypatch.setattr("sparkwright.data.images.MOST_LABELS", 5)
    with pytest.raises(InputError, match=r"more than 5 labels .*must name a class, not a photo"):
        read_images(spark, photos, labels=r"(\w+)\.png")


def test_an_empty_path_is_an_error(spark):
    with pytest.raises(InputError, match="must not be empty"):
        read_images(spark, [])


@pytest.mark.connect
def test_a_file_system_that_spark_lacks_is_named(spark):
    with pytest.raises(EnvironmentNotReadyError, match=r"Spark has no file system for s?nix"):
        read_images(spark, "nix://host/photos")
    with pytest.raises(EnvironmentNotReadyError, match=r"no file system for .*S3AFileSystem.*hadoop-aws"):
        read_images(spark, "s3a://bucket/photos")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(spark, photos):
    photos.chmod(0)
    try:
        with pytest.raises(InputError, match="may not read"):
            read_images(spark, photos)
    finally:
        photos.chmod(0o755)


def test_caltech_has_a_hundred_classes_of_31(spark, data_dir):
    images = read_images(spark, data_dir / "images" / "caltech101_subset", labels="folder")
    assert len(images.classes) == 100
    assert set(images.counts.values()) == {31}
    assert images.rows.select("key").distinct().count() == 3100
