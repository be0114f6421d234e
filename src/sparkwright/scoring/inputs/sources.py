"""What a column holds, and how a worker gets a photo, a text or a sound from it.

The column's type says it: files' bytes (binary); locations (string), each a URL or a path by its scheme; Spark's image
schema (struct); or numbers (array, vector). For a network that reads texts, strings are texts.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from PIL import Image

from sparkwright import storage
from sparkwright.errors import ColumnError, ContentError, EnvironmentNotReadyError, InputError
from sparkwright.networks.audio import AudioPreprocessing
from sparkwright.networks.preprocessing import AnyPreprocessing, ImageError
from sparkwright.networks.series import SeriesPreprocessing
from sparkwright.networks.text import TextPreprocessing
from sparkwright.scoring.inputs.addresses import is_url
from sparkwright.scoring.inputs.fetch import FetchLimits, Web
from sparkwright.scoring.inputs.prefetch import Prefetch, Ticket

if TYPE_CHECKING:
    from pyspark.sql.types import DataType, StructField

__all__ = ["Content", "Read", "Readers", "Source", "read_file", "reading", "sha256", "source_of"]

Source = Literal["bytes", "locations", "pixels", "text", "series", "numbers"]
"""What a column holds: files, where these lie, decoded photos (Spark's image schema), texts, arrays of numbers of any
length, or a network's input."""

Content = bytes | str | list[float] | Image.Image
"""What a row holds: a file's bytes, a text, numbers, or a decoded photo."""

Read = Callable[[int], Content]
"""From a row's place in its block to its content; called from any thread, once a row. Raises `ContentError`."""

AHEAD_ROWS = 512
"""Rows of locations that wait for the engine, fetched or under way: no block is handed out before so many are here."""

AHEAD_BYTES = 32 << 20
"""Bytes of theirs that wait in memory before no further row is begun."""

# Where a table's paths may lead; fsspec knows more, web pages and chains of them among it.
_STORES = ("hdfs", "viewfs", "s3", "s3a", "gs", "abfs", "abfss")

# https://docs.opencv.org/4.x/d1/d1b/group__core__hal__interface.html: 8 bit, 1 to 4 channels. Mode → channels.
_CHANNELS = {0: 1, 16: 3, 24: 4}
_PIXEL_FIELDS = {"height": "int", "width": "int", "nChannels": "int", "mode": "int", "data": "binary"}


def source_of(field: "StructField", preprocessing: AnyPreprocessing | None = None) -> Source:
    """Return what a column holds, by its type, for a network with this preprocessing.

    Raises:
        ColumnError: nothing that can be scored.
    """
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import ArrayType, BinaryType, NumericType, StringType

    type_ = field.dataType
    if isinstance(preprocessing, TextPreprocessing):
        if isinstance(type_, StringType | BinaryType):
            return "text" if isinstance(type_, StringType) else "bytes"
        raise ColumnError(f"Column `{field.name}` must hold text (string); it is of type {type_.simpleString()}.")
    if isinstance(preprocessing, SeriesPreprocessing):
        if isinstance(type_, ArrayType) and isinstance(type_.elementType, NumericType):
            return "series"
        raise ColumnError(
            f"Column `{field.name}` must hold arrays of numbers, step by step; it is of type {type_.simpleString()}."
        )
    if isinstance(preprocessing, AudioPreprocessing) and not isinstance(type_, StringType | BinaryType):
        raise ColumnError(
            f"Column `{field.name}` must hold sounds' bytes (binary), or paths or URLs (string); it is of type "
            f"{type_.simpleString()}."
        )
    if isinstance(type_, BinaryType):
        return "bytes"
    if isinstance(type_, StringType):
        return "locations"
    if _has_pixels(type_):
        return "pixels"
    if isinstance(type_, VectorUDT) or (isinstance(type_, ArrayType) and isinstance(type_.elementType, NumericType)):
        return "numbers"
    several = (
        " Columns of one number each are given together, as `inputCols`." if isinstance(type_, NumericType) else ""
    )
    raise ColumnError(
        f"Column `{field.name}` must hold photos' bytes (binary), paths or URLs (string), Spark's images (struct), or "
        f"numbers (array of numbers, vector); it is of type {type_.simpleString()}.{several}"
    )


def _has_pixels(type_: "DataType") -> bool:
    from pyspark.sql.types import StructType

    if not isinstance(type_, StructType):
        return False
    return _PIXEL_FIELDS.items() <= {field.name: field.dataType.simpleString() for field in type_.fields}.items()


Blocks = Iterator[tuple[pa.RecordBatch, Read] | None]
"""Blocks, each with what reads its photos; None where no more come until those before are done."""

Readers = Callable[[Iterable[pa.RecordBatch | None], str], Blocks]
"""From blocks, and the name of the column, to blocks with their readers."""


@contextmanager
def reading(source: Source, limits: FetchLimits) -> Iterator[Readers]:
    """Return what makes readers; locations are fetched while earlier blocks are decoded, until the context ends."""
    if source != "locations":
        yield partial(_held, _pixels if source == "pixels" else _plain)
        return
    web = Web(limits)
    prefetch = Prefetch(
        partial(_fetch, web, limits),
        threads=limits.concurrency,
        ahead_bytes=AHEAD_BYTES,
        patience=lambda location: None if is_url(location) else limits.timeout_s,
    )
    try:
        yield partial(_located, prefetch)
    finally:
        web.close()
        prefetch.close()


def sha256(photo: Content) -> str:
    """Return the SHA-256 of a file's bytes, a text or numbers; of a decoded photo: of mode, size and pixels."""
    if isinstance(photo, bytes | str):
        return hashlib.sha256(photo.encode() if isinstance(photo, str) else photo).hexdigest()
    if isinstance(photo, list):
        return hashlib.sha256(np.array(photo, np.float32).tobytes()).hexdigest()
    return hashlib.sha256(f"{photo.mode} {photo.width} {photo.height}\n".encode() + photo.tobytes()).hexdigest()


def _plain(column: pa.Array, row: int) -> bytes | str | list[float]:
    content: bytes | str | list[float] | None = column[row].as_py()
    if content is None:
        raise ContentError("empty", "The row's content is null.")
    return content


def _pixels(column: pa.StructArray, row: int) -> Image.Image:
    """Return the photo of a row of Spark's image schema: rows of blue, green, red (and alpha), 8 bit each."""
    image = column[row].as_py()
    if image is None or image["data"] is None:
        raise ImageError("empty", "The photo is null.")
    height, width, channels, data = image["height"], image["width"], image["nChannels"], image["data"]
    if not data or height <= 0 or width <= 0:
        raise ImageError("unreadable", "Spark could not decode the photo.")
    if _CHANNELS.get(image["mode"]) != channels:
        raise ImageError("unsupported", f"Images of mode {image['mode']} with {channels} channels are not supported.")
    if len(data) != height * width * channels:
        raise ImageError("unreadable", f"{len(data)} bytes are no image of {height} x {width} x {channels}.")
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, channels)
    if channels == 1:
        return Image.fromarray(pixels[:, :, 0])
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][:channels]]))


