from pathlib import Path

import numpy as np
import pytest

from sparkwright.errors import ModelError
from sparkwright.scoring import runtime
from sparkwright.scoring.graph import Graph
from sparkwright.scoring.runtime import OnnxSession, load

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


def test_the_network_used_longest_ago_goes_first(tmp_path: Path) -> None:
    files = [write(tmp_path, doubled(width)) for width in range(1, runtime.MAX_NETWORKS + 2)]
    first = load(*files[0])
    for file in files[1:-1]:
        load(*file)
    assert load(*files[0]) is first
    load(*files[-1])
    assert len(runtime._loaded) == runtime.MAX_NETWORKS
    assert load(*files[0]) is first
    assert (files[1][1], 1) not in runtime._loaded


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
