"""Small files on disk; the same calls on HDFS are tested with the hadoop fixture."""

import builtins
import sys

import pytest

from sparkwright import storage
from sparkwright.errors import EnvironmentNotReadyError, InputError


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
