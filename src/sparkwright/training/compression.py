"""What is sent instead of a tensor: fewer bytes, and what is lost is sent later.

A codec with *error feedback* keeps what its rounding lost and adds it to what is sent next (Seide et al. 2014; Strom
2015), so that nothing is lost for good. Each replica sends along one edge of the sums' tree, so it keeps one residual.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Codec", "make_codec"]


class Codec(ABC):
    """Packs float32 tensors of one shape into bytes of one length.

    Attributes:
        residuals: Replica → what its last message lost, float32; empty without error feedback. Part of a checkpoint.
    """

    def __init__(self) -> None:
        self.residuals: dict[int, Tensor] = {}

    @abstractmethod
    def pack(self, tensor: Tensor, replica: int) -> Tensor:
        """Return what is sent for `tensor`, which may be overwritten.

        Args:
            tensor: Float32.
            replica: The first of those whose sum this is: whose residual is to be used and kept.
        """

    @abstractmethod
    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:
        """Return the tensor of the shape of `like` that `payload` stands for; a new one."""

    @abstractmethod
    def room(self, like: Tensor) -> Tensor:
        """Return an empty payload for a tensor of the shape of `like`, to be received into."""


class Half(Codec):
    """Rounds to 16 bits: float16 (11 bits of precision, up to 65,504) or bfloat16 (8 bits, any size)."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def pack(self, tensor: Tensor, replica: int) -> Tensor:  # noqa: ARG002
        return tensor.to(self._dtype)

    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002
        return payload.float()

    def room(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, dtype=self._dtype)


def make_codec(name: str | None) -> Codec | None:
    """Return the codec that a configuration names, or None for none."""
    if name is None:
        return None
    return Half(getattr(torch, name))
