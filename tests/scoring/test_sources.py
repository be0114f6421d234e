import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sparkwright.errors import ColumnError
from sparkwright.networks.preprocessing import ImageError
from sparkwright.scoring.inputs import sources
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.inputs.sources import read_file, reading, sha256, source_of

from .photo_server import PhotoServer, photo_server
from .photos import png

pytestmark = pytest.mark.timeout(30)

LIMITS = FetchLimits(timeout_s=3, retries=1, allow_private=True)
LIMIT = LIMITS.max_bytes


@pytest.fixture
def server() -> Iterator[PhotoServer]:
    with photo_server() as server:
        yield server


def results(column: pa.Array, source: Any, limits: FetchLimits = LIMITS, rows: int = 3) -> list[Any]:
    """What each row's read gives: content, or the error's kind."""
    batch = pa.RecordBatch.from_pydict({"x": column})
    parts = (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))
    found = []
    with reading(source, limits) as readers:
        for block in readers(parts, "x"):
            assert block is not None
            part, read = block
            for row in range(part.num_rows):
                try:
                    found.append(read(row))
                except ImageError as error:
                    found.append(error.kind)
    return found


def failure(path: str, limit: int = LIMIT) -> tuple[str, str]:
    with pytest.raises(ImageError, match=r"\w") as raised:
        read_file(path, limit)
    return raised.value.kind, str(raised.value)


def spark_image(image: Image.Image, mode: int = 16) -> dict[str, Any]:
    """A row of Spark's image schema, as its own reader makes it."""
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    height, width, channels = pixels.shape
    data = np.ascontiguousarray(pixels).tobytes()
    return {"origin": "x", "height": height, "width": width, "nChannels": channels, "mode": mode, "data": data}


def noise(mode: str) -> Image.Image:
    channels = len(mode)
    values = np.random.default_rng(0).integers(0, 256, (9, 13, channels), np.uint8)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


def test_the_type_of_a_column_says_what_it_holds() -> None:
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import types as T  # noqa: N812

    ints = [T.StructField(name, T.IntegerType()) for name in ("height", "width", "nChannels", "mode")]
    data = T.StructField("data", T.BinaryType())
    image = T.StructType([T.StructField("origin", T.StringType()), *ints, data])
    held = {
        "bytes": [T.BinaryType()],
        "locations": [T.StringType()],
        "pixels": [image],
        "numbers": [T.ArrayType(T.FloatType()), T.ArrayType(T.IntegerType()), VectorUDT()],
    }
    for source, types in held.items():
        assert [source_of(T.StructField("x", type_)) for type_ in types] == [source] * len(types)
    for type_ in (T.IntegerType(), T.ArrayType(T.StringType()), T.StructType([data]), T.DateType()):
        with pytest.raises(ColumnError, match="Column `x` must hold photos' bytes"):
            source_of(T.StructField("x", type_))


def test_paths_are_read_with_and_without_a_scheme(tmp_path: Path) -> None:
    names = ["plain.png", "a b ö.png", "100%.png", "%41.png"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    for name in names:
        for path in (f"{tmp_path}/{name}", f"file:{tmp_path}/{name}", f"file://{tmp_path}/{name}"):
            assert read_file(path, LIMIT) == name.encode()
    assert read_file(f"file://{tmp_path}/a%20b%20%C3%B6.png", LIMIT) == b"a b \xc3\xb6.png"  # as `input_file_name` says


def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(101))
    assert failure(f"{tmp_path}/none.jpg") == ("not found", f"There is no file {tmp_path}/none.jpg.")
    assert failure(f"{tmp_path}/large/x.jpg")[0] == "not found"
    assert failure(str(tmp_path)) == ("unreadable", f"{tmp_path} is a folder.")
    assert failure(f"{tmp_path}/large", 100) == ("too large", "The photo has more than 100 bytes (max_bytes).")
    assert failure("/dev/zero", 1000)[0] == "too large"
    assert failure("")[0] == "empty"
    assert failure("a\0b")[0] == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "x").touch(mode=0)
    assert failure(f"{tmp_path}/x") == ("not allowed", f"{tmp_path}/x may not be read.")


