"""Layers for sequences of unlike lengths: what lies behind a sequence's end changes nothing.

A batch comes as one tensor, NaN behind the ends (`sparkwright.networks.ragged`). `Mask` makes `Steps` of it: values and
a mask, which the layers here hand on until `Pool` makes one vector of each sequence. The result for a sequence is the
same whatever it is batched with.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from sparkwright.errors import InputError, did_you_mean
from sparkwright.networks.dropout import Dropout

__all__ = [
    "CELLS",
    "POOLINGS",
    "UNPOOLED",
    "Convolution",
    "Embed",
    "Mask",
    "Pool",
    "Recurrent",
    "StepDropout",
    "Steps",
    "check_one",
]

UNPOOLED = "A network of sequences must be cut at `pool` or behind it, where its output is a vector."

CELLS = ("lstm", "gru")
POOLINGS = ("mean", "max", "mean_max", "last")


class Steps(NamedTuple):
    """A batch of sequences between two layers.

    Attributes:
        x_BTC: Float32; 0 where the mask is.
        there_BT: Whether a step belongs to its sequence: a prefix of each row.
    """

    x_BTC: Tensor
    there_BT: Tensor

    def replaced(self, x_BTC: Tensor) -> "Steps":
        """Return other values under the same mask."""
        return Steps(x_BTC * self.there_BT.unsqueeze(2), self.there_BT)


class Mask(nn.Module):
    """From a tensor with NaN behind the sequences' ends, of shape (B, T) or (B, T, C), to `Steps`."""

    def forward(self, x: Tensor) -> Steps:
        x_BTC = x.unsqueeze(2) if x.dim() == 2 else x
        missing_BTC = torch.isnan(x_BTC)
        return Steps(torch.where(missing_BTC, 0.0, x_BTC), ~missing_BTC[:, :, 0])


class Embed(nn.Module):
    """A trained vector for each number: of words, characters or categories.

    Args:
        size: Numbers that there are: 0 … size - 1.
        width: Of the vectors.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        # Small, as word2vec begins: what drives the first layers is then learnt and not drawn.
        self.weight = nn.Parameter(torch.empty(size, width).uniform_(-0.25, 0.25))

    def forward(self, steps: Steps) -> Steps:
        return steps.replaced(F.embedding(steps.x_BTC[:, :, 0].long(), self.weight))


class StepDropout(Dropout):
    """Dropout in `Steps`: of single values, or (``whole``) of all values of a step, that is of whole words."""

    def __init__(self, p: float, whole: bool = False) -> None:
        super().__init__(p)
        self.whole = whole

    def forward(self, steps: Steps) -> Steps:  # type: ignore[override]
        if not self.training or not self.p:
            return steps
        if self.whole:
            return Steps(steps.x_BTC * super().forward(torch.ones_like(steps.x_BTC[:, :, :1])), steps.there_BT)
        return Steps(super().forward(steps.x_BTC), steps.there_BT)


class Recurrent(nn.Module):
    """One layer of LSTM or GRU, in one direction or in both.

    The way back begins at each sequence's own end: the sequence is turned round within its length, read forwards, and
    turned round again.

    Args:
        inputs: Values of a step that comes in.
        width: Values of a step that goes out, of each direction.
        cell: ``lstm`` or ``gru``.
        bidirectional: Whether a second cell reads the sequence from its end.
        truncate: Gradients go back at most this many steps (truncated back-propagation through time, Williams & Peng
            1990): the state goes on from one stretch of so many steps to the next one, the gradient does not. None
            for no limit.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        cell: Literal["lstm", "gru"] = "lstm",
        bidirectional: bool = True,
        truncate: int | None = None,
    ) -> None:
        super().__init__()
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.ahead = kind(inputs, width, batch_first=True)
        self.back = kind(inputs, width, batch_first=True) if bidirectional else None
        self.truncate = truncate

    def forward(self, steps: Steps) -> Steps:
        x_BTC, there_BT = steps
        y_BTH = self._run(self.ahead, x_BTC)
        if self.back is not None:
            turned_BT = _turned(there_BT)
            back_BTH = _take(self._run(self.back, _take(x_BTC, turned_BT)), turned_BT)
            y_BTH = torch.cat([y_BTH, back_BTH], 2)
        return steps.replaced(y_BTH)

    def _run(self, cell: nn.RNNBase, x_BTC: Tensor) -> Tensor:
        if not self.training or self.truncate is None:
            y_BTH: Tensor = cell(x_BTC)[0]
            return y_BTH
        parts, state = [], None
        for x_BSC in torch.split(x_BTC, self.truncate, 1):
            y_BSH, state = cell(x_BSC, state)
            state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
            parts.append(y_BSH)
        return torch.cat(parts, 1)


