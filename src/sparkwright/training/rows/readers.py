"""From a row's payload to what a worker keeps of it, and from that to what a network takes.

`Encoding` moves a row's *payload* to its worker: numbers as float32, or bytes as they are (a photo's file, the path of
one, text, an audio file). There a `Reader` turns each payload, once, into the array that is kept; and at each step the
kept rows of a batch into the network's inputs. Scoring reads with the same preprocessing, so that both see the same
bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.errors import ContentError
from sparkwright.networks.audio import AudioPreprocessing
from sparkwright.networks.preprocessing import AnyPreprocessing, Preprocessing
from sparkwright.networks.series import SeriesPreprocessing
from sparkwright.scoring.inputs.sources import read_file
from sparkwright.training.rows.columns import Payload
from sparkwright.training.rows.kept import Raw

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

__all__ = ["NUMBERS", "Draw", "ImageReader", "Inputs", "NumberReader", "Reader", "forward", "make_reader"]

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a module takes: one tensor, several in its order, or several by its parameters' names."""

_VALUES_AT_ONCE = 1 << 22  # of the inputs of a forward pass without gradients: 16 MiB


@dataclass(frozen=True)
class Draw:
    """Where in a training a batch is taken: what its random draws derive from (`derived_seed`), and nothing else.

    Attributes:
        seed: Of the training.
        epoch: From 1.
        replica: With the step and the seed: what mixes rows of a batch.
        step: Counted over all epochs, from 1. With the row's key and the seed: what concerns one row, also where one
            comes several times an epoch (balanced sampling).
    """

    seed: int
    epoch: int
    replica: int
    step: int


