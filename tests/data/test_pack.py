import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sparkwright import storage
from sparkwright.data import pack as module
from sparkwright.data.images import read_images
from sparkwright.data.pack import MANIFEST, pack
from sparkwright.errors import ExistsError, InputError, NotFoundError, StorageError
from sparkwright.events import Progress

Spark = Any


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """60 photos of 1,000 to 1,059 bytes under difficult names, two empty ones, and a file that is none."""
    folder = tmp_path / "photos [1]"
    for number in range(60):
        path = folder / f"cl ass+{number % 3}" / f"im%20 é{number:02}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * (1000 + number))
    (folder / "cl ass+1" / "empty.png").write_bytes(b"")
    (folder / "cl ass+2" / "zero.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no photo")
    return folder


def contents(images: Any) -> list[tuple[str, str, bytes, str]]:
    return sorted((row.path, row.key, bytes(row.content), row.label) for row in images.rows.collect())


@pytest.mark.connect
def test_a_pack_reads_as_the_loose_files_did(spark: Spark, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    seen: list[Progress] = []
    done = pack(spark, photos, str(out), part_bytes=10_000, emit=seen.append)
    loose = read_images(spark, photos, labels="folder")
    packed = read_images(spark, str(out), labels="folder")
    assert contents(packed) == contents(loose)
    for name in ("root", "classes", "counts", "files", "size_bytes", "unmatched", "too_large"):
        assert getattr(packed, name) == getattr(loose, name), name
    assert (done.photos, done.size_bytes, done.reused) == (62, loose.size_bytes, 0)
    assert seen[-1] == Progress("pack", "0", 62)

    manifest = json.loads((out / MANIFEST).read_text())
    tables = [pq.read_table(out / name) for name in manifest["files"]]
    assert sorted(manifest["files"]) == sorted(str(path.relative_to(out)) for path in out.rglob("*.parquet"))
    sizes = [sum(table["length"].to_pylist()) for table in tables]
    assert len(tables) == 7
    assert all(9_000 <= size <= 11_060 for size in sizes[:-1])
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
    assert all(row["sha256"] == hashlib.sha256(row["content"]).hexdigest() for row in rows)
    assert not (out / "_progress").exists()


def test_a_packing_that_died_goes_on_with_what_is_missing(
    spark: Spark, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "packed"
    write, calls = module._write, []

    def dies_in_the_second(*args: Any) -> list[str]:
        calls.append(args[1])
        names = write(*args)
        if len(calls) == 2:
            raise KeyboardInterrupt  # after the files, before the note
        return names

    monkeypatch.setattr(module, "_write", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        pack(spark, photos, str(out), part_bytes=5_000)
    with pytest.raises(NotFoundError, match="No photos in"):
        read_images(spark, str(out))
    monkeypatch.setattr(module, "slots", lambda spark: 99)  # a larger cluster goes on in the stretches begun
    done = pack(spark, photos, str(out), part_bytes=5_000)
    assert [part.first for part in calls[1]] == [part.first for part in calls[2]]
    assert (done.photos, done.reused) == (62, sum(part.photos for part in calls[0]))
    assert contents(read_images(spark, str(out), labels="folder")) == contents(
        read_images(spark, photos, labels="folder")
    )
    assert pack(spark, photos, str(out), part_bytes=5_000).reused == 62
    assert len(calls) == 5  # four stretches, one of them twice


def test_other_photos_do_not_join_a_pack(spark: Spark, photos: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "packed")
    pack(spark, photos, out)
    (photos / "cl ass+0" / "new.jpg").write_bytes(b"new")
    with pytest.raises(ExistsError, match=r"holds a pack of other photos.*photos 62 \(now 63\)"):
        pack(spark, photos, out)
    assert pack(spark, photos, out, overwrite=True).photos == 63
    assert read_images(spark, out).files == 63


def test_photos_that_change_while_they_are_packed_are_noticed(
    spark: Spark, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = module._parts

    def parts_then_change(*args: Any) -> Any:
        found = parts(*args)
        for path in (photos / "cl ass+0").glob("*é03*"):
            path.write_bytes(b"longer" * 1000)
        return found

    monkeypatch.setattr(module, "_parts", parts_then_change)
    with pytest.raises(StorageError, match=r"changed while they were packed: 62 with .* bytes instead of 62 with"):
        pack(spark, photos, str(tmp_path / "packed"))
    assert not (tmp_path / "packed" / MANIFEST).exists()


def test_a_pack_with_a_file_missing_or_of_a_newer_version_is_refused(
    spark: Spark, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed"
    first = pack(spark, photos, str(out), part_bytes=30_000).files[0]
    (out / first).rename(tmp_path / "moved.parquet")
    with pytest.raises(InputError, match=r"is not whole: .* Copy or pack it again"):
        read_images(spark, str(out))
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(InputError, match=r"is of format 99; sparkwright .* reads up to 1"):
        read_images(spark, str(out))
    (out / MANIFEST).write_text("{")
    with pytest.raises(InputError, match=r"pack.json is damaged .* Copy the pack again"):
        read_images(spark, str(out))


def test_what_is_no_pack_is_left_alone(spark: Spark, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ExistsError, match="holds something else than a pack"):
        pack(spark, photos, str(photos), overwrite=True)
    with pytest.raises(InputError, match="part_bytes must be at least 1; got 0"):
        pack(spark, photos, str(tmp_path / "packed"), part_bytes=0)
    shutil.rmtree(photos / "cl ass+0")
    with pytest.raises(NotFoundError, match="No such path"):
        pack(spark, photos / "cl ass+0", str(tmp_path / "packed"))
    assert not storage.exists(str(tmp_path / "packed"))
