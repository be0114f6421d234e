"""What the scoring stages share: their Params, and how they are saved and loaded."""

import dataclasses
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pyspark.ml import Transformer
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame
from pyspark.sql.utils import is_remote

from sparkwright.scoring.frames import BATCH_SIZE, MAX_ERROR_RATE
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.persistence import read_files, write_files

__all__ = ["ScoringStage"]


def to_fetch_limits(value: Any) -> dict[str, Any]:
    """Return the limits as a stage's Params hold them, and its file."""
    if not isinstance(value, FetchLimits | Mapping):
        raise TypeError(f"fetchLimits must be FetchLimits; got {type(value).__name__}.")
    return dataclasses.asdict(value if isinstance(value, FetchLimits) else FetchLimits(**value))


def _to_mode(value: Any) -> str:
    if value not in ("permissive", "failfast"):
        raise TypeError(f"mode must be permissive or failfast; got {value!r}.")
    return str(value)


class ScoringStage(Transformer, MLReadable[Any], MLWritable, metaclass=ABCMeta):
    """A transformer around the scoring engine.

    A stage holds an artefact (a network, a model) in the Param that `artefact` names. It is saved with the stage, as
    files, so that a saved pipeline needs nothing else.
    """

    artefact: ClassVar[str]

    inputCol = Param[str](Params._dummy(), "inputCol", "column to score", TypeConverters.toString)
    errorCol = Param[str](
        Params._dummy(),
        "errorCol",
        "column that says why a row has no result: struct<kind,message>, null where it has one",
        TypeConverters.toString,
    )
    batchSize = Param[int](Params._dummy(), "batchSize", "photos that the network sees at once", TypeConverters.toInt)
    maxErrorRate = Param[float](
        Params._dummy(),
        "maxErrorRate",
        "share of a task's rows that may fail; more stop the job",
        TypeConverters.toFloat,
    )
    mode = Param[str](
        Params._dummy(),
        "mode",
        "permissive: rows that fail keep their place, with an error; failfast: the first one stops the job",
        _to_mode,
    )
    dropInput = Param[bool](  # noqa: N815  Params are camelCase
        Params._dummy(), "dropInput", "leave the input column out of the result", TypeConverters.toBoolean
    )
    device = Param[str](
        Params._dummy(), "device", "where the network runs: cpu, cuda, or auto", TypeConverters.toString
    )
    fetchLimits = Param[Any](  # noqa: N815
        Params._dummy(), "fetchLimits", "what a photo may take that lies behind a path or URL", to_fetch_limits
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(
            inputCol="content",
            errorCol="error",
            batchSize=BATCH_SIZE,
            maxErrorRate=MAX_ERROR_RATE,
            mode="permissive",
            device="auto",
            dropInput=False,
        )
        self._setDefault(fetchLimits=to_fetch_limits(FetchLimits()))

    def setParams(self, **params: Any) -> Self:
        """Set Params by name; None leaves one as it is."""
        return self._set(**{name: value for name, value in params.items() if value is not None})

    def setInputCol(self, value: str) -> Self:
        """Set the column to score."""
        return self.setParams(inputCol=value)

    def setErrorCol(self, value: str) -> Self:
        """Set the column that says why a row has no result."""
        return self.setParams(errorCol=value)

    def setBatchSize(self, value: int) -> Self:
        """Set how many photos the network sees at once."""
        return self.setParams(batchSize=value)

    def setMaxErrorRate(self, value: float) -> Self:
        """Set the share of a task's rows that may fail."""
        return self.setParams(maxErrorRate=value)

    def setMode(self, value: str) -> Self:
        """Set whether the first row that fails stops the job (``failfast``) or keeps its place (``permissive``)."""
        return self.setParams(mode=value)

    def setDropInput(self, value: bool) -> Self:
        """Set whether the input column is left out of the result."""
        return self.setParams(dropInput=value)

    def setFetchLimits(self, value: FetchLimits) -> Self:
        """Set what a photo may take that lies behind a path or URL."""
        return self.setParams(fetchLimits=value)

    def getInputCol(self) -> str:
        """Return the column to score."""
        return self.getOrDefault(self.inputCol)

    def getErrorCol(self) -> str:
        """Return the column that says why a row has no result."""
        return self.getOrDefault(self.errorCol)

    def getBatchSize(self) -> int:
        """Return how many photos the network sees at once."""
        return self.getOrDefault(self.batchSize)

    def getMaxErrorRate(self) -> float:
        """Return the share of a task's rows that may fail."""
        return self.getOrDefault(self.maxErrorRate)

    def getFetchLimits(self) -> FetchLimits:
        """Return what a photo may take that lies behind a path or URL."""
        return FetchLimits(**self.getOrDefault(self.fetchLimits))

    def setDevice(self, value: str) -> Self:
        """Set where the network runs: ``cpu``, ``cuda``, or ``auto``: GPUs where Spark schedules them."""
        return self.setParams(device=value)

    def getDevice(self) -> str:
        """Return where the network runs."""
        return self.getOrDefault(self.device)

    def getMode(self) -> str:
        """Return whether the first row that fails stops the job (``failfast``) or keeps its place (``permissive``)."""
        return self.getOrDefault(self.mode)

    def getDropInput(self) -> bool:
        """Return whether the input column is left out of the result."""
        return self.getOrDefault(self.dropInput)

    def _engine_options(self) -> dict[str, Any]:
        """Return the Params that `score_frame` takes."""
        return {
            "input_column": self.getInputCol(),
            "error_column": self.getErrorCol(),
            "batch_size": self.getBatchSize(),
            "max_error_rate": self.getMaxErrorRate(),
            "failfast": self.getMode() == "failfast",
            "drop_input": self.getDropInput(),
            "fetch": self.getFetchLimits(),
            "device": self.getDevice(),
        }

    @abstractmethod
    def _transform(self, dataset: DataFrame) -> DataFrame: ...

    @abstractmethod
    def to_files(self) -> dict[str, bytes]:
        """Return the artefact as files, by name."""

    @abstractmethod
    def set_from_files(self, files: Mapping[str, bytes]) -> None:
        """Set the artefact from `to_files`' result."""

    def write(self) -> MLWriter:
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[Any]:
        return _Reader(cls)


class _Writer(MLWriter):
    def __init__(self, stage: ScoringStage) -> None:
        super().__init__()
        self._stage = stage

    def _handleOverwrite(self, path: str) -> None:  # noqa: N802  the base class's name
        if is_remote():
            from pyspark.ml.connect.readwrite import RemoteMLWriter

            RemoteMLWriter.handleOverwrite(path, True)
        else:
            super()._handleOverwrite(path)

    def saveImpl(self, path: str) -> None:  # noqa: N802  the base class's name
        stage = self._stage
        files = stage.to_files()  # before anything is written: it may fail
        params = {param.name: value for param, value in stage._paramMap.items() if param.name != stage.artefact}
        DefaultParamsWriter.saveMetadata(stage, path, self.sparkSession, paramMap=params)
        write_files(self.sparkSession, f"{path.rstrip('/')}/{stage.artefact}", files)


class _Reader(MLReader[Any]):
    def __init__(self, stage: type[ScoringStage]) -> None:
        super().__init__()
        self._stage = stage

    def load(self, path: str) -> Any:
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        stage = self._stage()
        stage._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(stage, metadata)
        stage.set_from_files(read_files(self.sparkSession, f"{path.rstrip('/')}/{stage.artefact}"))
        return stage
