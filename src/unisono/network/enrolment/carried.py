"""What is carried between a coordinator and its authority's key, where the two are on different machines: one file of requests
there, one file of answers back. Nothing in either is secret.

The coordinator is not trusted where the key is. It cannot ask in a newcomer's place (that takes the token's key, and tokens are
made where the key is), and it can have renewed only what the authority made and has not expired. Its own first certificate and
its operator's are asked for by nobody who is known yet: a person looks at those before signing.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field

from unisono.errors import UnisonoError
from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.enrolment.accepting import JoinAnswers, JoinRequests, accept_pending
from unisono.network.enrolment.message import Hex32, Message, Pem
from unisono.network.enrolment.refusals import refused

MOST = 10_000
"""Requests of a kind in one file."""


class First(Message):
    """A first certificate, for the coordinator's server (hosts: the names and addresses at which it is reached) or for the
    operator of its own machine."""

    role: Literal["coordinator", "operator"]
    name: str
    csr: Pem
    hosts: tuple[Annotated[str, Field(max_length=253)], ...] = ()


class Carried(Message):
    """A file that goes to the authority's key, or comes back."""

    @classmethod
    def read(cls, content: bytes) -> Self:
        """As `Message.read`; rule ``other-file`` if it is the one that goes the other way."""
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            said = None
        kind = said.get("unisono") if isinstance(said, dict) else None
        other = _SWAPPED.get(kind) if isinstance(kind, str) and kind != cls.model_fields["unisono"].default else None
        if other is not None:
            raise refused(*other)
        return super().read(content)


class Requests(Carried):
    """There. authority: the SHA-256 of its certificate; renewals: the certificates that are to be followed by later ones."""

    unisono: Literal["authority-requests/1"] = "authority-requests/1"
    authority: Hex32
    first: Annotated[tuple[First, ...], Field(max_length=2)] = ()
    joins: JoinRequests = JoinRequests(requests=())
    renewals: Annotated[tuple[Pem, ...], Field(max_length=MOST)] = ()

    @property
    def count(self) -> int:
        """How many certificates are asked for."""
        return len(self.first) + len(self.joins.requests) + len(self.renewals)


class Turned(Message):
    """A request that got no certificate, and why."""

    who: str
    what: str
    rule: str
    remedy: str


class Answers(Carried):
    """Back. invitations: certificates of tokens that were made where the key is, which the coordinator must know of."""

    unisono: Literal["authority-answers/1"] = "authority-answers/1"
    authority: Hex32
    first: tuple[Pem, ...] = ()
    joins: JoinAnswers = JoinAnswers(certificates={})
    renewals: tuple[Pem, ...] = ()
    invitations: tuple[Pem, ...] = ()
    refused: tuple[Turned, ...] = ()


_SWAPPED = {
    "authority-requests/1": (
        "The file holds a coordinator's requests, which are to be signed, not what came back.",
        "other-file",
        "Where the authority's key is: unisono authority sign FILE. Its answers are what `unisono coordinator accept` takes.",
    ),
    "authority-answers/1": (
        "The file holds what came from the authority's key, answers or an invitation, not a coordinator's requests.",
        "other-file",
        "At the coordinator: unisono coordinator accept FILE. What is signed is what `unisono coordinator pending` wrote.",
    ),
}
"""What to say of a file that is taken for the other one."""


def sign(requests: Requests, authority: Authority, now: datetime) -> Answers:
    """Where the authority's key is: a certificate for every request that is right by itself. One wrong request does not stop the
    others. `EnrolmentError` if the file is for another authority; `NetworkError` if the key is not here."""
    same_authority(requests.authority, authority)
    first, renewed, turned = [], [], []
    for one in requests.first:
        try:
            request = pki.csr_of(one.csr.encode())
            first.append(_text(pki.pem(authority.issue(request, one.role, one.name, now=now, hosts=one.hosts))))
        except UnisonoError as error:
            turned.append(_turned(f"{one.role} {one.name[:64]}", error))
    for certificate in requests.renewals:
        try:
            renewed.append(_text(pki.pem(authority.renewed(pki.certificate_of(certificate.encode()), now=now))))
        except UnisonoError as error:
            turned.append(_turned("a renewal", error))
    joins = accept_pending(requests.joins, authority, now)
    turned += [Turned(who=f"token {o.token[:8]}", what=o.what, rule=o.rule, remedy=o.remedy) for o in joins.refused]
    return Answers(
        authority=authority.fingerprint,
        first=tuple(first),
        joins=JoinAnswers(certificates=joins.certificates),
        renewals=tuple(renewed),
        refused=tuple(turned),
    )


def same_authority(fingerprint: str, authority: Authority) -> None:
    """`EnrolmentError` unless a file is of this authority."""
    if fingerprint != authority.fingerprint:
        raise refused(
            "The file is of another certificate authority than this one.",
            "other-authority",
            f"This one is {pki.grouped(authority.fingerprint)}. Name the folder, or the file, of the same federation.",
        )


def asked(requests: Requests, authority: Authority) -> list[tuple[str, str, str]]:
    """What is asked for, as (what, who, key) to be read before signing. key: the SHA-256 of the public key; what cannot be read is
    named as such, and will be refused."""
    rows = [("first certificate", _who(one.role, one.name, one.hosts), _key(one.csr)) for one in requests.first]
    for join in requests.joins.requests:
        try:
            invited = join.verify(authority)
            rows.append(("to join", f"{invited.invites} {invited.name}", _key(join.csr)))
        except UnisonoError as error:
            rows.append(("to join", f"wrong: {error.what}", "-"))
    for certificate in requests.renewals:
        try:
            peer = pki.peer_of(certificate.encode())
            rows.append(("renewal", f"{peer.role} {peer.name}, until {peer.not_after:%Y-%m-%d}", "-"))
        except UnisonoError as error:
            rows.append(("renewal", f"wrong: {error.what}", "-"))
    return rows


def _who(role: str, name: str, hosts: tuple[str, ...]) -> str:
    return f"{role} {name}{' at ' + ', '.join(hosts) if hosts else ''}"


def _key(csr: str) -> str:
    try:
        return pki.grouped(pki.key_mark(pki.csr_of(csr.encode()).public_key())[:32])
    except (UnisonoError, ValueError, TypeError):
        return "cannot be read"


def _turned(who: str, error: UnisonoError) -> Turned:
    return Turned(who=who, what=error.what, rule=error.rule, remedy=error.remedy)


def _text(certificate: bytes) -> str:
    return certificate.decode("ascii")
