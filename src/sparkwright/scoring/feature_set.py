"""A set of features: a folder with Parquet and a manifest, put last, that says what of it counts.

::

    features/
      data-<id>/computed/     Parquet: what the call that wrote it ran the network on
      data-<id>/reused/       Parquet: rows whose bytes were known
      data-<id>/errors/       Parquet, if rows failed: which, and why
      data-<id>/key.json      what the features depend on, so that the next call may use what a stopped one has left
      features.json           the manifest; readers trust only what it lists

Rows hold all columns of the images but the content, and ``sha256`` (of the bytes, hexadecimal), ``features``
(``array<float>``) and ``error`` (null, or ``struct<kind,message>``).
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import sparkwright
from sparkwright import storage
from sparkwright.errors import ModelError, NotFoundError
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.session import worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["MANIFEST", "FeatureManifest", "FeatureSet", "open_features", "read_manifest"]

MANIFEST = "features.json"
_FORMAT = 2


@dataclass(frozen=True)
class FeatureManifest:
    """What ``features.json`` holds.

    Attributes:
        key: What the features depend on.
        preprocessing: Of the network, as its dict.
        data: Parquet folders, relative to the manifest's folder.
        rows: In them.
        errors: Rows without features.
        computed: Rows that the network ran on in the call that wrote this.
        reused: Rows whose features were known.
        created: UTC, ISO 8601.
        failed: Parquet folder that lists the rows without features; None if there are none.
        sparkwright: Version that wrote it.
        format: Of this file.
    """

    key: FeatureKey
    preprocessing: dict[str, Any] | None
    data: tuple[str, ...]
    rows: int
    errors: int
    computed: int
    reused: int
    created: str
    failed: str | None = None
    sparkwright: str = sparkwright.__version__
    format: int = _FORMAT

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        return json.dumps({**vars(self), "key": self.key.to_dict()}, indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Self:
        """Read the file's bytes.

        Raises:
            ModelError: they are damaged, or of a newer format.
        """
        try:
            fields = json.loads(text)
            if fields["format"] > _FORMAT:
                raise ModelError(
                    f"{where} is of format {fields['format']}; sparkwright {sparkwright.__version__} reads up to "
                    f"{_FORMAT}. Update it: pip install --upgrade sparkwright"
                )
            return cls(**{**fields, "key": FeatureKey.from_dict(fields["key"]), "data": tuple(fields["data"])})
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{where} is damaged ({error!r}). Make the features again with overwrite=True.") from error


@dataclass(frozen=True)
class FeatureSet:
    """Committed features.

    Attributes:
        uri: Their folder.
        manifest: What they are.
        rows: Columns of the images without the content, ``sha256``, ``features``, ``error``.
    """

    uri: str
    manifest: FeatureManifest
    rows: "DataFrame"

    @property
    def computed(self) -> int:
        """Rows that the network ran on in the call that wrote this."""
        return self.manifest.computed

    @property
    def reused(self) -> int:
        """Rows whose features were known."""
        return self.manifest.reused

    @property
    def failed(self) -> "DataFrame | None":
        """The rows without features: ``path``, ``key``, ``sha256``, ``kind``, ``message``; None if there are none."""
        if self.manifest.failed is None:
            return None
        return self.rows.sparkSession.read.parquet(storage.join(storage.to_uri(self.uri), self.manifest.failed))


def open_features(spark: "SparkSession", uri: str) -> FeatureSet:
    """Open committed features.

    Raises:
        NotFoundError: there are none at `uri`.
        ModelError: the manifest is damaged, or of a newer format.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        raise NotFoundError(f"No features at {uri}: it has no {MANIFEST}. Make them with featurize.")
    with worker_errors():
        rows = spark.read.parquet(*(storage.join(storage.to_uri(uri), folder) for folder in manifest.data))
    return FeatureSet(uri, manifest, rows)


def read_manifest(uri: str) -> FeatureManifest | None:
    """Return the manifest in a folder; None if there is none.

    Raises:
        ModelError: it is damaged, or of a newer format.
    """
    path = storage.join(uri, MANIFEST)
    try:
        return FeatureManifest.from_json(storage.read_bytes(path), path)
    except FileNotFoundError:
        return None
