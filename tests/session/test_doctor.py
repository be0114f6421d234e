import importlib.metadata
import sys
from types import SimpleNamespace

import pytest

from sparkwright.errors import EnvironmentNotReadyError
from sparkwright.session import _doctor, check_workers, doctor


@pytest.mark.connect
def test_workers_that_have_all_pass(spark):
    check_workers(spark)


@pytest.mark.connect
def test_packages_that_workers_lack_are_all_named(spark):
    with pytest.raises(EnvironmentNotReadyError, match=r"lacks nix_a nix_b\. Install there: .* -m pip install nix_a"):
        check_workers(spark, ("numpy", "nix_a", "nix_b"))


def test_workers_of_another_python_are_named(spark, monkeypatch):
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.setattr(_doctor, "sys", SimpleNamespace(version_info=(3, 9, 1), executable=sys.executable))
    with pytest.raises(EnvironmentNotReadyError, match=rf"run Python {here}, the driver 3\.9\. Let PYSPARK_PYTHON"):
        check_workers(spark)


def test_the_doctor_finds_a_healthy_machine(spark):
    checks = {check.name: check for check in doctor("local[2]")}
    assert list(checks) == ["Python", "Packages", "Java", "Memory", "Disk", "Spark", "Workers", "Task memory"]
    assert all(check.ok for check in checks.values()), checks
    assert "2 slots" in checks["Spark"].found


def test_the_doctor_says_what_is_missing_and_starts_nothing(monkeypatch):
    def version(name: str) -> str:
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    def no_java() -> None:
        raise EnvironmentNotReadyError("Install it with: magic")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(_doctor, "find_java", no_java)
    checks = {check.name: check for check in doctor()}
    assert (checks["Packages"].ok, checks["Java"].ok, checks["Spark"].ok) == (False, False, None)
    assert "torch missing" in checks["Packages"].found
    assert checks["Packages"].advice == f"Install them: {sys.executable} -m pip install torch"
    assert checks["Java"].advice == "Install it with: magic"
