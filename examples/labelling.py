"""Photos behind URLs: labelled with a published network, by SQL, into Parquet; with asserted figures.

    python examples/labelling.py PHOTOS NETWORK OUT

PHOTOS holds 100 photos whose names begin with their ImageNet class (`0010_n01530575_brambling.JPEG`); NETWORK is a name
from `sparkwright networks`, or a file or folder with a network of ImageNet's classes; OUT is a folder for the labels.
The photos are served over HTTP on this machine, and so are ten URLs that lead nowhere, or to what is no photo. Of the
photos at least 80 must get the right label, and of 95 it must be among the best five; the ten must keep their rows.
"""

import http.server
import sys
import threading
from functools import partial
from pathlib import Path
from urllib.parse import quote

from sparkwright import load_network, register, session
from sparkwright.networks.catalogue import imagenet_classes
from sparkwright.scoring.inputs.fetch import FetchLimits

EXPECTED = 0.80  # of the 100 samples, and MobileNet v1 0.75: ONNX Runtime alone finds 82, and 97 among its best five
EXPECTED_TOP_5 = 0.95
BROKEN = {"not found": 4, "unreadable": 3, "network failure": 3}  # kind of error → URLs


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and under ``/broken/`` what goes wrong on the web."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request."""
        if self.path.startswith("/broken/unreadable"):
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b"no photo")
        elif self.path.startswith("/broken/network"):
            self.send_error(500)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Keep quiet."""


def main(photos: str, network: str, out: str) -> None:
    """Serve the photos, label them by SQL, and assert how many labels are right."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=photos))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    names = sorted(path.name for path in Path(photos).iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))
    urls = [(f"{address}/{quote(name)}", imagenet_classes()[int(name[:4])]) for name in names]
    urls += [(f"{address}/broken/{quote(kind)}/{n}.jpg", "") for kind, count in BROKEN.items() for n in range(count)]

    spark = session.start()
    spark.createDataFrame(urls, "url string, truth string").repartition(4).createOrReplaceTempView("urls")
    limits = FetchLimits(allow_private=True, retries=1)  # the server is on this machine
    register(spark, "classify", load_network(network, classes="imagenet"), fetch=limits)
    labelled = spark.sql("SELECT url, truth, answer.* FROM (SELECT url, truth, classify(url) AS answer FROM urls)")
    labelled.write.mode("overwrite").parquet(out)
    server.shutdown()

    rows = spark.read.parquet(out)
    good = rows.where("error IS NULL")
    first = good.where("label = truth").count()
    five = good.where("array_contains(top.label, truth)").count()
    kinds = rows.where("error IS NOT NULL").groupBy("error.kind").count()
    errors = {row["kind"]: row["count"] for row in kinds.collect()}
    print(f"{good.count()} photos: {first} labels right, {five} among the best five; errors: {errors}")
    assert good.count() == len(names), f"expected {len(names)} photos with a label"
    assert first >= EXPECTED * len(names), f"expected at least {EXPECTED}"
    assert five >= EXPECTED_TOP_5 * len(names), f"expected at least {EXPECTED_TOP_5} among the best five"
    assert errors == BROKEN, f"expected the errors {BROKEN}"
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
