"""The artefact: a trained model as a folder or zip without pickles.

::

    model/
      model.json           what it is: task, classes, preprocessing, metrics, lineage, versions, checksums; written last
      weights.safetensors  the weights of what is torch
      network.onnx         the whole way from pixels (or features) to scores, for ONNX Runtime

A photo classifier is a *network*, cut at a layer, and a *head* on its output; a model of features is a head alone.
`ModelFiles` reads and checks the files with nothing but the standard library, so that scoring needs neither torch nor
Spark; `Model` rebuilds the networks from them.

Example:
    >>> model = Model.load("run/model")             # doctest: +SKIP
    >>> model.classes, model.metrics["test"]["accuracy"]    # doctest: +SKIP
    (('accordion', 'airplanes'), 0.903)
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, cast

import sparkwright
from sparkwright import storage
from sparkwright.errors import ExistsError, InputError, ModelError, NotFoundError

if TYPE_CHECKING:
    from sparkwright.networks.network import Network

__all__ = ["FORMAT", "Label", "Model", "ModelFiles", "ModelOutput", "library_versions", "outputs_in"]

FORMAT = 1
"""Version of the format; readers refuse newer ones."""

Label = str | int | float

LINKS = {
    "classification": "softmax",
    "multilabel": "sigmoid",
    "regression": "identity",
    "multitask": "several",
}
"""Task → how scores usually become probabilities or values; each of several outputs has its own way."""

MANIFEST, WEIGHTS, ONNX = "model.json", "weights.safetensors", "network.onnx"


def library_versions() -> dict[str, str]:
    """Return the versions of Python's packages that results may depend on; those not installed are left out."""
    versions = {"sparkwright": sparkwright.__version__}
    for name in ("torch", "pyspark", "onnxruntime", "numpy", "pillow", "pyarrow", "onnx"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True)
