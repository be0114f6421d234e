"""What is sent instead of a tensor: fewer bytes, and what is lost is sent later.

A codec with *error feedback* keeps what a message lost and adds it to what is sent next (Seide et al. 2014; Strom
2015), so that nothing is lost for good. Each replica sends along one edge of the sums' tree, so it keeps one residual.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["PLAIN", "Codec", "make_codec"]

_BLOCK = 256  # values that share a scale; 4 bytes of scale cost 1.6 % then


class Codec(ABC):
    """Packs float32 tensors of one shape into bytes of one length.

    Attributes:
        feedback: Whether what a message lost is part of the next one. Its news may be late, then.
        residuals: Replica → what its last message lost, float32; empty without error feedback. Part of a checkpoint.
    """

    feedback = False

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
        """Return the tensor of the shape of `like` that `payload` stands for."""

    @abstractmethod
    def room(self, like: Tensor) -> Tensor:
        """Return a payload for a tensor of the shape of `like`, to be received into; it may be `like` itself."""


class Plain(Codec):
    """Sends tensors of any type as they are."""

    def pack(self, tensor: Tensor, replica: int) -> Tensor:  # noqa: ARG002
        return tensor

    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002
        return payload

    def room(self, like: Tensor) -> Tensor:
        return like


PLAIN = Plain()
"""It keeps nothing, so one is enough."""


class BFloat16(Codec):
    """Rounds to 8 bits of precision, of any size: half the bytes."""

    def pack(self, tensor: Tensor, replica: int) -> Tensor:  # noqa: ARG002
        return tensor.bfloat16()

    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002
        return payload.float()

    def room(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, dtype=torch.bfloat16)


class Float16(Codec):
    """Rounds to 11 bits of precision, each row (weights, momentum …) scaled to float16's range: half the bytes.

    Unscaled, the squared gradients of Adam would vanish below 6e-8.
    """

    def pack(self, tensor: Tensor, replica: int) -> Tensor:  # noqa: ARG002
        rows_RN = tensor.view(-1, tensor.shape[-1])
        scale_R = _scale(rows_RN, 2.0**15)
        return torch.cat([scale_R.view(torch.float16), rows_RN.div_(scale_R[:, None]).half().flatten()])

    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:
        rows = like.view(-1, like.shape[-1]).shape[0]
        scale_R = payload[: 2 * rows].view(torch.float32)
        return payload[2 * rows :].view(rows, -1).float().mul_(scale_R[:, None]).view(like.shape)

    def room(self, like: Tensor) -> Tensor:
        return torch.empty(2 * like.view(-1, like.shape[-1]).shape[0] + like.numel(), dtype=torch.float16)


class Feedback(Codec):
    """A codec with error feedback: a subclass says what a message is."""

    feedback = True

    def pack(self, tensor: Tensor, replica: int) -> Tensor:
        residual = self.residuals.get(replica)
        if residual is None:
            residual = self.residuals[replica] = torch.zeros_like(tensor)
        wanted = residual.add_(tensor)
        payload = self.encode(wanted.view(-1))
        wanted.sub_(self.unpack(payload, wanted))
        return payload

    @abstractmethod
    def encode(self, values_N: Tensor) -> Tensor:
        """Return the payload for `values_N`, which stay as they are."""


class Int8(Feedback):
    """Rounds to 255 levels between the largest value of a block and its negative (Dettmers et al. 2022)."""

    def encode(self, values_N: Tensor) -> Tensor:
        blocks_BK = _blocks(values_N)
        scale_B = _scale(blocks_BK, 127.0)
        levels_BK = torch.round(blocks_BK / scale_B[:, None]).to(torch.int8)
        return torch.cat([scale_B.view(torch.int8), levels_BK.flatten()[: len(values_N)]])

    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:
        scales = 4 * math.ceil(like.numel() / _BLOCK)
        values_BK = _blocks(payload[scales:].float())
        values_BK.mul_(payload[:scales].view(torch.float32)[:, None])
        return values_BK.view(-1)[: like.numel()].view(like.shape)

    def room(self, like: Tensor) -> Tensor:
        return torch.empty(4 * math.ceil(like.numel() / _BLOCK) + like.numel(), dtype=torch.int8)


class TopK(Feedback):
    """The largest values as they are, with their places: 8 bytes each (Aji and Heafield 2017).

    Args:
        share: How many of all.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def encode(self, values_N: Tensor) -> Tensor:
        places_K = self._largest(values_N)
        return torch.cat([places_K.int(), values_N[places_K].view(torch.int32)])

    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:
        places_K, values_K = payload.chunk(2)
        found = torch.zeros_like(like)
        found.view(-1)[places_K.long()] = values_K.view(torch.float32)
        return found

    def room(self, like: Tensor) -> Tensor:
        return torch.empty(2 * self._count(like), dtype=torch.int32)

    def _count(self, like: Tensor) -> int:
        return max(1, math.ceil(self._share * like.numel()))

    def _largest(self, values_N: Tensor) -> Tensor:
        return torch.topk(values_N.abs(), self._count(values_N), sorted=False).indices


class Threshold(TopK):
    """Sign and place of the values past a threshold, in 32 bits each (Strom 2015).

    The threshold is that which a given share of the values passes, and the values stand for the mean of those of their
    sign (Dryden et al. 2016): a fixed one suits few networks, and none from the first epoch to the last.

    Args:
        share: How many of all.
    """

    def encode(self, values_N: Tensor) -> Tensor:
        places_K = self._largest(values_N)
        values_K = values_N[places_K]
        above_K = values_K > 0
        means = torch.stack([_mean(values_K, above_K), _mean(values_K, ~above_K)])
        return torch.cat([means.view(torch.int32), torch.where(above_K, places_K, ~places_K).int()])

    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:
        (above, below), words_K = payload[:2].view(torch.float32), payload[2:].long()
        found = torch.zeros_like(like)
        found.view(-1)[torch.where(words_K >= 0, words_K, ~words_K)] = torch.where(words_K >= 0, above, below)
        return found

    def room(self, like: Tensor) -> Tensor:
        return torch.empty(2 + self._count(like), dtype=torch.int32)


def make_codec(name: str | None, share: float) -> Codec:
    """Return the codec that a configuration names.

    Args:
        name: One of `sparkwright.training.settings.COMPRESSIONS`, or None.
        share: Of the values that top-k and threshold send.
    """
    match name:
        case "float16":
            return Float16()
        case "bfloat16":
            return BFloat16()
        case "int8":
            return Int8()
        case "topk":
            return TopK(share)
        case "threshold":
            return Threshold(share)
        case _:
            return PLAIN


def _scale(rows_RN: Tensor, top: float) -> Tensor:
    """Return what to divide each row by, so that its largest value becomes `top`; 1 for rows of zeros."""
    scale_R = rows_RN.abs().amax(1) / top
    return torch.where(scale_R == 0, 1.0, scale_R)


def _mean(values_K: Tensor, chosen_K: Tensor) -> Tensor:
    """Return the mean of the chosen values; 0 without any."""
    return values_K.where(chosen_K, 0.0).sum() / chosen_K.sum().clamp_(min=1)


def _blocks(values_N: Tensor) -> Tensor:
    """Return rows of `_BLOCK` values, the last one filled up with zeros; a copy."""
    padded = values_N.new_zeros(math.ceil(len(values_N) / _BLOCK) * _BLOCK)
    padded[: len(values_N)] = values_N
    return padded.view(-1, _BLOCK)
