"""Joining a federation: tokens that are used once, requests that only the invited can make, and members pinned to a key."""

from __future__ import annotations

import base64
import json
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from unisono.errors import EnrolmentError, JournalError, NetworkError, ProtocolError, UnisonoError
from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.enrolment import accepting, joining
from unisono.network.enrolment.accepting import accept
from unisono.network.enrolment.invitations import Invitations
from unisono.network.enrolment.joining import Joined, JoinRequest
from unisono.network.enrolment.members import Members
from unisono.network.enrolment.token import Token
from unisono.network.enrolment.verified import Verified
from unisono.network.pki import Peer
from unisono.protection.secagg.roster import Identity, Roster

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ADDRESS = "hub.example.org:443"


@dataclass
class Hub:
    """A coordinator's folder."""

    folder: Path
    authority: Authority
    invitations: Invitations
    members: Members

    def invite(self, name: str = "padua", role: pki.Role = "site", days: float = 7) -> Token:
        return self.invitations.invite(self.authority, ADDRESS, role, name, now=NOW, days=days)

    def accept(self, request: JoinRequest, peer: Peer, now: datetime = NOW) -> Joined:
        return accept(request, peer, self.invitations, self.authority, self.members, now)

    def join(self, name: str, role: pki.Role = "site", identity: Identity | None = None) -> Joined:
        token = self.invite(name, role)
        return self.accept(JoinRequest.make(token, pki.make_key(), identity or Identity.generate()), token.peer)

    def close(self) -> None:
        self.invitations.close()
        self.members.close()

    def restarted(self) -> Hub:
        self.close()
        return opened(self.folder)


def opened(folder: Path) -> Hub:
    authority = Authority.open(folder)
    return Hub(folder, authority, Invitations(folder / "invitations.db"), Members(folder / "members.db"))


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    Authority.create(tmp_path, "als-federation", now=NOW)
    return opened(tmp_path)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    authority = Authority.create(tmp_path_factory.mktemp("ca"), "als-federation", now=NOW)
    return Token.make(authority, ADDRESS, "site", "padua", now=NOW)


@contextmanager
def refused(rule: str) -> Iterator[None]:
    with pytest.raises(UnisonoError) as caught:
        yield
    assert (caught.value.rule, bool(caught.value.remedy)) == (rule, True)


# ---------------------------------------------------------------- the token


def test_a_token_is_one_line_that_reads_back_as_it_was_made(token: Token) -> None:
    text = token.encode()
    assert text.startswith("unisono1.") and len(text.split()) == 1 and text.isascii()
    read = Token.decode(text, NOW)
    assert read == token
    assert (read.address, read.peer.role, read.peer.invites, read.peer.name) == (ADDRESS, "invited", "site", "padua")
    assert read.credentials().checked()


def test_line_breaks_of_a_mail_program_do_not_matter(token: Token) -> None:
    text = token.encode()
    wrapped = "\r\n  ".join(text[k : k + 70] for k in range(0, len(text), 70))
    assert Token.decode(f"  {wrapped}\n", NOW) == token


def test_nothing_of_a_token_that_is_secret_is_printed(token: Token) -> None:
    shown = repr(token) + str(token)
    assert token.key.hex() not in shown and token.encode()[-60:] not in shown and repr(token.key) not in shown


@given(st.data())
def test_any_one_wrong_letter_is_noticed(token: Token, data: st.DataObject) -> None:
    text = token.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters(min_codepoint=33, max_codepoint=0x2FF).filter(lambda c: c != text[at]))
    with pytest.raises(EnrolmentError):
        Token.decode(text[:at] + letter + text[at + 1 :], NOW)


def test_the_last_letter_has_one_spelling_though_base64_has_bits_to_spare(token: Token) -> None:
    for host in ("h", "hu", "hub"):  # one of the three has no bits to spare, one two, one four
        text = Token(f"{host}:443", token.ca, token.certificate, token.key).encode()
        assert Token.decode(text, NOW).address == f"{host}:443"
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            if letter != text[-1]:
                with pytest.raises(EnrolmentError):
                    Token.decode(text[:-1] + letter, NOW)


@given(st.data())
def test_a_token_cut_short_says_so(token: Token, data: st.DataObject) -> None:
    text = token.encode()
    with refused("token-truncated"):
        Token.decode(text[: data.draw(st.integers(0, len(text) - 1))], NOW)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda b: "unisono1." + base64.urlsafe_b64encode(b).decode()))
