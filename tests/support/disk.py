"""A small disk that a program under test fills and frees: a file system of some megabytes in memory, mounted where this program alone
sees it (a user and a mount namespace of its own). Where namespaces are forbidden, the program's own limit on the size of files
stands in for it: full, it can write no file at all."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
_TRY_S = 20.0
_PIECE = 64 * 1024


def inside(folder: Path, mib: int, command: Sequence[str]) -> list[str]:
    """The command, which sees a disk of so many MiB in the place of a folder."""
    mount = f'mount -t tmpfs -o size={mib}m,mode=0700 small "$0" && exec "$@"'
    return [*_NAMESPACE, "sh", "-c", mount, str(folder), *command]


@cache
def available() -> bool:
    """Whether this machine can do that: tried, not guessed."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(inside(Path("/mnt"), 1, ["true"]), capture_output=True, timeout=_TRY_S, check=False)
    return tried.returncode == 0


class Disk:
    """path: a folder on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"
        self._mounted = path.is_mount()
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """From now on nothing more can be written, not one byte."""
        if not self._mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._before[1]))
            return
        handle = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        piece = _PIECE
        try:
            while piece:
                try:
                    os.write(handle, bytes(piece))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2
        finally:
            os.close(handle)

    def free(self) -> None:
        """From now on it can again."""
        if self._mounted:
            self._filler.unlink(missing_ok=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._before)
