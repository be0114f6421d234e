"""Recurrent networks for texts, sounds and series: LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al. 2014).

Layers: ``mask``, ``embed`` (of words or characters), ``dropout0``, ``rnn1``, ``dropout1`` …, ``pool``, ``output``.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from sparkwright.errors import InputError
from sparkwright.networks.dropout import Dropout
from sparkwright.networks.sequences import CELLS, POOLINGS, Embed, Mask, Pool, Recurrent, StepDropout, check_one
from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["build"]


def build(
    outputs: int = 2,
    vocabulary: int | None = None,
    channels: int | None = None,
    max_length: int = 512,
    cell: Literal["lstm", "gru"] = "lstm",
    embedding: int = 64,
    hidden: Sequence[int] = (64,),
    bidirectional: bool = True,
    pooling: Literal["mean", "max", "mean_max", "last"] = "mean_max",
    dropout: float = 0.3,
    word_dropout: float = 0.0,
    truncate: int | None = None,
) -> Architecture:
    """Build the layers for sequences of numbers that stand for words, or of vectors.

    Args:
        outputs: Number of classes, or of targets.
        vocabulary: Of words or characters: how many numbers there are (`TextPreprocessing.size`).
        channels: Instead: values of a step (`AudioPreprocessing.bands`).
        max_length: Steps of the longest sequence.
        cell: ``lstm`` or ``gru``.
        embedding: Width of the vectors that stand for words.
        hidden: Widths of the recurrent layers, of each direction.
        bidirectional: Whether each layer reads the sequence from its end too.
        pooling: ``mean``, ``max``, ``mean_max`` or ``last``; see `Pool`.
        dropout: Share of the values between layers dropped in training.
        word_dropout: Share of whole steps dropped in training, under the first recurrent layer.
        truncate: Gradients go back at most this many steps; None for no limit. See `Recurrent`.

    Raises:
        InputError: An option is out of its range, or not exactly one of `vocabulary` and `channels` is given.
    """
    check_one("cell", cell, CELLS)
    check_one("pooling", pooling, POOLINGS)
    if not hidden or min(hidden) < 1 or (truncate is not None and truncate < 1):
        raise InputError(f"`hidden` and `truncate` must be at least 1; got {list(hidden)} and {truncate}.")
    layers, width = begin(vocabulary, channels, embedding, word_dropout)
    for number, size in enumerate(hidden, 1):
        if dropout:
            layers[f"dropout{number - 1}"] = StepDropout(dropout)
        layers[f"rnn{number}"] = Recurrent(width, size, cell, bidirectional, truncate)
        width = size * (1 + bidirectional)
    end(layers, width, hidden[-1], pooling, dropout, outputs)
    shape = (max_length,) if vocabulary else (max_length, channels or 0)
    return Architecture(Layers(layers), shape, {}, feature_layer="pool")


def begin(
    vocabulary: int | None, channels: int | None, embedding: int, word_dropout: float
) -> tuple[OrderedDict[str, nn.Module], int]:
    """Return the layers that every network of sequences begins with, and the values of a step behind them.

    Raises:
        InputError: Not exactly one of `vocabulary` and `channels` is given.
    """
    if (vocabulary is None) == (channels is None) or (vocabulary or channels or 0) < 1:
        raise InputError(
            "A network of sequences needs either `vocabulary`, how many numbers stand for words "
            "(TextPreprocessing.size), or `channels`, the values of a step (AudioPreprocessing.bands); got "
            f"vocabulary={vocabulary} and channels={channels}."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(mask=Mask())
    if vocabulary is not None:
        layers["embed"] = Embed(vocabulary, embedding)
    if word_dropout:
        layers["word_dropout"] = StepDropout(word_dropout, whole=True)
    return layers, embedding if channels is None else channels


def end(
    layers: OrderedDict[str, nn.Module], width: int, ahead: int, pooling: str, dropout: float, outputs: int
) -> None:
    """Add the layers that every network of sequences ends with."""
    layers["pool"] = Pool(pooling, ahead)  # type: ignore[arg-type]
    if dropout:
        layers["dropout"] = Dropout(dropout)
    layers["output"] = nn.Linear(width * (2 if pooling == "mean_max" else 1), outputs)
