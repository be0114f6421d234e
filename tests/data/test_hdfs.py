"""The same over a real HDFS."""

import csv

import pytest

from sparkwright.data.images import read_images
from sparkwright.data.pack import pack
from sparkwright.data.splits import split, split_by_table, split_counts
from sparkwright.errors import EnvironmentNotReadyError, NotFoundError

pytestmark = pytest.mark.timeout(240)

ODD = ("a b", "50%", "%41", "ö'\"", "日本", "[x]{y}")
NAMES = [f"{folder}/{name}.jpg" for folder in ("katze", "hund ö") for name in ODD]


@pytest.fixture(scope="module")
def photos(hadoop) -> str:
    """A folder on HDFS with odd names; each file holds its own name."""
    from hdfs_native import Client

    client = Client(hadoop.address)
    for name in NAMES:
        with client.create(f"/Fotos 1/{name}") as file:
            file.write(name.encode())
    return f"{hadoop.address}/Fotos 1"


def test_photos_on_hdfs_become_rows_under_their_own_names(spark, photos):
    images = read_images(spark, photos, labels="folder")
    assert images.root == photos
    assert images.counts == {"hund ö": 6, "katze": 6}
    rows = images.rows.collect()
    assert {row["key"]: bytes(row["content"]).decode() for row in rows} == {name: name for name in NAMES}
    assert {row["path"] for row in rows} == {f"{photos}/{name}" for name in NAMES}


def test_a_table_on_hdfs_names_labels_and_one_on_the_drivers_disk_sides(spark, photos, hadoop, tmp_path):
    labels = spark.createDataFrame([(name, name[0]) for name in NAMES], "path string, label string")
    labels.write.mode("overwrite").csv(f"{hadoop.address}/labels.csv", header=True, escape='"')
    images = read_images(spark, photos, labels=f"{hadoop.address}/labels.csv")
    assert images.counts == {"h": 6, "k": 6}
    assert (images.unmatched, images.missing) == (0, 0)

    with (tmp_path / "split.csv").open("w", newline="") as file:
        sides = ("train", "train", "validation", "test", "test", "test")
        rows = [(name, sides[index % 6]) for index, name in enumerate(NAMES)]
        csv.writer(file).writerows([("path", "split"), *rows])
    counts = split_counts(split_by_table(images.rows, str(tmp_path / "split.csv")))
    assert counts == {"train": {"h": 2, "k": 2}, "validation": {"h": 1, "k": 1}, "test": {"h": 3, "k": 3}}


def test_a_pack_on_hdfs_reads_as_the_loose_files_there(spark, photos, hadoop):
    out = f"{hadoop.address}/packed 1"
    assert pack(spark, photos, out, part_bytes=60).photos == 12
    loose, packed = (read_images(spark, where, labels="folder") for where in (photos, out))
    assert (packed.root, packed.counts) == (loose.root, loose.counts)
    assert sorted(packed.rows.collect()) == sorted(loose.rows.collect())


def test_the_split_is_the_same_wherever_the_folder_lies(spark, photos, tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def sides(folder: str) -> dict[str, str]:
        divided = split(read_images(spark, folder, labels="folder").rows, seed=5)
        return {row["key"]: row["split"] for row in divided.select("key", "split").collect()}

    assert sides(photos) == sides(str(tmp_path))


def test_a_path_that_hdfs_lacks_is_not_found(spark, photos):
    with pytest.raises(NotFoundError, match=r"No such path: hdfs://.*Fotos 2"):
        read_images(spark, f"{photos[:-1]}2")


def test_an_hdfs_that_does_not_answer_is_named(spark):
    with pytest.raises(EnvironmentNotReadyError, match="does not answer"):
        read_images(spark, "hdfs://127.0.0.1:9/photos")
