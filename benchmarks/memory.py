"""What memory does a scoring process take, beside what was estimated; and what do processes share?

    python benchmarks/memory.py NETWORK … [--out benchmarks/results/memory.json]

NETWORK is a file or folder with a network, or a name of the catalogue (then with random weights: memory does not depend
on them). For each one, processes as the engine's own (the imports of `sparkwright.scoring.process.child`,
`runtime.load`, a thread that decodes and runs micro-batches of 8) are started: the first one, which packs the weights,
then 1, 2 and 4 at once. Taken are the peak (VmHWM) and the proportional set size (PSS: pages that several processes map
count in shares), when all processes have scored.
"""

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sparkwright.models import library_versions
from sparkwright.networks.catalogue import load_network
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.forward.memory import estimate
from sparkwright.scoring.process.engine import score

BATCH, PHOTOS, MIB = 8, 48, 1 << 20


class Photos:
    """A block of the same photo, of 12 million pixels."""

    def __init__(self, preprocessing) -> None:
        file = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(noise).resize((4000, 3000)).save(file, "JPEG")
        self._photo, self._preprocessing = file.getvalue(), preprocessing

    def __len__(self) -> int:
        return PHOTOS

    def read(self, row: int, out: np.ndarray) -> None:  # noqa: ARG002  all are the same
        self._preprocessing.apply(self._photo, out)


def child(folder: str, pack: bool) -> None:
    """Score in this process, tell its peak, and stay until standard input ends."""
    import sparkwright.scoring.process.child  # noqa: F401  what a scoring process imports
    from sparkwright.networks.preprocessing import Preprocessing
    from sparkwright.scoring.forward import runtime

    spec = json.loads((Path(folder) / "network.json").read_text())
    preprocessing = Preprocessing.from_dict(spec["preprocessing"])
    network = runtime.load(Path(folder) / "network.onnx", spec["sha256"], 1)
    if not pack:
        list(score([Photos(preprocessing)], network, preprocessing.shape, batch_size=BATCH, threads=1))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) << 10, flush=True)
    sys.stdin.read()


def together(folder: Path, processes: int, pack: bool = False) -> dict[str, list[float]]:
    """Run several at once; return each one's peak and proportional set size, in MiB."""
    command = [sys.executable, __file__, "--child", str(folder), *(["--pack"] if pack else [])]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    peaks = [int(one.stdout.readline()) / MIB for one in started]
    shares = []
    for one in started:
        lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
        shares.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)
    for one in started:
        one.stdin.close()
        one.wait()
    return {"peak_mib": [round(peak) for peak in peaks], "pss_mib": [round(share) for share in shares]}


def measure(name: str) -> dict:
    network = load_network(name) if Path(name).exists() else load_network(name, weights="random")
    graph = Graph.of_network(network)
    expected = estimate(graph, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "network.onnx").write_bytes(graph.onnx)
        spec = {"preprocessing": graph.preprocessing.to_dict(), "sha256": graph.sha256}
        (Path(folder) / "network.json").write_text(json.dumps(spec))
        first = together(Path(folder), 1, pack=True)["peak_mib"][0]
        found = {count: together(Path(folder), count) for count in (1, 2, 4)}
    peak = max(first, *(peak for result in found.values() for peak in result["peak_mib"]))
    return {
        "network": network.name,
        "weights_mib": round(len(graph.onnx) / MIB),
        "estimated_peak_mib": round(expected.peak / MIB),
        "measured_peak_mib": peak,
        "estimated_by_measured": round(expected.peak / MIB / peak, 3),
        "peak_while_packing_mib": first,
        "processes": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--pack", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.pack)
        return
    results = []
    for name in args.networks:
        results.append(measure(name))
        print(json.dumps(results[-1]), flush=True)
    within = all(0.75 <= result["estimated_by_measured"] <= 1.25 for result in results)
    document = {
        "command": "python benchmarks/memory.py NETWORK …",
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": library_versions(),
        "within_25_percent": within,
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(document, indent=2) + "\n")
    print("within 25 %" if within else "NOT within 25 %")


if __name__ == "__main__":
    main()
