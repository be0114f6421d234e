"""Paths on a real HDFS, read by the workers."""

from typing import Any

import pytest

from sparkwright.scoring.featurizer import Featurizer
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.session import worker_errors

from .photos import answer, means_network, png

pytestmark = pytest.mark.timeout(240)


def test_paths_on_hdfs_are_read_by_the_workers(spark: Any, hadoop: Any) -> None:
    from hdfs_native import Client

    client = Client(hadoop.address)
    for red in range(3):
        with client.create(f"/to score/ö {red}.png") as file:
            file.write(png(red))
    paths = [f"{hadoop.address}/to score/ö {red}.png" for red in range(3)]
    paths += [f"{hadoop.address}/to score/none.png", f"{hadoop.address}/to score", "hdfs://127.0.0.1:9/x.png"]
    limits = FetchLimits(timeout_s=8)  # for the last, to which the client alone takes a minute
    rows = spark.createDataFrame([(path,) for path in paths], "path string")
    with worker_errors():
        scored = Featurizer(network=means_network(), inputCol="path", fetchLimits=limits, maxErrorRate=1.0).transform(
            rows
        )
        found = {row.path: row for row in scored.collect()}
    assert [found[path].features for path in paths[:3]] == [answer(red).tolist() for red in range(3)]
    kinds = [found[path].error.kind for path in paths[3:]]
    assert (kinds[0], kinds[2]) == ("not found", "timeout")
    assert kinds[1] in ("unreadable", "network failure", "not found")
