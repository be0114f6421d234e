"""One process at a time in a folder.

On this machine's disk the system keeps the lock, and gives it up when the process ends, however it ends. Elsewhere the
lock is a file that its holder writes anew every few seconds; who finds one watches it for a while, and takes over one
that stands still. Nothing depends on clocks of two machines.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from sparkwright import storage
from sparkwright.errors import ExistsError

__all__ = ["LOCK", "locked"]

log = logging.getLogger(__name__)

LOCK = ".lock"
"""Its name in the folder; gone when nobody works there."""

BEAT_S = 5.0
_PATIENCE = 4  # beats, before a lock that stands still is taken over


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold a folder, which is made, inside the block.

    Raises:
        ExistsError: Another process holds it; the message names it.
    """
    with _system_lock(folder) if storage.is_local(folder) and os.name != "nt" else _lease(folder):
        yield


def _owner() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _refusal(folder: str, owner: Any) -> ExistsError:
    who = f"process {owner['pid']} on {owner['host']}" if isinstance(owner, dict) else "another process"
    return ExistsError(
        f"{folder} is in use: {who} works there. Wait until it has ended, or end it, or choose another folder."
    )


def _read(path: str) -> Any:
    """Return what a lock's file holds, None if there is none or it is half written."""
    try:
        return json.loads(storage.read_bytes(path))
    except (FileNotFoundError, ValueError):
        return None


@contextlib.contextmanager
def _system_lock(folder: str) -> Iterator[None]:
    import fcntl

    path = storage.to_uri(storage.join(folder, LOCK)).removeprefix("file://")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    while True:
        # Not inherited by programs that this process starts, as all of Python's descriptors.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise _refusal(folder, _read(path)) from error
        with contextlib.suppress(FileNotFoundError):  # the one who held it may have removed the file in between
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(_owner()).encode())
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(descriptor)


@contextlib.contextmanager
def _lease(folder: str) -> Iterator[None]:
    path, own = storage.join(folder, LOCK), uuid.uuid4().hex
    first = _read(path)
    if first is not None:
        deadline = time.monotonic() + _PATIENCE * BEAT_S
        while time.monotonic() < deadline:
            time.sleep(BEAT_S / 2)
            now = _read(path)
            if now is None:
                break
            if now != first:
                raise _refusal(folder, now)
    _beat(path, own, 0)
    time.sleep(BEAT_S / 10)  # of two that come at the same moment the later one stays
    found = _read(path)
    if not isinstance(found, dict) or found.get("holder") != own:
        raise _refusal(folder, found)
    ended = threading.Event()
    thread = threading.Thread(target=_beats, args=(path, own, ended), daemon=True, name="sparkwright-lock")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(BEAT_S)
        if (_read(path) or {}).get("holder") == own:
            storage.remove(path)


def _beat(path: str, own: str, number: int) -> None:
    storage.write_bytes(path, json.dumps({**_owner(), "holder": own, "beat": number}).encode())


def _beats(path: str, own: str, ended: threading.Event) -> None:
    number = 0
    while not ended.wait(BEAT_S):
        number += 1
        try:
            found = _read(path)
            if found is not None and found.get("holder") != own:
                log.warning("%s was taken over by %s, because this process was silent for too long", path, found)
                return
            _beat(path, own, number)
        except OSError as error:
            log.warning("The lock %s could not be renewed: %s", path, error)
