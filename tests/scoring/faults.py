"""Photos that do to the process that decodes them what broken photos and native code can do."""

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sparkwright.networks.preprocessing import Preprocessing

CRASH = b"crash"
HANG = b"hang"  # and holds Python's lock all the time, as native code may
EXIT = b"exit"
SLOW = b"slow"  # at the end of a good photo: so that there is time to do something to whoever decodes it


def crash_once(marker: Path) -> bytes:
    """A photo that crashes the process only if `marker` is not there."""
    return b"once:" + os.fsencode(marker)


@dataclass(frozen=True)
class Faulty(Preprocessing):
    """Decodes real photos, and suffers the others."""

    def decode(self, photo: Any) -> Image.Image:
        if photo.startswith(b"once:") and not (marker := Path(os.fsdecode(photo[5:]))).exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if photo == CRASH:
            os.kill(os.getpid(), signal.SIGSEGV)
        if photo == HANG:
            ctypes.PyDLL(None).sleep(3600)
        if photo == EXIT:
            os._exit(3)
        if photo.endswith(SLOW):
            time.sleep(0.03)
        return super().decode(photo)
