import zipfile

import pyarrow as pa
import pytest

from sparkwright.errors import NotFoundError
from sparkwright.session import ship_file, ship_library, shipped_path

pytestmark = pytest.mark.connect


def paths_on_executor(spark, name: str) -> list[str]:
    def look(batches):
        import sparkwright

        for _ in batches:
            path = shipped_path(name)
            yield pa.RecordBatch.from_pydict({"seen": [f"{sparkwright.__file__}|{path.read_text()}"]})

    return [row["seen"] for row in spark.range(2).mapInArrow(look, "seen string").collect()]


def test_the_library_and_a_file_reach_the_executors(spark, tmp_path):
    file = tmp_path / "a name with ü.txt"
    file.write_text("hello")

    ship_library(spark)
    ship_library(spark)
    name = ship_file(spark, file)

    assert name.endswith("-a name with ü.txt")
    assert ship_file(spark, file) == name
    for seen in paths_on_executor(spark, name):
        library, text = seen.split("|")
        assert ".zip/sparkwright/__init__.py" in library
        assert text == "hello"


def test_a_file_that_has_changed_is_shipped_under_another_name(spark, tmp_path):
    file = tmp_path / "weights.bin"
    file.write_text("one")
    first = ship_file(spark, file)
    file.write_text("two")
    second = ship_file(spark, file)
    assert first != second
    assert {seen.split("|")[1] for seen in paths_on_executor(spark, second)} == {"two"}
    assert {seen.split("|")[1] for seen in paths_on_executor(spark, first)} == {"one"}


def test_a_missing_file_is_an_error(spark, tmp_path):
    with pytest.raises(NotFoundError, match=r"No file at .*nix\.bin to send"):
        ship_file(spark, tmp_path / "nix.bin")


def test_the_library_zip_is_the_same_for_the_same_files(monkeypatch):
    from sparkwright.session import _shipping

    one = _shipping._library_zip.__wrapped__()
    two = _shipping._library_zip.__wrapped__()
    assert one == two
    names = zipfile.ZipFile(one).namelist()
    assert "sparkwright/errors.py" in names
    assert not any("__pycache__" in name for name in names)
