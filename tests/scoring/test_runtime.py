from pathlib import Path

import numpy as np
import pytest

from sparkwright.errors import ModelError
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.forward import runtime
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.forward.runtime import OnnxSession, load

from .photos import PREPROCESSING, SIZE, channel_means, doubled


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_loaded", type(runtime._loaded)())


def write(folder: Path, data: bytes) -> tuple[Path, str]:
    graph = Graph("any", data, None, (1,), (1,))
    path = folder / f"{graph.sha256[:8]}.onnx"
    path.write_bytes(data)
    return path, graph.sha256


def test_a_network_is_loaded_once_wherever_its_file_lies(tmp_path: Path) -> None:
    path, sha256 = write(tmp_path, doubled(2))
    other = path.rename(tmp_path / "other.onnx")
    assert load(other, sha256) is load(tmp_path / "gone.onnx", sha256)


def test_the_network_used_longest_ago_goes_first_when_they_take_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(tmp_path, doubled(width)) for width in (1, 2, 3)]
    monkeypatch.setattr(runtime, "MAX_BYTES", sum(file.stat().st_size for file, _ in files[:2]) + 8)
    first, second = (load(*file) for file in files[:2])
    assert load(*files[0]) is first
    load(*files[2])
    assert load(*files[0]) is first
    assert load(*files[1]) is not second


def test_a_network_that_is_larger_than_the_limit_is_kept_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "MAX_BYTES", 1)
    file = write(tmp_path, doubled(2))
    assert load(*file) is load(*file)
    assert len(runtime._loaded) == 1


def test_a_large_network_is_stored_optimised_once_and_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mlp(64, 10, hidden=[128]).to_onnx()  # wide enough for its weights to be packed
    x = np.random.default_rng(0).random((5, 64), np.float32)
    expected = OnnxSession(data)(x)
    monkeypatch.setattr(runtime, "SHARED_BYTES", 0)
    path, sha256 = write(tmp_path, data)
    assert np.array_equal(load(path, sha256)(x), expected)
    (folder,) = (found for found in tmp_path.iterdir() if found.is_dir())
    written = (folder / "weights.bin").stat().st_mtime_ns
    runtime._loaded.clear()  # as in another process
    assert np.array_equal(load(path, sha256, 2)(x), expected)
    assert (folder / "weights.bin").stat().st_mtime_ns == written
    assert sorted(found.name for found in folder.iterdir()) == ["graph.onnx", "weights.bin"]


def test_where_nothing_can_be_stored_the_network_itself_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runtime, "SHARED_BYTES", 0)
    monkeypatch.setattr(runtime.tempfile, "mkdtemp", full)
    assert load(*write(tmp_path, doubled(2)))(np.ones((1, 2), np.float32)).tolist() == [[2.0, 2.0]]
    assert "is not shared between processes: [Errno 28] No space left on device" in caplog.text


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path, sha256 = write(tmp_path, doubled(2))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelError, match="was altered or cut short: its SHA-256 is not"):
        load(path, sha256)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="The network cannot be loaded by ONNX Runtime"):
        OnnxSession(b"no graph")


def test_threads_and_batch_size_do_not_change_the_answer() -> None:
    x = np.random.default_rng(0).random((9, 3, *SIZE), np.float32)
    whole = OnnxSession(channel_means(), threads=1)(x)
    other = OnnxSession(channel_means(), threads=2)
    assert np.array_equal(whole, np.concatenate([other(x[:4]), other(x[4:])]))
    assert OnnxSession(channel_means()).shape == PREPROCESSING.shape
