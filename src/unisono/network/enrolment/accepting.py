"""At the coordinator: letting in who was invited, at once or by way of a machine that keeps the authority's key apart."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, cast

from unisono.errors import EnrolmentError, NetworkError, UnisonoError
from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.enrolment.invitations import Invitations
from unisono.network.enrolment.joining import Joined, JoinRequest
from unisono.network.enrolment.members import Members
from unisono.network.enrolment.message import Hex16, Message, Pem
from unisono.network.enrolment.refusals import NEW_TOKEN, refused
from unisono.network.pki import Peer, Role

_INVITED: tuple[Role, ...] = ("invited",)


def accept(
    request: JoinRequest,
    peer: Peer,
    invitations: Invitations,
    authority: Authority,
    members: Members,
    now: datetime,
    *,
    days: float = pki.VALID_DAYS,
) -> Joined:
    """At the coordinator: let in who was invited. peer: who TLS says is asking, which must be the token's own certificate.

    Everything is checked before the token is used up. `EnrolmentError` or `NetworkError` naming what is wrong; rule
    ``join-pending`` if the authority's key is apart: the request is stored, and the institution asks again later.
    """
    pki.check(peer, now, members.revoked(), _INVITED)
    invited = request.verify(authority)
    if invited.fingerprint != peer.fingerprint:
        raise refused("The request was not made with the token that it came with.", "token-mismatch", NEW_TOKEN)
    role, identity = _joining(invited), bytes.fromhex(request.identity)
    members.may_join(role, invited.name, identity)
    made: bytes | None = None
    if authority.can_issue:
        made = pki.pem(authority.issue(request.certificate_request(), role, invited.name, now=now, days=days))
    answer = invitations.redeem_for(request, made, now)
    if answer is None:
        raise refused(
            f"The request to join as {invited.name!r} was received, and waits for the operator to sign it.",
            "join-pending",
            "Nothing to do now. Run the same command again when the operator says that it is signed.",
        )
    members.add(role, invited.name, identity, pki.certificate_of(answer), now)
    return _joined(request, invited, answer, authority)


class JoinRequests(Message):
    """The file that is carried to the authority's key."""

    unisono: Literal["join-requests/1"] = "join-requests/1"
    requests: tuple[JoinRequest, ...]


class Refusal(Message):
    """A request that got no certificate, and why."""

    token: Hex16
    what: str
    rule: str
    remedy: str


class JoinAnswers(Message):
    """The file that comes back: certificates (PEM) by token, and refusals."""

    unisono: Literal["join-answers/1"] = "join-answers/1"
    certificates: dict[Hex16, Pem]
    refused: tuple[Refusal, ...] = ()


def pending_requests(invitations: Invitations, now: datetime) -> JoinRequests:
    """At the coordinator: what to carry to the authority's key."""
    return JoinRequests(requests=invitations.waiting(now))


def accept_pending(
    file: JoinRequests, authority: Authority, now: datetime, *, days: float = pki.VALID_DAYS
) -> JoinAnswers:
    """Where the authority's key is: a certificate for every request that is right by itself. The coordinator is not trusted
    here: it cannot make a request, which needs a token's key. One wrong request does not stop the others."""
    certificates: dict[str, str] = {}
    turned_away: list[Refusal] = []
    for request in file.requests:
        try:
            invited = request.verify(authority)
            pki.check(invited, now, (), _INVITED)
            if request.token in certificates:
                raise refused("Two requests name one token.", "token-used", NEW_TOKEN)
            certificate = authority.issue(
                request.certificate_request(), _joining(invited), invited.name, now=now, days=days
            )
            certificates[request.token] = pki.pem(certificate).decode("ascii")
        except UnisonoError as error:
            turned_away.append(_refusal(request, error))
    return JoinAnswers(certificates=certificates, refused=tuple(turned_away))


def finish_pending(
    file: JoinAnswers, invitations: Invitations, authority: Authority, members: Members, now: datetime
) -> tuple[tuple[Joined, ...], tuple[Refusal, ...]]:
    """At the coordinator, with what came back: the new members, and who was refused, there or here. Certificates for requests
    that do not wait are left aside."""
    joined: list[Joined] = []
    turned_away = list(file.refused)
    for request in invitations.waiting():
        if request.token not in file.certificates:
            continue
        try:
            joined.append(_finished(request, file.certificates[request.token], invitations, authority, members, now))
        except (EnrolmentError, NetworkError) as error:
            turned_away.append(_refusal(request, error))
    return tuple(joined), tuple(turned_away)


def _finished(
    request: JoinRequest, answer: str, invitations: Invitations, authority: Authority, members: Members, now: datetime
) -> Joined:
    certificate = pki.certificate_of(answer.encode())
    authority.verify(certificate)
    invited = request.verify(authority)
    if pki.spki(certificate.public_key()) != pki.spki(request.certificate_request().public_key()):
        raise refused(
            f"The certificate that came back for {invited.name!r} is for another key than it asked for.",
            "join-answer",
            "Carry the answers again from the machine with the authority's key.",
        )
    members.add(_joining(invited), invited.name, bytes.fromhex(request.identity), certificate, now)
    invitations.redeem_for(request, answer.encode(), now)
    return _joined(request, invited, answer.encode(), authority)


def _refusal(request: JoinRequest, error: UnisonoError) -> Refusal:
    return Refusal(token=request.token, what=error.what, rule=error.rule, remedy=error.remedy)


def _joining(invited: Peer) -> Role:
    return cast(Role, invited.invites)


def _joined(request: JoinRequest, invited: Peer, answer: bytes, authority: Authority) -> Joined:
    return Joined(
        role=cast(Literal["site", "researcher", "operator"], invited.invites),
        name=invited.name,
        identity=request.identity,
        certificate=answer.decode("ascii"),
        ca=authority.ca_pem.decode("ascii"),
    )