class ModelFiles:
    """A model's files as bytes, checked against its manifest. Needs neither torch, pyspark nor pyarrow.

    Attributes:
        manifest: What ``model.json`` holds.
        files: The other files' contents by name.
    """

    manifest: dict[str, Any]
    files: Mapping[str, bytes] = field(repr=False)

    @staticmethod
    def read(uri: str) -> "ModelFiles":
        """Read and check a model folder or ``.zip``.

        Raises:
            NotFoundError: there is no model at `uri`.
            ModelError: a file is missing, cut short, altered, or of a newer format; the message names it.
        """
        source: _Folder | _Zip = _Zip(uri) if uri.endswith(".zip") else _Folder(uri)
        try:
            text = source.read(MANIFEST)
        except (FileNotFoundError, KeyError) as error:
            raise NotFoundError(f"No model at {uri}: it has no {MANIFEST}.") from error
        try:
            manifest = json.loads(text)
            version, listed = int(manifest["format"]), dict(manifest["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{uri}: {MANIFEST} is damaged ({error}). Save or copy the model again.") from error
        if version > FORMAT:
            raise ModelError(
                f"{uri}: {MANIFEST} is of format {version}; sparkwright {sparkwright.__version__} reads up to "
                f"{FORMAT}. Update it: pip install --upgrade sparkwright"
            )
        files = {}
        for name, expected in listed.items():
            try:
                data = source.read(name)
            except (FileNotFoundError, KeyError, zipfile.BadZipFile) as error:
                raise ModelError(f"{uri}: {name} is missing or unreadable. Copy the model again.") from error
            if len(data) != expected["bytes"]:
                raise ModelError(
                    f"{uri}: {name} has {len(data):,} bytes and should have {expected['bytes']:,}: it was cut short or "
                    "altered. Copy the model again."
                )
            if hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise ModelError(f"{uri}: {name} was altered: its SHA-256 is not the one in {MANIFEST}.")
            files[name] = data
        return ModelFiles(manifest, files)

    def write(self, uri: str, *, overwrite: bool = False) -> None:
        """Write the files, the manifest last; `uri` ending in ``.zip`` gives one file.

        Raises:
            ExistsError: something is there and `overwrite` is false, or it is a folder with other files than a model's.
            StorageError: the files cannot be written.
        """
        if storage.exists(uri):
            if not overwrite:
                raise ExistsError(f"{uri} exists. Choose another place, or pass overwrite=True (--overwrite).")
            storage.check_replaceable(uri, "a model", lambda name: name in {MANIFEST, WEIGHTS, ONNX})
            storage.remove(uri)
        manifest = json.dumps(self.manifest, indent=2, ensure_ascii=False).encode()
        if uri.endswith(".zip"):
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for name, data in [*self.files.items(), (MANIFEST, manifest)]:
                    archive.writestr(zipfile.ZipInfo(name), data)
            storage.write_bytes(uri, packed.getvalue())
            return
        for name, data in [*self.files.items(), (MANIFEST, manifest)]:
            storage.write_bytes(storage.join(uri, name), data)


class _Folder:
    def __init__(self, uri: str) -> None:
        self._uri = uri

    def read(self, name: str) -> bytes:
        return storage.read_bytes(storage.join(self._uri, name))


class _Zip:
    def __init__(self, uri: str) -> None:
        try:
            data = storage.read_bytes(uri)
        except FileNotFoundError as error:
            raise NotFoundError(f"No model at {uri}: there is no such file.") from error
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except zipfile.BadZipFile as error:
            raise ModelError(f"{uri} is not a whole zip file ({error}). Copy the model again.") from error

    def read(self, name: str) -> bytes:
        return self._archive.read(name)


@dataclass(frozen=True)
class ModelOutput:
    """One of several outputs of a model: a part of the vector that the network gives.

    Attributes:
        name: What its columns begin with.
        task: ``"classification"``, ``"multilabel"`` or ``"regression"``.
        classes: The labels in the order of the scores; empty for regression.
        link: How scores become probabilities or values; see `Model`.
        width: How many numbers are its own; those of the outputs before it come before them.
        thresholds: As `Model` has them.
    """

    name: str
    task: Literal["classification", "multilabel", "regression"]
    classes: tuple[Label, ...]
    link: str
    width: int
    thresholds: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {**vars(self), "classes": list(self.classes), "thresholds": list(self.thresholds)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "ModelOutput":
        """Rebuild from `to_dict`."""
        return ModelOutput(**{**data, "classes": tuple(data["classes"]), "thresholds": tuple(data["thresholds"])})


def outputs_in(manifest: Mapping[str, Any]) -> tuple[ModelOutput, ...]:
    """Return the outputs of a model that has several, by what ``model.json`` holds; none where there is one."""
    return tuple(map(ModelOutput.from_dict, manifest.get("outputs", ())))


@dataclass(frozen=True, eq=False)
class Model:
    """Network, head, classes, metrics and lineage: what is saved, loaded and scored.

    Attributes:
        network: From pixels to features, cut at its layer; None for a model of features.
        head: From features, float32 of shape (rows, features), to scores: one per class before the softmax
            (classification), or one per target (regression). None for a network that gives the scores itself.
        task: ``"classification"``, ``"multilabel"`` (a row has any number of labels), ``"regression"``, or
            ``"multitask"``: several outputs, each with a task of its own.
        classes: The labels in the order of the scores; empty for regression, and with several outputs.
        metrics: What was measured, as in a run's ``metrics.json``.
        lineage: Where it came from: fingerprints of data and network, configuration, features' key.
        link: How scores become probabilities: ``"softmax"``, ``"sigmoid"`` or ``"sequential"`` (see
            `sparkwright.scoring.labels.to_probabilities`); or values: ``"identity"`` or ``"exp"``. None takes what is
            usual: softmax, of several labels sigmoid, of a regression identity.
        thresholds: From which probability on a label is predicted: one a label where a row has several; one, of the
            second class, where there are two. Empty: one half, and the most probable class.
        outputs: Several outputs, in the order in which they lie in the vector that the network gives; else empty.
    """

    network: "Network | None"
    head: "Network | None"
    task: Literal["classification", "multilabel", "regression", "multitask"]
    classes: tuple[Label, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    link: str | None = None
    thresholds: tuple[float, ...] = ()
    outputs: tuple[ModelOutput, ...] = ()

    def __post_init__(self) -> None:
        if self.link is None:
            object.__setattr__(self, "link", LINKS[self.task])
        wanted = {"multilabel": len(self.classes), "classification": 1 if len(self.classes) == 2 else 0}
        if len(self.thresholds) not in (0, wanted.get(self.task, 0)):
            raise InputError(
                f"`thresholds` must hold one probability for each of several labels, or one for two classes; got "
                f"{len(self.thresholds)} for {len(self.classes)} classes in a {self.task}."
            )
        if self.network is None and self.head is None:
            raise InputError("A model needs a network, a head, or both; got neither.")
        if bool(self.outputs) != (self.task == "multitask"):
            raise InputError(f"`outputs` are those of a model of the task 'multitask'; this one's is {self.task!r}.")

    @staticmethod
    def of_network(network: "Network", classes: Sequence[Label] | None = None) -> "Model":
        """Make a model of a network that has its classifier already, such as one of the catalogue.

        Args:
            network: Gives one score a class, before the softmax.
            classes: Their labels; by default the network's own, or else the numbers from 0 on.

        Raises:
            InputError: the output is no vector, or not as long as `classes`.
        """
        shape = network.output_shape
        labels = tuple(classes or network.classes or range(shape[0] if shape else 0))
        if (len(labels),) != shape:
            raise InputError(
                f"The network `{network.name}` gives outputs of shape {shape}; got {len(labels)} classes. Give it a "
                "head (new_head), or one name per output."
            )
        return Model(network, None, "classification", labels)

    @property
    def full(self) -> "Network":
        """The whole way from the input to the scores, as one network."""
        if self.network is not None and self.head is not None:
            return self.network.with_head(self.head)
        return cast("Network", self.network or self.head)

    def replace(self, **changes: Any) -> "Model":
        """Return a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def save(self, uri: str, *, overwrite: bool = False) -> None:
        """Write the model as a folder, or as one file if `uri` ends in ``.zip``.

        Raises:
            ExistsError: something is there and `overwrite` is false, or it is a folder with other files than a model's.
            StorageError: the files cannot be written.
        """
        self.to_files().write(uri, overwrite=overwrite)

    def to_files(self) -> ModelFiles:
        """Return the files that `save` writes."""
        from safetensors.numpy import save as save_tensors

        full = self.full
        tensors: dict[str, Any] = {}
        for part, network in (("head", self.head), ("network", self.network)):
            if network is not None:  # an ONNX network has its weights in the graph, and gives none here
                tensors |= {f"{part}.{name}": array for name, array in network.weights().items()}
        files = {WEIGHTS: save_tensors(tensors), ONNX: full.to_onnx()}
        preprocessing = full.preprocessing
        manifest = {
            "format": FORMAT,
            "task": self.task,
            "classes": list(self.classes),
            "link": self.link,
            "thresholds": list(self.thresholds),
            **({"outputs": [output.to_dict() for output in self.outputs]} if self.outputs else {}),
            "network": self.network.to_spec() if self.network is not None else None,
            "head": self.head.to_spec() if self.head is not None else None,
            "preprocessing": preprocessing.to_dict() if preprocessing is not None else None,
            "input_shape": list(full.input_shape),
            "output_shape": list(full.output_shape),
            "fingerprint": full.fingerprint(),
            "metrics": self.metrics,
            "lineage": self.lineage,
            "versions": library_versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
            },
        }
        return ModelFiles(manifest, files)

    @staticmethod
    def load(uri: str) -> "Model":
        """Read a model that `save` wrote; needs torch.

        Raises:
            NotFoundError: there is no model at `uri`.
            ModelError: a file is missing, cut short, altered, or of a newer format.
        """
        return Model.from_files(ModelFiles.read(uri))

    @staticmethod
    def from_files(files: ModelFiles) -> "Model":
        """Rebuild the model from its files."""
        from safetensors.numpy import load as load_tensors

        from sparkwright.networks.network import OUTPUT, from_spec

        manifest = files.manifest
        tensors = load_tensors(files.files[WEIGHTS])

        def part(name: str) -> "Network | None":
            spec = manifest[name]
            if spec is None:
                return None
            if spec["kind"] == "onnx":
                whole = from_spec({**spec, "layer": OUTPUT}, onnx=files.files[ONNX])
                # The graph holds the head too: leave it out again.
                return whole.cut(spec["layer"]) if manifest["head"] is not None else whole
            own = {key.removeprefix(f"{name}."): array for key, array in tensors.items() if key.startswith(f"{name}.")}
            return from_spec(spec, own)

        if manifest["network"] is None and manifest["head"] is None:
            raise ModelError(f"{MANIFEST} describes neither a network nor a head. Save or copy the model again.")
        return Model(
            network=part("network"),
            head=part("head"),
            task=manifest["task"],
            classes=tuple(manifest["classes"]),
            metrics=manifest["metrics"],
            lineage=manifest["lineage"],
            link=manifest["link"],
            thresholds=tuple(manifest["thresholds"]),
            outputs=outputs_in(manifest),
        )
