"""Numbers that both services have: versions, this process, the disk, the log, and how long certificates still hold."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from unisono.network import pki
from unisono.network.log import Log
from unisono.network.monitoring.exposition import Family, by, one
from unisono.network.wire.version import PROTOCOL
from unisono.version import VERSION

_BEGAN_S = time.time()
_STATM = Path("/proc/self/statm")
_FDS = Path("/proc/self/fd")


def info(service: str, name: str) -> Family:
    """``unisono_info``: 1, with the versions as labels."""
    labels = {"service": service, "name": name, "version": VERSION, "protocol": str(PROTOCOL)}
    python = platform.python_version()
    return one("unisono_info", "gauge", "Which service runs, in which version.", 1, **labels, python=python)


def process() -> list[Family]:
    """This process, under the names that Prometheus' own libraries give; memory and files where Linux tells them."""
    found = [
        one("process_start_time_seconds", "gauge", "When the process began, in seconds since 1970.", _BEGAN_S),
        one("process_cpu_seconds_total", "counter", "Processor time of this process.", time.process_time()),
    ]
    if _STATM.exists():
        found.append(one("process_resident_memory_bytes", "gauge", "Memory of this process.", resident_bytes("self")))
        found.append(one("process_open_fds", "gauge", "Open files and sockets.", len(os.listdir(_FDS))))  # noqa: PTH208
    return found


def resident_bytes(pid: int | str) -> int:
    """Memory of a process; 0 once it is gone, or where the system has no /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def disk(folder: Path) -> Family:
    """Room where the service writes. `OSError` if the folder is gone."""
    free = shutil.disk_usage(folder).free
    return one("unisono_disk_free_bytes", "gauge", "Room on the disk of the service's folder.", free)


def files(paths: Sequence[Path]) -> Family:
    """Sizes of database files, with what waits in their write-ahead logs."""
    sizes = {path.name: float(_size(path) + _size(path.with_name(f"{path.name}-wal"))) for path in paths}
    return by("unisono_store_bytes", "gauge", "Size of the service's databases, with their WAL.", "file", sizes)


def log_lost(log: Log) -> Family:
    """Lines of the log that could not be written."""
    about = "Log lines that could not be written: the disk was full."
    return one("unisono_log_lines_lost_total", "counter", about, log.lost)


def certificates(pem_files: Mapping[str, Path], now: datetime) -> Family:
    """Seconds until certificates expire, negative afterwards. pem_files: by whose they are; read anew, for they are
    renewed. `StorageError`, `NetworkError` for a file that is none."""
    left = {
        name: (pki.certificate_of(pki.read_file(path)).not_valid_after_utc - now).total_seconds()
        for name, path in pem_files.items()
    }
    about = "Seconds until the certificate expires; negative once it has."
    return by("unisono_certificate_expires_in_seconds", "gauge", about, "certificate", left)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
