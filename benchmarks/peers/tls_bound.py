"""The bound of a round between processes: the same bytes through raw TLS 1.3 sockets on loopback, and their sum.

    python benchmarks/peers/tls_bound.py --parameters 10000 --rounds 10

A server and three sites, each a process of its own, with mutual certificates. The server sends the vector to all three,
takes theirs, adds them in float32. No framing, no protocol, no checks, no files, no study. `--server one-thread` serves
the sites one after another, in a single thread; the bound is `threads`, one for every site.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
from certificates import Certificates, certificates
from timing import HERE, SITES, PeerError, Timing, arguments
from tls_site import hurry, receive
from workplace import Workplace, workplace

LIMIT_S = 120

Each = Callable[[Callable[[int], None]], None]
"""Do something for site 0, 1, 2; return when all is done."""


def accept(listener: socket.socket, papers: Certificates, stack: ExitStack) -> list[ssl.SSLSocket]:
    """One authenticated stream for each site."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=papers.authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(papers.server, papers.server_key)
    streams = []
    for _ in range(SITES):
        plain, _address = listener.accept()
        hurry(plain)
        streams.append(stack.enter_context(context.wrap_socket(plain, server_side=True)))
    return streams


def rounds(streams: list[ssl.SSLSocket], parameters: int, count: int, each: Each) -> list[float]:
    """(count + 1,) stamps in seconds: the start of each round, and the end of the last."""
    model = np.linspace(-1, 1, parameters, dtype=np.float32)
    replies = np.empty((SITES, parameters), np.float32)
    total = np.empty(parameters, np.float32)

    def serve(site: int) -> None:
        streams[site].sendall(model.data.cast("B"))
        if not receive(streams[site], replies[site].data.cast("B")):
            raise PeerError("a site closed its connection")

    stamps = [time.perf_counter()]
    for _ in range(count):
        each(serve)
        np.add(replies[0], replies[1], out=total)
        for reply in replies[2:]:
            np.add(total, reply, out=total)
        stamps.append(time.perf_counter())
    expected = model + model + model
    if not np.array_equal(total, expected):
        raise PeerError("the sum is not what the sites were sent")
    return stamps


def measure(here: Workplace, parameters: int, count: int, server: str) -> tuple[list[float], str]:
    """The stamps, and the cipher in use."""
    papers = certificates(here.folder / "certificates")
    files = ("--authority", papers.authority, "--certificate", papers.client, "--key", papers.client_key)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = ("--port", str(listener.getsockname()[1]), "--parameters", str(parameters))
        for site in range(SITES):
            here.start(f"site-{site}", [sys.executable, HERE / "tls_site.py", *address, *files])
        streams = accept(listener, papers, stack)
        pool = stack.enter_context(ThreadPoolExecutor(SITES))

        def together(serve: Callable[[int], None]) -> None:
            done: Iterable[None] = pool.map(serve, range(SITES))
            list(done)

        def in_turn(serve: Callable[[int], None]) -> None:
            for site in range(SITES):
                serve(site)

        stamps = rounds(streams, parameters, count, together if server == "threads" else in_turn)
        cipher = streams[0].cipher()
        return stamps, cipher[0] if cipher else "no cipher"


def main() -> None:
    parser = arguments(__doc__, LIMIT_S)
    parser.add_argument("--server", choices=["threads", "one-thread"], default="threads")
    options = parser.parse_args()
    try:
        with workplace(options.limit) as here:
            stamps, cipher = measure(here, options.parameters, options.rounds, options.server)
        notes = (f"mutual certificates, {cipher}, server with {options.server.replace('-', ' ')}",)
        Timing.of(f"raw TLS, {options.server}", ssl.OPENSSL_VERSION, options.parameters, stamps, notes).print()
    except (PeerError, OSError) as error:
        raise SystemExit(f"tls_bound.py: {error}") from None


if __name__ == "__main__":
    main()
