"""What a row is to give, as the loss takes it: numbers made of its labels."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.population import Population
from sparkwright.training.rows.store import Rows

__all__ = ["targets_of"]


def targets_of(rows: Rows, population: Population, config: TrainingConfig) -> Tensor:
    """Return the targets of a replica's rows.

    Returns:
        Class indices, int64; which labels a row has, uint8 of shape (rows, labels); or the numbers of a regression,
        float64. Of several outputs these behind one another, float64 of shape (rows, columns), NaN in the columns of an
        output whose label a row lacks.
    """
    if config.outputs is not None:
        parts = enumerate(config.parts.items())
        return torch.cat([_of_output(rows, at, name, population.outputs[name], own) for at, (name, own) in parts], 1)
    if config.task == "regression":
        return torch.from_numpy(rows.target)
    classes = pa.array(population.classes, pa.string())
    index = pc.index_in(rows.label.flatten(), classes).to_numpy(zero_copy_only=False)
    if config.task == "classification":
        return torch.from_numpy(index.astype(np.int64))
    has_NK = np.zeros((len(rows.label), len(classes)), np.uint8)
    has_NK[pc.list_parent_indices(rows.label).to_numpy(), index] = 1
    return torch.from_numpy(has_NK)


def _of_output(rows: Rows, place: int, name: str, population: Population, config: TrainingConfig) -> Tensor:
    """Return the columns of one of several outputs."""
    found = targets_of(rows.of_output(place, name), population, config)
    found_NT = found[:, None] if found.ndim == 1 else found
    targets_NT = torch.full((len(rows.key), found_NT.shape[1]), torch.nan, dtype=torch.float64)
    targets_NT[torch.from_numpy(rows.labelled(place))] = found_NT.double()
    return targets_NT