class Reader(ABC):
    """Reads rows of one kind; immutable, and small enough to travel. Threads may share it.

    Attributes:
        payload: What it takes from `Encoding`.
        noun: What a row is, in messages: "photo".
        dtype: Of what is kept.
        row_shape: Shape of a kept row; None where the rows tell it (numbers), or if rows are ragged.
        item_shape: Shape of an item of ragged rows, which are kept as (length, *item); None if rows are not ragged.
        ahead: Whether batches are worth a thread that makes them while the network is busy.
    """

    payload: ClassVar[Payload] = "bytes"
    noun: ClassVar[str] = "row"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)
    ahead: ClassVar[bool] = True

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of a kept row."""
        return None

    @property
    def item_shape(self) -> tuple[int, ...] | None:
        """Shape of an item of ragged rows."""
        return None

    @abstractmethod
    def read(self, payload: bytes) -> NDArray[Any]:
        """Return what is kept of one row: of `dtype` and `row_shape`, or (length, *item_shape). Runs on executors.

        Raises:
            ContentError: The row cannot be used; such rows are counted by `kind`.
        """

    @abstractmethod
    def batch(self, raw: Raw, keys: NDArray[np.int64], draw: Draw | None) -> Inputs:
        """Return what the network takes of some kept rows.

        Args:
            raw: As `Kept.take` gives them; may be overwritten.
            keys: Hash of each row's content.
            draw: Where in the training the batch is taken; None as in scoring: no augmentation.
        """

    def mixing(self, rows: int, draw: Draw) -> tuple[float, NDArray[np.int64]] | None:  # noqa: ARG002
        """Return what `batch` has blended, if anything: the share of each of `rows` rows, and whose the rest is."""
        return None

    @property
    def rows_at_once(self) -> int:
        """Rows of a forward pass over validation rows; part of the result, as kernels may round by size."""
        if self.item_shape is not None:
            return 64
        return max(1, min(1024, _VALUES_AT_ONCE // int(np.prod(self.row_shape or ()))))

    def name(self, payload: bytes) -> str:  # noqa: ARG002
        """Return what tells a row from others in a message; empty where nothing short does."""
        return ""

    def read_all(
        self, payloads: "pa.BinaryArray"
    ) -> tuple[list[NDArray[Any] | None], list[tuple[str, str]], list[str]]:
        """Return what is kept of each row, None where it cannot be read; for each such row why, twice; and remarks.

        Why is said first in the words that all rows of its kind share, then in those of this row; so are remarks, on
        rows that can be read. Payloads that are null count as unreadable.
        """
        kept: list[NDArray[Any] | None] = []
        problems, remarks = [], []
        for place, (row, remark) in enumerate(self._read_each(payload.as_py() for payload in payloads)):
            if isinstance(row, ContentError):
                named, told = self.name(payloads[place].as_py()), str(row)
                told = f"{named}: {told}" if named and named not in told else told
                problems.append((f"the {self.noun} cannot be read ({row.kind})", told))
            kept.append(None if isinstance(row, ContentError) else row)
            remarks += [remark] if remark else []
        return kept, problems, remarks

    def _read_each(self, payloads: Iterable[bytes]) -> "Iterable[_Read]":
        """Yield what `read` gives or raises, in order, with a remark on it."""
        for payload in payloads:
            try:
                yield self.read(payload), ""
            except ContentError as error:
                yield error, ""


_Read = tuple[NDArray[Any] | ContentError, str]
"""What is kept of a row, or why nothing is; and a remark on it, mostly empty."""


@dataclass(frozen=True)
class NumberReader(Reader):
    """Rows of numbers, as many in each.

    Args:
        shape: What the network takes of a row; None takes the row as it is.
    """

    shape: tuple[int, ...] | None = None
    payload: ClassVar[Payload] = "numbers"
    ahead: ClassVar[bool] = False

    @property
    def rows_at_once(self) -> int:
        return max(1, min(1024, _VALUES_AT_ONCE // int(np.prod(self.shape or ()))))

    def read(self, payload: bytes) -> NDArray[np.float32]:
        return np.frombuffer(payload, np.float32)

    def batch(self, raw: Raw, keys: NDArray[np.int64], draw: Draw | None) -> Tensor:  # noqa: ARG002
        x_BF = torch.from_numpy(raw)
        return x_BF if self.shape is None else x_BF.view(len(x_BF), *self.shape)


NUMBERS = NumberReader()
"""Reads rows of features, which a head takes as they are."""


@dataclass(frozen=True)
class ImageReader(Reader):
    """Photos: decoded, resized and cropped once as scoring does it, and kept as 8 bit pixels.

    Augmentation acts on these pixels, drawn from the photo's content, the step and the seed; mixup's pairs from
    replica, step and seed.

    Args:
        preprocessing: Of the network.
        located: Whether a payload is a photo's path (UTF-8), which the worker reads, and not its file.
    """

    preprocessing: Preprocessing
    located: bool = False
    noun: ClassVar[str] = "photo"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        channels, height, width = self.preprocessing.shape
        return height, width, channels

    def name(self, payload: bytes) -> str:
        return payload.decode(errors="replace") if self.located else ""

    def read(self, payload: bytes) -> NDArray[np.uint8]:
        return self.preprocessing.cut(self._decoded(payload))

    def _decoded(self, payload: bytes) -> "Image":
        return self.preprocessing.decode(read_file(payload.decode(), _LARGEST_FILE) if self.located else payload)

    def batch(self, raw: Raw, keys: NDArray[np.int64], draw: Draw | None) -> Tensor:
        augmentation = self.preprocessing.augmentation
        inputs = np.empty((len(raw), *self.preprocessing.shape), np.float32)
        for pixels, key, out in zip(raw, keys.view(np.uint64).tolist(), inputs, strict=True):
            if draw is not None and augmentation is not None and augmentation.changes_photos:
                pixels = augmentation.apply(pixels, _generator(draw.seed, draw.step, key))
            self.preprocessing.normalise(pixels, out)
        mixed = None if draw is None else self.mixing(len(raw), draw)
        if mixed is not None:
            share, partner = mixed
            inputs = np.float32(share) * inputs + np.float32(1 - share) * inputs[partner]
        return torch.from_numpy(inputs)

    def mixing(self, rows: int, draw: Draw) -> tuple[float, NDArray[np.int64]] | None:
        augmentation = self.preprocessing.augmentation
        if augmentation is None or not augmentation.mixup:
            return None
        return augmentation.mixing(rows, _generator(draw.seed, draw.replica, draw.step, rows))

    def _read_each(self, payloads: Iterable[bytes]) -> Iterable[_Read]:
        with ThreadPoolExecutor(_READ_AT_ONCE, "photos") as threads:
            yield from threads.map(self._read_or_error, payloads)

    def _read_or_error(self, payload: bytes) -> _Read:
        try:
            image = self._decoded(payload)
            return self.preprocessing.cut(image), self._remark(image)
        except ContentError as error:
            return error, ""

    def _remark(self, image: "Image") -> str:
        if not self.preprocessing.loses_edges(image):
            return ""
        height, width = self.preprocessing.size
        return (
            f"photos are larger than the network's input, {width} x {height}, and lose all but their centre, because "
            "the preprocessing does not resize (`resize` is 'none'; 'short' or 'exact' would)"
        )


_READ_AT_ONCE = 4  # photos: while one is decoded others wait for their file
_LARGEST_FILE = 1 << 30  # bytes of a photo's file


def _generator(*seeds: int) -> np.random.Generator:
    """Return the generator of seeds that are not negative: the same everywhere."""
    return np.random.Generator(np.random.PCG64(seeds))


def forward(module: nn.Module, inputs: Inputs) -> Tensor:
    """Return a module's output."""
    if isinstance(inputs, dict):
        return module(**inputs)  # type: ignore[no-any-return]
    if isinstance(inputs, tuple):
        return module(*inputs)  # type: ignore[no-any-return]
    return module(inputs)  # type: ignore[no-any-return]


def make_reader(preprocessing: AnyPreprocessing | None, shape: Sequence[int], *, located: bool = False) -> Reader:
    """Return what reads the rows of a network.

    Args:
        preprocessing: Of the network; None: it takes numbers.
        shape: Of one input of the network.
        located: Whether the column holds paths, not the files' bytes.
    """
    if preprocessing is None:
        return NumberReader(tuple(shape))
    if isinstance(preprocessing, Preprocessing):
        return ImageReader(preprocessing, located)
    from sparkwright.training.rows.sequence_readers import AudioReader, SeriesReader, TextReader

    if isinstance(preprocessing, AudioPreprocessing):
        return AudioReader(preprocessing, located)
    if isinstance(preprocessing, SeriesPreprocessing):
        return SeriesReader(preprocessing)
    return TextReader(preprocessing)
