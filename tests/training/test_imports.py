from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from sparkwright.errors import InputError
from sparkwright.networks import factory
from sparkwright.networks.factory import from_factory
from sparkwright.training.cluster import imports
from sparkwright.training.cluster.imports import check_imports

MODULE = """
from torch import nn


def build(width):
    return nn.Linear(width, 2)
"""


class Cluster:
    """Two slots, whose tasks run here; counts jobs."""

    def __init__(self) -> None:
        self.jobs = 0
        self.function = None

    def range(self, *_: int) -> "Cluster":
        return self

    def mapInArrow(self, function, schema: str) -> "Cluster":  # noqa: N802
        self.function = function
        return self

    def collect(self) -> list[dict[str, str]]:
        self.jobs += 1

        def batches() -> Iterator[pa.RecordBatch]:
            yield pa.RecordBatch.from_pydict({"id": [0]})

        return [row for _ in range(2) for batch in self.function(batches()) for row in batch.to_pylist()]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(imports, "slots", lambda _: 2)
    return Cluster()


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    (tmp_path / "worker_nets.py").write_text(MODULE)
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        network = from_factory("worker_nets:build", (3,), {"width": 3})
    monkeypatch.setattr(factory, "_trusted", set())
    return network.to_spec()


def test_without_imports_no_job_runs(cluster: Cluster) -> None:
    check_imports(cluster, [{"kind": "torch", "parts": [{"build": "vgg", "options": {}}]}], ["focal", None])
    assert cluster.jobs == 0


def test_a_factory_that_the_driver_names_is_tried_on_the_workers(cluster: Cluster, spec: dict) -> None:
    check_imports(cluster, [spec])
    assert cluster.jobs == 1


@pytest.mark.parametrize("loss", ["no_such_losses:mine", "torch:no_such_loss"])
def test_a_loss_that_workers_cannot_import_is_said_before_the_job(cluster: Cluster, loss: str) -> None:
    with pytest.raises(InputError, match=r"On a worker \(.*\): `loss` .*no_such_loss"):
        check_imports(cluster, losses=["torch:relu", loss])


def test_a_factory_that_workers_cannot_import_is_said_before_the_job(cluster: Cluster, spec: dict) -> None:
    part = dict(spec["parts"][0])
    part["options"] = {**part["options"], "factory": "nets_of_the_driver:build"}
    with pytest.raises(InputError, match=r"On a worker \(.*\): The factory `nets_of_the_driver:build` cannot be impo"):
        check_imports(cluster, [{**spec, "parts": [part]}])
