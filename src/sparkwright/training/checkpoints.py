"""Checkpoints: all that a training needs to go on to the same bits, in the run's folder.

::

    checkpoints/
      selection-00003-00000120/     phase, epoch, batches of it that are done
        common.safetensors          weights, optimiser's and strategy's state, best weights so far
        replica-0.safetensors …     what is a replica's own
        manifest.json               put last, with checksums: a folder without it does not exist

Any number of workers may write one and any other number go on from it, because nothing in it speaks of workers. Two
attempts at one training that overlap for a moment, because Spark has lost sight of a worker, do not harm each other:
what they write under one name has the same bits.
"""

import hashlib
import json
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from sparkwright import storage
from sparkwright.errors import InputError, WorkerError, differences
from sparkwright.events import EpochEnded
from sparkwright.training.config import TrainingConfig
from sparkwright.training.transports._base import Transport

__all__ = [
    "CHECKPOINT_S",
    "Checkpoints",
    "Paused",
    "Snapshot",
    "age",
    "check_same",
    "environment",
    "fingerprint_at",
    "load_file",
    "newest",
    "newest_for_all",
    "training_fingerprint",
    "write_file",
]

CHECKPOINT_S = 60.0
"""Seconds between two of them, if nobody says otherwise."""

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
        return _name(self.phase, self.epoch, self.number, self.facts.get("halvings", 0))


class Paused(BaseException):
    """A training ended where its `Checkpoints` told it to; the last of them is where it goes on, to the same bits.

    Attributes:
        history: One event for each epoch so far.
        best_epoch: The best of them by the validation rows; 0 without such rows.
    """

    def __init__(self, history: Sequence[EpochEnded], best_epoch: int) -> None:
        super().__init__()
        self.history = list(history)
        self.best_epoch = best_epoch


class Checkpoints:
    """The checkpoints of one training, as one process of it sees them.

    Args:
        uri: Their folder, which every worker can read and write.
        begin: Name of the one to go on from, which all processes must give alike (see `newest`); None begins.
        every_s: Seconds between two of them, about. Where writing takes long they are rarer: it costs 3 % at most. 0
            keeps every sync, whatever it costs.
        fingerprint: What the training must have in common with those who go on with it: configuration and data.
        pause_after: Epoch of the selection after which the training ends with a checkpoint and `Paused`, if it would
            go on; None never pauses. Epochs, schedules and patience know nothing of it.

    Attributes:
        warnings: How versions and processor differ from those that made what was loaded: bits may, too.
    """

    def __init__(
        self,
        uri: str,
        begin: str | None = None,
        every_s: float = CHECKPOINT_S,
        fingerprint: Mapping[str, Any] | None = None,
        pause_after: int | None = None,
    ) -> None:
        self.uri = uri
        self.begin = begin
        self.every_s = every_s
        self.fingerprint = dict(fingerprint or {})
        self.pause_after = pause_after
        self.warnings: list[str] = []
        self._last = time.monotonic()
        self._cost_s = 0.0
        self._questions = 0
        self._asked = 0.0

    def load(self, hosted: Iterable[int]) -> Snapshot | None:
        """Return the checkpoint to go on from, with the given replicas' own tensors; None if there is none.

        Raises:
            InputError: It belongs to another configuration or other data; the differences are listed.
            WorkerError: It is damaged. It has been given up, so that the next attempt goes on from the one before.
        """
        if self.begin is None:
            return None
        folder = storage.join(self.uri, self.begin)
        try:
            manifest = _manifest(self.uri, self.begin)
            check_same(self.uri, manifest["fingerprint"], self.fingerprint)
            files = manifest["files"]
            common = load_file(folder, _COMMON, files[_COMMON])
            own = {replica: load_file(folder, f"replica-{replica}", files[f"replica-{replica}"]) for replica in hosted}
        except InputError:
            raise
        except (FileNotFoundError, ValueError, KeyError) as error:
            storage.remove(storage.join(folder, _MANIFEST))
            raise WorkerError(f"The checkpoint {folder} is damaged and was given up: {error}") from error
        self.warnings = differences(manifest["environment"], environment())
        return Snapshot(manifest["phase"], manifest["epoch"], manifest["number"], common, own, manifest["facts"])

    def due(self, transport: Transport) -> bool:
        """Tell, at a sync, whether to save now: rank 0's clock decides. A collective call.

        Asking costs a message, so rank 0 also says how many syncs may pass before it is asked again: those of about a
        second.
        """
        if not self.every_s:
            return True
        if self._questions:
            self._questions -= 1
            return False
        now = time.monotonic()
        since, self._asked = now - (self._asked or now), now
        wanted = now - self._last >= max(self.every_s, self._cost_s / _SHARE)
        skip = min(1000, math.floor(min(1.0, self.every_s) / since)) if since > 0 else 0
        word = transport.agree(2 * skip + wanted)
        self._questions = word // 2
        return bool(word % 2)

    def save(self, snapshot: Snapshot, transport: Transport) -> None:
        """Write a checkpoint: each process what it hosts, rank 0 the rest and then the manifest. A collective call."""
        started = time.monotonic()
        sums = self.write(snapshot, common=transport.rank == 0)
        # A sum, in which every replica has a row of its own: a transport's messages may take a second.
        parts = []
        for replica in transport.hosted:
            sums_RW = torch.zeros(transport.replicas, 4, dtype=torch.int64)
            sums_RW[replica] = torch.frombuffer(bytearray.fromhex(sums[f"replica-{replica}"]), dtype=torch.int64)
            parts.append(sums_RW)
        all_RW = transport.tree_sum(parts).numpy()
        if transport.rank == 0:
            replicas = {f"replica-{replica}": row.tobytes().hex() for replica, row in enumerate(all_RW)}
            self.commit(snapshot, {_COMMON: sums[_COMMON], **replicas})
        self._last = time.monotonic()
        self._cost_s = self._last - started

    def write(self, snapshot: Snapshot, *, common: bool) -> dict[str, str]:
        """Write the tensors of the replicas and, if asked, the common ones; return the files' checksums by name."""
        folder = storage.join(self.uri, snapshot.name)
        parts = {f"replica-{replica}": tensors for replica, tensors in snapshot.replicas.items()}
        if common:
            parts[_COMMON] = snapshot.common
        return {name: write_file(folder, name, tensors) for name, tensors in parts.items()}

    def commit(self, snapshot: Snapshot, files: Mapping[str, str]) -> None:
        """Put the manifest of a snapshot, of which all `files` are written, and drop old checkpoints."""
        manifest = {
            "phase": snapshot.phase,
            "epoch": snapshot.epoch,
            "number": snapshot.number,
            "facts": dict(snapshot.facts),
            "fingerprint": self.fingerprint,
            "environment": environment(),
            "files": dict(files),
        }
        storage.write_bytes(storage.join(self.uri, snapshot.name, _MANIFEST), json.dumps(manifest).encode())
        self._drop_old()

    def _drop_old(self) -> None:
        """Keep the last two, and what is newer; drop what is older, whole or not."""
        kept = _whole(self.uri)[:_KEPT]
        for name in _names(self.uri):
            if age(name) < age(kept[-1]):
                storage.remove(storage.join(self.uri, name, _MANIFEST))  # first: what is half gone does not exist
                storage.remove(storage.join(self.uri, name))


