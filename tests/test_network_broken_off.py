"""Connections that strangers break off at any stage of a handshake, many at once: the coordinator lives, and answers members."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.network import coordinator_home, credentials, ok
from unisono.network.pki import Credentials
from unisono.protection.secagg.roster import Identity

THREADS, EACH = 6, 400
_SERVE = (
    "import asyncio, sys; from pathlib import Path;"
    "from unisono.network.coordinator.home import CoordinatorHome;"
    "from unisono.network.coordinator.service import serve;"
    "asyncio.run(serve(CoordinatorHome(Path(sys.argv[1])), lambda port: print(port, flush=True)))"
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, Credentials]]:
    """The coordinator as a process of its own, its port, and an operator's credentials."""
    home = coordinator_home(tmp_path / "centre")
    operator = credentials(home, "operator", "ops", member=Identity.generate())
    with subprocess.Popen([sys.executable, "-c", _SERVE, str(home.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline()), operator
        finally:
            process.kill()


def break_off(port: int, context: ssl.SSLContext, draw: random.Random) -> None:
    """One connection: at once, in the middle of a handshake's first words, after it, or after those of HTTP/2; at times with a
    reset."""
    stage = draw.choices(range(4), (30, 50, 10, 10))[0]
    with socket.create_connection(("127.0.0.1", port), 30) as plain:
        if draw.random() < 0.5:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if stage == 1:
            plain.sendall(b"\x16\x03\x01\x02\x00"[: draw.randint(1, 5)])
            time.sleep(draw.uniform(0, 0.01))
        if stage > 1:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                if stage == 3:
                    secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")


def test_nobody_ends_the_coordinator_by_breaking_off_handshakes(
    service: tuple[subprocess.Popen[str], int, Credentials], tmp_path: Path
) -> None:
    process, port, operator = service
    operator.save(tmp_path / "ops")
    context = ssl.create_default_context(cadata=operator.ca_pem.decode())
    context.load_cert_chain(tmp_path / "ops" / "tls.pem", tmp_path / "ops" / "tls.key")
    context.set_alpn_protocols(["h2"])

    def many(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(EACH):
            if process.poll() is not None:
                return
            try:
                break_off(port, context, draw)
            except OSError:
                continue  # reset, by either end

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.poll() is None
    assert asyncio.run(ok(port, operator, call="studies")) == {"studies": []}
