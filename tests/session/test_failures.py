import pytest

from sparkwright.errors import (
    ColumnError,
    EnvironmentNotReadyError,
    InputError,
    NotFoundError,
    SparkwrightError,
    WorkerError,
)
from sparkwright.session import explain, worker_errors


class RaisedError(InputError):
    """As a module of the library might define it, with arguments of its own."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)


def failing(spark, failure) -> SparkwrightError:
    def run(batches):
        for batch in batches:
            failure()
            yield batch

    with pytest.raises(SparkwrightError) as caught, worker_errors():
        spark.range(2).mapInArrow(run, "id long").count()
    return caught.value


@pytest.mark.connect
def test_an_error_of_the_library_in_a_worker_comes_back_as_itself(spark):
    def fail():
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise ColumnError("Hello:\n  world `x` sparkwright.errors.InputError: no.") from error

    error = failing(spark, fail)
    assert type(error) is ColumnError
    assert str(error) == "Hello:\n  world `x` sparkwright.errors.InputError: no."


@pytest.mark.connect
def test_a_package_that_workers_lack_is_named(spark):
    def fail():
        import not_installed  # noqa: F401

    error = failing(spark, fail)
    assert type(error) is EnvironmentNotReadyError
    assert "lacks a package: No module named 'not_installed'" in str(error)
    assert "PYSPARK_PYTHON" in str(error)


@pytest.mark.connect
def test_any_other_error_in_a_worker_carries_its_traceback(spark):
    error = failing(spark, lambda: 1 / 0)
    assert type(error) is WorkerError
    assert str(error).startswith(
        "A Python worker of the cluster failed: ZeroDivisionError: division by zero\nTraceback"
    )
    assert "org.apache.spark" not in str(error)


@pytest.mark.connect
def test_a_worker_that_dies_is_explained(spark):
    def fail():
        import os

        os._exit(3)

    error = failing(spark, fail)
    assert type(error) is WorkerError
    assert "died, most often because its memory ran out" in str(error)
    assert "\tat " not in str(error)


@pytest.mark.connect
def test_a_missing_path_is_not_found(spark, tmp_path):
    with pytest.raises(NotFoundError, match=r"No such path: file:.*nix\.$"), worker_errors():
        spark.read.parquet(str(tmp_path / "nix")).count()


def test_errors_of_the_driver_pass_as_they_are():
    with pytest.raises(KeyError), worker_errors():
        raise KeyError("x")
    with pytest.raises(InputError, match="mine"), worker_errors():
        raise InputError("mine")
    assert explain(ValueError("sparkwright.errors.InputError: no")) is None


SPARK_SAYS = {
    'IOException: Cannot run program "python9": error=2': (EnvironmentNotReadyError, "no Python at python9"),
    "SparkException: Job aborted\njava.io.IOException: No space left on device": (WorkerError, "disk is full"),
    "java.net.UnknownHostException: nix\n\tat java": (InputError, "host nix of the path is unknown"),
    "java.net.ConnectException: Connection refused": (EnvironmentNotReadyError, "does not answer"),
    "org.apache.hadoop.security.AccessControlException: Permission denied": (InputError, "may not read or write"),
    "SparkException: Job aborted due to x\n\tat a.b(C.java)": (WorkerError, "A Spark job failed: SparkException"),
    "Traceback (most recent call last):\n  File\nPySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker": (
        EnvironmentNotReadyError,
        "not the driver's",
    ),
    "Traceback (most recent call last):\n  File\nPySparkImportError: [PACKAGE_NOT_INSTALLED] PyArrow >= 18": (
        EnvironmentNotReadyError,
        "PyArrow >= 18",
    ),
    "Traceback (most recent call last):\n  File\nsparkwright.nothing.LostError: gone": (WorkerError, "LostError: gone"),
}


@pytest.mark.parametrize("text", SPARK_SAYS)
def test_what_spark_says_is_put_into_words(text):
    from pyspark.errors import PySparkException

    kind, words = SPARK_SAYS[text]
    error = explain(PySparkException(text))
    assert type(error) is kind
    assert words in str(error)


def test_an_error_class_with_arguments_of_its_own_comes_back_as_its_base(monkeypatch):
    from pyspark.errors import PySparkException

    import sparkwright.events

    monkeypatch.setattr(sparkwright.events, "RaisedError", RaisedError, raising=False)
    text = "Traceback (most recent call last):\n  File\nsparkwright.events.RaisedError: too large"
    error = explain(PySparkException(text))
    assert type(error) is InputError
    assert str(error) == "too large"


def test_an_analysis_error_is_left_to_the_caller(spark):
    from pyspark.errors import AnalysisException

    with pytest.raises(AnalysisException, match="nix"), worker_errors():
        spark.range(1).select("nix").count()
