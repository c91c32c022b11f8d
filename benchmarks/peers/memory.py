"""Peak memory of this process, from a moment that the caller chooses: Linux's high-water mark, which can be reset.

`getrusage` alone would not do: its peak cannot be reset, so it also holds the imports' peak (and, after a fork, the
parent's). Elsewhere than on Linux it is the fall-back. Plain Python: the peers' environments read this file too.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def trim() -> None:
    """Give freed memory back to the system, so that it does not count as used. Does nothing without glibc."""
    if sys.platform == "linux":
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if release is not None:
            release(0)


def start() -> int:
    """Bytes in use now; the high-water mark starts again from here."""
    trim()
    try:
        _CLEAR.write_text("5", "ascii")  # 5: reset VmHWM (proc(5))
    except OSError:
        return _most()
    return _status("VmRSS") or _most()


def peak() -> int:
    """The most bytes in use since `start` (or, where that cannot be known, since the process began)."""
    return _status("VmHWM") or _most()


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), None)


def _most() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # bytes there, KiB everywhere else
