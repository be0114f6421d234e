"""Rounds: every collective call is the end of one ordinary Spark job of stateless tasks; no barrier, no open port.

A task goes on from the newest checkpoint and through the log of what was summed since then, without the work that led
to it (*replay*). At the first collective call whose result the log lacks it does the work, leaves its part in the run's
folder, and ends (*suspend*). A last task of the same job completes the sum and commits it by a manifest; the next job's
tasks find it in the log. Every sync is a checkpoint, which the job that follows it writes; so logs stay short.
::

    checkpoints/rounds/
      begin/00000/                      begin, or the checkpoint that this log goes on from; number of the call
      selection-00001-00000004/00000/
        nodes-….safetensors             what a worker knows of the sum's tree
        replica-….safetensors           what the work left a replica with
        sum-….safetensors               the result
        manifest.json                   put last, with checksums: what it does not name does not count

Names are new with each attempt of a task, so tasks that are repeated, or run twice at a time, do no harm.
"""

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from sparkwright import storage
from sparkwright.errors import WorkerError
from sparkwright.training.checkpoints import Checkpoints, Snapshot, load_file, newest, write_file
from sparkwright.training.compression import PLAIN, Codec
from sparkwright.training.transports._base import Transport
from sparkwright.training.transports.in_process import InProcess

if TYPE_CHECKING:
    from sparkwright.training.replica.replica import Replica

__all__ = ["Log", "RoundCheckpoints", "Rounds", "Suspended", "complete", "drop_old_logs", "find_log", "forget_logs"]

_FOLDER, _BEGIN, _MANIFEST = "rounds", "begin", "manifest.json"


@dataclass(frozen=True)
class Log:
    """What has been summed since the newest checkpoint; small and picklable.

    Attributes:
        uri: Folder of the checkpoints.
        begin: The checkpoint; None before the first.
        seconds: How long each call since then took, by the driver's clock.
        fingerprint: What the training must have in common with those who go on with it.
    """

    uri: str
    begin: str | None = None
    seconds: tuple[float, ...] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, number: int) -> str:
        """Return the folder of a call since the checkpoint."""
        return storage.join(self.uri, _FOLDER, self.begin or _BEGIN, f"{number:05d}")


def find_log(uri: str, fingerprint: Mapping[str, Any], took: Mapping[str, float]) -> Log:
    """Return the log as it is in the run's folder; runs on the driver.

    Args:
        uri: Folder of the checkpoints.
        fingerprint: As in `Log`.
        took: Folder of a call → how long it took, as far as this driver knows.
    """
    log = Log(uri, newest(uri), (), fingerprint)
    seconds: list[float] = []
    while storage.exists(storage.join(folder := log.folder(len(seconds)), _MANIFEST)):
        seconds.append(took.get(folder, 0.0))
    return Log(uri, log.begin, tuple(seconds), fingerprint)


def drop_old_logs(log: Log) -> None:
    """Remove the logs that a checkpoint has made superfluous."""
    folder = storage.join(log.uri, _FOLDER)
    for name in storage.list_files(folder):
        if name != (log.begin or _BEGIN):
            storage.remove(storage.join(folder, name))


def forget_logs(uri: str) -> None:
    """Remove all logs: without a checkpoint nothing tells whose they are."""
    storage.remove(storage.join(uri, _FOLDER))


class Suspended(BaseException):
    """The training can go on only when all workers' parts of a sum are together.

    Attributes:
        part: This worker's, as JSON can hold it: where its files are.
    """

    def __init__(self, part: dict[str, Any]) -> None:
        super().__init__()
        self.part = part


