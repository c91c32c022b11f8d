"""What researchers, operators and sites may call, and what they get. A call is a tree {call: name, ...}; whose it is, their
certificate says. What a role may not call does not exist for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from unisono.errors import EnrolmentError, NetworkError, ProtocolError, StudyError
from unisono.federation.tree import Tree
from unisono.methods.registry import check as method_checks
from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.coordinator.operator import NAME as FIRST_OPERATOR
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.store import Asked, unknown_study
from unisono.network.coordinator.studies import Studies
from unisono.network.enrolment.accepting import accept
from unisono.network.enrolment.invitations import Invitations
from unisono.network.enrolment.joining import JoinRequest
from unisono.network.enrolment.members import Member, Members
from unisono.network.enrolment.renewals import Renewals
from unisono.network.enrolment.token import INVITATION_DAYS, Token
from unisono.network.pki import Peer, Role
from unisono.network.renewing import PENDING
from unisono.network.results import listing, piece
from unisono.network.signing import StudySignature
from unisono.protection.secagg.roster import Roster
from unisono.study.load import load

_SHORTEST = 6
"""Letters of a digest that name a study."""
_MOST_WHY = 2000
Handler = Callable[[Peer, dict[str, Any]], Tree | Awaitable[Tree]]


@dataclass(frozen=True)
class Service:
    """What calls act on. address: where sites reach the coordinator, for invitations. changed: called when members came or
    went; revoked: with fingerprints whose live streams must end."""

    studies: Studies
    sites: Sites
    members: Members
    invitations: Invitations
    renewals: Renewals
    authority: Authority
    address: str
    clock: Callable[[], datetime]
    changed: Callable[[], None]
    revoked: Callable[[tuple[str, ...]], None]


class Calls:
    """The calls of every role."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._studies = service.studies
        self._by_role: dict[Role, dict[str, Handler]] = {
            "site": {
                "approve": self._approve,
                "refuse": self._refuse,
                "withdraw": self._withdraw,
                "studies": self._list,
                "status": self._status,
                "renew": self._renew,
            },
            "researcher": {
                "submit": self._submit,
                "studies": self._list,
                "status": self._status,
                "result": self._result,
                "cancel": self._cancel,
                "sites": self._sites,
                "renew": self._renew,
            },
            "operator": {
                "members": self._members,
                "invite": self._invite,
                "uninvite": self._uninvite,
                "revoke": self._revoke,
                "remove": self._remove,
                "readiness": self._readiness,
                "snapshot": self._snapshot,
                "studies": self._list,
                "status": self._status,
                "cancel": self._cancel,
                "sites": self._sites,
                "renew": self._renew,
            },
        }

    async def answer(self, peer: Peer, tree: Tree) -> Tree:
        """What the call gives. Errors are `UnisonoError`, with rule and remedy."""
        name = _text(tree, "call")
        handler = self._by_role.get(peer.role, {}).get(name)
        if handler is None:
            raise NetworkError(
                f"A {peer.role} cannot call {name[:40]!r}.",
                rule="known-calls",
                remedy=f"Calls of a {peer.role}: {', '.join(sorted(self._by_role.get(peer.role, {}))) or 'none'}.",
            )
        answer = handler(peer, tree)
        return await answer if isinstance(answer, Awaitable) else answer

    def watch(self, peer: Peer, tree: Tree) -> AsyncIterator[Tree]:
        """{state, event} trees of one study, as they come."""
        if _text(tree, "call") != "watch":
            raise NetworkError("Only `watch` goes on.", rule="known-calls", remedy="Use a call.")
        return self._studies.course.watch(self._one(peer, tree).digest)

    def join(self, peer: Peer, tree: Tree) -> Tree:
        """Let in who was invited."""
        service = self._service
        request = JoinRequest.read(json.dumps(tree).encode())
        now = service.clock()
        joined = accept(request, peer, service.invitations, service.authority, service.members, now)
        service.changed()
        return joined.model_dump(mode="json")

    # -- sites --------------------------------------------------------------------------------------------------------

    def _approve(self, peer: Peer, tree: Tree) -> Tree:
        return _short(self._studies.approve(peer.name, _text(tree, "study"), _text(tree, "permit")))

    def _refuse(self, peer: Peer, tree: Tree) -> Tree:
        return _short(self._studies.refuse(peer.name, _text(tree, "study"), _why(tree)))

    def _withdraw(self, peer: Peer, tree: Tree) -> Tree:
        return _short(self._studies.withdraw(peer.name, _text(tree, "study"), _why(tree)))

    def _renew(self, peer: Peer, tree: Tree) -> Tree:
        """A later certificate for the key of the one that the call came with; where the authority's key is elsewhere, what came back
        from there."""
        service, now = self._service, self._service.clock()
        present = pki.certificate_of(_text(tree, "certificate").encode())
        if pki.fingerprint(present) != peer.fingerprint:
            raise NetworkError(
                "A certificate is renewed by whoever holds its key.",
                rule="renewal",
                remedy="Call with the certificate that is to be renewed.",
            )
        if service.authority.can_issue:
            certificate = pki.pem(service.authority.renewed(present, now=now))
            service.members.renewed(pki.certificate_of(certificate), now)
        else:
            certificate = self._carried(pki.pem(present), now)
        return {"certificate": certificate.decode(), "ca": service.authority.ca_pem.decode()}

    def _carried(self, present: bytes, now: datetime) -> bytes:
        answer = self._service.renewals.ask(present, now)
        if answer is None:
            raise EnrolmentError(
                "The renewal was noted, and waits for the authority's key, which is on another machine.",
                rule=PENDING,
                remedy="Nothing to do: it is asked again by itself. The operator carries `unisono coordinator pending` to the key.",
            )
        return answer

    # -- researchers --------------------------------------------------------------------------------------------------

    async def _submit(self, peer: Peer, tree: Tree) -> Tree:
        document, signature = _text(tree, "document"), StudySignature.from_tree(tree.get("signature"))
        names = tree.get("sites")
        if not isinstance(names, list) or not all(type(name) is str for name in names):
            raise _format("sites")
        try:
            content = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise _format("document") from error
        if not isinstance(content, dict):
            raise StudyError("The document is no study.", rule="study-file", remedy="Submit a study document.")
        study = await asyncio.to_thread(load, content, method_checks)
        signature.verify(study)
        member = self._service.members.find(peer.name)
        if signature.researcher != peer.name or signature.identity != member.identity.hex():
            raise NetworkError(
                f"The study is not signed by {peer.name!r} with the key that they joined with.",
                rule="study-signature",
                remedy="Sign it with your own key: unisono study sign.",
            )
        return self._studies.course.status(self._studies.submit(study, document, signature, self._roster(names)))

    def _roster(self, names: list[str]) -> Roster:
        everyone = self._service.members.roster()
        unknown = sorted(set(names) - set(everyone))
        if unknown:
            raise NetworkError(
                f"No site is called {', '.join(name[:64] for name in unknown[:5])} here.",
                rule="known-sites",
                remedy=f"Sites that joined: {', '.join(everyone) or 'none yet'}.",
            )
        return Roster({name: everyone[name] for name in names})

    async def _result(self, peer: Peer, tree: Tree) -> Tree:
        asked = self._one(peer, tree)
        folder = self._studies.results(asked.digest)
        if "file" not in tree:
            return {"files": await asyncio.to_thread(listing, folder)}
        offset = tree.get("offset")
        if type(offset) is not int:
            raise _format("offset")
        return {"data": await asyncio.to_thread(piece, folder, _text(tree, "file"), offset)}

    def _cancel(self, peer: Peer, tree: Tree) -> Tree:
        return _short(self._studies.cancel(self._one(peer, tree).digest, f"the {peer.role} {peer.name}"))

    def _list(self, peer: Peer, _: Tree) -> Tree:
        return {"studies": [self._studies.course.status(asked) for asked in self._visible(peer)]}

    def _status(self, peer: Peer, tree: Tree) -> Tree:
        return self._studies.course.status(self._one(peer, tree))

    def _sites(self, _: Peer, __: Tree) -> Tree:
        """Who can be asked: names, keys, and who is there."""
        roster = self._service.members.roster()
        online = {line.name for line in self._service.sites.lines() if line.end.is_online}
        return {"roster": roster.to_tree(), "online": sorted(online & set(roster))}

    # -- operators ----------------------------------------------------------------------------------------------------

    def _members(self, _: Peer, __: Tree) -> Tree:
        service = self._service
        waiting = service.invitations.open_invitations(service.clock())
        return {
            "members": [member_tree(member) for member in service.members.all()],
            "invitations": [
                {"id": i.id, "role": i.role, "name": i.name, "expires": i.expires.isoformat()} for i in waiting
            ],
        }

    def _invite(self, _: Peer, tree: Tree) -> Tree:
        """A token. Its text is shown once, and not kept."""
        service = self._service
        role, name, days = _text(tree, "role"), _text(tree, "name"), tree.get("days", INVITATION_DAYS)
        address = _text(tree, "address") if "address" in tree else service.address
        if isinstance(days, bool) or not isinstance(days, int | float):
            raise _format("days")
        service.members.may_be_invited(name, service.clock())
        token: Token = service.invitations.invite(
            service.authority, address, cast(Role, role), name, now=service.clock(), days=days
        )
        return {"token": token.encode(), "expires": token.peer.not_after.isoformat()}

    def _uninvite(self, _: Peer, tree: Tree) -> Tree:
        service = self._service
        return {"cancelled": service.invitations.void(_text(tree, "name"), service.clock())}

    def _remove(self, _: Peer, tree: Tree) -> Tree:
        """Forget a member, so that the name can be invited again; its certificates are revoked for ever."""
        service, name = self._service, _text(tree, "name")
        removable(name)
        marks = service.members.remove(name, service.clock())
        service.revoked(marks)
        service.changed()
        return {"revoked": list(marks)}

    def _revoke(self, _: Peer, tree: Tree) -> Tree:
        service = self._service
        marks = service.members.revoke(_text(tree, "who"), service.clock())
        service.revoked(marks)
        service.changed()
        return {"revoked": list(marks)}

    async def _snapshot(self, _: Peer, __: Tree) -> Tree:
        """A copy of the store in the coordinator's folder, for a back-up that is made there (`unisono.network.backup`)."""
        await asyncio.to_thread(self._studies.store.snapshot)
        return {}

    def _readiness(self, _: Peer, __: Tree) -> Tree:
        """What each site says of itself, and when it was there."""
        return {"sites": {name: self._service.sites.line(name).to_tree() for name in self._service.members.roster()}}

    # -- which study --------------------------------------------------------------------------------------------------

    def _visible(self, peer: Peer) -> list[Asked]:
        """A researcher's own studies, those that a site is asked in, and all of them for an operator."""
        everything = self._studies.store.all()
        if peer.role == "operator":
            return everything
        if peer.role == "site":
            return [asked for asked in everything if peer.name in asked.roster]
        return [asked for asked in everything if asked.signature.researcher == peer.name]

    def _one(self, peer: Peer, tree: Tree) -> Asked:
        """By digest, its beginning, or the study's id where it is one study's alone."""
        name = _text(tree, "study")
        visible = self._visible(peer)
        found = [a for a in visible if a.digest == name] or [a for a in visible if a.id == name]
        if not found and len(name) >= _SHORTEST:
            found = [a for a in visible if a.digest.startswith(name)]
        if len(found) > 1:
            raise NetworkError(
                f"{len(found)} studies are called {name[:64]!r}.",
                rule="known-studies",
                remedy=f"Give the beginning of a digest: {', '.join(a.digest[:12] for a in found[:5])}.",
            )
        if not found:
            raise unknown_study(name)
        return found[0]