@pytest.mark.parametrize(
    "path", ["ftp://127.0.0.1/x", "zip://a::http://127.0.0.1/x", "hdfs://a/b::http://c/d", "github://a"]
)
def test_other_schemes_and_chains_of_them_are_no_way_around_the_rules_for_urls(path: str) -> None:
    kind, message = failure(path)
    assert kind == "unsupported"
    assert "Paths must be of one of hdfs, viewfs, s3" in message


def test_urls_paths_and_nulls_in_one_column_keep_their_order(tmp_path: Path, server: PhotoServer) -> None:
    (tmp_path / "x.png").write_bytes(png(1))
    column = [f"{tmp_path}/x.png", f" {server.url}/photo/2/0.1 ", None, "", f"{server.url}/status/404", "/no/file"]
    found = results(pa.array([*column, f"{server.url}/photo/3"], pa.string()), "locations")
    assert found == [png(1), png(2), "empty", "empty", "not found", "not found", png(3)]


def test_a_pipe_that_nobody_writes_to_ends_in_a_timeout(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.png").write_bytes(b"x")
    column = pa.array([f"{tmp_path}/pipe", f"{tmp_path}/x.png"])
    assert results(column, "locations", replace(LIMITS, timeout_s=0.3)) == ["timeout", b"x"]
    os.close(os.open(tmp_path / "pipe", os.O_WRONLY))  # lets the thread go


def test_rows_are_fetched_while_earlier_ones_are_decoded(server: PhotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "AHEAD_ROWS", 4)
    batch = pa.RecordBatch.from_pydict({"x": [f"{server.url}/photo/{n}" for n in range(20)]})
    pulled = []

    def parts() -> Iterator[pa.RecordBatch | None]:
        for start in range(0, 20, 2):
            pulled.append(start)
            yield batch.slice(start, 2)
            if start == 8:
                yield None

    found: list[bytes | None] = []
    with reading("locations", LIMITS) as readers:
        for block in readers(parts(), "x"):
            found.append(block and block[1](1))
            if len(found) == 1:
                assert pulled == [0, 2]
            if len(found) == 5:
                assert pulled == [0, 2, 4, 6, 8]  # None: nothing more until these are done
    assert found == [*(png(n) for n in (1, 3, 5, 7, 9)), None, *(png(n) for n in (11, 13, 15, 17, 19))]


def test_an_unread_column_of_urls_leaves_no_thread_behind(server: PhotoServer) -> None:
    import threading

    batch = pa.RecordBatch.from_pydict({"x": [f"{server.url}/stall"] * 30})
    with reading("locations", LIMITS) as readers:
        next(readers(iter([batch]), "x"))
    assert not [thread for thread in threading.enumerate() if thread.name == "sparkwright-fetch"]


@pytest.mark.parametrize(("mode", "code"), [("L", 0), ("RGB", 16), ("RGBA", 24)])
def test_sparks_images_become_the_photos_that_they_were(mode: str, code: int) -> None:
    image = noise(mode)
    column = pa.array([spark_image(image, code)])
    (found,) = results(column, "pixels")
    assert found.mode == mode
    assert np.array_equal(np.asarray(found), np.asarray(image))


def test_sparks_images_that_are_none_say_why() -> None:
    good = spark_image(noise("RGB"))
    invalid = {"origin": "x", "height": -1, "width": -1, "nChannels": -1, "mode": -1, "data": b""}
    rows = [good, None, invalid, {**good, "mode": 21}, {**good, "height": 10}, {**good, "data": None}]
    found = results(pa.array(rows), "pixels", rows=6)
    assert found[1:] == ["empty", "unreadable", "unsupported", "unreadable", "empty"]


def test_the_digest_is_that_of_the_bytes_and_of_pixels_with_their_shape() -> None:
    assert sha256(png(3)) == hashlib.sha256(png(3)).hexdigest()
    image = Image.open(io.BytesIO(png(3)))
    turned = Image.new("RGB", (image.height, image.width), (3, 0, 0))
    assert sha256(image) == sha256(image.copy())
    assert sha256(image) != sha256(turned)
