"""All that a replica learns in one tensor, so that a sync moves one tensor and an optimiser's step is a few calls."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor, nn

from sparkwright.training.replica.batch_norm import statistics

__all__ = ["Flat", "Group", "flatten"]

_ALIGNMENT = 16  # float32s in 64 bytes: kernels may round differently on tensors that start elsewhere


@dataclass(frozen=True)
class Group:
    """Neighbours among the weights that an optimiser treats alike.

    Attributes:
        part: Where they lie.
        rate_factor: What the learning rate is multiplied with.
        decays: Whether weight decay applies: to tensors of two dimensions and more.
        tensors: Where each of their tensors lies, for optimisers that look at layers.
        begins: The epoch from which on they train.
        before: Steps of the training before that.
    """

    part: slice
    rate_factor: float
    decays: bool
    tensors: tuple[slice, ...]
    begins: int = 1
    before: int = 0


@dataclass(frozen=True)
class Flat:
    """Weights, gradient and optimiser's state of one replica.

    Attributes:
        state_SN: Float32 of shape (1 + slots, N): the weights, then the optimiser's state. What a sync combines.
        gradient_N: The weights' gradient.
        groups: All weights, by what an optimiser does with them.
        tensors: Where each parameter lies, by its name in the module.
        trained: How many of the N are weights and learnt by gradients; running statistics of BatchNorm come behind.
        variances: Where those of them lie that are never below 0.
    """

    state_SN: Tensor
    gradient_N: Tensor
    groups: tuple[Group, ...]
    tensors: Mapping[str, slice]
    trained: int
    variances: tuple[slice, ...] = ()

    @cached_property
    def undecayed(self) -> tuple[Group, ...]:
        """The groups without decay: neighbours of one rate are one, which spares calls."""
        merged = list[Group]()
        for _, neighbours in groupby(self.groups, lambda group: (group.begins, group.rate_factor)):
            groups = list(neighbours)
            part = slice(groups[0].part.start, groups[-1].part.stop)
            tensors = tuple(tensor for group in groups for tensor in group.tensors)
            merged.append(replace(groups[0], part=part, decays=False, tensors=tensors))
        return tuple(merged)

    @property
    def statistics_SM(self) -> Tensor:
        """The running statistics, and means of them if there are such: a view."""
        return self.state_SN[:, self.trained :]

    @property
    def weights_N(self) -> Tensor:
        """The weights, and the statistics behind them: a view."""
        return self.state_SN[0]


def flatten(
    module: nn.Module,
    slots: int,
    rate_factors: Mapping[str, float] | None = None,
    begins: Mapping[str, int] | None = None,
    *,
    moving: bool = True,
) -> Flat:
    """Make all that `module` learns views of one vector, and its parameters' gradients views of another.

    Args:
        module: Its parameters keep their values, their layout in memory, and the one device that they are on.
        slots: How many vectors of state the optimiser needs; zero at first.
        rate_factors: What the learning rate is multiplied with, by parameter; 1 for those that are not named.
        begins: The epoch from which on a layer trains, by its path; 1 for those that are not named.
        moving: Whether running statistics move.
    """
    factors, epochs = rate_factors or {}, begins or {}

    def alike(named: tuple[str, nn.Parameter]) -> tuple[int, float, bool]:
        name, parameter = named
        return epochs.get(name.rpartition(".")[0], 1), -factors.get(name, 1.0), parameter.dim() < 2

    parameters = sorted(((name, p) for name, p in module.named_parameters() if p.requires_grad), key=alike)
    tensors, groups, size = dict[str, slice](), list[Group](), 0
    for (epoch, factor, vectors), members in groupby(parameters, alike):
        start, inside = size, []
        for name, parameter in members:
            tensors[name] = slice(size, size + parameter.numel())
            inside.append(tensors[name])
            size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        groups.append(Group(slice(start, size), -factor, not vectors, tuple(inside), epoch))
    trained, places = size, list[tuple[nn.Module, str, slice]]()
    for norm, name in statistics(module.train()) if moving else ():
        count = getattr(norm, name).numel()
        places.append((norm, name, slice(size, size + count)))
        size += -(-count // _ALIGNMENT) * _ALIGNMENT
    variances = tuple(part for _, name, part in places if name == "running_var")
    device = next((parameter.device for _, parameter in parameters), None)
    zeros_SN, zeros_N = torch.zeros(1 + slots, size, device=device), torch.zeros(size, device=device)
    flat = Flat(zeros_SN, zeros_N, tuple(groups), tensors, trained, variances)
    for name, parameter in parameters:
        weights = _shaped(flat.weights_N[tensors[name]], parameter)
        weights.copy_(parameter.detach())
        gradient = _shaped(flat.gradient_N[tensors[name]], parameter)
        parameter.data, parameter.grad = weights, gradient
    for layer, name, part in places:
        flat.weights_N[part].copy_(getattr(layer, name))
        setattr(layer, name, flat.weights_N[part])
    return flat


def _shaped(part_N: Tensor, like: Tensor) -> Tensor:
    """Return a view of the shape of `like`; where its channels come last in memory, they do here."""
    if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        count, channels, height, width = like.shape
        return part_N.view(count, height, width, channels).permute(0, 3, 1, 2)
    return part_N.view(like.shape)
