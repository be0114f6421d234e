"""Bring files and the library itself to executors as artifacts of the session.

Names carry the content's hash, so that a file that has changed never meets its own older copy.
"""

import atexit
import hashlib
import os
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import sparkwright
from sparkwright.errors import NotFoundError, WorkerError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_shipped: "WeakKeyDictionary[SparkSession, set[str]]" = WeakKeyDictionary()


def ship_library(spark: "SparkSession") -> None:
    """Put this library on the executors' import path, once per session; what they had installed of it is hidden."""
    _ship(spark, _library_zip(), pyfile=True)


def ship_file(spark: "SparkSession", path: str | os.PathLike[str]) -> str:
    """Send a local file to the executors, once per session and content.

    Returns:
        The name that `shipped_path` finds it by there; it ends as the file's own name does.

    Raises:
        NotFoundError: `path` is not a file.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"No file at {path} to send to the executors.")
    name = f"{_sha256(path)[:16]}-{path.name}"
    if name not in _shipped.get(spark, ()):
        _ship(spark, _copy(path, name), pyfile=False)
    return name


def shipped_path(name: str) -> Path:
    """Return where the file that `ship_file` called `name` lies. Runs on executors.

    Raises:
        WorkerError: It did not arrive.
    """
    from pyspark.core.files import SparkFiles

    path = Path(SparkFiles.get(name))
    if not path.is_file():
        # A stream of Spark Connect runs in a copy of the session, whose folder Spark does not tell the worker.
        path = next(path.parent.glob(f"*/{name}"), path)
    if not path.is_file():
        raise WorkerError(f"The file {name!r} did not reach this executor; {path.parent} does not hold it.")
    return path


def _ship(spark: "SparkSession", path: Path, *, pyfile: bool) -> None:
    done = _shipped.setdefault(spark, set())
    if path.name not in done:
        spark.addArtifacts(str(path), pyfile=pyfile, file=not pyfile)
        done.add(path.name)


def _copy(path: Path, name: str) -> Path:
    """Copy the file under its new name to where it stays as long as this process.

    Executors may fetch it as late as they start, whatever has become of the original by then.
    """
    copy = _outbox() / name
    if not copy.exists():
        part = copy.with_name(f"{name}.part")
        shutil.copyfile(path, part)
        part.rename(copy)
    return copy


@cache
def _outbox() -> Path:
    folder = tempfile.mkdtemp(prefix="sparkwright-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _library_zip() -> Path:
    """Write the package's files into a zip whose name holds their hash."""
    root = Path(sparkwright.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    part = _outbox() / "library.part"
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # Fixed dates: the same files are the same bytes, hence the same name.
            entry = zipfile.ZipInfo(str(Path(root.name) / file.relative_to(root)), date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return part.rename(_outbox() / f"sparkwright-{_sha256(part)[:16]}.zip")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