def test_any_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(EnrolmentError):
        Token.decode(text, NOW)


def test_what_is_right_by_its_checksum_and_yet_no_invitation_is_refused(token: Token, hub: Hub) -> None:
    member = hub.authority.issue(token.bootstrap_key().public_key(), "site", "padua", now=NOW)
    forged = [
        Token(ADDRESS, token.ca, token.certificate, b"\x01" * 32),
        Token(ADDRESS, token.ca, token.certificate, bytes(32)),
        Token(ADDRESS, token.ca, b"", token.key),
        Token("hub", token.ca, token.certificate, token.key),
        Token(ADDRESS, hub.invite().ca, token.certificate, token.key),
        Token(ADDRESS, hub.invite().ca, member.public_bytes(Encoding.DER), token.key),
    ]
    for wrong in forged:
        with refused("token-form"):
            Token.decode(wrong.encode(), NOW)


def test_a_token_of_another_version_or_of_another_time_says_so(token: Token) -> None:
    text = token.encode()
    with refused("token-version"):
        Token.decode(text.replace("unisono1.", "unisono2."), NOW)
    with refused("token-form"):
        Token.decode("ssh-ed25519 AAAA", NOW)
    with refused("token-expired"):
        Token.decode(text, NOW + timedelta(days=7))
    with refused("token-not-yet-valid"):
        Token.decode(text, NOW - timedelta(days=1))


@pytest.mark.parametrize("address", ["", "hub", "hub:", "hub:0", "hub:70000", "http://hub:443", "hub:443\n", "a b:1"])
def test_a_token_has_an_address_with_a_port(hub: Hub, address: str) -> None:
    with refused("invitation"):
        Token.make(hub.authority, address, "site", "padua", now=NOW)


def test_nobody_is_invited_to_be_the_coordinator(hub: Hub) -> None:
    for role in ("coordinator", "invited"):
        with refused("invitation"):
            hub.invite("hub", role)  # type: ignore[arg-type]


# ---------------------------------------------------------------- invitations


def test_a_token_is_good_for_once_also_after_a_restart(hub: Hub) -> None:
    token = hub.invite()
    assert [one.id for one in hub.invitations.open_invitations(NOW)] == [token.peer.serial]
    assert hub.invitations.redeem(token.peer.serial, NOW).redeemed == NOW
    assert hub.invitations.open_invitations(NOW) == ()
    with refused("token-used"):
        hub.invitations.redeem(token.peer.serial, NOW)
    with refused("token-used"):
        hub.restarted().invitations.redeem(token.peer.serial, NOW)


