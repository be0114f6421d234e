"""Find a Java that Spark can run on, or say which package to install on this system."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sparkwright.errors import EnvironmentNotReadyError

OLDEST_JAVA = 17

# Package manager → command that installs a Java of a version. The first that this system has is the advice.
_INSTALL = {
    "apt-get": "apt-get install openjdk-{}-jre-headless",
    "dnf": "dnf install java-{}-openjdk-headless",
    "yum": "yum install java-{}-openjdk-headless",
    "zypper": "zypper install java-{}-openjdk-headless",
    "pacman": "pacman -S jre{}-openjdk-headless",
    "apk": "apk add openjdk{}-jre-headless bash",
    "brew": "brew install openjdk@{}",
    "winget": "winget install EclipseAdoptium.Temurin.{}.JRE",
    "conda": "conda install -c conda-forge openjdk={}",
}

_USUAL_PLACES = (
    "/usr/lib/jvm/*",
    "/usr/java/*",
    "/opt/java/*",
    "/opt/homebrew/opt/openjdk*",
    "/usr/local/opt/openjdk*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
    "~/.sdkman/candidates/java/*",
    "~/.jdks/*",
    "C:/Program Files/Java/*",
    "C:/Program Files/Eclipse Adoptium/*",
)


def find_java() -> Path:
    """Return the home folder of a Java of version 17 or later.

    Looked for in ``JAVA_HOME``, on the ``PATH`` and in the usual places, in this order. ``JAVA_HOME`` is taken or
    refused, never passed over, because Spark itself would take it.

    Raises:
        EnvironmentNotReadyError: There is none, or only older ones; the message names the package to install.
    """
    too_old: list[str] = []
    for home, source in _candidates():
        version = java_version(home)
        if version is not None and version >= OLDEST_JAVA:
            return home
        found = f"{home} ({source}) holds no Java" if version is None else f"{home} ({source}) is Java {version}"
        if source == "JAVA_HOME":
            raise EnvironmentNotReadyError(
                f"Spark needs Java {OLDEST_JAVA} or later, but {found}. Let JAVA_HOME name a newer one, or unset it. "
                + install_advice()
            )
        if version is not None:
            too_old.append(found)
    found = "; found only: " + ", ".join(too_old) if too_old else " and none was found"
    raise EnvironmentNotReadyError(f"Spark needs Java {OLDEST_JAVA} or later{found}. {install_advice()}")


def install_advice() -> str:
    """Say how to install a Java on this system."""
    for manager, command in _INSTALL.items():
        if shutil.which(manager):
            sudo = "sudo " if hasattr(os, "geteuid") and os.geteuid() != 0 and manager not in ("brew", "conda") else ""
            return f"Install it with: {sudo}{command.format(_packaged_java())}"
    return f"Install a Java {OLDEST_JAVA} runtime for {platform.system()}, for instance from https://adoptium.net."


def _packaged_java() -> int:
    """Return the version that this system's packages have: 21, or 17 on Debian before 13, which has no newer one."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:  # not Linux
        return 21
    family = {system.get("ID", ""), *system.get("ID_LIKE", "").split()}
    release = re.match(r"\d+", system.get("VERSION_ID", ""))  # none: the next Debian
    return 17 if "debian" in family and "ubuntu" not in family and release and int(release[0]) < 13 else 21


def java_version(home: Path) -> int | None:
    """Return the major version of the Java in the folder `home`, None if there is none that runs."""
    try:
        done = subprocess.run(
            [home / "bin" / "java", "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)  # Java 8 calls itself 1.8
    return int(match[1]) if match else None


def _candidates() -> Iterator[tuple[Path, str]]:
    if os.environ.get("JAVA_HOME"):
        yield Path(os.environ["JAVA_HOME"]), "JAVA_HOME"
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path).resolve().parent.parent, "PATH"
    for place in _USUAL_PLACES:
        pattern = Path(place).expanduser()
        for home in sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))), reverse=True):
            if (home / "bin").is_dir():
                yield home, "installed"
