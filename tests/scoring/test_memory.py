"""The estimate of a scoring process's memory, and what is done with it."""

from dataclasses import replace
from typing import Any

import pytest

from sparkwright.errors import EnvironmentNotReadyError
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.forward import memory
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.forward.memory import activation_bytes, check_memory, estimate
from sparkwright.session import Room, python_room

from .photos import channel_means, means_network

MIB = 1 << 20
OVERHEAD = "spark.executor.memoryOverhead"
ADVICE = f"more of it (--conf {OVERHEAD}=SIZE), or fewer tasks at once"


class Session:
    """A session that only has settings."""

    def __init__(self, **conf: str) -> None:
        self.conf = {name.replace("_", "."): value for name, value in conf.items()}


def test_tensors_that_live_at_the_same_time_are_counted() -> None:
    # input 3 x 8 x 8 beside its means 3: then the means alone, flat, and twice them
    assert activation_bytes(channel_means()) == 4 * (3 * 64 + 3)
    # 64 beside 128, then 128 beside 128 (the activation), then 128 beside 10
    assert activation_bytes(mlp(64, 10, hidden=[128]).to_onnx()) == 4 * (128 + 128)


def test_an_estimate_grows_with_batch_threads_and_weights() -> None:
    graph = Graph.of_network(means_network())
    one, more = estimate(graph, 8), estimate(graph, 16)
    assert more.activations == pytest.approx(2 * one.activations, abs=2)
    assert estimate(graph, 8, threads=3).activations == pytest.approx(3 * one.activations, abs=3)
    assert estimate(graph, 8, threads=1, cores=4).activations == pytest.approx(4 * one.activations, abs=4)
    assert estimate(graph, 8, torch=True).peak > one.peak
    assert estimate(graph, 8, ahead_bytes=1000).running == one.running + 1000
    shared = replace(one, weights=100 * MIB, shared=True, activations=900 * MIB)
    assert shared.executor(4) - shared.executor(3) == shared.executor(1) - 100 * MIB
    assert replace(shared, shared=False).executor(4) == 4 * shared.executor(1)
    packs = replace(shared, activations=0)  # one process packs, another waits
    assert packs.peak == packs.packing > packs.running
    assert packs.executor(2) - packs.executor(1) < 2 * packs.running - 100 * MIB


def test_containers_tell_what_python_may_take() -> None:
    def room(**conf: str) -> Room:
        session: Any = Session(spark_master="yarn", spark_executor_cores="4", **conf)
        found = python_room(session)
        assert found is not None
        return found

    assert room() == Room(384 * MIB, 4, OVERHEAD, ADVICE)
    assert room(spark_executor_memory="8g").size == int(0.1 * 8192 * MIB)
    assert room(spark_executor_memoryOverhead="3g", spark_task_cpus="2") == Room(3072 * MIB, 2, OVERHEAD, ADVICE)
    assert room(spark_executor_pyspark_memory="2048").size == 2048 * MIB
    standalone: Any = Session(spark_master="spark://host:7077")
    assert python_room(standalone) is None
    local: Any = Session(spark_master="local[3]")
    here = python_room(local)
    assert here is not None
    assert here.tasks == 3


def test_batches_shrink_until_they_fit_and_what_never_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = replace(Graph.of_network(means_network()), input_shape=(3, 1024, 1024))  # 12 MiB a row
    session: Any = Session(spark_master="local[1]")
    needed = {size: estimate(graph, size, 1, memory.executor_cores(session)).executor(1) for size in (8, 4, 1)}

    def given(size: int) -> None:
        monkeypatch.setattr(memory, "python_room", lambda _: Room(size, 1, "overhead", "--conf overhead"))
        monkeypatch.setattr(memory, "threads_per_task", lambda _: 1)

    given(needed[8])
    assert check_memory(session, graph, 8) == 8
    given(needed[4])
    assert check_memory(session, graph, 8) == 4
    given(needed[1] - 1)
    with pytest.raises(EnvironmentNotReadyError, match=r"(?s)`means` needs about .* MiB .*overhead\).*--conf overhead"):
        check_memory(session, graph, 8)
