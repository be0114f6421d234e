"""A model on its own: from photos to labels, without Spark and without torch.

ONNX Runtime, numpy and Pillow are all it needs. It runs the same engine and the same preprocessing as the
Spark stages, so that both give the same answers.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparkwright.errors import InputError, ModelError
from sparkwright.models import Label, ModelFiles, ModelOutput, outputs_in
from sparkwright.networks.preprocessing import AnyPreprocessing, ImageError, Preprocessing
from sparkwright.networks.ragged import trimming
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.forward.runtime import OnnxSession
from sparkwright.scoring.labels import choose, choose_labels, to_probabilities, to_values, top
from sparkwright.scoring.process.engine import Block, RowError, Scored, score, score_matrix

__all__ = ["Photo", "Prediction", "Predictor"]

Photo = bytes | str | os.PathLike[str] | Image.Image

_BATCH_SIZE = 8
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class Prediction:
    """What the model says of one row.

    Attributes:
        label: The predicted class; None where there is no single one, and where the row failed.
        probability: Of that class.
        labels: Of a model of any number of labels a row: those that are predicted.
        top: The most probable classes with their probabilities, best first.
        values: Regression: the targets' values.
        error: Why there is no answer.
        outputs: Of a model of several outputs: name → what the model says of the row there; empty where the row failed.
    """

    label: Label | None = None
    probability: float | None = None
    top: tuple[tuple[Label, float], ...] = ()
    values: tuple[float, ...] = ()
    error: RowError | None = None
    labels: tuple[Label, ...] = ()
    outputs: "Mapping[str, Prediction]" = field(default_factory=dict, hash=False)


class Predictor:
    """Scores photos, texts or sounds, or features for a model of features.

    Args:
        files: A model's files.
        threads: Threads to decode and to run the network on; by default the processor's cores.
        top: How many classes a prediction names.

    Example:
        >>> predictor = Predictor.load("run/model")                  # doctest: +SKIP
        >>> predictor.predict(["cat.jpg"])[0].label                  # doctest: +SKIP
        'cat'
    """

    def __init__(self, files: ModelFiles, *, threads: int | None = None, top: int = 5) -> None:
        if top < 1:
            raise InputError(f"top must be at least 1; got {top}.")
        self._graph = Graph.of_model(files)
        self._threads = threads or _cores()
        self._session = OnnxSession(self._graph.onnx, 1 if self._graph.preprocessing else self._threads)
        self._top = top
        manifest, shape = files.manifest, self._graph.output_shape
        self.task: str = manifest["task"]
        self.classes: tuple[Label, ...] = tuple(manifest["classes"])
        self.outputs = outputs_in(manifest)
        self._alone = ModelOutput(
            "", self.task, self.classes, manifest["link"], int(np.prod(shape)), tuple(manifest["thresholds"])
        )
        if self._alone.link == "softmax" and (len(self.classes),) != shape:
            raise ModelError(f"The model has {len(self.classes)} classes but {shape} scores.")

    @classmethod
    def load(cls, uri: str, *, threads: int | None = None, top: int = 5) -> "Predictor":
        """Load a model's folder or zip.

        Raises:
            NotFoundError: there is no model at `uri`.
            ModelError: a file is missing, cut short, altered, or of a newer format.
        """
        return cls(ModelFiles.read(uri), threads=threads, top=top)

    def predict(self, rows: Sequence[Photo] | NDArray[Any]) -> list[Prediction]:
        """Score photos (bytes, paths or images), texts, sounds (bytes or paths), or features of shape (rows, width).

        Answers are in the rows' order. A row that cannot be read gets a prediction with an error; it raises nothing.
        """
        return list(self.iterate(rows))

    def iterate(self, rows: Iterable[Photo] | NDArray[Any]) -> Iterator[Prediction]:
        """Score as `predict` does, but a few hundred rows at a time: for more than memory holds.

        Raises:
            InputError: `rows` is one photo instead of several.
        """
        if isinstance(rows, str | bytes | os.PathLike | Image.Image):
            raise InputError("predict takes a list of rows; put one row into brackets: predict([photo]).")
        for scored in self._scored(rows):
            yield from self._predictions(scored)

    def _scored(self, rows: Iterable[Any]) -> Iterator[Scored[Any]]:
        graph = self._graph
        parts = iter(rows)
        blocks: Iterator[list[Any]] = iter(lambda: list(islice(parts, _BLOCK_ROWS)), [])
        if graph.preprocessing is None:
            return score_matrix((_Numbers(block, graph.input_shape) for block in blocks), self._session)
        preprocessing = graph.preprocessing
        photos = (_Photos(block, preprocessing) for block in blocks)
        network = self._session if isinstance(preprocessing, Preprocessing) else trimming(self._session)
        return score(photos, network, graph.input_shape, batch_size=_BATCH_SIZE, threads=self._threads)

    def _predictions(self, scored: Scored[Block]) -> Iterator[Prediction]:
        rows = len(scored.block)
        outputs = scored.outputs
        if outputs is None:
            outputs = np.zeros((rows, *self._graph.output_shape), np.float32)
        answers: Iterable[Prediction]
        if self.outputs:
            parts = np.split(outputs, np.cumsum([output.width for output in self.outputs])[:-1], axis=1)
            each = zip(*map(self._answers, self.outputs, parts), strict=True)
            names = [output.name for output in self.outputs]
            answers = (Prediction(outputs=dict(zip(names, own, strict=True))) for own in each)
        else:
            answers = self._answers(self._alone, outputs)
        for row, answer in enumerate(answers):
            yield Prediction(error=scored.errors[row]) if row in scored.errors else answer

    def _answers(self, output: ModelOutput, scores: NDArray[np.float32]) -> Iterator[Prediction]:
        """Yield what the scores of one output say of each row."""
        if output.task == "regression":
            values = to_values(scores.reshape(len(scores), -1), output.link)
            yield from (Prediction(values=tuple(row.tolist())) for row in values)
            return
        classes, several = output.classes, output.task == "multilabel"
        probabilities = to_probabilities(scores, output.link, len(classes))
        best = top(probabilities, self._top)
        decide = choose_labels if several else choose
        for row, decided in enumerate(decide(probabilities, output.thresholds)):
            pairs = tuple((classes[index], float(probabilities[row, index])) for index in best[row])
            if several:
                yield Prediction(labels=tuple(classes[index] for index in np.flatnonzero(decided)), top=pairs)
            else:
                yield Prediction(classes[decided], float(probabilities[row, decided]), top=pairs)


@dataclass(frozen=True)
class _Photos:
    photos: list[Photo]
    preprocessing: AnyPreprocessing

    def __len__(self) -> int:
        return len(self.photos)

    def read(self, row: int, out: NDArray[np.float32]) -> None:
        self.preprocessing.apply(cast(Any, self.photos[row]), out)


@dataclass(frozen=True)
class _Numbers:
    rows: list[Any]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int, out: NDArray[np.float32]) -> None:
        values = np.asarray(self.rows[row], np.float32)
        if values.size != out.size:
            raise ImageError("wrong shape", f"The row has {values.size} numbers; the network takes {out.size}.")
        if not np.isfinite(values).all():
            raise ImageError("not finite", "The row holds NaN or infinity.")
        out[:] = values.reshape(self.shape)

    def matrix(self) -> tuple[NDArray[np.float32], dict[int, RowError]]:
        x = np.zeros((len(self), *self.shape), np.float32)
        errors = {}
        for row in range(len(self)):
            try:
                self.read(row, x[row])
            except ImageError as error:
                errors[row] = RowError(error.kind, str(error))
            except (TypeError, ValueError) as error:
                errors[row] = RowError("wrong type", f"The row does not hold numbers: {error}")
        return x, errors


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
