"""The set-up script where there is no Java: what it asks the package manager for, and what it says."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "set-up"

# Stands for the virtual environment's Python, on a system without Java, of a release and a user.
PYTHON = """#!{real}
import os, platform, sys
from sparkwright.session import _java
_java._USUAL_PLACES = ("{jvm}/*",)
platform.freedesktop_os_release = lambda: {release!r}
os.geteuid = lambda: {user}
exec(sys.argv[2])
"""

# Stands for a package manager that has one version of Java.
MANAGER = """#!/bin/sh
echo "$(basename "$0") $*" >>{calls}
case "$*" in
  update*) exit 0 ;;
  *{has}*) mkdir -p {jvm}/java/bin
    printf '#!/bin/sh\\necho version \\\\"{has}.0.1\\\\" >&2\\n' >{jvm}/java/bin/java
    chmod +x {jvm}/java/bin/java ;;
  *) echo "no such package" >&2; exit 100 ;;
esac
"""


@dataclass(frozen=True)
class Ended:
    code: int
    said: str
    calls: list[str]


def install(folder: Path, manager: str | None, release: dict[str, str], has: str = "21", user: int = 0) -> Ended:
    """Run the script's `install_java` on a made-up system."""
    venv, path, jvm, calls = folder / "venv", folder / "path", folder / "jvm", folder / "calls"
    (venv / "bin").mkdir(parents=True)
    path.mkdir()
    for tool in ("basename", "cat", "chmod", "dirname", "mkdir", "sh", "tail"):
        (path / tool).symlink_to(str(shutil.which(tool)))
    programs = {
        venv / "bin" / "python": PYTHON.format(real=sys.executable, jvm=jvm, release=release, user=user),
        path / "id": f"#!/bin/sh\necho {user}\n",
    }
    if manager is not None:
        programs[path / manager] = MANAGER.format(calls=calls, has=has, jvm=jvm)
    for program, text in programs.items():
        program.write_text(text)
        program.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"} | {"PATH": str(path)}
    words = f"source {SCRIPT}; venv={venv} log={folder / 'log'}; install_java"
    done = subprocess.run(
        [str(shutil.which("bash")), "-c", words], capture_output=True, text=True, timeout=60, env=environment
    )
    return Ended(done.returncode, done.stderr, calls.read_text().splitlines() if calls.exists() else [])


DEBIAN_12 = {"ID": "debian", "VERSION_ID": "12"}
DEBIAN_13 = {"ID": "debian", "VERSION_ID": "13"}
APT = "apt-get -yq --no-install-recommends install openjdk-{}-jre-headless"


@pytest.mark.parametrize(
    ("manager", "release", "has", "calls"),
    [
        ("apt-get", DEBIAN_12, "17", ["apt-get update -q", APT.format(17)]),
        ("apt-get", DEBIAN_13, "21", ["apt-get update -q", APT.format(21)]),
        ("apt-get", DEBIAN_13, "25", ["apt-get update -q", APT.format(21), APT.format(17), APT.format(25)]),
        ("dnf", {"ID": "fedora", "VERSION_ID": "42"}, "21", ["dnf -y install java-21-openjdk-headless"]),
        ("zypper", {}, "21", ["zypper --non-interactive install java-21-openjdk-headless"]),
        ("pacman", {"ID": "arch"}, "21", ["pacman --noconfirm -S jre21-openjdk-headless"]),
        ("apk", {"ID": "alpine"}, "21", ["apk add openjdk21-jre-headless bash"]),
    ],
)
def test_root_gets_a_java_from_the_package_manager(tmp_path, manager, release, has, calls):
    ended = install(tmp_path, manager, release, has)
    assert ended.calls == calls
    assert ended.code == 0, ended.said
    assert ended.said.startswith("Java, which Spark runs on … done")


def test_another_user_is_told_what_to_install(tmp_path):
    ended = install(tmp_path, "apt-get", DEBIAN_13, user=1000)
    assert ended.code == 1
    assert ended.calls == []
    assert "Install it with: sudo apt-get install openjdk-21-jre-headless\nThen run this again." in ended.said


def test_a_package_manager_that_fails_is_shown_with_its_words(tmp_path):
    ended = install(tmp_path, "apt-get", DEBIAN_13, has="99")
    assert ended.code == 1
    assert ended.calls == ["apt-get update -q", *(APT.format(version) for version in (21, 17, 25))]
    assert "no such package" in ended.said
    assert ended.said.rstrip().endswith("Then run this again.")


def test_without_a_known_package_manager_a_place_to_get_java_is_named(tmp_path):
    ended = install(tmp_path, None, {})
    assert ended.code == 1
    assert "for instance from https://adoptium.net" in ended.said


def test_a_java_that_is_there_is_taken(tmp_path):
    java = tmp_path / "jvm" / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'version \"17.0.1\"' >&2\n")
    java.chmod(0o755)
    ended = install(tmp_path, "apt-get", DEBIAN_13)
    assert (ended.code, ended.said, ended.calls) == (0, "", [])
