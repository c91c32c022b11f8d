"""A site of `tls_bound.py`: takes the vector, sends it back, until the server closes. TLS 1.3, a certificate of its own.

python benchmarks/peers/tls_site.py --port 8443 --parameters 10000 --authority ca.pem --certificate c.pem --key c.key
"""

from __future__ import annotations

import argparse
import socket
import ssl


def receive(stream: ssl.SSLSocket, into: memoryview) -> bool:
    """Fill `into`; false if the other side closed before the first byte. `ConnectionError` if it closed in the middle."""
    at = 0
    while at < len(into):
        got = stream.recv_into(into[at:])
        if not got:
            if at:
                raise ConnectionError(f"closed after {at} of {len(into)} bytes")
            return False
        at += got
    return True


def hurry(stream: socket.socket) -> None:
    """Small messages leave at once."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--authority", required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    options = parser.parse_args()
    context = ssl.create_default_context(cafile=options.authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(options.certificate, options.key)
    vector = memoryview(bytearray(4 * options.parameters))
    with socket.create_connection(("127.0.0.1", options.port)) as plain:
        hurry(plain)
        with context.wrap_socket(plain, server_hostname="localhost") as stream:
            while receive(stream, vector):
                stream.sendall(vector)


if __name__ == "__main__":
    main()