def removable(name: str) -> None:
    """`EnrolmentError` for the operator of the coordinator's own machine: its commands, and they alone, make that one."""
    if name == FIRST_OPERATOR:
        raise EnrolmentError(
            f"{name!r} is the operator of the coordinator's own machine, and cannot join anew.",
            rule="own-operator",
            remedy="Shut it out with `unisono coordinator revoke`, and work as an operator who joined from elsewhere.",
        )


def member_tree(member: Member) -> dict[str, Any]:
    """A member in a message."""
    return {
        "name": member.name,
        "role": member.role,
        "identity": member.identity.hex(),
        "joined": member.joined.isoformat(),
        "revoked": None if member.revoked is None else member.revoked.isoformat(),
        "fingerprints": list(member.fingerprints),
        "certified": None if member.certified is None else member.certified.isoformat(),
    }


def _short(asked: Asked) -> Tree:
    return {"study": asked.digest, "state": asked.state, "why": asked.why}


def _why(tree: Tree) -> str:
    why = tree.get("why") or ""
    if not isinstance(why, str):
        raise _format("why")
    return why[:_MOST_WHY]


def _text(tree: Tree, name: str) -> str:
    value = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(value, str):
        raise _format(name)
    return value


def _format(name: str) -> ProtocolError:
    return ProtocolError(
        f"The call's {name!r} cannot be read.",
        rule="message-format",
        remedy="Both ends must run the same version of Unisono.",
    )
