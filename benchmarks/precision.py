"""What do int8 and bfloat16 gain, and what do they cost, network by network?

    python benchmarks/precision.py PHOTOS NETWORK … [--out benchmarks/results/precision.json]

PHOTOS is a folder with a folder a class (the Caltech-101 subset), NETWORK a file or folder with a network, or a name of
the catalogue (then with random weights: its speed alone counts). On one thread, in batches of 8, the networks run in
turn, pair by pair: the ratio of a pair's times is taken, and of these the median. A network with real weights is also
cut at its features; scikit-learn's logistic regression is fitted on features of 20 photos a class and tested on the
others, once in float32 and once in int8.
"""

import argparse
import json
import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sparkwright.models import library_versions
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.scoring.forward.runtime import OnnxSession
from sparkwright.scoring.forward.torch_runtime import TorchSession
from sparkwright.scoring.precision import _bfloat16, measure, quantise

BATCH, PAIRS, CALIBRATE, MEASURE, TRAIN = 8, 15, 64, 128, 20


def preprocess(network, photos: list[Path]) -> np.ndarray:
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda path: network.preprocessing.apply(path.read_bytes()), photos)))


def ratio(exact, reduced, x: np.ndarray) -> dict[str, float]:
    """Time two networks in turn."""

    def seconds(run) -> float:
        start = time.perf_counter()
        run(x)
        return time.perf_counter() - start

    for run in (exact, reduced):
        run(x)
    pairs = [(seconds(exact), seconds(reduced)) for _ in range(PAIRS)]
    ratios = sorted(one / other for one, other in pairs)
    return {
        "speed": round(statistics.median(ratios), 2),
        "speed_quartiles": [round(ratios[PAIRS // 4], 2), round(ratios[-1 - PAIRS // 4], 2)],
        "float32_ms_per_photo": round(1e3 * statistics.median(one for one, _ in pairs) / len(x), 2),
        "reduced_ms_per_photo": round(1e3 * statistics.median(other for _, other in pairs) / len(x), 2),
    }


def head_accuracy(sessions: dict[str, OnnxSession], network, photos: list[Path]) -> dict[str, float]:
    """Return each one's accuracy on photos that a head on its features has not seen."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts: dict[str, list[np.ndarray]] = {name: [] for name in sessions}
    for start in range(0, len(photos), BATCH):
        x = preprocess(network, photos[start : start + BATCH])
        for name, session in sessions.items():
            parts[name].append(session(x).reshape(len(x), -1))
    labels = np.array([path.parent.name for path in photos])  # sorted
    place_in_class = np.arange(len(labels)) - np.searchsorted(labels, labels)
    train = place_in_class < TRAIN
    found = {}
    for name, rows in parts.items():
        features = np.concatenate(rows)
        head = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, max_iter=500))
        found[name] = round(head.fit(features[train], labels[train]).score(features[~train], labels[~train]), 4)
    return found


def run(name: str, photos: list[Path]) -> dict:
    real = Path(name).exists()
    network = load_network(name) if real else load_network(name, weights="random")
    rng = np.random.default_rng(0)
    sample = preprocess(network, [photos[place] for place in rng.permutation(len(photos))[: CALIBRATE + MEASURE]])
    calibrating, measuring = sample[:CALIBRATE], sample[CALIBRATE:]
    exact, x = OnnxSession(network.to_onnx()), measuring[:BATCH]
    result: dict = {"network": network.name, "weights": "real" if real else "random: no accuracy"}
    reduced = quantise(network, calibrating)
    result["int8"] = ratio(exact, OnnxSession(reduced.to_onnx()), x)
    if isinstance(network, TorchNetwork):
        result["bfloat16"] = ratio(exact, TorchSession(_bfloat16(network)), x)
    if real:
        cut = network.cut(network.feature_layer)
        small = quantise(cut, calibrating)
        result["int8"]["classes"] = measure(network, reduced, measuring, True, "int8", CALIBRATE).to_dict()
        result["int8"]["features"] = measure(cut, small, measuring, False, "int8", CALIBRATE).to_dict()
        if isinstance(network, TorchNetwork):
            found = measure(network, _bfloat16(network), measuring, True, "bfloat16", 0)
            result["bfloat16"]["classes"] = found.to_dict()
            found = measure(cut, _bfloat16(cut), measuring, False, "bfloat16", 0)
            result["bfloat16"]["features"] = found.to_dict()
        sessions = {"float32": OnnxSession(cut.to_onnx()), "int8": OnnxSession(small.to_onnx())}
        result["head_accuracy"] = head_accuracy(sessions, cut, photos)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    photos = sorted(args.photos.glob("*/*.jpg"))
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    document = {
        "command": "python benchmarks/precision.py PHOTOS NETWORK …",
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "instructions": [name for name in ("avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16") if name in flags],
        },
        "versions": library_versions(),
        "seed": 0,
        "results": [],
    }
    for name in args.networks:
        document["results"].append(run(name, photos))
        print(json.dumps(document["results"][-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
