"""Published weights: fetched once, checked, kept as safetensors.

The cache is ``$SPARKWRIGHT_HOME/weights`` (by default under the user's cache folder). A file is downloaded to ``.part``
and goes on from there when interrupted. Its name carries the first digits of its SHA-256, which are checked; the full
SHA-256 is pinned at the first download, and any later one must have it. The published files are pickles: they are read
with ``weights_only=True``, which runs no code, and only a safetensors copy is kept.
"""

import contextlib
import hashlib
import http.client
import json
import logging
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from sparkwright.errors import DownloadError, InputError, ModelError, NotFoundError
from sparkwright.events import Emit, Event, Progress, StageEnded, StageStarted, ignore
from sparkwright.networks.network import home, write_atomically

__all__ = ["fetch", "find_weights", "read_packaged", "read_weights"]

log = logging.getLogger(__name__)

_STAGE = "download"
_CHUNK = 1 << 20
_TIMEOUT_S = 30.0
_PAUSES_S = (0.5, 2.0, 5.0)  # before each new attempt of an interrupted download
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


def find_weights(
    name: str, url: str | None, given: str | Path | None = None, emit: Emit | None = None
) -> Mapping[str, Any]:
    """Return the weights of a network of the catalogue: tensors by name.

    Args:
        name: The network's name.
        url: Where its published weights are; None if nowhere.
        given: A file (``.safetensors``, ``.pth``), or a folder with ``<name>.safetensors`` or just one such file.
        emit: Hears of a download; by default a bar is drawn where there is a terminal.

    Raises:
        NotFoundError: No such file, or no published weights.
        DownloadError: They cannot be fetched.
        ModelError: The file is damaged.
    """
    if given is not None:
        return read_weights(_given_file(name, Path(given)))
    if url is not None:
        return read_weights(fetch(url, emit))
    cached = home() / "weights" / f"{name}.safetensors"
    if cached.exists():
        return read_weights(cached)
    raise NotFoundError(
        f"No weights of `{name}` are published in a form that can be downloaded. Give a .safetensors file (weights=…, "
        f"--weights), or put it at {cached}; or ask for random ones (weights='random', --weights random)."
    )