class Convolution(nn.Module):
    """Convolutions over steps, of one or more lengths beside one another, ReLU, and, if asked, half as many steps.

    Beyond both ends of a sequence there is 0, whatever it is batched with.

    Args:
        inputs: Values of a step that comes in.
        width: Values of a step that goes out, of each length.
        kernels: The lengths, in steps.
        norm: Whether BatchNorm comes before ReLU; its statistics are those of the sequences' own steps.
        halve: Whether each two steps become one, their maximum.
    """

    def __init__(
        self, inputs: int, width: int, kernels: Sequence[int] = (3,), norm: bool = True, halve: bool = False
    ) -> None:
        super().__init__()
        self.kernels = tuple(kernels)
        self.convs = nn.ModuleList(nn.Conv1d(inputs, width, size, bias=not norm) for size in kernels)
        self.bn = _StepNorm(width * len(kernels)) if norm else None
        self.halve = halve

    def forward(self, steps: Steps) -> Steps:
        x_BCT = steps.x_BTC.transpose(1, 2)
        padded = (F.pad(x_BCT, ((size - 1) // 2, size // 2)) for size in self.kernels)
        y_BTC = torch.cat([conv(x) for conv, x in zip(self.convs, padded, strict=True)], 1).transpose(1, 2)
        if self.bn is not None:
            y_BTC = self.bn(y_BTC, steps.there_BT)
        steps = steps.replaced(F.relu(y_BTC))
        if not self.halve:
            return steps
        # Behind the end there is 0, and nothing is below it.
        x_BTC = F.max_pool1d(steps.x_BTC.transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)
        return Steps(x_BTC, steps.there_BT[:, ::2])


class _StepNorm(nn.BatchNorm1d):
    """BatchNorm over the steps that belong to sequences; behind their ends it leaves anything."""

    def forward(self, x_BTC: Tensor, there_BT: Tensor) -> Tensor:  # type: ignore[override]
        if not self.training or there_BT.sum() < 2:  # one step alone has no deviation
            return F.batch_norm(
                x_BTC.transpose(1, 2), self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            ).transpose(1, 2)
        y_BTC = torch.zeros_like(x_BTC)
        y_BTC[there_BT] = super().forward(x_BTC[there_BT])
        return y_BTC


class Pool(nn.Module):
    """From `Steps` to one vector a sequence, of shape (B, C), over the sequence's own steps.

    Args:
        how: ``mean``; ``max``; ``mean_max``, both, one behind the other; or ``last``: what each direction of a
            recurrent layer says at its end.
        ahead: For ``last``: how many of the values read forwards; the others are taken from the first step.
    """

    def __init__(self, how: Literal["mean", "max", "mean_max", "last"], ahead: int = 0) -> None:
        super().__init__()
        self.how = how
        self.ahead = ahead

    def forward(self, steps: Steps) -> Tensor:
        x_BTC, there_BT = steps
        if self.how == "last":
            last_B = there_BT.sum(1).clamp(min=1) - 1
            last_BC = _take(x_BTC, last_B.unsqueeze(1))[:, 0]
            return torch.cat([last_BC[:, : self.ahead], x_BTC[:, 0, self.ahead :]], 1)
        mean_BC = x_BTC.sum(1) / there_BT.sum(1, keepdim=True).clamp(min=1)
        if self.how == "mean":
            return mean_BC
        max_BC = x_BTC.masked_fill(~there_BT.unsqueeze(2), -torch.inf).amax(1)
        return max_BC if self.how == "max" else torch.cat([mean_BC, max_BC], 1)


def check_one(what: str, value: str, known: Sequence[str]) -> None:
    """Refuse an option that is not among those known.

    Raises:
        InputError: It is not.
    """
    if value not in known:
        raise InputError(f"`{what}` must be one of {', '.join(known)}; got {value!r}.{did_you_mean(str(value), known)}")


def _turned(there_BT: Tensor) -> Tensor:
    """Return for each step the one that takes its place when each sequence is turned round; the rest stays."""
    steps_T = torch.arange(there_BT.shape[1], device=there_BT.device)
    return torch.where(there_BT, there_BT.sum(1, keepdim=True) - 1 - steps_T, steps_T)


def _take(x_BTC: Tensor, index_BS: Tensor) -> Tensor:
    return x_BTC.gather(1, index_BS.unsqueeze(2).expand(-1, -1, x_BTC.shape[2]))
