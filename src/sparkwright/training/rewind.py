"""Back to where an epoch began, when its loss is no longer finite, and on with half the rate.

An epoch's beginning, not the last checkpoint: when checkpoints are made depends on clocks, and a result must not.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from sparkwright.training.checkpoints import Snapshot

__all__ = ["HALVINGS", "copied", "packed", "unpacked"]

K = TypeVar("K")

HALVINGS = 10
"""Of the rate, at most: what diverges at a thousandth of it is not the rate's fault."""

_PREFIX = "rewind."


def copied(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot with tensors of its own."""

    def clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in tensors.items()}

    own = {replica: clones(tensors) for replica, tensors in snapshot.replicas.items()}
    return replace(snapshot, common=clones(snapshot.common), replicas=own)


def packed(snapshot: Snapshot, begin: Snapshot | None) -> Snapshot:
    """Return the snapshot of a checkpoint that also holds where its epoch began, if that is given."""
    if begin is None:
        return snapshot

    def both(now: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**now, **{_PREFIX + name: tensor for name, tensor in then.items() if name != "kept"}}

    own = {replica: both(tensors, begin.replicas[replica]) for replica, tensors in snapshot.replicas.items()}
    return replace(snapshot, common=both(snapshot.common, begin.common), replicas=own)


def unpacked(saved: Snapshot) -> Snapshot:
    """Return where the epoch of a checkpoint began: there, or what `packed` put into it."""
    if not saved.number:
        return copied(saved)

    def then(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}

    own = {replica: then(tensors) for replica, tensors in saved.replicas.items()}
    facts = {**saved.facts, "seconds": [0.0, 0.0]}
    return replace(saved, number=0, common=then(saved.common), replicas=own, facts=facts)
