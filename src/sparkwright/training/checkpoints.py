"""Checkpoints: all that a training needs to go on to the same bits, in the run's folder.

::

    checkpoints/
      selection-00003-00000120/     phase, epoch, batches of it that are done
        common.safetensors          weights, optimiser's and strategy's state, best weights so far
        replica-0.safetensors …     what is a replica's own
        manifest.json               put last, with checksums: a folder without it does not exist

Any number of workers may write one and any other number go on from it, because nothing in it speaks of workers.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from sparkwright import storage
from sparkwright.errors import InputError
from sparkwright.training.transports._base import Transport

__all__ = ["Checkpoints", "Snapshot", "differences"]

_MANIFEST, _COMMON = "manifest.json", "common"
_KEPT = 2
_SHARE = 0.03  # of the time may go into checkpoints
_PHASES = ("selection", "refit")


@dataclass(frozen=True)
class Snapshot:
    """A training at a sync.

    Attributes:
        phase: ``"selection"`` or ``"refit"``.
        epoch: From 1.
        number: Batches of the epoch that are done.
        common: Tensors that are the same in every process.
        replicas: Replica → its own tensors; those hosted here when saved, all that are asked for when loaded.
        facts: What else there is, as JSON can hold it.
    """

    phase: str
    epoch: int
    number: int
    common: Mapping[str, Tensor]
    replicas: Mapping[int, Mapping[str, Tensor]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its folder; names sort by time within a phase."""
        return f"{self.phase}-{self.epoch:05d}-{self.number:08d}"


class Checkpoints:
    """The checkpoints of one run, as one process of the training sees them.

    Args:
        uri: Their folder, which every worker can read and write.
        every_s: Seconds between two of them, about. Where writing takes long they are rarer: it costs 3 % at most.
        fingerprint: What the run must have in common with those who go on with it: configuration and data.
    """

    def __init__(self, uri: str, every_s: float = 60.0, fingerprint: Mapping[str, Any] | None = None) -> None:
        self.uri = uri
        self.every_s = every_s
        self.fingerprint = dict(fingerprint or {})
        self._last = time.monotonic()
        self._cost_s = 0.0
        self._questions = 0
        self._asked = 0.0

    def latest(self, hosted: Iterable[int]) -> Snapshot | None:
        """Return the newest whole checkpoint, with the given replicas' own tensors; None if there is none.

        Raises:
            InputError: It belongs to another configuration or other data; the differences are listed.
        """
        names = [name for name in storage.list_files(self.uri) if name.partition("-")[0] in _PHASES]
        for name in sorted(names, key=_age, reverse=True):
            found = self._read(name, hosted)
            if found is not None:
                return found
        return None

    def due(self, transport: Transport) -> bool:
        """Tell, at a sync, whether to save now: rank 0's clock decides. A collective call.

        Asking costs a message, so rank 0 also says how many syncs may pass before it is asked again: about a second's.
        """
        if self._questions:
            self._questions -= 1
            return False
        now = time.monotonic()
        since, self._asked = now - (self._asked or now), now
        wanted = now - self._last >= max(self.every_s, self._cost_s / _SHARE)
        skip = min(1000, math.floor(1 / since)) if since > 0 else 0
        word = transport.agree(2 * skip + wanted)
        self._questions = word // 2
        return bool(word % 2)

    def save(self, snapshot: Snapshot, transport: Transport) -> None:
        """Write a checkpoint: each process what it hosts, rank 0 the rest and then the manifest. A collective call."""
        started = time.monotonic()
        folder = storage.join(self.uri, snapshot.name)
        sums = {}
        for replica, tensors in snapshot.replicas.items():
            sums[f"replica-{replica}"] = _write(folder, f"replica-{replica}", tensors)
        if transport.rank == 0:
            sums[_COMMON] = _write(folder, _COMMON, snapshot.common)
        files: dict[str, str] = {}
        for own in transport.gather(json.dumps(sums)):
            files |= json.loads(own)
        if transport.rank == 0:
            manifest = {
                "phase": snapshot.phase,
                "epoch": snapshot.epoch,
                "number": snapshot.number,
                "facts": dict(snapshot.facts),
                "fingerprint": self.fingerprint,
                "files": files,
            }
            storage.write_bytes(storage.join(folder, _MANIFEST), json.dumps(manifest).encode())
            self._drop_old()
        self._last = time.monotonic()
        self._cost_s = self._last - started

    def _drop_old(self) -> None:
        """Keep the last two; those that are not whole yet may be another's."""
        names = storage.list_files(self.uri)
        whole = [name for name in names if storage.exists(storage.join(self.uri, name, _MANIFEST))]
        for name in sorted(whole, key=_age)[:-_KEPT]:
            storage.remove(storage.join(self.uri, name, _MANIFEST))  # first: what is half deleted does not exist
            storage.remove(storage.join(self.uri, name))

    def _read(self, name: str, hosted: Iterable[int]) -> Snapshot | None:
        """Return a checkpoint if it is whole, else None."""
        folder = storage.join(self.uri, name)
        try:
            manifest = json.loads(storage.read_bytes(storage.join(folder, _MANIFEST)))
        except (FileNotFoundError, ValueError):
            return None
        found = differences(manifest["fingerprint"], self.fingerprint)
        if found:
            raise InputError(
                f"{self.uri} holds checkpoints of another training, which this one cannot go on from. Differences "
                f"(there → now): {'; '.join(found)}. Choose another folder, or begin anew with overwrite."
            )
        files = manifest["files"]
        try:
            tensors = {file: _load(folder, file, files[file]) for file in (_COMMON, *(f"replica-{r}" for r in hosted))}
        except (FileNotFoundError, ValueError):
            return None
        return Snapshot(
            manifest["phase"],
            manifest["epoch"],
            manifest["number"],
            tensors[_COMMON],
            {replica: tensors[f"replica-{replica}"] for replica in hosted},
            manifest["facts"],
        )


def differences(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say which entries of two fingerprints differ, in mappings inside mappings too."""
    found = []
    for key in sorted({*there, *now}):
        before, after = there.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} → {after!r}")
    return found


def _age(name: str) -> tuple[int, str]:
    return _PHASES.index(name.partition("-")[0]), name


def _write(folder: str, name: str, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors and return their checksum."""
    data = save_tensors({key: tensor.detach().contiguous() for key, tensor in tensors.items()})
    storage.write_bytes(storage.join(folder, f"{name}.safetensors"), data)
    return hashlib.sha256(data).hexdigest()


def _load(folder: str, name: str, checksum: str) -> dict[str, Tensor]:
    data = storage.read_bytes(storage.join(folder, f"{name}.safetensors"))
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError(f"{name} of {folder} is damaged")
    with torch.no_grad():
        return dict(load_tensors(data))