class Rounds(Transport):
    """One task's end: replays the log, and suspends at its end.

    Args:
        rank: The task's number among the workers.
        hosts: Which replicas each worker hosts, by rank.
        log: Where the training is.
    """

    def __init__(self, rank: int, hosts: Sequence[range], log: Log) -> None:
        super().__init__(rank, hosts)
        self._log = log
        self._number = 0
        self._clock = 0.0
        self._checkpoint: dict[str, Any] | None = None

    @property
    def replayed(self) -> bool:
        """Whether nothing is left of the log."""
        return self._number == len(self._log.seconds)

    def clock(self) -> float:
        return self._clock

    def checkpointed(self, snapshot: Snapshot, files: Mapping[str, str]) -> None:
        """Take note of a checkpoint, of which this worker has written `files`: a new log begins with it."""
        facts = snapshot.facts if self.rank == 0 else {}
        name = {"phase": snapshot.phase, "epoch": snapshot.epoch, "number": snapshot.number}
        self._checkpoint = {**name, "facts": dict(facts), "files": dict(files)}
        self._log, self._number = Log(self._log.uri, snapshot.name, (), self._log.fingerprint), 0

    def sum_of(
        self,
        local: Callable[[], Sequence[Tensor]],
        codec: Codec = PLAIN,
        replicas: "Sequence[Replica]" = (),
    ) -> Tensor:
        if self.replayed:
            self._work(local, codec, replicas)
        with self._replay() as (folder, manifest):
            result = load_file(folder, manifest["sum"], manifest["files"][manifest["sum"]])
            for replica in replicas:
                name = manifest["replicas"][str(replica.index)]
                own = load_file(folder, name, manifest["files"][name])
                replica.restore(own)
                residual = result.get(f"residual-{replica.index}", own.get("residual"))
                if residual is not None:
                    codec.residuals[replica.index] = residual.clone()
            return codec.unpack(result["sum"], torch.empty(manifest["shape"]))

    def agree(self, word: int) -> int:
        return int(self.sum_of(lambda: [torch.tensor(0 if replica else word) for replica in self.hosted]))

    def gather(self, message: str) -> list[str]:
        if self.replayed:
            self._suspend({"message": message})
        with self._replay() as (_, manifest):
            messages: list[str] = manifest["messages"]
            return messages

    @contextlib.contextmanager
    def _replay(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Take the next call of the log: its folder and its manifest."""
        folder, took = self._log.folder(self._number), self._log.seconds[self._number]
        try:
            manifest = json.loads(storage.read_bytes(storage.join(folder, _MANIFEST)))
            yield folder, manifest
        except (FileNotFoundError, ValueError, KeyError) as error:
            storage.remove(storage.join(folder, _MANIFEST))
            raise WorkerError(f"The sum {folder} is damaged and was given up: {error}") from error
        self._number += 1
        took = max(took, manifest["work_s"])
        self._clock += took
        self.seconds += took - manifest["work_s"]
        self.sent_bytes += manifest["bytes"] if self.rank == 0 else 0
        self.saved_bytes += manifest["saved_bytes"] if self.rank == 0 else 0

    def _work(self, local: Callable[[], Sequence[Tensor]], codec: Codec, replicas: "Sequence[Replica]") -> NoReturn:
        """Do the work, leave what it led to in the run's folder, and suspend."""
        started = time.perf_counter()
        parts = local()
        work_s = time.perf_counter() - started
        nodes = self._nodes({(r, 1): part for r, part in zip(self.hosted, parts, strict=True)}, 0, self.width, codec)
        sent = {node: codec.pack(total, node[0]) if _is_right(*node) else total for node, total in nodes.items()}
        folder, attempt = self._log.folder(self._number), uuid.uuid4().hex
        names = {str(replica.index): f"replica-{replica.index}-{attempt}" for replica in replicas}
        tensors = {f"nodes-{attempt}": {f"{first}-{width}": node for (first, width), node in sent.items()}}
        for replica in replicas:
            residuals = codec.residuals
            residual = {"residual": residuals[replica.index]} if replica.index in residuals else {}
            tensors[names[str(replica.index)]] = {**replica.carried(), **residual}
        self._suspend(
            {
                "nodes": f"nodes-{attempt}",
                "replicas": names,
                "files": {name: write_file(folder, name, own) for name, own in tensors.items()},
                "coded": codec is not PLAIN,
                "bytes": sum(node.nbytes for node in sent.values()),
                "saved_bytes": sum(nodes[node].nbytes - sent[node].nbytes for node in nodes),
                "work_s": work_s,
            }
        )

    def _nodes(
        self, leaves: dict[tuple[int, int], Tensor], first: int, width: int, codec: Codec
    ) -> dict[tuple[int, int], Tensor]:
        """Return the largest nodes at and below one that are sums of hosted replicas alone."""
        inside = range(first, min(first + width, self.replicas))
        if not inside or inside[-1] < self.hosted[0] or inside[0] > self.hosted[-1]:
            return {}
        if inside[0] in self.hosted and inside[-1] in self.hosted:
            node = self._node(leaves, first, width, next(iter(leaves.values())), codec)
            return {(first, width): node} if node is not None else {}
        half = width // 2
        return self._nodes(leaves, first, half, codec) | self._nodes(leaves, first + half, half, codec)

    def _suspend(self, part: dict[str, Any]) -> NoReturn:
        place = {"begin": self._log.begin, "number": self._number}
        raise Suspended({"rank": self.rank, **place, "checkpoint": self._checkpoint, **part})


class RoundCheckpoints(Checkpoints):
    """Every sync is a checkpoint: each task writes what it hosts, and `complete` commits it with the next sum.

    Args:
        rounds: The task's transport.
        log: Where the training is.
    """

    def __init__(self, rounds: Rounds, log: Log) -> None:
        super().__init__(log.uri, log.begin, fingerprint=log.fingerprint)
        self._rounds = rounds

    def due(self, transport: Transport) -> bool:  # noqa: ARG002
        return self._rounds.replayed

    def save(self, snapshot: Snapshot, transport: Transport) -> None:
        self._rounds.checkpointed(snapshot, self.write(snapshot, common=transport.rank == 0))


def complete(parts: Sequence[Mapping[str, Any]], replicas: int, codec: Codec, log: Log) -> str:
    """Complete a sum from all workers' parts and commit it; return its folder. Runs in one task of the job.

    Args:
        parts: Of all workers, as they suspended.
        replicas: How many there are in all.
        codec: That of the training, without residuals.
        log: Where the job began.

    Raises:
        WorkerError: A part is missing or damaged, or parts belong to different calls.
    """
    parts = sorted(parts, key=lambda part: int(part["rank"]))
    begin, number = parts[0]["begin"], parts[0]["number"]
    if any((part["begin"], part["number"]) != (begin, number) for part in parts):
        places = ", ".join(f"rank {part['rank']} at {part['begin']}/{part['number']}" for part in parts)
        raise WorkerError(f"The workers of a round stand at different sums ({places}); were they given the same rows?")
    log = Log(log.uri, begin, (), log.fingerprint)
    folder = log.folder(number)
    if "message" in parts[0]:
        manifest: dict[str, Any] = {"messages": [part["message"] for part in parts], "bytes": 0, "saved_bytes": 0}
        manifest["work_s"] = 0.0
    else:
        manifest = _summed(parts, folder, InProcess(replicas), codec if parts[0]["coded"] else PLAIN)
    _commit_checkpoint(parts, log)
    storage.write_bytes(storage.join(folder, _MANIFEST), json.dumps(manifest).encode())
    return folder


def _summed(parts: Sequence[Mapping[str, Any]], folder: str, whole: InProcess, codec: Codec) -> dict[str, Any]:
    """Write the sum of all parts; return the manifest."""
    files: dict[str, str] = {name: sha for part in parts for name, sha in part["files"].items()}
    owned = {replica: name for part in parts for replica, name in part["replicas"].items()}
    nodes = {
        (int(first), int(width)): node
        for part in parts
        for key, node in load_file(folder, part["nodes"], files[part["nodes"]]).items()
        for first, width in [key.split("-")]
    }

    def own(replica: int) -> dict[str, Tensor]:
        return load_file(folder, owned[str(replica)], files[owned[str(replica)]])

    sent = _Sent(codec, {first: node for (first, width), node in nodes.items() if _is_right(first, width)}, own)
    total = whole.completed(dict(sorted(nodes.items())), sent)  # the first one, a left half, is not packed
    payload = sent.payloads[0]
    residuals = {f"residual-{replica}": residual for replica, residual in codec.residuals.items()}
    name = f"sum-{uuid.uuid4().hex}"
    files[name] = write_file(folder, name, {"sum": payload, **residuals})
    return {
        "sum": name,
        "shape": list(total.shape),
        "replicas": owned,
        "files": files,
        # Each part is written once; all workers read the sum.
        "bytes": sum(part["bytes"] for part in parts) + len(parts) * payload.nbytes,
        "saved_bytes": sum(part["saved_bytes"] for part in parts) + len(parts) * (total.nbytes - payload.nbytes),
        "work_s": max(part["work_s"] for part in parts),
    }


class _Sent(Codec):
    """A codec that knows what workers have packed already, and what replicas' messages had lost before.

    Each replica sends along one edge of the tree, so it has one payload.

    Args:
        codec: Packs the rest.
        payloads: Replica → what it sends; at the end, of all that the sum needed.
        own: Gives a replica's file.
    """

    def __init__(self, codec: Codec, payloads: dict[int, Tensor], own: Callable[[int], Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.payloads = payloads
        self._codec = codec
        self._own = own

    def pack(self, tensor: Tensor, replica: int) -> Tensor:
        if replica not in self.payloads:
            if self._codec.feedback and "residual" in (own := self._own(replica)):
                self._codec.residuals[replica] = own["residual"].clone()
            self.payloads[replica] = self._codec.pack(tensor, replica)
        return self.payloads[replica]

    def unpack(self, payload: Tensor, like: Tensor) -> Tensor:
        return self._codec.unpack(payload, like)

    def room(self, like: Tensor) -> Tensor:
        return self._codec.room(like)


def _is_right(first: int, width: int) -> bool:
    """Whether a node is the right half of its parent: what sends, not what adds up."""
    return first // width % 2 == 1


def _commit_checkpoint(parts: Sequence[Mapping[str, Any]], log: Log) -> None:
    """Commit the checkpoint that this job's tasks have written, if they have."""
    saved = parts[0]["checkpoint"]  # rank 0's, with the facts
    if saved is not None:
        files = {name: sha for part in parts for name, sha in part["checkpoint"]["files"].items()}
        snapshot = Snapshot(saved["phase"], saved["epoch"], saved["number"], {}, {}, saved["facts"])
        Checkpoints(log.uri, fingerprint=log.fingerprint).commit(snapshot, files)
