"""A coordinator whose authority's key is on another machine: what waits for that key, and taking in what came back.

Both work on the coordinator's folder, beside the running service or without it: the lists are shared, and the service takes a new
certificate of its own up at the next connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from unisono.errors import UnisonoError
from unisono.network import pki
from unisono.network.agent.join import tls_key
from unisono.network.coordinator import operator
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.enrolment.accepting import finish_pending, pending_requests
from unisono.network.enrolment.carried import Answers, First, Requests, Turned, same_authority
from unisono.network.enrolment.invitations import Invitations
from unisono.network.enrolment.members import Members
from unisono.network.enrolment.refusals import refused
from unisono.network.enrolment.renewals import Renewals
from unisono.network.pki import Credentials


@dataclass(frozen=True)
class Taken:
    """What came of a file of answers, in words: done; and what was refused, there or here."""

    done: tuple[str, ...]
    refused: tuple[Turned, ...]


@contextmanager
def _lists(home: CoordinatorHome) -> Iterator[tuple[Invitations, Members, Renewals]]:
    lists = Invitations(home.invitations), Members(home.members), Renewals(home.renewals)
    try:
        yield lists
    finally:
        for one in lists:
            one.close()


def pending(home: CoordinatorHome, now: datetime) -> Requests:
    """What to carry to the authority's key: first certificates, newcomers, renewals; the server's own in the last third of its
    life."""
    settings, authority = home.settings(), home.authority()
    first, own = [], []
    if home.certified:
        chain = home.credentials().chain_pem
        if pki.expires_soon(pki.certificate_of(chain), now):
            own.append(chain.decode("ascii"))
    else:
        request = pki.csr(tls_key(home.path), "coordinator", settings.name)
        first.append(First(role="coordinator", name=settings.name, csr=_text(request), hosts=settings.hosts))
    folder = operator.folder_of(home)
    if folder.joined and not (folder.tls / "tls.pem").exists():
        request = pki.csr(tls_key(folder.tls), "operator", operator.NAME)
        first.append(First(role="operator", name=operator.NAME, csr=_text(request)))
    with _lists(home) as (invitations, _, renewals):
        return Requests(
            authority=authority.fingerprint,
            first=tuple(first),
            joins=pending_requests(invitations, now),
            renewals=(*own, *renewals.waiting(now)),
        )


def take(home: CoordinatorHome, answers: Answers, now: datetime) -> Taken:
    """Take in what came back. One answer that is wrong does not stop the others; one that nobody waits for is refused.
    `EnrolmentError` if the file is of another authority."""
    authority = home.authority()
    same_authority(answers.authority, authority)
    done: list[str] = []
    turned = list(answers.refused)
    with _lists(home) as (invitations, members, renewals):
        for text in answers.invitations:
            try:
                members.may_be_invited(pki.peer_of(text.encode()).name, now)
                made = invitations.add(text.encode(), authority)
                done.append(f"{made.role} {made.name} is invited, until {made.expires:%Y-%m-%d}")
            except UnisonoError as error:
                turned.append(_turned("an invitation", error))
        joined, wrong = finish_pending(answers.joins, invitations, authority, members, now)
        done += [f"{one.role} {one.name} has joined" for one in joined]
        turned += [_turned(f"token {one.token[:8]}", one) for one in wrong]
        for text in (*answers.first, *answers.renewals):
            try:
                done.append(_taken(home, text.encode(), members, renewals, now))
            except UnisonoError as error:
                turned.append(_turned("a certificate", error))
    return Taken(tuple(done), tuple(turned))


def _taken(home: CoordinatorHome, text: bytes, members: Members, renewals: Renewals, now: datetime) -> str:
    """One certificate: of the server, of its operator, or of a member who asked for a later one."""
    certificate, peer = pki.certificate_of(text), pki.peer_of(text)
    home.authority().verify(certificate)
    until = f"until {peer.not_after:%Y-%m-%d}"
    if peer.role == "coordinator":
        _own(home, certificate)
        return f"the server's certificate, {until}"
    folder = operator.folder_of(home)
    first = peer.role == "operator" and peer.name == operator.NAME and not (folder.tls / "tls.pem").exists()
    if first:
        operator.certify(home, certificate, now)
        return f"the operator's certificate, {until}"
    members.renewed(certificate, now)
    if not renewals.answered(text):
        raise refused(
            f"Nobody here waits for the certificate of the {peer.role} {peer.name!r}.",
            "unasked-certificate",
            "Carry the answers to the newest requests: unisono coordinator pending.",
        )
    return f"{peer.role} {peer.name} is renewed, {until}"


def _own(home: CoordinatorHome, certificate: x509.Certificate) -> None:
    """The server's certificate, if it is for its key, its name and its hosts, and no shorter than the one there is."""
    credentials = Credentials(
        pki.private_pem(tls_key(home.path)), pki.pem(certificate), home.authority().ca_pem
    ).checked()
    settings, peer = home.settings(), pki.peer_of(credentials.chain_pem)
    named = {str(general.value) for general in pki.alternatives(certificate)}
    if peer.name != settings.name or not set(settings.hosts) <= named:
        raise refused(
            "The server's certificate is for another name, or leaves out a host name at which it is reached.",
            "server-certificate",
            "Carry the newest requests to the authority: unisono coordinator pending.",
        )
    if home.certified and peer.not_after <= pki.peer_of(home.credentials().chain_pem).not_after:
        raise refused(
            "The server has a certificate already that holds as long.",
            "unasked-certificate",
            "Nothing to do.",
        )
    credentials.save(home.path)


def _turned(who: str, error: Any) -> Turned:
    return Turned(who=who, what=error.what, rule=error.rule, remedy=error.remedy)


def _text(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(Encoding.PEM).decode("ascii")
