"""Torch as a runtime: the same answers as ONNX Runtime, on a device that is given; which device a task gets."""

import gc
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import pytest
import torch

from sparkwright.errors import EnvironmentNotReadyError, InputError, ModelError
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.mlp import mlp
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.scoring.forward import runtime
from sparkwright.scoring.forward.devices import choose_device, device_of_task
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.forward.runtime import OnnxSession, load
from sparkwright.scoring.forward.torch_runtime import TorchSession, _find, pack_network, unpack_network
from sparkwright.scoring.precision import _bfloat16

from .photos import means_network

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(runtime, "_loaded", type(runtime._loaded)())
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Resources:
    """What a task knows of its GPUs."""

    def __init__(self, partition: int, *addresses: str) -> None:
        self._partition, self.addresses = partition, addresses

    def resources(self) -> dict[str, "Resources"]:
        return {"gpu": self} if self.addresses else {}

    def partitionId(self) -> int:  # noqa: N802
        return self._partition


class Settings:
    def __init__(self, **conf: str) -> None:
        self.conf = {name.replace("_", "."): value for name, value in conf.items()}


def test_torch_gives_the_answers_of_onnx_runtime(tmp_path: Path) -> None:
    network = load_network("small_cnn", weights="random")
    x = np.random.default_rng(0).normal(size=(5, *network.input_shape)).astype(np.float32)
    graph = Graph.of_network(network)
    path = tmp_path / "network.safetensors"
    path.write_bytes(graph.safetensors)
    session = load(path, hashlib.sha256(graph.safetensors).hexdigest(), device="cpu")
    exact = OnnxSession(graph.onnx)(x)
    assert np.allclose(session(x), exact, rtol=1e-4, atol=1e-5)
    assert session(x).dtype == np.float32
    reduced = TorchSession(_bfloat16(network))(x)  # type: ignore[arg-type]
    assert not np.array_equal(reduced, exact)
    cosine = (reduced * exact).sum() / np.linalg.norm(reduced) / np.linalg.norm(exact)
    assert cosine > 0.999


def test_a_network_survives_its_file_with_its_precision(tmp_path: Path) -> None:
    network = _bfloat16(mlp(4, 3, hidden=[8]))
    (tmp_path / "network.safetensors").write_bytes(pack_network(network))  # type: ignore[arg-type]
    again, layers = unpack_network(tmp_path / "network.safetensors")
    assert layers == []
    assert again.precision == network.precision
    assert again.fingerprint() == network.fingerprint()
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="holds no network for torch"):
        unpack_network(tmp_path / "damaged.safetensors")


def test_several_layers_leave_torch_as_they_leave_onnx_runtime(tmp_path: Path) -> None:
    network = load_network("small_cnn", weights="random")
    layers = ["fc1", network.layer, "block2"]
    x = np.random.default_rng(0).normal(size=(5, *network.input_shape)).astype(np.float32)
    graph, places = Graph.of_layers(network, layers)
    (tmp_path / "network.safetensors").write_bytes(graph.safetensors)
    found = TorchSession.load(tmp_path / "network.safetensors")(x)
    assert found.shape == (5, *graph.output_shape)
    assert np.allclose(found, OnnxSession(graph.onnx)(x), rtol=1e-4, atol=1e-5)
    for layer, (start, stop) in places.items():
        assert np.allclose(found[:, start:stop], network.cut(layer).forward(x).reshape(5, -1), rtol=1e-4, atol=1e-5)
    reduced = TorchSession(_bfloat16(network), layers=layers)(x)  # type: ignore[arg-type]
    assert reduced.dtype == np.float32
    assert np.allclose(reduced, found, atol=0.1 * np.abs(found).max())


def test_layers_behind_the_last_that_is_wanted_do_not_run() -> None:
    network = load_network("small_cnn", weights="random")
    session = TorchSession(network, layers=["block2", "block1"])  # type: ignore[arg-type]
    assert "fc1" not in dict(session._module.layers.named_children())


def test_a_graph_lets_its_network_go() -> None:
    network = mlp(4, 3)
    graph, watched = Graph.of_network(network), ref(network)
    assert graph.safetensors
    del network
    gc.collect()
    assert watched() is None


def test_gpus_are_used_where_spark_schedules_them_and_torch_can() -> None:
    scheduled: Any = Settings(spark_task_resource_gpu_amount="1")
    plain: Any = Settings()
    assert choose_device(scheduled, "auto", torch=True, name="n") == "cuda"
    assert choose_device(scheduled, "auto", torch=False, name="n") == "cpu"
    assert choose_device(scheduled, "cpu", torch=True, name="n") == "cpu"
    assert choose_device(plain, "auto", torch=True, name="n") == "cpu"
    assert choose_device(plain, "cuda", torch=True, name="n") == "cuda"
    with pytest.raises(InputError, match="`n` is an ONNX graph, which runs on CPUs"):
        choose_device(plain, "cuda", torch=False, name="n")
    with pytest.raises(InputError, match="device must be one of auto, cpu, cuda; got 'gpu'"):
        choose_device(plain, "gpu", torch=True, name="n")


def test_a_task_gets_the_gpu_that_spark_gave_it_or_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    given: Any = Resources(5, "3")
    alone: Any = Resources(5)
    assert device_of_task("cuda", given) == "cuda:3"
    assert device_of_task("cuda", alone) == "cuda:5"
    assert device_of_task("cuda", None) == "cuda:0"
    assert device_of_task("cpu", given) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [_find(f"cuda:{address}").index for address in (0, 3, 5)] == [0, 3, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(EnvironmentNotReadyError, match="sees no GPU on this executor"):
        _find("cuda:0")


def test_an_onnx_graph_has_no_file_for_torch() -> None:
    graph = Graph.of_network(means_network())
    with pytest.raises(InputError, match="`means` is an ONNX graph, which torch cannot run"):
        _ = graph.safetensors


def test_a_network_in_bfloat16_is_run_by_torch_on_the_executors(spark: "SparkSession") -> None:
    from sparkwright.scoring.featurizer import Featurizer

    from .photos import photo_rows, png

    network = load_network("small_cnn", weights="random")
    preprocessing = Preprocessing(network.input_shape[1:], resize="exact", channels="grey", mean=(0.0,), std=(1.0,))
    network = _bfloat16(network.with_preprocessing(preprocessing))
    rows = photo_rows(spark, [png(10 * n, 255 - 10 * n, n) for n in range(6)])
    found = Featurizer(network=network).transform(rows).orderBy("path").collect()
    x = np.stack([preprocessing.apply(row["content"]) for row in found])
    expected = TorchSession(network.cut(network.feature_layer))(x)  # type: ignore[arg-type]
    assert all(row["error"] is None for row in found)
    features = np.array([row["features"] for row in found])
    assert np.allclose(features, expected.reshape(6, -1), rtol=0.02, atol=0.02)
