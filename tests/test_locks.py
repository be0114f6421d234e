"""One process at a time in a folder."""

import json
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from sparkwright import locks, storage
from sparkwright.errors import ExistsError
from sparkwright.locks import LOCK, locked
from sparkwright.runs import Run

HOLDER = """
import sys
from sparkwright.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_gone_even_killed(tmp_path):
    process = hold(tmp_path / "run")
    try:
        with (
            pytest.raises(ExistsError, match=rf"is in use: process {process.pid} on \S+ works there"),
            locked(str(tmp_path / "run")),
        ):
            pass
        with pytest.raises(ExistsError, match="is in use"):
            Run(str(tmp_path / "run"), "train", {})
        process.kill()
        process.wait()
        with locked(str(tmp_path / "run")):
            assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
        assert list((tmp_path / "run").iterdir()) == []
    finally:
        process.kill()
        process.communicate()


def test_a_folder_can_be_taken_again_and_may_be_gone_at_the_end(tmp_path):
    for _ in range(2):
        with locked(str(tmp_path / "run")):
            pass
    with locked(str(tmp_path / "run")):
        storage.remove(str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.05)
    return f"memory://{uuid.uuid4().hex}"


def test_where_the_system_keeps_no_locks_a_beat_does(folder):
    with locked(folder):
        first = storage.read_bytes(f"{folder}/{LOCK}")
        with pytest.raises(ExistsError, match=rf"process {os.getpid()} on"), locked(folder):
            pass
        assert storage.read_bytes(f"{folder}/{LOCK}") != first
    assert not storage.exists(f"{folder}/{LOCK}")
    assert not [thread for thread in threading.enumerate() if thread.name == "sparkwright-lock"]


def test_a_beat_that_stands_still_is_taken_over(folder):
    storage.write_bytes(f"{folder}/{LOCK}", json.dumps({"host": "gone", "pid": 1, "holder": "x", "beat": 7}).encode())
    with locked(folder):
        assert json.loads(storage.read_bytes(f"{folder}/{LOCK}"))["pid"] == os.getpid()


def test_who_has_lost_a_lock_leaves_it_to_the_other(folder, caplog):
    with locked(folder):
        storage.write_bytes(f"{folder}/{LOCK}", json.dumps({"host": "b", "pid": 2, "holder": "y", "beat": 0}).encode())
        for thread in threading.enumerate():
            if thread.name == "sparkwright-lock":
                thread.join(2)
    assert "was taken over by" in caplog.text
    assert json.loads(storage.read_bytes(f"{folder}/{LOCK}"))["holder"] == "y"
