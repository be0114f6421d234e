"""How much faster does a packed folder read than loose files, and what does packing cost?

    python benchmarks/pack.py [--photos 5000] [--runs 3] [--out benchmarks/results/pack.json]

Photos of random bytes (sizes around 20 kB, log-normal, as small photos have) lie on this machine's disk and, where
SPARKWRIGHT_TEST_HADOOP names a Hadoop, on an HDFS on loopback. `read_images` lists them and Spark reads every byte, in
turn from the loose files and from the pack; medians over the runs, the first of which is left out. Both must give the
same bytes: the sums of their checksums are compared.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pyspark.sql import functions as F  # noqa: N812

from sparkwright import pack, read_images, session, storage
from sparkwright.models import library_versions


def write_photos(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for number, size in enumerate(random.lognormal(np.log(20_000), 0.7, count).astype(int)):
        path = folder / f"class{number % 20:02}" / f"photo{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.bytes(int(size)))


@contextmanager
def hdfs() -> Iterator[str]:
    """An HDFS on loopback; its address."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        program = Path(os.environ["SPARKWRIGHT_TEST_HADOOP"]) / "mini-hadoop"
        server = subprocess.Popen(
            [program, scratch, "1", "0"], stdin=subprocess.PIPE, env={**os.environ, "PYTHON": sys.executable}
        )
        try:
            ready = Path(scratch) / "conf" / "ready"
            deadline = time.monotonic() + 110
            while not ready.exists() or not ready.read_text().strip():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((Path(scratch) / "hadoop.log").read_text()[-3000:])
                time.sleep(0.2)
            yield ready.read_text().strip().rstrip("/")
        finally:
            server.stdin.close()
            server.wait(timeout=60)


def upload(folder: Path, target: str) -> None:
    """Copy a folder's files; the name node answers each in its own time, so several at once."""
    with ThreadPoolExecutor(16) as pool:
        paths = list(folder.rglob("*.jpg"))
        list(pool.map(lambda path: storage.upload(path, f"{target}/{path.relative_to(folder)}"), paths))


def read(spark, where: str) -> tuple[float, float, tuple[int, int]]:
    """Return seconds until the photos are listed, seconds until they are read, and what was read."""
    start = time.perf_counter()
    images = read_images(spark, where)
    listed = time.perf_counter()
    found = images.rows.agg(F.sum(F.length("content")), F.sum(F.crc32("content"))).collect()[0]
    return listed - start, time.perf_counter() - listed, tuple(found)


def compare(spark, loose: str, packed: str, runs: int) -> dict:
    start = time.perf_counter()
    done = pack(spark, loose, packed)
    seconds = time.perf_counter() - start
    taken = {"loose": [], "packed": []}
    seen = set()
    for _ in range(runs + 1):
        for name, where in (("loose", loose), ("packed", packed)):
            listing, reading, found = read(spark, where)
            taken[name].append((listing, reading))
            seen.add(found)
    assert len(seen) == 1, "the pack holds other bytes than the files"
    result = {"pack_s": round(seconds, 2), "bytes": done.size_bytes, "parquet_files": len(done.files)}
    for name, times in taken.items():
        listing, reading = zip(*times[1:], strict=True)
        result[name] = {
            "list_s": round(statistics.median(listing), 2),
            "read_s": round(statistics.median(reading), 2),
            "read_s_all": [round(value, 2) for value in reading],
        }
    result["loose_over_packed"] = round(
        (result["loose"]["list_s"] + result["loose"]["read_s"])
        / (result["packed"]["list_s"] + result["packed"]["read_s"]),
        2,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pack.json")
    arguments = parser.parse_args()
    spark = session.start()
    result = {
        "question": "seconds to list and read all photos: loose files against a pack",
        "photos": arguments.photos,
        "runs": arguments.runs,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "versions": library_versions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "loose", arguments.photos)
        result["disk"] = compare(spark, f"{folder}/loose", f"{folder}/packed", arguments.runs)
        if os.environ.get("SPARKWRIGHT_TEST_HADOOP"):
            with hdfs() as address:
                upload(Path(folder) / "loose", f"{address}/loose")
                result["hdfs"] = compare(spark, f"{address}/loose", f"{address}/packed", arguments.runs)
    spark.stop()
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
