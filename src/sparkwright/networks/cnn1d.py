"""Convolutional networks over steps, for texts (Kim 2014, https://arxiv.org/abs/1408.5882), sounds and series.

Layers: ``mask``, ``embed`` (of words or characters), ``block1`` …, ``pool``, ``dropout``, ``output``.
"""

from collections.abc import Sequence
from typing import Literal

from sparkwright.errors import InputError
from sparkwright.networks.recurrent import begin, end
from sparkwright.networks.sequences import POOLINGS, Convolution, check_one
from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["build"]


def build(
    outputs: int = 2,
    vocabulary: int | None = None,
    channels: int | None = None,
    max_length: int = 512,
    embedding: int = 64,
    widths: Sequence[int] = (64,),
    kernels: Sequence[int] = (3, 4, 5),
    norm: bool = False,
    halve: bool = False,
    pooling: Literal["mean", "max", "mean_max"] = "max",
    dropout: float = 0.5,
    word_dropout: float = 0.0,
) -> Architecture:
    """Build blocks of convolutions over steps, a pooling over each sequence, and a linear layer.

    Args:
        outputs: Number of classes, or of targets.
        vocabulary: Of words or characters: how many numbers there are (`TextPreprocessing.size`).
        channels: Instead: values of a step (`AudioPreprocessing.bands`).
        max_length: Steps of the longest sequence.
        embedding: Width of the vectors that stand for words.
        widths: Of each block: values of a step for each of `kernels`.
        kernels: Lengths of the convolutions that stand beside one another in each block, in steps.
        norm: Whether each block has BatchNorm.
        halve: Whether each block halves the number of steps.
        pooling: ``mean``, ``max`` or ``mean_max``; see `Pool`.
        dropout: Share of the values under the output dropped in training.
        word_dropout: Share of whole steps dropped in training, under the first block.

    Raises:
        InputError: An option is out of its range, or not exactly one of `vocabulary` and `channels` is given.
    """
    check_one("pooling", pooling, POOLINGS[:3])
    if not widths or not kernels or min((*widths, *kernels)) < 1:
        raise InputError(f"`widths` and `kernels` must be at least 1; got {list(widths)} and {list(kernels)}.")
    layers, width = begin(vocabulary, channels, embedding, word_dropout)
    for number, size in enumerate(widths, 1):
        layers[f"block{number}"] = Convolution(width, size, kernels, norm, halve)
        width = size * len(kernels)
    end(layers, width, 0, pooling, dropout, outputs)
    shape = (max_length,) if vocabulary else (max_length, channels or 0)
    return Architecture(Layers(layers), shape, {}, feature_layer="pool")
