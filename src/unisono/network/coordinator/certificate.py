"""The service's own certificate: the newest in its folder at every handshake, renewed in time, without dropping anybody.

A connection goes on with the certificate that it began with. Where the authority's key is here, another certificate is made in
the last third of the old one's life; where it is elsewhere, the operator is told to carry the request, and what
`unisono coordinator accept` puts into the folder is used from the next connection on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from unisono.errors import UnisonoError
from unisono.network import pki
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.log import Log
from unisono.network.pki import Credentials

LOOK_S = 86_400.0
"""How often certificates' ages are looked at: often enough for the last third of any life but a test's."""
AUTHORITY_WARNING = timedelta(days=365)
"""So long before the authority ends its operator is warned: every member must join anew."""


class ServerCertificate:
    """Safe to use from gRPC's threads."""

    def __init__(self, home: CoordinatorHome, log: Log, clock: Callable[[], datetime]) -> None:
        """Renews it first, if that is due. `NetworkError` or `StorageError` if there is none that can be used."""
        self._home = home
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._credentials = home.credentials()
        self._seen = self._stamp()
        self.look()

    def secure(self, grpc: Any) -> Any:
        """Credentials for a gRPC server, which asks for another certificate at every handshake. It is told of each once: exchanging
        what it has while other handshakes go on, again and again, makes gRPC (1.85) free it twice, and ends the process."""

        def configuration(held: Credentials) -> Any:
            return grpc.ssl_server_certificate_configuration([(held.key_pem, held.chain_pem)], held.ca_pem)

        given = self._newest()

        def another() -> Any:
            nonlocal given
            self._newest()
            with self._lock:
                if self._credentials is given:
                    return None  # the one that it has
                given = self._credentials
                return configuration(given)

        return grpc.dynamic_ssl_server_credentials(configuration(given), another, require_client_authentication=True)

    async def keep(self) -> None:
        """Look, day by day."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Renew the certificate if that is due; say what a person must do. Nothing is raised: the present one goes on."""
        now, authority = self._clock(), self._home.authority()
        until = authority.certificate.not_valid_after_utc
        if now >= until - AUTHORITY_WARNING:
            self._log.write("authority-expires", expires=until.isoformat(timespec="seconds"))
        certificate = pki.certificate_of(self._newest().chain_pem)
        if not pki.expires_soon(certificate, now):
            return
        if not authority.can_issue:
            self._log.write("server-expires", expires=certificate.not_valid_after_utc.isoformat(timespec="seconds"))
            return
        try:
            renewed = authority.renewed(certificate, now=now)
            if renewed.not_valid_after_utc > certificate.not_valid_after_utc:
                held = self._credentials
                Credentials(held.key_pem, pki.pem(renewed), held.ca_pem).save(self._home.path)
                self._newest()
        except UnisonoError as error:
            self._log.refused("server-not-renewed", error)

    def _newest(self) -> Credentials:
        """What the folder holds now; what it held before, if that cannot be used."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                try:
                    self._credentials = self._home.credentials()
                    peer = pki.peer_of(self._credentials.chain_pem)
                    self._log.write("server-renewed", expires=peer.not_after.isoformat(timespec="seconds"))
                except UnisonoError as error:
                    self._log.refused("server-not-renewed", error)
            return self._credentials

    def _stamp(self) -> tuple[int, ...]:
        """Another one whenever the certificate's file is another one."""
        try:
            found = (self._home.path / "tls.pem").stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size
