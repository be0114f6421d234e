"""How near is scoring to the hardware's limit, and to what users would pick instead?

    python benchmarks/scoring.py PHOTOS NETWORK [--photos 1000] [--masters local[1] local[2]] [--partitions 1 2 8]

PHOTOS is a folder of JPEGs, NETWORK a file or folder with a network, or ``NAME:random`` for a catalogue network with
random weights (its speed is the same). On the same photos, on the same cores, one after the other:

- `limit`: ``cores / (decode seconds + forward seconds of a photo on one core)``, one thread, micro-batches of 8;
- `script`: a plain script: threads that decode a few photos each and run ONNX Runtime on them;
- `loader`: a torch DataLoader with a worker a core, and the torch network in evaluation mode (torch networks alone);
- `udf_onnx`, `udf_torch`: Spark's `predict_batch_udf`, whose function decodes and runs ONNX Runtime or torch;
- `ray`: Ray Data's `map_batches` with ONNX Runtime, if Ray is installed;
- `sparkwright`: the `Featurizer`, for each master and number of partitions.

Each Spark case runs in a process of its own, twice: the second pass counts, the first one's seconds until the first
batch are start-up. Torch gets an eighth of the photos, as it takes so long. ``--flat 1000 10000`` repeats the photos
and shows the photos a second; ``--skew`` compares one huge partition, tiny ones of a photo each, and photos of 2 kB to
20 MB.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 8
ONCE = 20_000  # photos: a job of more is run once, its start-up does not count


def load(name: str) -> Any:
    """Load a network, cut where its features are."""
    from sparkwright.networks.catalogue import load_network

    name, _, weights = name.partition(":")
    network = load_network(name, weights=weights or None)
    return network.cut(network.feature_layer)


def onnx_session(network: Any, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(network.to_onnx(), options, providers=["CPUExecutionProvider"])


def decode(network: Any, contents: list[bytes]) -> np.ndarray:
    x = np.empty((len(contents), *network.input_shape), np.float32)
    for row, content in enumerate(contents):
        network.preprocessing.apply(content, x[row])
    return x


def limit(photos: list[bytes], network: Any, cores: int) -> dict[str, float]:
    """Return the rate that no program on these cores can pass, and what it is made of."""
    session = onnx_session(network, 1)
    parts = [photos[start : start + BATCH] for start in range(0, min(len(photos), 30 * BATCH), BATCH)]
    decoding = running = 0.0
    for part in parts:
        start = time.perf_counter()
        x = decode(network, part)
        between = time.perf_counter()
        session.run(None, {"input": x})
        running += time.perf_counter() - between
        decoding += between - start
    rows = sum(map(len, parts))
    return {
        "photos_per_s": cores * rows / (decoding + running),
        "decode_s": decoding / rows,
        "forward_s": running / rows,
    }


def script(photos: list[bytes], network: Any, cores: int) -> float:
    session = onnx_session(network, 1)

    def work(start: int) -> None:
        session.run(None, {"input": decode(network, photos[start : start + BATCH])})

    start = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, range(0, len(photos), BATCH)))
    return len(photos) / (time.perf_counter() - start)


class Photos:
    """A torch Dataset of decoded photos."""

    def __init__(self, photos: list[bytes], preprocessing: Any) -> None:
        self.photos, self.preprocessing = photos, preprocessing

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.preprocessing.apply(self.photos[row])


def loader(photos: list[bytes], network: Any, cores: int) -> float:
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(cores)
    start = time.perf_counter()
    batches = DataLoader(Photos(photos, network.preprocessing), batch_size=32, num_workers=cores)
    with torch.inference_mode():
        for x in batches:
            network.module(x)
    return len(photos) / (time.perf_counter() - start)


def ray_data(photos: list[bytes], network: Any, cores: int) -> float:
    import ray

    class Score:
        def __init__(self) -> None:
            self.session = onnx_session(network, 1)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"features": self.session.run(None, {"input": decode(network, list(batch["content"]))})[0]}

    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    rows = ray.data.from_items([{"content": content} for content in photos]).materialize()
    start = time.perf_counter()
    rows.map_batches(Score, batch_size=32, compute=ray.data.ActorPoolStrategy(size=cores)).materialize()
    return len(photos) / (time.perf_counter() - start)


def spark_case(engine: str, photos: Path, network_name: str, master: str, partitions: str, count: int) -> Any:
    """Score with Spark twice, a long job once; return the last pass's rate, and how much longer the first one took.

    `partitions` is their number, or ``huge``: nine tenths of the rows are in one of eight; or ``tiny``: a photo each.
    """
    from pyspark.sql import functions as F  # noqa: N812

    from sparkwright import session
    from sparkwright.data.images import read_images

    spark = session.start(master)
    network = load(network_name)
    files = sorted(photos.rglob("*.[jJ][pP]*[gG]"))
    rows = read_images(spark, str(photos)).rows.select("path", "content")
    if count < len(files):
        rows = rows.limit(count)
    copies = max(1, round(count / len(files)))
    rows = rows.withColumn("copy", F.explode(F.sequence(F.lit(1), F.lit(copies)))) if copies > 1 else rows
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"sparkwright-benchmark-{os.getpid()}"
    if partitions == "tiny":
        rows = rows.repartition(count).persist()
    else:
        huge = F.when(F.rand(1) < 0.9, 0).otherwise(F.floor(1 + 7 * F.rand(2))).cast("int")
        cut = rows.repartitionById(8, huge) if partitions == "huge" else rows.repartition(int(partitions))
        cut.write.parquet(str(folder))
        spark.conf.set("spark.sql.files.maxPartitionBytes", str(2**40))
        # Reading Parquet, Spark would cut and join files as it likes: coalesce keeps what was written.
        rows = spark.read.parquet(str(folder)).coalesce(8 if partitions == "huge" else int(partitions))
    total = rows.count()
    scored = {"sparkwright": featurizer, "udf_onnx": udf, "udf_torch": udf}[engine](rows, network, engine)
    seconds = []
    for _ in range(2 if total <= ONCE and partitions != "tiny" else 1):
        start = time.perf_counter()
        scored.write.format("noop").mode("overwrite").save()
        seconds.append(time.perf_counter() - start)
    spark.stop()
    shutil.rmtree(folder, ignore_errors=True)
    start_up = {"start_up_s": seconds[0] - seconds[1]} if len(seconds) > 1 else {}
    return {"photos_per_s": total / seconds[-1], **start_up, "photos": total}


def featurizer(rows: Any, network: Any, _: str) -> Any:
    from sparkwright.scoring.featurizer import Featurizer

    return Featurizer(network=network, inputCol="content", outputCol="features").transform(rows)


def udf(rows: Any, network: Any, engine: str) -> Any:
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.types import ArrayType, FloatType

    spec = {"onnx": network.to_onnx(), "preprocessing": network.preprocessing, "shape": network.input_shape}
    made = _make_torch(network) if engine == "udf_torch" else _make_onnx(spec)
    function = predict_batch_udf(made, return_type=ArrayType(FloatType()), batch_size=32)
    return rows.select("path", function("content").alias("features"))


def _make_onnx(spec: dict[str, Any]) -> Callable[[], Callable[[np.ndarray], np.ndarray]]:
    def make() -> Callable[[np.ndarray], np.ndarray]:
        import onnxruntime

        run = onnxruntime.InferenceSession(spec["onnx"], providers=["CPUExecutionProvider"])

        def predict(contents: np.ndarray) -> np.ndarray:
            x = np.stack([spec["preprocessing"].apply(bytes(content)) for content in contents])
            return run.run(None, {"input": x})[0]

        return predict

    return make


def _make_torch(network: Any) -> Callable[[], Callable[[np.ndarray], np.ndarray]]:
    module, preprocessing = network.module, network.preprocessing

    def make() -> Callable[[np.ndarray], np.ndarray]:
        import torch

        def predict(contents: np.ndarray) -> np.ndarray:
            x = np.stack([preprocessing.apply(bytes(content)) for content in contents])
            with torch.inference_mode():
                return module(torch.from_numpy(x)).numpy()

        return predict

    return make


def make_mixed(photos: Path, folder: Path, count: int = 200) -> None:
    """Write photos of 2 kB to 20 MB: as many of each size, on a logarithmic scale."""
    from PIL import Image

    files = sorted(photos.rglob("*.[jJ][pP]*[gG]"))
    sizes = np.random.default_rng(0).permutation(np.geomspace(70, 8000, count))
    for number, (file, size) in enumerate(zip(files, sizes, strict=False)):
        noise = Image.effect_noise((int(size), int(size)), 40)
        photo = Image.blend(Image.open(file).convert("RGB").resize(noise.size), noise.convert("RGB"), 0.2)
        photo.save(folder / f"{number}.jpg", quality=80)


def in_process(arguments: argparse.Namespace, *case: str, folder: Path | None = None) -> Any:
    """Run one case in a process of its own, and return what it prints last."""
    command = [sys.executable, __file__, str(folder or arguments.folder), arguments.network, "--case", *case]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_case(arguments: argparse.Namespace) -> Any:
    kind, count, *rest = arguments.case
    if kind in ("sparkwright", "udf_onnx", "udf_torch"):
        return spark_case(kind, arguments.folder, arguments.network, rest[0], rest[1], int(count))
    cores = int(rest[0])
    os.sched_setaffinity(0, set(list(os.sched_getaffinity(0))[:cores]))
    network = load(arguments.network)
    files = sorted(arguments.folder.rglob("*.[jJ][pP]*[gG]"))[: int(count)]
    photos = [file.read_bytes() for file in files]
    result = {"limit": limit, "script": script, "loader": loader, "ray": ray_data}[kind](photos, network, cores)
    return result if isinstance(result, dict) else {"photos_per_s": result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("network")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--masters", nargs="*", default=["local[1]", "local[2]"])
    parser.add_argument("--partitions", nargs="+", type=int, default=[1, 2, 8])
    parser.add_argument("--flat", nargs="*", type=int, default=[])
    parser.add_argument("--skew", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scoring.json")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run_case(arguments)))
        return
    from sparkwright.models import library_versions

    count = str(arguments.photos)
    cores = os.cpu_count() or 1
    result: dict[str, Any] = {
        "command": f"python benchmarks/scoring.py PHOTOS {Path(arguments.network).name} --photos {count}",
        "machine": {"cores": cores, "processor": platform.processor() or platform.machine(), "gpu": None},
        "versions": library_versions(),
        "photos": arguments.photos,
        "cases": {},
    }

    def measure(name: str, *case: str, folder: Path | None = None) -> Any:
        result["cases"][name] = in_process(arguments, *case, folder=folder)
        print(name, json.dumps(result["cases"][name]), flush=True)
        return result["cases"][name]

    def limit_now() -> float:
        return float(in_process(arguments, "limit", count, str(cores))["photos_per_s"])

    def measure_ours(name: str, *case: str) -> None:
        """The machine's speed changes from minute to minute: the limit counts that is measured around a case."""
        before = limit_now()
        found = measure(name, "sparkwright", *case)
        if "photos_per_s" in found:
            found["share_of_limit"] = found["photos_per_s"] / statistics.mean([before, limit_now()])

    measure("limit", "limit", count, str(cores))
    few = str(max(1, arguments.photos // 8))
    for kind in ("script", "loader", "ray") if arguments.masters else ():
        measure(kind, kind, few if kind == "loader" else count, str(cores))
    for master in arguments.masters:
        for partitions in map(str, arguments.partitions):
            for engine, photos in (("udf_onnx", count), ("udf_torch", few)):
                measure(f"{engine} {master} {partitions} partitions", engine, photos, master, partitions)
            measure_ours(f"sparkwright {master} {partitions} partitions", count, master, partitions)
    for photos in arguments.flat:
        measure_ours(f"sparkwright {photos} photos", str(photos), f"local[{cores}]", str(2 * cores))
    if arguments.skew:
        for photos, partitions in ((count, "8"), (count, "huge"), (count, "tiny")):
            for engine in ("sparkwright", "udf_onnx"):
                measure(f"skew: {engine} {photos} photos {partitions}", engine, photos, f"local[{cores}]", partitions)
        with tempfile.TemporaryDirectory() as made:
            make_mixed(arguments.folder, Path(made))
            for kind, *rest in (("limit", str(cores)), ("sparkwright", f"local[{cores}]", "8"), ("script", str(cores))):
                measure(f"skew: {kind} mixed sizes", kind, "200", *rest, folder=Path(made))
    everything = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    everything[Path(arguments.network).name + ("" if arguments.masters else ", flat and skew")] = result
    arguments.out.write_text(json.dumps(everything, indent=2) + "\n")
    shares = {name: case["share_of_limit"] for name, case in result["cases"].items() if "share_of_limit" in case}
    print(json.dumps(shares, indent=2))


if __name__ == "__main__":
    main()