def test_of_many_who_try_at_once_one_redeems(hub: Hub) -> None:
    id = hub.invite().peer.serial
    others = [Invitations(hub.folder / "invitations.db") for _ in range(3)]  # as other processes would
    start, outcomes = threading.Barrier(12), []

    def attempt(invitations: Invitations) -> None:
        start.wait()
        try:
            invitations.redeem(id, NOW)
            outcomes.append("redeemed")
        except EnrolmentError as error:
            outcomes.append(error.rule)

    threads = [threading.Thread(target=attempt, args=(([hub.invitations, *others])[k % 4],)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["redeemed"] + ["token-used"] * 11


def test_expired_cancelled_and_unknown_tokens_are_told_apart(hub: Hub) -> None:
    expired, cancelled = hub.invite(days=1).peer.serial, hub.invite("turin").peer.serial
    hub.invitations.cancel(cancelled, NOW)
    assert [one.name for one in hub.invitations.open_invitations(NOW + timedelta(days=2))] == []
    with refused("token-expired"):
        hub.invitations.redeem(expired, NOW + timedelta(days=1))
    with refused("token-cancelled"):
        hub.invitations.redeem(cancelled, NOW)
    for tried in (hub.invitations.redeem, hub.invitations.cancel):
        with refused("token-unknown"):
            tried("0" * 32, NOW)


def test_a_used_token_cannot_be_cancelled(hub: Hub) -> None:
    id = hub.invite().peer.serial
    hub.invitations.redeem(id, NOW)
    with refused("token-used"):
        hub.invitations.cancel(id, NOW)


def test_a_second_invitation_of_a_name_voids_the_first_and_its_use_whatever_was_open(hub: Hub) -> None:
    first, second = hub.invite(), hub.invite()
    assert [one.id for one in hub.invitations.open_invitations(NOW)] == [second.peer.serial]
    with refused("token-cancelled"):
        hub.accept(JoinRequest.make(first, pki.make_key(), Identity.generate()), first.peer)
    hub.invitations.add(first.certificate_pem, hub.authority)  # carried a second time: known, and void
    assert [one.id for one in hub.invitations.open_invitations(NOW)] == [second.peer.serial]
    with sqlite3.connect(hub.folder / "invitations.db") as db:  # as an older Unisono left it: two are open
        db.execute("UPDATE invitations SET cancelled = NULL")
    hub.accept(JoinRequest.make(second, pki.make_key(), Identity.generate()), second.peer)
    assert hub.invitations.open_invitations(NOW) == ()
    hub.members.remove("padua", NOW)
    with refused("token-cancelled"):
        hub.accept(JoinRequest.make(first, pki.make_key(), Identity.generate()), first.peer)


def test_what_waits_for_the_authoritys_key_is_void_with_its_invitation(hub: Hub, apart: Hub) -> None:
    token, request = waiting(hub, apart)
    assert apart.invitations.void("padua", NOW) == 1
    assert apart.invitations.waiting() == ()
    with refused("token-cancelled"):
        apart.accept(request, token.peer)
    with refused("invitation-unknown"):
        apart.invitations.void("padua", NOW)


def test_the_file_of_a_token_goes_when_it_is_used_or_void(hub: Hub) -> None:
    file = hub.folder / "tokens" / "padua.token"
    file.parent.mkdir()
    file.write_text("secret")
    hub.invitations.void(hub.invite().peer.name, NOW)
    assert not file.exists()
    token = hub.invite()
    file.write_text("secret")
    hub.accept(JoinRequest.make(token, pki.make_key(), Identity.generate()), token.peer)
    assert not file.exists()


def test_nobody_is_invited_whose_name_is_taken(hub: Hub) -> None:
    hub.members.may_be_invited("padua", NOW)
    hub.join("padua")
    with refused("member-known"):
        hub.members.may_be_invited("padua", NOW)
    hub.members.may_be_invited("padua", NOW + timedelta(days=pki.VALID_DAYS))  # its certificate expired: it joins again
    hub.members.revoke("padua", NOW)
    with refused("member-revoked"):
        hub.members.may_be_invited("padua", NOW)
    hub.members.remove("padua", NOW)
    hub.members.may_be_invited("padua", NOW)


def test_the_coordinator_keeps_no_secret_of_a_token(hub: Hub) -> None:
    token = hub.invite()
    hub.close()
    stored = b"".join(path.read_bytes() for path in hub.folder.glob("invitations.db*"))
    assert token.peer.serial.encode() in stored
    assert token.key not in stored and token.key.hex().encode() not in stored


def test_a_list_that_was_lost_is_not_begun_anew(hub: Hub) -> None:
    hub.join("padua")
    hub.close()
    for name, kind in (("invitations.db", Invitations), ("members.db", Members)):
        for path in hub.folder.glob(f"{name}*"):
            if not path.name.endswith(".begun"):
                path.unlink()
        with pytest.raises(JournalError):
            kind(hub.folder / name)
    (hub.folder / "members.db").write_bytes(b"not a database" * 200)
    with pytest.raises(JournalError):
        Members(hub.folder / "members.db")


# ---------------------------------------------------------------- joining


def test_who_is_invited_joins_with_keys_made_at_home(hub: Hub) -> None:
    token, key, identity = hub.invite(), pki.make_key(), Identity.generate()
    at_site = Token.decode(token.encode(), NOW)
    request = JoinRequest.read(JoinRequest.make(at_site, key, identity).encode())
    answer = Joined.read(hub.accept(request, token.peer).encode())
    credentials = answer.credentials(at_site, key)
    peer = pki.peer_of(credentials.chain_pem)
    assert (peer.role, peer.name) == ("site", "padua")
    member = hub.members.check(peer, NOW, ("site",))
    assert (member.identity, member.joined, member.fingerprints) == (identity.public, NOW, (peer.fingerprint,))
    assert dict(hub.members.roster()) == {"padua": identity.public}


def test_no_private_key_is_in_what_an_institution_sends(hub: Hub) -> None:
    token, key, identity = hub.invite(), pki.make_key(), Identity.generate()
    sent = JoinRequest.make(token, key, identity).encode().decode()
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    for raw in (secret, identity.to_bytes(), token.key):
        assert raw.hex() not in sent and base64.b64encode(raw).decode()[:40] not in sent
    assert "PRIVATE" not in sent


def test_a_token_that_someone_used_first_is_refused_to_everyone_else(hub: Hub) -> None:
    token = hub.invite()
    hub.accept(JoinRequest.make(token, pki.make_key(), Identity.generate()), token.peer)
    with refused("identity-pinned"):
        hub.accept(JoinRequest.make(token, pki.make_key(), Identity.generate()), token.peer)
    hub.members.remove("padua", NOW)
    with refused("token-used"):
        hub.accept(JoinRequest.make(token, pki.make_key(), Identity.generate()), token.peer)


def test_an_answer_lost_on_its_way_is_given_again_to_the_same_keys_also_after_a_restart(hub: Hub) -> None:
    token, key, identity = hub.invite(), pki.make_key(), Identity.generate()
    first = hub.accept(JoinRequest.make(token, key, identity), token.peer)
    again = hub.restarted()
    assert again.accept(JoinRequest.make(token, key, identity), token.peer) == first
    assert len(again.members.find("padua").fingerprints) == 1


def test_a_coordinator_killed_between_token_and_member_makes_the_member_when_asked_again(hub: Hub) -> None:
    token, key, identity = hub.invite(), pki.make_key(), Identity.generate()
    request = JoinRequest.make(token, key, identity)
    made = pki.pem(hub.authority.issue(request.certificate_request(), "site", "padua", now=NOW))
    hub.invitations.redeem_for(request, made, NOW)
    assert hub.members.all() == ()
    assert hub.accept(request, token.peer).certificate == made.decode()
    assert hub.members.find("padua").identity == identity.public


def test_a_bad_request_does_not_use_the_token_up(hub: Hub) -> None:
    token, identity = hub.invite(), Identity.generate()
    request = JoinRequest.make(token, pki.make_key(), identity)
    with refused("join-signature"):
        hub.accept(request.model_copy(update={"identity": Identity.generate().public.hex()}), token.peer)
    assert len(hub.invitations.open_invitations(NOW)) == 1
    assert hub.accept(request, token.peer).name == "padua"


def test_every_part_of_a_request_is_bound_to_every_other(hub: Hub) -> None:
    token, other = hub.invite(), hub.invite("turin")
    request = JoinRequest.make(token, pki.make_key(), Identity.generate())
    theirs = JoinRequest.make(other, pki.make_key(), Identity.generate())
    for part in ("token", "csr", "identity", "identity_signature", "bootstrap", "bootstrap_signature"):
        mixed = request.model_copy(update={part: getattr(theirs, part)})
        with pytest.raises((EnrolmentError, NetworkError)):
            hub.accept(mixed, token.peer)
    assert len(hub.invitations.open_invitations(NOW)) == 2 and hub.members.all() == ()


def test_the_holder_of_one_token_cannot_use_another_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = hub.invite("turin"), hub.invite("padua")
    real = joining._statement
    monkeypatch.setattr(joining, "_statement", lambda ca, _, *rest: real(ca, theirs.peer.serial, *rest))
    honest = JoinRequest.make(mine, pki.make_key(), Identity.generate())
    with refused("token-mismatch"):
        hub.accept(honest.model_copy(update={"token": theirs.peer.serial}), mine.peer)
    assert len(hub.invitations.open_invitations(NOW)) == 2


def test_a_request_counts_only_over_the_connection_of_its_own_token(hub: Hub) -> None:
    token, other = hub.invite(), hub.invite("turin")
    request = JoinRequest.make(token, pki.make_key(), Identity.generate())
    with refused("token-mismatch"):
        hub.accept(request, other.peer)
    member = pki.peer_of(hub.join("leiden").certificate.encode())
    with refused("certificate-role"):
        hub.accept(request, member)
    with refused("certificate-expired"):
        hub.accept(request, token.peer, NOW + timedelta(days=8))


def test_a_request_made_for_another_federation_is_refused(hub: Hub, token: Token) -> None:
    with refused("certificate-authority"):
        hub.accept(JoinRequest.make(token, pki.make_key(), Identity.generate()), token.peer)


def test_the_tokens_own_key_gets_no_certificate(hub: Hub) -> None:
    token = hub.invite()
    with refused("own-key"):
        hub.accept(JoinRequest.make(token, token.bootstrap_key(), Identity.generate()), token.peer)


def test_an_institution_takes_no_answer_but_the_one_it_asked_for(hub: Hub, tmp_path: Path) -> None:
    token, key = hub.invite(), pki.make_key()
    answer = hub.accept(JoinRequest.make(token, key, Identity.generate()), token.peer)
    other = Authority.create(tmp_path / "other", "als-federation", now=NOW)
    renamed = hub.authority.issue(key.public_key(), "site", "turin", now=NOW)
    foreign = other.issue(key.public_key(), "site", "padua", now=NOW)
    for certificate, ca in ((renamed, hub.authority), (foreign, other)):
        changed = {"certificate": pki.pem(certificate).decode(), "ca": ca.ca_pem.decode()}
        with refused("join-answer"):
            answer.model_copy(update=changed).credentials(token, key)
    with refused("key-mismatch"):
        answer.credentials(token, pki.make_key())


@given(st.binary(max_size=100) | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_messages_that_are_none_are_named_errors_without_what_was_sent(noise: bytes) -> None:
    for kind in (JoinRequest, Joined, accepting.JoinRequests, accepting.JoinAnswers):
        with refused("join-message"):
            kind.read(noise)


@pytest.mark.parametrize("change", [{"token": "0" * 33}, {"token": "0" * 31 + "\n"}, {"csr": "x" * 5000}, {"more": 1}])
def test_oversize_and_unknown_parts_of_a_request_are_refused(hub: Hub, change: dict[str, object]) -> None:
    request = JoinRequest.make(hub.invite(), pki.make_key(), Identity.generate())
    with refused("join-message"):
        JoinRequest.read(json.dumps({**request.model_dump(), **change}).encode())


# ---------------------------------------------------------------- the authority's key apart


@pytest.fixture
def apart(hub: Hub, tmp_path: Path) -> Hub:
    """The running coordinator of `hub`'s federation, without the authority's key."""
    folder = tmp_path / "running"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(hub.authority.ca_pem)
    return opened(folder)


def waiting(hub: Hub, apart: Hub, name: str = "padua") -> tuple[Token, JoinRequest]:
    """A token made where the key is, and its request stored where the coordinator runs."""
    token = Token.make(hub.authority, ADDRESS, "site", name, now=NOW)
    apart.invitations.add(token.certificate_pem, apart.authority)
    request = JoinRequest.make(token, pki.make_key(), Identity.generate())
    with refused("join-pending"):
        apart.accept(request, token.peer)
    return token, request


def test_with_the_key_apart_the_request_goes_out_as_a_file_and_the_certificate_comes_back(hub: Hub, apart: Hub) -> None:
    token, request = waiting(hub, apart)
    out = accepting.pending_requests(apart.invitations, NOW).encode()
    back = accepting.accept_pending(accepting.JoinRequests.read(out), hub.authority, NOW).encode()
    answers = accepting.JoinAnswers.read(back)
    joined, turned_away = accepting.finish_pending(answers, apart.invitations, apart.authority, apart.members, NOW)
    assert [one.name for one in joined] == ["padua"] and turned_away == ()
    assert apart.accept(request, token.peer) == joined[0]
    assert apart.invitations.waiting() == ()
    assert dict(apart.members.roster()) == {"padua": bytes.fromhex(request.identity)}
    assert accepting.finish_pending(answers, apart.invitations, apart.authority, apart.members, NOW) == ((), ())


def test_a_stored_request_still_uses_the_token_up(hub: Hub, apart: Hub) -> None:
    token, _ = waiting(hub, apart)
    with refused("token-used"):
        apart.accept(JoinRequest.make(token, pki.make_key(), Identity.generate()), token.peer)


def test_a_coordinator_cannot_invent_a_site_where_the_key_is(hub: Hub, apart: Hub) -> None:
    token, request = waiting(hub, apart)
    own = Identity.generate()
    stolen = Token(
        token.address, token.ca, token.certificate, pki.make_key().private_numbers().private_value.to_bytes(32, "big")
    )
    invented = JoinRequest.make(stolen, pki.make_key(), own)  # it knows the token's certificate, not its key
    _, honest = waiting(hub, apart, "turin")
    answers = accepting.accept_pending(accepting.JoinRequests(requests=(invented, honest, honest)), hub.authority, NOW)
    assert list(answers.certificates) == [honest.token]
    assert [(one.token, one.rule) for one in answers.refused] == [
        (request.token, "join-signature"),
        (honest.token, "token-used"),
    ]


def test_requests_whose_token_expired_while_they_waited_are_not_carried_nor_signed(hub: Hub, apart: Hub) -> None:
    _, request = waiting(hub, apart)
    late = NOW + timedelta(days=8)
    assert accepting.pending_requests(apart.invitations, late).requests == ()
    answers = accepting.accept_pending(accepting.JoinRequests(requests=(request,)), hub.authority, late)
    assert [one.rule for one in answers.refused] == ["certificate-expired"] and not answers.certificates


def test_a_certificate_for_another_key_or_of_another_authority_is_not_taken_back(
    hub: Hub, apart: Hub, tmp_path: Path
) -> None:
    _, request = waiting(hub, apart)
    other = Authority.create(tmp_path / "other", "als-federation", now=NOW)
    swapped = hub.authority.issue(pki.make_key().public_key(), "site", "padua", now=NOW)
    foreign = other.issue(request.certificate_request(), "site", "padua", now=NOW)
    renamed = hub.authority.issue(request.certificate_request().public_key(), "site", "turin", now=NOW)  # type: ignore[arg-type]
    for certificate, rule in ((swapped, "join-answer"), (foreign, "certificate-authority"), (renamed, "join-request")):
        answers = accepting.JoinAnswers(certificates={request.token: pki.pem(certificate).decode()})
        joined, turned = accepting.finish_pending(answers, apart.invitations, apart.authority, apart.members, NOW)
        assert joined == () and [one.rule for one in turned] == [rule]
    assert apart.members.all() == () and len(apart.invitations.waiting()) == 1


# ---------------------------------------------------------------- members


def test_a_name_keeps_its_identity_until_it_is_removed(hub: Hub) -> None:
    first, second = Identity.generate(), Identity.generate()
    hub.join("padua", identity=first)
    with refused("identity-pinned"):
        hub.join("padua", identity=second)
    with refused("identity-pinned"):
        hub.join("turin", identity=first)
    with refused("identity-pinned"):
        hub.join("padua", role="researcher", identity=first)
    hub.members.remove("padua", NOW)
    hub.join("padua", identity=second)
    assert dict(hub.restarted().members.roster()) == {"padua": second.public}


def test_joining_again_with_the_same_identity_adds_a_certificate(hub: Hub) -> None:
    identity = Identity.generate()
    hub.join("padua", identity=identity)
    hub.join("padua", identity=identity)
    assert len(hub.members.find("padua").fingerprints) == 2 and len(hub.members.all()) == 1


def test_only_sites_are_in_the_roster(hub: Hub) -> None:
    for name, role in (("turin", "site"), ("rossi", "researcher"), ("leiden", "site"), ("ops", "operator")):
        hub.join(name, role)  # type: ignore[arg-type]
    assert hub.members.roster().sites == ("leiden", "turin")


def test_a_revoked_site_leaves_the_roster_and_its_certificate_opens_nothing(hub: Hub) -> None:
    identity = Identity.generate()
    peer = pki.peer_of(hub.join("padua", identity=identity).certificate.encode())
    hub.join("turin")
    assert hub.members.revoke("padua", NOW) == (peer.fingerprint,)
    again = hub.restarted()
    with refused("certificate-revoked"):
        again.members.check(peer, NOW)
    assert again.members.roster().sites == ("turin",)
    assert again.members.find("padua").revoked == NOW and again.members.revoked() == {peer.fingerprint}
    with refused("member-revoked"):
        again.join("padua", identity=identity)


def test_a_fingerprint_read_over_the_telephone_revokes_that_key_with_its_renewals_and_no_other(hub: Hub) -> None:
    identity = Identity.generate()
    old, new = (pki.certificate_of(hub.join("padua", identity=identity).certificate.encode()) for _ in range(2))
    renewed = hub.authority.renewed(old, now=NOW)
    hub.members.renewed(renewed, NOW)
    closed = hub.members.revoke(pki.grouped(pki.fingerprint(old)).upper(), NOW)
    assert set(closed) == {pki.fingerprint(old), pki.fingerprint(renewed)}
    assert hub.members.find("padua").revoked is None
    assert hub.members.check(pki.peer_of(pki.pem(new)), NOW).name == "padua"
    with refused("member-unknown"):
        hub.members.renewed(hub.authority.renewed(old, now=NOW), NOW)
    hub.members.revoke(pki.fingerprint(new), NOW)
    assert hub.members.find("padua").revoked == NOW


def test_a_removed_member_does_not_come_back_by_repeating_its_request(hub: Hub) -> None:
    token, key, identity = hub.invite(), pki.make_key(), Identity.generate()
    request = JoinRequest.make(token, key, identity)
    hub.accept(request, token.peer)
    hub.members.remove("padua", NOW)
    with refused("certificate-revoked"):
        hub.accept(request, token.peer)
    assert hub.members.all() == ()


def test_a_certificate_that_the_authority_made_elsewhere_opens_nothing(hub: Hub) -> None:
    hub.join("padua")
    for name in ("padua", "turin"):
        stray = hub.authority.issue(pki.make_key().public_key(), "site", name, now=NOW)
        with refused("member-unknown"):
            hub.members.check(pki.peer_of(pki.pem(stray)), NOW)


def test_whom_nobody_knows_cannot_be_revoked_or_removed(hub: Hub) -> None:
    for tried in (hub.members.revoke, hub.members.remove):
        with refused("member-unknown"):
            tried("padua", NOW)


def test_of_many_who_join_under_one_name_at_once_one_identity_stays(hub: Hub) -> None:
    certificates = [hub.authority.issue(pki.make_key().public_key(), "site", "padua", now=NOW) for _ in range(6)]
    outcomes: list[str] = []

    def attempt(certificate: x509.Certificate) -> None:
        try:
            hub.members.add("site", "padua", Identity.generate().public, certificate, NOW)
            outcomes.append("joined")
        except EnrolmentError as error:
            outcomes.append(error.rule)

    threads = [threading.Thread(target=attempt, args=(one,)) for one in certificates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["identity-pinned"] * 5 + ["joined"]


def test_lists_are_on_disk_when_a_change_returns(hub: Hub) -> None:
    hub.join("padua")
    for name in ("invitations.db", "members.db"):
        with sqlite3.connect(hub.folder / name) as db:
            assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert hub.members._db.execute("PRAGMA synchronous").fetchone()[0] == 2


# ---------------------------------------------------------------- verified out of band


def test_a_mark_holds_for_the_key_that_was_verified_and_no_other(tmp_path: Path) -> None:
    keys = {name: Identity.generate().public for name in ("leiden", "padua", "turin")}
    verified = Verified(tmp_path / "verified.json")
    assert verified.verified(Roster(keys)) == set()
    verified.mark("padua", keys["padua"], "read aloud by telephone", "Dr Rossi", NOW)
    verified.mark("turin", keys["turin"], "published at turin.example.org", "Dr Rossi", NOW)
    again = Verified(tmp_path / "verified.json")
    assert again.verified(Roster(keys)) == {"padua", "turin"}
    assert again.marks()["padua"].when == NOW
    swapped = Roster({**keys, "padua": Identity.generate().public})
    assert again.verified(swapped) == {"turin"}
    assert stat.S_IMODE((tmp_path / "verified.json").stat().st_mode) == 0o600


def test_an_incomplete_mark_or_a_damaged_file_is_refused(tmp_path: Path) -> None:
    verified = Verified(tmp_path / "verified.json")
    key = Identity.generate().public
    for how, by, when in (("", "x", NOW), ("x", "", NOW), ("x", "y", NOW.replace(tzinfo=None))):
        with refused("verified-mark"):
            verified.mark("padua", key, how, by, when)
    with pytest.raises(ProtocolError):
        verified.mark("padua", b"short", "x", "y", NOW)
    (tmp_path / "verified.json").write_text('{"marks": {"padua": {}}}')
    with pytest.raises(EnrolmentError):
        verified.verified(Roster({"padua": key}))
