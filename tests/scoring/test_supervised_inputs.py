"""Paths and URLs in a supervised scoring process: fetched ahead, waited for, and never mistaken for a broken photo."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.process.arrow import ScoringPlan
from sparkwright.scoring.process.supervisor import supervise

from .faults import CRASH, HANG
from .photo_server import photo_server
from .photos import answer, channel_means, png
from .test_supervisor import plan_of

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def network(tmp_path: Path) -> tuple[ScoringPlan, Path]:
    plan, path = plan_of(tmp_path / "means.onnx", channel_means())
    limits = FetchLimits(timeout_s=10, retries=1, allow_private=True)
    plan = replace(plan, input_column="path", source="locations", fetch=limits)
    return plan, path


def batches(paths: list[str], size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(paths), size):
        yield pa.RecordBatch.from_pydict({"path": paths[start : start + size]})


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_more_rows_than_wait_at_once_all_come_in_order(
    network: tuple[ScoringPlan, Path], tmp_path: Path, size: int
) -> None:
    for red in range(50):
        (tmp_path / f"{red}.png").write_bytes(png(red))
    rows = 1700
    paths = [f"{tmp_path}/{row % 51}.png" for row in range(rows)]  # one of 51 is not there
    table = pa.Table.from_batches(supervise(batches(paths, size), *network))
    assert table.column("path").to_pylist() == paths
    features, errors = table.column("features").to_pylist(), table.column("error").to_pylist()
    for row in range(rows):
        if row % 51 == 50:
            assert (features[row], errors[row]["kind"]) == (None, "not found")
        else:
            assert np.array_equal(features[row], answer(row % 51))


def test_files_that_crash_or_hang_the_decoder_are_singled_out_among_paths(
    network: tuple[ScoringPlan, Path], tmp_path: Path
) -> None:
    plan, onnx = network
    for name, content in {"good": png(3), "crash": CRASH, "hang": HANG}.items():
        (tmp_path / name).write_bytes(content)
    names = ["good"] * 600
    names[20], names[300], names[301] = "crash", "hang", "crash"
    paths = [f"{tmp_path}/{name}" for name in names]
    table = pa.Table.from_batches(supervise(batches(paths, 100), replace(plan, row_timeout_s=2), onnx))
    assert table.column("path").to_pylist() == paths
    kinds = [error and error["kind"] for error in table.column("error").to_pylist()]
    expected = {"good": None, "crash": "crashed", "hang": "timeout"}
    assert kinds == [expected[name] for name in names]


def test_a_server_that_takes_its_time_is_not_taken_for_an_endless_photo(network: tuple[ScoringPlan, Path]) -> None:
    plan, onnx = network
    with photo_server() as server:
        urls = [f"{server.url}/photo/{red}/1.5" for red in range(20)]
        table = pa.Table.from_batches(supervise(batches(urls, 100), replace(plan, row_timeout_s=0.5), onnx))
    assert np.array_equal(table.column("features").to_pylist(), [answer(red) for red in range(20)])
    assert max(server.asked.values()) == 1