def read_weights(path: Path) -> dict[str, Any]:
    """Read a ``.safetensors`` or, without running code, a ``.pth`` file: tensors by name.

    Raises:
        NotFoundError: No such file.
        ModelError: The file is damaged, or holds more than tensors.
    """
    if not path.exists():
        raise NotFoundError(f"There is no file {path}.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, Any] = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"The weights in {path} are damaged: {error}. Fetch the file again.") from error
        return tensors
    return _read_pickle(path)


def read_packaged(file: str) -> dict[str, Any]:
    """Read a safetensors file that the library carries: tensors by name."""
    from safetensors.torch import load

    tensors: dict[str, Any] = load(resources.files("sparkwright.networks").joinpath("data", file).read_bytes())
    return tensors


def fetch(url: str, emit: Emit | None = None) -> Path:
    """Return the safetensors file with the weights published at `url`; downloads it at the first call.

    Several processes may ask at once: one downloads, the others wait for it.

    Raises:
        DownloadError: No connection, no such file, another SHA-256 than announced or pinned, or a cache that cannot be
            written.
        ModelError: The cached file was altered.
    """
    source = _Source.of(url)
    if source.kept.exists():
        source.check_kept()
        return source.kept
    try:
        source.folder.mkdir(parents=True, exist_ok=True)
        with _locked(source.folder / f"{source.file}.lock"):
            if source.kept.exists():  # another process was faster
                source.check_kept()
                return source.kept
            if not source.published.exists():
                _download(source, emit)
            source.check_published()
            source.keep()
    except PermissionError as error:
        raise DownloadError(_cannot_write(source, error)) from error
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(_cannot_write(source, error)) from error
    return source.kept


@dataclass(frozen=True)
class _Source:
    """One published file and its places in the cache."""

    url: str
    file: str
    folder: Path

    @classmethod
    def of(cls, url: str) -> "_Source":
        return cls(url, url.rsplit("/", 1)[-1], home() / "weights")

    @property
    def published(self) -> Path:
        """The file as published; a user without network puts it here."""
        return self.folder / self.file

    @property
    def part(self) -> Path:
        return self.folder / f"{self.file}.part"

    @property
    def kept(self) -> Path:
        return self.published.with_suffix(".safetensors")

    @property
    def pin(self) -> Path:
        """JSON: SHA-256 of the published file, which outlives it, and of the kept one."""
        return self.folder / f"{self.file}.sha256.json"

    def read_pin(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError):
            pin: dict[str, str] = json.loads(self.pin.read_text())
            return pin
        return {}

    def check_kept(self) -> None:
        pinned = self.read_pin().get("kept")
        if pinned is not None and pinned != _sha256(self.kept):
            raise ModelError(
                f"{self.kept} was altered after it was fetched: its SHA-256 is not the pinned one. Delete it, and it "
                "is fetched again."
            )

    def check_published(self) -> None:
        """Compare the file with the hash in its name and with the pin; a wrong one is deleted."""
        digest = _sha256(self.published)
        announced = _HASH_IN_NAME.search(self.file)
        pinned = self.read_pin().get("published")
        if announced is None and pinned is None:
            log.warning("%s has no hash in its name; its SHA-256 %s is pinned from now on", self.url, digest)
        wrong = announced is not None and not digest.startswith(announced.group(1))
        if wrong or pinned not in (None, digest):
            expected = announced.group(1) + "…" if announced is not None and wrong else pinned
            self.published.unlink()
            raise DownloadError(
                f"{self.file} has SHA-256 {digest}, which should be {expected}: the file is damaged or not the one "
                f"that was published. It was deleted; the source was {self.url}."
            )
        _write_json(self.pin, {"url": self.url, "published": digest})

    def keep(self) -> None:
        """Turn the published pickle into safetensors, pin that too, and delete the pickle."""
        from safetensors.torch import save

        data = save({name: value.contiguous() for name, value in _read_pickle(self.published).items()})
        digest = hashlib.sha256(data).hexdigest()
        _write_json(self.pin, {**self.read_pin(), "kept": digest})
        write_atomically(self.kept, data)
        self.published.unlink()


def _download(source: _Source, emit: Emit | None) -> None:
    """Download to ``.part``, going on where an earlier attempt stopped, then move it to its place."""
    with _listener(source.file, emit) as hear:
        started = time.monotonic()
        for pause in (*_PAUSES_S, None):
            try:
                _receive(source, hear)
                break
            except urllib.error.HTTPError as error:
                if error.code == 416:  # nothing is missing, or the file changed: the hash tells
                    break
                raise DownloadError(_by_hand(source, f"the server answered {error.code} {error.reason}")) from error
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = getattr(error, "reason", None) or error or type(error).__name__
                if pause is None or isinstance(error, urllib.error.URLError):
                    raise DownloadError(_by_hand(source, str(reason))) from error
                log.info("The download of %s was interrupted (%s); going on in %.1f s", source.url, reason, pause)
                time.sleep(pause)
        size = source.part.stat().st_size
        source.part.replace(source.published)
        hear(StageEnded(_STAGE, time.monotonic() - started, size))


def _receive(source: _Source, hear: Emit) -> None:
    """Append what is missing to ``.part``.

    Raises:
        http.client.IncompleteRead: The connection ended too early.
    """
    have = source.part.stat().st_size if source.part.exists() else 0
    request = urllib.request.Request(source.url, headers={"User-Agent": "sparkwright"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else 0
        hear(StageStarted(_STAGE, total, "bytes"))
        with source.part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                hear(Progress(_STAGE, source.file, have))
    if total and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def _read_pickle(path: Path) -> dict[str, Any]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"The weights in {path} cannot be read without running code, or are damaged: {first}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} must hold tensors by name (a state_dict); it holds a {type(state).__name__}.")
    return dict(state)


def _given_file(name: str, path: Path) -> Path:
    if not path.is_dir():
        return path
    named = path / f"{name}.safetensors"
    found = [named] if named.exists() else sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise InputError(f"{path} must hold {named.name}, or one .safetensors file; it holds {len(found)}.")
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=1).encode())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for; the system frees it when this process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes may download the same file; both end with the same bytes
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def _listener(file: str, emit: Emit | None) -> Iterator[Emit]:
    """Return what hears of the download: the caller's function, else a bar on the terminal, else nobody."""
    if emit is not None or not sys.stderr.isatty():
        yield emit or ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(file, total=None)

        def draw(event: Event) -> None:
            if isinstance(event, StageStarted):
                bar.update(task, total=event.total or None)
            elif isinstance(event, Progress):
                bar.update(task, completed=event.done)

        yield draw


def _by_hand(source: _Source, reason: str) -> str:
    return (
        f"The weights cannot be downloaded from {source.url}: {reason}. Without network, fetch that file elsewhere and "
        f"put it at {source.published}; or give a file (weights=…, --weights) or 'random' instead."
    )


def _cannot_write(source: _Source, error: OSError) -> str:
    return (
        f"The weights of {source.url} cannot be kept in {source.folder}: {error.strerror or error}. Set "
        "SPARKWRIGHT_HOME to a folder with enough space that you may write."
    )
