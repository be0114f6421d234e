import os
import platform
from pathlib import Path

import pytest

from sparkwright.errors import EnvironmentNotReadyError
from sparkwright.session import _java, find_java


@pytest.fixture
def bare(monkeypatch, tmp_path) -> Path:
    """A system without Java."""
    (tmp_path / "bin").mkdir()
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(_java, "_USUAL_PLACES", (str(tmp_path / "jvm" / "*"),))
    return tmp_path


def install(home: Path, version: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-01' >&2\n")
    java.chmod(0o755)
    return home


def test_java_is_looked_for_in_java_home_then_on_the_path_then_in_the_usual_places(bare, monkeypatch):
    usual = install(bare / "jvm" / "java-21", "21.0.2")
    assert find_java() == usual
    on_path = install(bare / "other", "17.0.1")
    (bare / "bin" / "java").symlink_to(on_path / "bin" / "java")
    assert find_java() == on_path
    home = install(bare / "home", "25")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert find_java() == home


def test_without_java_the_package_to_install_is_named(bare, monkeypatch):
    with pytest.raises(EnvironmentNotReadyError, match=r"needs Java 17 or later and none was found\. Install a Java"):
        find_java()
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_ID": "12"})
    manager = bare / "bin" / "apt-get"
    manager.write_text("#!/bin/sh\n")
    manager.chmod(0o755)
    sudo = "" if os.geteuid() == 0 else "sudo "
    with pytest.raises(EnvironmentNotReadyError, match=f"with: {sudo}apt-get install openjdk-17-jre-headless"):
        find_java()


@pytest.mark.parametrize(
    ("system", "version"),
    [
        ({"ID": "debian", "VERSION_ID": "12"}, 17),
        ({"ID": "raspbian", "ID_LIKE": "debian", "VERSION_ID": "11"}, 17),
        ({"ID": "debian", "VERSION_ID": "13"}, 21),
        ({"ID": "debian"}, 21),  # the next one has no number yet
        ({"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "22.04"}, 21),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian", "VERSION_ID": "8"}, 21),
        ({"ID": "fedora", "VERSION_ID": "42"}, 21),
        (None, 21),
    ],
)
def test_the_package_is_one_that_the_systems_release_has(system, version, monkeypatch):
    def release() -> dict[str, str]:
        if system is None:
            raise OSError("not Linux")
        return system

    monkeypatch.setattr(platform, "freedesktop_os_release", release)
    assert _java._packaged_java() == version


def test_a_java_that_is_too_old_is_named(bare, monkeypatch):
    old = install(bare / "jvm" / "java-8", "1.8.0_392")
    with pytest.raises(EnvironmentNotReadyError, match=rf"found only: {old} \(installed\) is Java 8\. Install"):
        find_java()
    monkeypatch.setenv("JAVA_HOME", str(old))
    with pytest.raises(EnvironmentNotReadyError, match=r"JAVA_HOME\) is Java 8\. Let JAVA_HOME name a newer one"):
        find_java()
    monkeypatch.setenv("JAVA_HOME", str(bare / "nothing"))
    with pytest.raises(EnvironmentNotReadyError, match=r"JAVA_HOME\) holds no Java\. Let JAVA_HOME"):
        find_java()