def environment() -> dict[str, str]:
    """Return what else, of the library and the machine, the last bits of a result depend on."""
    return {
        "torch": str(torch.__version__),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def newest(uri: str) -> str | None:
    """Return the name of the newest checkpoint in a folder, None if there is none."""
    return next(iter(_whole(uri)), None)


def newest_for_all(uri: str, transport: Transport) -> str | None:
    """Return in every process what is the newest checkpoint for rank 0. A collective call."""
    place = [0, 0, 0, 0]
    name = newest(uri) if transport.rank == 0 else None
    if name is not None:
        phase, epoch, *halvings, number = name.split("-")
        place = [1 + _PHASES.index(phase), int(epoch), int(number), *(int(text[1:]) for text in halvings or ["r0"])]
    place = [transport.agree(word) for word in place]
    return _name(_PHASES[place[0] - 1], *place[1:]) if place[0] else None


def age(name: str | None) -> tuple[int, str]:
    """Return what sorts names of checkpoints by how far the training was; None is where it begins."""
    return (-1, "") if name is None else (_PHASES.index(name.partition("-")[0]), name)


def check_same(uri: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare two fingerprints, in the entries that both have.

    Raises:
        InputError: They differ; the differences are listed.
    """
    both = there.keys() & now.keys()
    found = differences({key: there[key] for key in both}, {key: now[key] for key in both})
    if found:
        raise InputError(
            f"{uri} holds checkpoints of another training, which this one cannot go on from. Differences (there → "
            f"now): {'; '.join(found)}. Choose another folder, or remove them (--overwrite)."
        )


def training_fingerprint(config: TrainingConfig, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a training must have in common with its checkpoints.

    Args:
        config: How.
        data: `Population.fingerprint`; None where the rows are not known yet.
    """
    found: dict[str, Any] = {"config": config.to_dict()} | ({} if data is None else {"data": dict(data)})
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # as a manifest gives it back


def fingerprint_at(uri: str) -> dict[str, Any]:
    """Return the fingerprint of the newest checkpoint in a folder; empty if there is none."""
    name = newest(uri)
    return dict(_manifest(uri, name)["fingerprint"]) if name is not None else {}


def _name(phase: str, epoch: int, number: int, halvings: int) -> str:
    # An epoch that was begun anew, with half the rate, comes after what it replaces.
    return f"{phase}-{epoch:05d}-" + (f"r{halvings:02d}-" if halvings else "") + f"{number:08d}"


def _names(uri: str) -> list[str]:
    """Return the names of all checkpoints, whole or not, the newest first."""
    names = [name for name in storage.list_files(uri) if name.partition("-")[0] in _PHASES]
    return sorted(names, key=age, reverse=True)


def _whole(uri: str) -> list[str]:
    return [name for name in _names(uri) if storage.exists(storage.join(uri, name, _MANIFEST))]


def _manifest(uri: str, name: str) -> dict[str, Any]:
    """Read a checkpoint's manifest.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no JSON.
    """
    manifest: dict[str, Any] = json.loads(storage.read_bytes(storage.join(uri, name, _MANIFEST)))
    return manifest


def write_file(folder: str, name: str, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors and return their checksum."""
    data = save_tensors({key: tensor.detach().contiguous() for key, tensor in tensors.items()})
    storage.write_bytes(storage.join(folder, f"{name}.safetensors"), data)
    return hashlib.sha256(data).hexdigest()


def load_file(folder: str, name: str, checksum: str) -> dict[str, Tensor]:
    """Read tensors that `write_file` wrote; a file of another checksum raises `ValueError`."""
    data = storage.read_bytes(storage.join(folder, f"{name}.safetensors"))
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError(f"{name} of {folder} is damaged")
    with torch.no_grad():
        return dict(load_tensors(data))
