"""A job that a test runs, mostly in a process of its own to do something to it: features of numbered photos.

Arguments: master, output folder, rows, partitions, Spark settings (``key=value`` …). Writes a JSON line when it starts
and one when it has ended.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from faults import SLOW, Faulty  # as the executors know it
from photos import pixels_network

from sparkwright import session
from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.scoring.features import featurize


def photo(number: int) -> bytes:
    """A slow photo that says its own number."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour(number)).save(file, "PNG")
    return file.getvalue() + SLOW


def colour(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 7


def network() -> OnnxNetwork:
    """Hands the colour of one pixel on."""
    return pixels_network(Faulty((1, 1), resize="exact", scale=1.0))


def make_features(spark: Any, out: str, rows: int, partitions: int) -> dict[str, Any]:
    """Return what was computed, and whether each row is there once and right."""
    photos = [(number, photo(number)) for number in range(rows)]
    images = spark.createDataFrame(photos, "number long, content binary").repartition(partitions, "number")
    made = featurize(spark, images, network(), out)
    wrong = [
        row.number for row in made.rows.collect() if row.features is None or tuple(row.features) != colour(row.number)
    ]
    numbers = sorted(row.number for row in made.rows.select("number").collect())
    once = numbers == list(range(rows))
    return {
        "computed": made.computed,
        "reused": made.reused,
        "errors": made.manifest.errors,
        "wrong": wrong,
        "once": once,
    }


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(master: str, out: str, rows: str, partitions: str, *settings: str) -> None:
    spark = session.start(master, conf=dict(setting.split("=", 1) for setting in settings))
    spark.addArtifacts(str(Path(__file__).with_name("faults.py")), pyfile=True)
    say({"started": True})
    say(make_features(spark, out, int(rows), int(partitions)))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
