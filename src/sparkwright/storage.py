"""Small files and folders on any file system: disk, HDFS, object stores.

Rows travel through Spark; configurations, manifests, models and reports travel through here. A commit is a file written
last: `write_bytes` lets no reader see half a file, on file systems that can promise it. Local reads need the standard
library alone; everything else goes through fsspec.
"""

import contextlib
import errno
import os
import posixpath
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparkwright.errors import EnvironmentNotReadyError, ExistsError, InputError, StorageError

__all__ = [
    "check_replaceable",
    "check_writable",
    "exists",
    "is_local",
    "join",
    "list_files",
    "move",
    "read_bytes",
    "remove",
    "to_uri",
    "upload",
    "write_bytes",
]

# Scheme → the extra of this package that brings its file system.
_EXTRAS = {
    "hdfs": "hdfs",
    "viewfs": "hdfs",
    "s3": "s3",
    "s3a": "s3",
    "abfs": "azure",
    "abfss": "azure",
}
# Spark's schemes that fsspec knows under another name.
_FSSPEC_SCHEME = {"s3a": "s3"}


def _scheme(uri: str) -> str:
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", uri)
    return match[1].lower() if match else ""


def is_local(uri: str) -> bool:
    """Tell whether `uri` is a path on this machine's disk (no scheme, or ``file:``)."""
    return _scheme(uri) in {"", "file"}


def to_uri(path: str | os.PathLike[str]) -> str:
    """Return `path` as an absolute URI: ``file:///…`` for local paths; other schemes stay as they are."""
    text = os.fspath(path)
    return "file://" + os.path.abspath(_local_path(text)) if is_local(text) else text.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """Append path components to a URI or local path."""
    return posixpath.join(uri, *parts)


def _local_path(uri: str) -> str:
    return os.path.expanduser(re.sub(r"^file:(//)?(?=/)", "", uri))


def _open(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system for `uri` and the path in it."""
    import fsspec

    if is_local(uri):
        return fsspec.filesystem("file"), os.path.abspath(_local_path(uri))
    scheme = _scheme(uri)
    known = _FSSPEC_SCHEME.get(scheme, scheme)
    try:
        if scheme in {"hdfs", "viewfs"}:  # fsspec's own `hdfs` needs libhdfs: without the wheel say so now, not later
            import hdfs_native  # noqa: F401
        system, path = fsspec.url_to_fs(known + uri[len(scheme) :])
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        fix = f"pip install 'sparkwright[{extra}]'" if extra else str(error)
        raise EnvironmentNotReadyError(f"Reading {scheme}: paths needs another package. Install it: {fix}") from error
    except ValueError as error:
        raise InputError(f"No file system is known for the scheme `{scheme}` of {uri}: {error}") from error
    return system, path


def exists(uri: str) -> bool:
    """Tell whether a file or folder is there."""
    if is_local(uri):
        return os.path.exists(_local_path(uri))
    system, path = _open(uri)
    return bool(system.exists(path))


def read_bytes(uri: str, most: int = -1) -> bytes:
    """Read a whole file, or its first `most` bytes.

    Raises:
        FileNotFoundError: it is not there.
    """
    if is_local(uri):
        try:
            with open(_local_path(uri), "rb") as file:
                return file.read(most)
        except NotADirectoryError as error:  # below a file: nothing can be there
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri) from error
    system, path = _open(uri)
    with system.open(path, "rb") as file:
        return bytes(file.read(most))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file, replacing one that is there; parent folders are made.

    On disk and HDFS the bytes go to a temporary name first and are renamed; object stores put whole objects anyway.

    Raises:
        StorageError: the disk is full, read-only, or may not be written to; what was there stays.
    """
    system, path = _open(uri)
    with _writing(uri):
        _write(system, uri, path, data)


def _write(system: Any, uri: str, path: str, data: bytes) -> None:
    system.makedirs(posixpath.dirname(path), exist_ok=True)
    if is_local(uri):
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    elif _scheme(uri) in {"hdfs", "viewfs"}:
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        with system.open(temporary, "wb") as file:
            file.write(data)
        if system.exists(path):  # HDFS renames onto nothing only
            system.rm(path)
        system.mv(temporary, path)
    else:
        system.pipe_file(path, data)


@contextlib.contextmanager
def _writing(uri: str) -> Iterator[None]:
    """Say what to do where the system says only that it cannot write."""
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        fix = "Free space there" if full else "Let it be written to"
        raise StorageError(
            f"{uri} cannot be written: {error.strerror or error}. {fix}, or choose another folder."
        ) from error


def check_writable(uri: str) -> None:
    """Write a file into a folder, which is made, and delete it again: to know before a long job what would end it.

    Raises:
        StorageError: the disk is full, read-only, or may not be written to.
    """
    probe = join(uri, f".{uuid.uuid4().hex}")
    write_bytes(probe, b"x")
    remove(probe)


def check_replaceable(uri: str, what: str, belongs: Callable[[str], bool]) -> None:
    """Refuse to replace a folder with files that are not what is to be written: they may be somebody's photos.

    Args:
        uri: What is to be replaced. Files, missing and empty folders are fine.
        what: What belongs there, for the message.
        belongs: Whether an entry of that name does.

    Raises:
        ExistsError: something else is there.
    """
    foreign = [name for name in list_files(uri) if not belongs(name)]
    if foreign:
        raise ExistsError(
            f"{uri} holds something else than {what} ({', '.join(foreign[:5])}), so it is left alone. Choose another "
            "folder."
        )


def move(source: str, target: str) -> None:
    """Rename a file or folder within one file system; what is at `target` is replaced.

    Raises:
        StorageError: the disk is full, read-only, or may not be written to.
    """
    system, path = _open(source)
    _, new = _open(target)
    with _writing(target):
        remove(target)
        system.makedirs(posixpath.dirname(new), exist_ok=True)
        system.mv(path, new, recursive=True)


def upload(source: Path, uri: str) -> None:
    """Copy one local file to `uri`; parent folders are made."""
    write_bytes(uri, source.read_bytes())


def list_files(uri: str) -> list[str]:
    """Return the names of the entries directly in a folder, sorted; of a missing folder, none."""
    system, path = _open(uri)
    if not system.isdir(path):
        return []
    return sorted(posixpath.basename(str(entry).rstrip("/")) for entry in system.ls(path, detail=False))


def remove(uri: str) -> None:
    """Delete a file or a folder with all in it; one that is not there is fine."""
    system, path = _open(uri)
    if system.exists(path):
        system.rm(path, recursive=True)
