"""What does decoding large JPEGs at a fraction of their size cost in accuracy, and gain in time?

    python benchmarks/reduced_decoding.py PHOTOS NETWORK [--short-side 1536]

PHOTOS is a folder whose files begin with the number of their ImageNet class (``0042_…``), NETWORK an ImageNet network.
Photos of cameras are larger than those of ImageNet, so each is first enlarged to a short side of 1,536 pixels (bicubic)
and written as JPEG of quality 92.
For each `reducing_gap` of the preprocessing: seconds to decode and resize a photo on one core, top-1 and top-5, labels
that differ from whole decoding, and the largest and mean difference of a pixel (of 255).
"""

import argparse
import io
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparkwright.models import library_versions
from sparkwright.networks.catalogue import load_network


def enlarged(file: Path, short_side: int) -> bytes:
    """Return a photo as a camera might have taken it."""
    photo = Image.open(file).convert("RGB")
    factor = short_side / min(photo.size)
    out = io.BytesIO()
    photo.resize((round(photo.width * factor), round(photo.height * factor)), Image.Resampling.BICUBIC).save(
        out, "JPEG", quality=92
    )
    return out.getvalue()


def measure(photos: list[bytes], truth: np.ndarray, network: Any, gap: float | None, whole: Any) -> dict[str, Any]:
    """Return one row of the result; `whole` is what `measure` said of whole decoding, with its pixels and labels."""
    preprocessing = replace(network.preprocessing, reducing_gap=gap)
    x = np.empty((len(photos), *network.input_shape), np.float32)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for row, photo in enumerate(photos):
            preprocessing.apply(photo, x[row])
        seconds.append(time.perf_counter() - start)
    scores = np.concatenate([network.forward(x[start : start + 8]) for start in range(0, len(x), 8)])
    order = np.argsort(-scores, axis=1)[:, :5]
    result = {
        "reducing_gap": gap,
        "ms_a_photo": 1000 * min(seconds) / len(photos),
        "top_1": int((order[:, 0] == truth).sum()),
        "top_5": int((order == truth[:, None]).any(axis=1).sum()),
    }
    if whole is not None:
        std = np.array(preprocessing.std, np.float32)[:, None, None] / preprocessing.scale
        differences = np.abs(x - whole["x"]) * std
        result["other_labels"] = int((order[:, 0] != whole["labels"]).sum())
        result["pixel_difference"] = {"mean": float(differences.mean()), "largest": float(differences.max())}
    return result | {"x": x, "labels": order[:, 0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("network")
    parser.add_argument("--short-side", type=int, default=1536)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reduced_decoding.json")
    arguments = parser.parse_args()
    network = load_network(arguments.network)
    files = sorted(path for path in arguments.folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    photos = [enlarged(file, arguments.short_side) for file in files]
    truth = np.array([int(file.name[:4]) for file in files])
    whole = measure(photos, truth, network, None, None)
    rows = [whole, *(measure(photos, truth, network, gap, whole) for gap in (2.0, 1.0))]
    result = {
        "command": "python benchmarks/reduced_decoding.py PHOTOS NETWORK",
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine(), "gpu": None},
        "versions": library_versions(),
        "network": network.name,
        "photos": len(photos),
        "short_side": arguments.short_side,
        "results": [{key: value for key, value in row.items() if key not in ("x", "labels")} for row in rows],
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["results"], indent=2))


if __name__ == "__main__":
    main()