def _held(read: Callable[[pa.Array, int], Content], parts: Iterable[pa.RecordBatch | None], column: str) -> Blocks:
    for part in parts:
        yield None if part is None else (part, partial(read, part.column(column)))


def _located(prefetch: Prefetch, parts: Iterable[pa.RecordBatch | None], column: str) -> Blocks:
    waiting: deque[tuple[pa.RecordBatch, Read]] = deque()
    ahead = 0
    for part in parts:
        if part is None:
            yield from waiting
            waiting.clear()
            ahead = 0
            yield None
            continue
        tickets = prefetch.submit([value and value.strip() for value in part.column(column).to_pylist()])
        waiting.append((part, partial(_take, prefetch, tickets)))
        ahead += part.num_rows
        while ahead >= AHEAD_ROWS:
            ahead -= waiting[0][0].num_rows
            yield waiting.popleft()
    yield from waiting


def _take(prefetch: Prefetch, tickets: list[Ticket | None], row: int) -> bytes:
    ticket = tickets[row]
    if ticket is None:
        raise ImageError("empty", "The path or URL is null.")
    return prefetch.take(ticket)


def _fetch(web: Web, limits: FetchLimits, location: str) -> bytes:
    return web.get(location) if is_url(location) else read_file(location, limits.max_bytes)


def read_file(path: str, max_bytes: int) -> bytes:
    """Read a photo's file from disk, HDFS or an object store.

    Raises:
        ImageError: of the kinds ``not found``, ``not allowed``, ``timeout``, ``too large``, ``unsupported``,
            ``unreadable`` (the disk), ``network failure`` (another file system).
    """
    if not path:
        raise ImageError("empty", "The path is empty.")
    local = storage.is_local(path)
    if not local and (not path.lower().startswith(tuple(f"{store}:/" for store in _STORES)) or "::" in path):
        raise ImageError("unsupported", f"Paths must be of one of {', '.join(_STORES)}, or local; URLs http or https.")
    try:
        content = _read(path, max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageError("not found", f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise ImageError("unreadable", f"{path} is a folder.") from error
    except PermissionError as error:
        raise ImageError("not allowed", f"{path} may not be read.") from error
    except TimeoutError as error:
        raise ImageError("timeout", "The file system did not answer in time.") from error
    except (EnvironmentNotReadyError, InputError) as error:
        raise ImageError("unsupported", str(error)) from error
    except Exception as error:  # file systems raise errors of their own
        raise ImageError("unreadable" if local else "network failure", f"{type(error).__name__}: {error}") from error
    if len(content) > max_bytes:
        raise ImageError("too large", f"The photo has more than {max_bytes:,} bytes (max_bytes).")
    return content


def _read(path: str, most: int) -> bytes:
    try:
        return storage.read_bytes(path, most)
    except FileNotFoundError:
        # Spark's own functions give percent-encoded URIs (`input_file_name`) or plain ones (`binaryFile`).
        if path.startswith("file:") and "%" in path:
            return storage.read_bytes(unquote(path), most)
        raise
