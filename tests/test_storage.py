"""Small files on disk; the same calls on HDFS are tested with the hadoop fixture."""

import builtins
import errno
import os
import sys

import pytest

from sparkwright import storage
from sparkwright.errors import EnvironmentNotReadyError, ExistsError, InputError, StorageError


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_write_then_read_gives_the_bytes_back_for_every_form_of_a_local_path(tmp_path, form):
    uri = form.format(tmp_path / "a folder" / "é %20.bin")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert storage.list_files(storage.join(form.format(tmp_path), "a folder")) == ["é %20.bin"]
    storage.remove(uri)
    assert not storage.exists(uri)
    storage.remove(uri)


def test_list_files_of_a_missing_folder_is_empty(tmp_path):
    assert storage.list_files(str(tmp_path / "none")) == []


def test_to_uri_makes_local_paths_absolute_and_leaves_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.to_uri("x/y") == f"file://{tmp_path}/x/y"
    assert storage.to_uri("hdfs://host:9000/x/") == "hdfs://host:9000/x"


def test_local_reads_work_without_fsspec(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"1")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert storage.exists(str(tmp_path / "x"))
    assert storage.read_bytes(str(tmp_path / "x")) == b"1"


def test_a_missing_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without_hdfs(name, *args, **kwargs):
        if name == "hdfs_native":
            raise ImportError("No module named 'hdfs_native'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_hdfs)
    with pytest.raises(EnvironmentNotReadyError, match=r"pip install 'sparkwright\[hdfs\]'"):
        storage.read_bytes("hdfs://host/x")


def test_an_unknown_scheme_is_named():
    with pytest.raises(InputError, match="`nosuch`"):
        storage.read_bytes("nosuch://x/y")


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_move_replaces_what_is_there(tmp_path):
    storage.write_bytes(str(tmp_path / "new" / "a"), b"1")
    storage.write_bytes(str(tmp_path / "old" / "b"), b"2")
    storage.move(str(tmp_path / "new"), str(tmp_path / "old"))
    assert storage.list_files(str(tmp_path)) == ["old"]
    assert storage.list_files(str(tmp_path / "old")) == ["a"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"/x cannot be written: No space left on device\. Free space there, or choose another folder"),
        (errno.EROFS, r"/x cannot be written: Read-only file system\. Let it be written to, or choose another folder"),
        (errno.EACCES, r"/x cannot be written: Permission denied\. Let it be written to, or choose another folder"),
    ],
)
def test_a_disk_that_is_full_or_read_only_says_where_and_what_to_do(tmp_path, monkeypatch, number, message):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match=message):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/run/x cannot be written: Not a directory\."):
        storage.write_bytes(str(tmp_path / "file" / "run" / "x"), b"new")


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    storage.check_replaceable(str(tmp_path), "a model", lambda name: False)
    storage.check_replaceable(str(tmp_path / "none"), "a model", lambda name: False)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ExistsError, match=r"holds something else than a model \(photo\.jpg\), so it is left alone"):
        storage.check_replaceable(str(tmp_path), "a model", lambda name: name == "model.json")


def test_whether_a_folder_can_be_written_is_known_before_a_long_job(tmp_path):
    storage.check_writable(str(tmp_path / "new" / "folder"))
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written: Not a directory"):
        storage.check_writable(str(tmp_path / "file" / "run"))


def test_below_a_file_there_is_nothing_to_read(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="No such file"):
        storage.read_bytes(str(tmp_path / "file" / "model.json"))
