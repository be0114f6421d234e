"""Memory that a step of training frees is kept for the next step.

glibc gives tensors above 32 MiB back to the system as soon as they are freed, and the system clears every page of the
next one. A convolutional network frees and takes a gigabyte a step: it spends up to half of its time on that.
"""

import contextlib
import ctypes
from collections.abc import Iterator

__all__ = ["freed_memory_kept"]

# Of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3

_NEVER = (1 << 31) - 1  # mallopt takes an int
_LARGEST_IN_HEAP = 1 << 30
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 128 << 10, _MMAP_THRESHOLD: 32 << 20}
_KEPT = {_TRIM_THRESHOLD: _NEVER, _TOP_PAD: 64 << 20, _MMAP_THRESHOLD: _LARGEST_IN_HEAP}


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed inside the block, and give it to the system behind it; the most in use stays what it was.

    Without effect where the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    for option, value in _KEPT.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _USUAL.items():  # where glibc's own adjustment ends
            library.mallopt(option, value)
        library.malloc_trim(0)
