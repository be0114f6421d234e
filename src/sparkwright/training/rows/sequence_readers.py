"""Texts, sounds and series on their way into training: rows of unlike lengths, read as scoring reads them."""

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparkwright.networks.audio import AudioPreprocessing
from sparkwright.networks.ragged import pad
from sparkwright.networks.series import SeriesPreprocessing
from sparkwright.networks.text import TextPreprocessing
from sparkwright.scoring.inputs.sources import read_file
from sparkwright.training.rows.columns import Payload
from sparkwright.training.rows.kept import Raw
from sparkwright.training.rows.readers import Draw, Reader

__all__ = ["AudioReader", "SeriesReader", "TextReader"]

_LARGEST_FILE = 1 << 30  # bytes of a sound's file
_SHOWN = 40  # characters of a text in a message


class _SequenceReader(Reader):
    """Rows of float32 of shape (length, …); a batch is as long as its longest row, NaN behind the others' ends."""

    def batch(self, raw: Raw, keys: NDArray[np.int64], draw: Draw | None) -> Tensor:  # noqa: ARG002
        return torch.from_numpy(pad(cast(list[NDArray[np.float32]], raw)))


@dataclass(frozen=True)
class TextReader(_SequenceReader):
    """Texts: kept as the numbers of their words or characters.

    Args:
        preprocessing: Of the network.
    """

    preprocessing: TextPreprocessing
    noun: ClassVar[str] = "text"

    @property
    def item_shape(self) -> tuple[int, ...]:
        return ()

    def name(self, payload: bytes) -> str:
        text = payload[: 4 * _SHOWN].decode(errors="replace")
        return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")

    def read(self, payload: bytes) -> NDArray[np.float32]:
        return self.preprocessing.read(payload).astype(np.float32)


@dataclass(frozen=True)
class AudioReader(_SequenceReader):
    """Sounds: kept as their log-mel spectrograms.

    Args:
        preprocessing: Of the network.
        located: Whether a payload is a sound's path (UTF-8), which the worker reads, and not its file.
    """

    preprocessing: AudioPreprocessing
    located: bool = False
    noun: ClassVar[str] = "sound"

    @property
    def item_shape(self) -> tuple[int, ...]:
        return (self.preprocessing.bands,)

    def name(self, payload: bytes) -> str:
        return payload.decode(errors="replace") if self.located else ""

    def read(self, payload: bytes) -> NDArray[np.float32]:
        if self.located:
            payload = read_file(payload.decode(), _LARGEST_FILE)
        return self.preprocessing.read(payload)


@dataclass(frozen=True)
class SeriesReader(_SequenceReader):
    """Arrays of numbers, of unlike lengths.

    Args:
        preprocessing: Of the network.
    """

    preprocessing: SeriesPreprocessing
    noun: ClassVar[str] = "series"
    payload: ClassVar[Payload] = "numbers"

    @property
    def item_shape(self) -> tuple[int, ...]:
        return (self.preprocessing.channels,)

    def read(self, payload: bytes) -> NDArray[np.float32]:
        return self.preprocessing.read(payload)
