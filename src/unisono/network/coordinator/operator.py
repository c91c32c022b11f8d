"""The first operator: of the coordinator's own machine, with keys and credentials within the coordinator's folder."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from unisono.network import pki
from unisono.network.agent.folder import Settings
from unisono.network.agent.join import tls_key
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.enrolment.members import Members
from unisono.network.pki import Credentials
from unisono.network.researcher import PersonFolder

NAME = "operator"
"""The member, and its folder within the coordinator's."""


def folder_of(home: CoordinatorHome) -> PersonFolder:
    """Where the operator's keys are."""
    return PersonFolder(home.path / NAME, "operator")


def make(home: CoordinatorHome, address: str, now: datetime) -> None:
    """Keys and settings of the operator, and a certificate if the authority's key is here; else it is asked for. address: where
    the operator reaches the coordinator, on this machine."""
    folder, authority = folder_of(home), home.authority()
    folder.make()
    key = tls_key(folder.tls)
    folder.keep(Settings(name=NAME, address=address, ca_fingerprint=authority.fingerprint))
    if authority.can_issue:
        certify(home, authority.issue(key.public_key(), "operator", NAME, now=now), now)


def certify(home: CoordinatorHome, certificate: x509.Certificate, now: datetime) -> None:
    """The operator's certificate: kept, and the operator a member. `NetworkError` if it is for another key or of another
    authority."""
    folder = folder_of(home)
    key = pki.private_pem(tls_key(folder.tls))
    credentials = Credentials(key, pki.pem(certificate), home.authority().ca_pem).checked()
    members = Members(home.members)
    try:
        members.add("operator", NAME, folder.identity().public, certificate, now)
    finally:
        members.close()
    credentials.save(folder.tls)
