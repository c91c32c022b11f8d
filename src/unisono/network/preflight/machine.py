"""Checks of this machine: disk, memory, processors and the speed of AES, graphics card, versions."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import ssl
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from unisono.network.agent.text import plain
from unisono.network.preflight.report import Detail, Found
from unisono.network.preflight.trip import Trip
from unisono.version import VERSION

GIB = 2**30
AES_BYTES = 32 * 1024 * 1024
_SLOW_AES = 300e6
"""Bytes a second. A processor with AES instructions does ten times as much."""
_SMI_S = 10.0
_LIBRARIES = ("grpcio", "protobuf", "cryptography", "numpy", "scipy", "pandas", "pyarrow")


async def disk(trip: Trip) -> Found:
    """Room, and the permission to write, where the site's folder is or will be."""
    folder = next((path for path in (trip.home, *trip.home.absolute().parents) if path.is_dir()), Path("/"))
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Found(
            status="fail", found=f"{folder} cannot be read: {error.strerror}", todo="Name another one with --home."
        )
    details: dict[str, Detail] = {"folder": str(folder), "free_bytes": free}
    said = f"{free / GIB:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return Found(
            status="fail",
            found=f"{said}, but this user may not write there",
            todo="Give this user a folder, and name it with --home.",
            details=details,
        )
    if not _locks(folder):
        return Found(
            status="fail",
            found=f"{said}, but no file can be locked there",
            todo="Name a folder on a disk of this machine with --home. A shared file system must be mounted with locks that hold "
            "between machines (Lustre: flock, not localflock; NFS: with its lock service).",
            details=details,
        )
    if free < 10 * GIB:
        todo = "Make room: 10 GiB hold large messages, permits and results for years."
        return Found(status="fail" if free < GIB else "warn", found=said, todo=todo, details=details)
    return Found(status="ok", found=said, details=details)


def _locks(folder: Path) -> bool:
    """Whether files in a folder can be locked, as databases must: tried on one that has no name and is gone at once. A folder
    that takes no file at all is not this check's to judge."""
    try:
        import fcntl
    except ImportError:  # Windows, whose files always can be
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
    except OSError:
        return True
    return True


async def memory(trip: Trip) -> Found:  # noqa: ARG001  (every check is asked alike)
    """Memory that is there, and free now."""
    whole, free = _memory()
    if whole is None:
        return Found(status="skipped", found="this system does not say")
    details: dict[str, Detail] = {"bytes": whole, "available_bytes": free}
    said = f"{whole / GIB:.1f} GiB" + ("" if free is None else f", {free / GIB:.1f} GiB available")
    if (whole if free is None else free) < 2 * GIB:
        todo = "2 GiB are enough for statistics on a table of a hospital; images and models need more."
        return Found(status="warn", found=said, todo=todo, details=details)
    return Found(status="ok", found=said, details=details)


def _memory() -> tuple[int | None, int | None]:
    """Bytes in all, and available; of a container's limit if that is less. None where the system does not say."""
    try:
        whole: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None, None
    free = _line("/proc/meminfo", "MemAvailable:")
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if whole is not None and limit is not None and limit < whole:
        whole = limit
        room = max(limit - (used or 0), 0)
        free = room if free is None else min(free, room)
    return whole, free


def _line(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text("ascii"))
    except (OSError, ValueError):
        return None


async def processors(trip: Trip) -> Found:  # noqa: ARG001
    """How many there are for this process, and how fast they make AES-CTR, which masks are made of."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
    speed = await asyncio.to_thread(aes_speed, AES_BYTES)
    said = f"{count}, {platform.machine()}; AES {speed / 1e9:.2g} GB/s"
    details: dict[str, Detail] = {"cpus": count, "machine": platform.machine(), "aes_bytes_per_s": round(speed)}
    if speed < _SLOW_AES:
        todo = "Masks of large models will be slow: a virtual machine may hide the processor's AES instructions from its guests."
        return Found(status="warn", found=said, todo=todo, details=details)
    return Found(status="ok", found=said, details=details)


def aes_speed(size: int) -> float:
    """Bytes of AES-128-CTR a second, on one processor."""
    cipher = Cipher(algorithms.AES128(os.urandom(16)), modes.CTR(bytes(16))).encryptor()
    plain_text, out = bytes(size), bytearray(size + 15)
    began = time.perf_counter()
    cipher.update_into(plain_text, out)
    return size / max(time.perf_counter() - began, 1e-9)


async def graphics(trip: Trip) -> Found:
    """NVIDIA cards, as ``nvidia-smi`` lists them."""
    program = shutil.which("nvidia-smi", path=trip.environment.get("PATH"))
    none = "no NVIDIA card was found; statistics need none, training of images does"
    if program is None:
        return Found(status="ok", found=none, details={"cards": []})
    try:
        done = await asyncio.to_thread(_smi, program)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    cards = (
        [plain(line, 120) for line in done.stdout.splitlines() if line.strip()] if done and not done.returncode else []
    )
    if not cards:
        todo = "nvidia-smi is here and lists no card: the driver may not run. Only training on images needs one."
        return Found(status="warn", found="nvidia-smi does not answer", todo=todo, details={"cards": []})
    return Found(status="ok", found="; ".join(cards), details={"cards": list(cards)})


def _smi(program: str) -> subprocess.CompletedProcess[str]:
    asked = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return subprocess.run([program, *asked], capture_output=True, text=True, timeout=_SMI_S, check=False)  # noqa: S603


async def versions(trip: Trip) -> Found:  # noqa: ARG001
    """What runs here, for whoever reads the report."""
    found = {"unisono": VERSION, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    tls = f"{ssl.OPENSSL_VERSION} (Python), {backend.openssl_version_text()} (cryptography), BoringSSL (gRPC)"
    details: dict[str, Detail] = {**found, "tls": tls, "system": platform.platform()}
    short = ", ".join(f"{name} {found[name]}" for name in ("unisono", "python", "grpcio", "cryptography"))
    return Found(
        status="ok", found=f"{short}; {ssl.OPENSSL_VERSION}; {platform.system()} {platform.release()}", details=details
    )
