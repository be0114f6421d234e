"""The main job: from labelled photos and a pre-trained network to a tested classifier.

Split the photos; run the cut network over all of them; train a head on the features by parameter averaging; keep the
best epoch and train once more on training and validation rows; score the test rows once; write model and report. Each
step is a part of the library that can be used alone; this module calls them and owns the run's folder.

If asked for, the network is fine-tuned in between: it trains on the photos themselves, from a layer on, with the head
that its features gave.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkwright import session
from sparkwright.data import splits
from sparkwright.data.images import Images, read_images
from sparkwright.errors import InputError
from sparkwright.events import Emit, Sink, Warned
from sparkwright.labelled import FeatureRows, Fractions
from sparkwright.models import Model
from sparkwright.networks.augmentation import Augmentation
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.network import Network
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.runs import CHECKPOINTS, METRICS, Run, check_folder
from sparkwright.scoring.features import featurize, rehearsal
from sparkwright.shell_command import shell_command
from sparkwright.training.checkpoints import CHECKPOINT_S
from sparkwright.training.cluster.fit import TrainingResult, train
from sparkwright.training.config import FINETUNING, TrainingConfig
from sparkwright.training.fitting import EpochsAsProgress
from sparkwright.training.subject import WholeNetwork

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["FINETUNING", "TransferResult", "load_cut", "read_sides", "train_features", "transfer"]

_TEST_ADVICE = "Give the test side some of them (--split): what is trained here is tested on rows that it has not seen."


@dataclass(frozen=True)
class TransferResult:
    """What `transfer` gives.

    Attributes:
        run: The run's folder, a URI.
        model: The classifier, from a photo's bytes to a label.
        metrics: What ``metrics.json`` holds; keys in `sparkwright.evaluation.evaluate`.
    """

    run: str
    model: Model
    metrics: dict[str, Any]


def transfer(
    spark: "SparkSession",
    images: str | Sequence[str],
    network: str | Network,
    out: str,
    *,
    weights: str | None = None,
    preprocessing: str | None = None,
    layer: str | None = None,
    labels: str = "folder",
    split: Fractions | str = (0.6, 0.2, 0.2),
    group: str | None = None,
    seed: int = 0,
    training: TrainingConfig | None = None,
    finetune: str | None = None,
    finetuning: TrainingConfig | None = None,
    augmentation: Augmentation | Mapping[str, Any] | str | None = None,
    batch_size: int = 8,
    max_error_rate: float = 0.05,
    checkpoint_s: float = CHECKPOINT_S,
    reuse: Sequence[str] = (),
    overwrite: bool = False,
    resume: bool = False,
    sinks: Sequence[Sink] = (),
) -> TransferResult:
    """Train and test a photo classifier on the features of a pre-trained network; fine-tune the network, if asked.

    Runs on the driver; photos are read, features computed and the head trained on the executors. The driver receives
    counts, one copy of the head's weights, and the few photos that the report shows.

    Args:
        spark: The session, classic or Connect.
        images: Where the photos are: a path, folder or glob that Spark reads, or several.
        network: A name of the catalogue, a file or folder with a network, or a `Network`.
        out: The run's folder; executors must be able to write there.
        weights: See `load_network`.
        preprocessing: See `load_network`.
        layer: The layer whose output is the features; by default the one before the classes.
        labels: ``"folder"``, a regular expression on the path, or a table (path, label); see `read_images`.
        split: Fractions of train, validation and test rows; ``"folder"``; or a table (path, split).
        group: A regular expression or a table (path, group): rows of a group stay on one side.
        seed: Of split, weights and order of rows.
        training: How the head is trained; its seed is replaced by `seed`. Default: `TrainingConfig` with ``refit``.
        finetune: The first layer that is then trained on the photos, together with all behind it, from the weights that
            it and the head have; ``"all"`` layers; None keeps the network as it is.
        finetuning: How; its seed and replicas are those of `training`. Default: `FINETUNING`. The validation photos
            choose the best epoch of both, so the head is not trained again on them.
        augmentation: What training photos go through in the fine-tuning: an `Augmentation`, its dict, or the name of a
            preset (``"photos"``, ``"aerial"``, ``"glyphs"``). None: what the network's preprocessing says.
        batch_size: Photos of a micro-batch in scoring.
        max_error_rate: Share of photos that may fail before the job stops.
        checkpoint_s: Seconds between two checkpoints of the training, from which `resume` goes on.
        reuse: Folders of features from earlier runs; photos found there by content are not computed again.
        overwrite: Begin anew in a folder that holds a run.
        resume: Go on in a folder that holds a run of the same configuration, the training from its last checkpoint.
        sinks: Listeners to the run's events.

    Raises:
        NotFoundError: no such path, or no photos in it.
        InputError: labels, split, network or layer cannot be used as given; fewer than two classes; no test photos.
        ExistsError: `out` is there already.
        ErrorRateError: too many photos failed.
        WorkerError: a process of the cluster failed.
    """
    check_folder(out, overwrite=overwrite, resume=resume)
    if not isinstance(split, str) and split[-1] == 0:
        raise InputError(f"The split {split} leaves no photos to test the classifier on. {_TEST_ADVICE}")
    cut = load_cut(network, weights, preprocessing, layer)
    if augmentation is not None:
        if finetune is None:
            raise InputError(
                "`augmentation` changes photos while the network trains on them, which needs `finetune` (--finetune): "
                "features are computed once, on photos as they are."
            )
        cut = cut.with_augmentation(augmentation)
    _check_one_output(training, finetuning)
    training = (training or TrainingConfig(refit=finetune is None)).replace(seed=seed)
    if finetune is not None:
        training = training.replace(refit=False)  # the validation rows are to be new to the head
        finetuning = (finetuning or FINETUNING).replace(seed=seed, replicas=training.replicas)
        subject = WholeNetwork.of(cut, new_head=True, train_from=finetune)  # before anything is computed
        subject.check(finetuning.replace(hidden=training.hidden))  # the head will be that of the features
    config = {
        "images": [images] if isinstance(images, str) else list(images),
        "network": network if isinstance(network, str) else network.name,
        "weights": weights,
        "preprocessing": preprocessing,
        "layer": layer,
        "network_fingerprint": cut.fingerprint(),
        "labels": labels,
        "split": split,
        "group": group,
        "seed": seed,
        "max_error_rate": max_error_rate,
        "training": training.to_dict(),
    }
    if finetune is not None and finetuning is not None:
        config |= {"finetune": finetune, "finetuning": finetuning.to_dict()}
        augmented = cut.preprocessing.augmentation if isinstance(cut.preprocessing, Preprocessing) else None
        config |= {"augmentation": augmented.to_dict()} if augmented else {}
    session.check_workers(spark)
    shell = shell_command("transfer", config, out)
    with Run(out, "transfer", config, shell=shell, overwrite=overwrite, resume=resume, sinks=sinks) as run:
        job = _Job(run)
        with rehearsal(spark, cut, run.path("features")), job.stage("images"):
            sided, photos = read_sides(spark, images, labels, split, group, seed, run.emit)
        with job.stage("features", photos.files - photos.unmatched):
            features = featurize(
                spark,
                sided,
                cut,
                run.path("features"),
                reuse=reuse,
                batch_size=batch_size,
                max_error_rate=max_error_rate,
                overwrite=True,
                emit=run.emit,
            )
        lineage = {"features": features.manifest.key.to_dict(), "config": config}
        tuning = None
        if finetune is not None and finetuning is not None:
            tuning = _Finetuning(sided.where("label IS NOT NULL AND split IS NOT NULL"), finetune, finetuning)
        model, metrics = job.learn(FeatureRows(features), training, cut, lineage, photos, checkpoint_s, tuning)
    return TransferResult(run.uri, model, metrics)


def train_features(
    spark: "SparkSession",
    features: str,
    out: str,
    training: TrainingConfig | None = None,
    *,
    checkpoint_s: float = CHECKPOINT_S,
    overwrite: bool = False,
    resume: bool = False,
    sinks: Sequence[Sink] = (),
) -> TransferResult:
    """Train and test a head on features that have labels and sides: `transfer` without the photos.

    The model is one of features; it refuses those of another network or layer.

    Raises:
        NotFoundError: there are no features.
        ColumnError: they have no labels or no sides.
        InputError: no row is on the test side; the training cannot be done as configured.
        ExistsError: `out` is there already.
    """
    check_folder(out, overwrite=overwrite, resume=resume)
    _check_one_output(training)
    training = training or TrainingConfig(refit=True)
    found = FeatureRows.open(spark, features)
    config = {"features": features, "seed": training.seed, "training": training.to_dict()}
    shell = shell_command("train", config, out)
    with Run(out, "train", config, shell=shell, overwrite=overwrite, resume=resume, sinks=sinks) as run:
        lineage = {"features": found.features.manifest.key.to_dict(), "config": config}
        model, metrics = _Job(run).learn(found, training, None, lineage, None, checkpoint_s)
    return TransferResult(run.uri, model, metrics)


def _check_one_output(*configs: TrainingConfig | None) -> None:
    """Refuse trainings of several outputs, before anything is computed."""
    if any(config is not None and config.outputs is not None for config in configs):
        raise InputError("A run trains one classifier; several outputs are trained by `train` and `fit_table`.")


def load_cut(network: str | Network, weights: str | None, preprocessing: str | None, layer: str | None) -> Network:
    """Load the network and cut it at the layer whose output is the features."""
    loaded = load_network(network, weights, preprocessing) if isinstance(network, str) else network
    if loaded.preprocessing is None:
        raise InputError(f"The network `{loaded.name}` does not read photos: it has no preprocessing.")
    layer = layer or loaded.feature_layer
    if layer is None:
        raise InputError(
            f"The network `{loaded.name}` does not say which layer's output is its features. Name one (layer=…, "
            f"--layer) of: {', '.join(loaded.layers[-20:])}."
        )
    return loaded.cut(layer)


def read_sides(
    spark: "SparkSession",
    images: str | Sequence[str],
    labels: str | None,
    split: Fractions | str | None,
    group: str | None,
    seed: int,
    emit: Emit,
) -> "tuple[DataFrame, Images]":
    """Read photos and put them on sides: rows with the column `split`, and what was found.

    Photos without a label are left out if there are labels, and told of. The arguments are those of `transfer`; None
    for no labels, and for no sides.

    Raises:
        InputError: fewer than two classes, if there are labels.
    """
    photos = read_images(spark, images, labels=labels, group=group)
    for count, what, examples in (
        (photos.unmatched, "photos match no label rule and are left out", photos.unmatched_examples),
        (photos.missing, "rows of the label table name no photo", photos.missing_examples),
        (photos.ignored, "files are no photos by their name and are ignored", photos.ignored_examples),
    ):
        if count:
            emit(Warned(f"{count:,} {what}: {', '.join(examples)}{' …' if count > len(examples) else ''}"))
    if labels is not None and len(photos.classes) < 2:
        raise InputError(
            f"A classifier needs at least two classes; the labels found are {list(photos.classes)}. Check --labels: "
            "with `folder` a photo's label is the folder that it lies in."
        )
    rows = photos.rows.drop("label") if labels is None else photos.rows.where("label IS NOT NULL")
    if split is None:
        return rows, photos
    label, column = (None if labels is None else "label"), (None if group is None else "group")
    if not isinstance(split, str):
        return splits.split(rows, split, seed=seed, label=label, group=column, emit=emit), photos
    if split == "folder":
        return splits.split_by_folder(rows, seed=seed, label=label, group=column, emit=emit), photos
    return splits.split_by_table(rows, split, seed=seed, label=label, group=column, emit=emit), photos


@dataclass(frozen=True)
class _Finetuning:
    """What a fine-tuning trains on, and how."""

    photos: "DataFrame"
    train_from: str
    training: TrainingConfig


class _Job:
    """The steps of one transfer, and what they tell the run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def stage(self, name: str, total: int = 0) -> AbstractContextManager[None]:
        """Announce a stage of `total` photos, and tell its seconds at the end."""
        return self._run.stage(name, total, "photos")

    def learn(
        self,
        features: FeatureRows,
        training: TrainingConfig,
        network: Network | None,
        lineage: dict[str, Any],
        photos: Images | None,
        checkpoint_s: float,
        tuning: _Finetuning | None = None,
    ) -> tuple[Model, dict[str, Any]]:
        """Train a head on the features, test it once, keep model and metrics in the run."""
        head_emit = self._run.emit if tuning is None else EpochsAsProgress(self._run.emit, "training")
        with self.stage("training"):
            features.require_test()
            classes = None if photos is None else photos.classes
            trained = train(
                features.rows,
                training,
                split="split",
                classes=classes,
                checkpoints=self._run.path(CHECKPOINTS),  # until the run has ended: what comes now may fail
                checkpoint_s=checkpoint_s,
                emit=head_emit,
            )
        lineage = {**lineage, "data": features.fingerprint()}
        model = Model(
            network=network,
            head=trained.head,
            task="classification",
            classes=trained.classes,
            lineage=lineage,
            link=trained.config.link,
            thresholds=trained.thresholds,
        )
        # The features are there, so the head is all that scores them.
        scored, before = model.replace(network=None), trained.validation
        test: DataFrame | None = None
        if tuning is not None:
            trained = self._finetune(model, tuning, checkpoint_s)
            self._warn_if_worse(before, trained.validation)
            scored = model = model.replace(network=trained.network, head=trained.head, thresholds=trained.thresholds)
            test = tuning.photos.where("split = 'test'")
        with self.stage("predictions"):
            metrics = self._measure(scored, trained, test, features, photos)
        if tuning is not None:
            metrics["head"] = {"validation": before}
        with self.stage("model"):
            model = model.replace(metrics={side: metrics[side] for side in ("validation", "test")})
            model.save(self._run.path("model"), overwrite=True)
        metrics["seconds"] = dict(self._run.seconds)
        self._run.metrics = {"test": {"accuracy": metrics["test"]["accuracy"]}}
        self._run.write(METRICS, metrics)
        return model, metrics

    def _finetune(self, model: Model, tuning: _Finetuning, checkpoint_s: float) -> TrainingResult:
        """Train network and head on the photos; those that could not be read are left out again."""
        with self.stage("finetuning"):
            return train(
                tuning.photos,
                tuning.training,
                features="content",
                split="split",
                subject=WholeNetwork.of(model, train_from=tuning.train_from),
                invalid="skip",
                checkpoints=self._run.path(CHECKPOINTS, "finetuning"),
                checkpoint_s=checkpoint_s,
                emit=self._run.emit,
            )

    def _warn_if_worse(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Warn where fewer validation photos are right than with the head on the features."""
        if before and after and after["accuracy"] < before["accuracy"]:
            self._run.emit(
                Warned(
                    f"The fine-tuning did not help: of the validation photos {after['accuracy']:.2%} are right, and "
                    f"{before['accuracy']:.2%} were with the head on the features. A network learns little from photos "
                    "that are few, or of the kind that it knows. Without fine-tuning (no --finetune) the head learns "
                    "from the validation photos, too; or try a lower learning_rate, or another augmentation."
                )
            )

    def _measure(
        self,
        model: Model,
        trained: TrainingResult,
        test: "DataFrame | None",
        features: FeatureRows,
        photos: Images | None,
    ) -> dict[str, Any]:
        """Score the test rows, once; return all metrics, and keep predictions and the worst photos in the run."""
        data = features.describe(self._run.emit)
        if photos is not None:
            data["unmatched"] = {"count": photos.unmatched, "examples": list(photos.unmatched_examples)}
            data["ignored"] = photos.ignored
        tested = features.test(model, self._run, data, photos=test)
        made = features.features
        return {
            "validation": trained.validated,
            "test": tested,
            "data": data,
            "features": {"computed": made.computed, "reused": made.reused, "width": made.manifest.key.width},
        }
