"""The authority's certificates, read back and used in real TLS handshakes; and the word-code of a roster."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from unisono.errors import EnrolmentError, NetworkError, StorageError
from unisono.network import pki, wordcode
from unisono.network.authority import Authority
from unisono.network.pki import Credentials, Role
from unisono.protection.secagg.roster import Identity, Roster

NOW = datetime.now(UTC).replace(microsecond=0)  # OpenSSL reads this machine's clock; everything else is told the time


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"), "als-federation", now=NOW)


def credentials(
    authority: Authority, role: Role, name: str, *, now: datetime = NOW, days: float = 30, hosts: tuple[str, ...] = ()
) -> Credentials:
    key = pki.make_key()
    certificate = authority.issue(pki.csr(key, role, name), role, name, now=now, days=days, hosts=hosts)
    return Credentials(pki.private_pem(key), pki.pem(certificate), authority.ca_pem)


# ---------------------------------------------------------------- real TLS


@dataclass
class Handshake:
    """What came of it at each end: the peer that the server saw, or the errors."""

    peer: pki.Peer | None = None
    server: ssl.SSLError | OSError | None = None
    client: ssl.SSLError | OSError | None = None


def context(purpose: int, creds: Credentials, folder: Path) -> ssl.SSLContext:
    creds.save(folder)
    made = ssl.SSLContext(purpose)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=creds.ca_pem.decode())
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    return made


def handshake(server: Credentials, client: Credentials, folder: Path, host: str = "localhost") -> Handshake:
    at_server = context(ssl.PROTOCOL_TLS_SERVER, server, folder / "server")
    at_client = context(ssl.PROTOCOL_TLS_CLIENT, client, folder / "client")
    ours, theirs = socket.socketpair()
    seen = Handshake()

    def serve() -> None:
        try:
            with at_server.wrap_socket(ours, server_side=True) as tls:
                der = tls.getpeercert(binary_form=True)
                assert der is not None
                seen.peer = pki.peer_of(ssl.DER_cert_to_PEM_cert(der).encode())
                tls.sendall(b"welcome")
        except (ssl.SSLError, OSError) as error:
            seen.server = error
        finally:
            ours.close()

    for end in (ours, theirs):
        end.settimeout(10)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with at_client.wrap_socket(theirs, server_hostname=host) as tls:
            if tls.recv(7) != b"welcome":
                raise ConnectionResetError
    except (ssl.SSLError, OSError) as error:
        seen.client = error
    finally:
        theirs.close()
        thread.join()
    return seen


@pytest.mark.parametrize("role", ["site", "researcher", "operator"])
def test_a_member_is_known_by_role_and_name_after_a_mutual_handshake(
    authority: Authority, tmp_path: Path, role: Role
) -> None:
    seen = handshake(
        credentials(authority, "coordinator", "hub", hosts=("localhost",)),
        credentials(authority, role, "padua"),
        tmp_path,
    )
    assert (seen.server, seen.client) == (None, None)
    assert seen.peer is not None and (seen.peer.role, seen.peer.name) == (role, "padua")
    pki.check(seen.peer, NOW, roles=(role,))


def test_the_coordinator_is_reached_by_the_hosts_of_its_certificate_and_no_other(
    authority: Authority, tmp_path: Path
) -> None:
    hub = credentials(authority, "coordinator", "hub", hosts=("hub.example.org", "10.0.0.7", "::1"))
    site = credentials(authority, "site", "padua")
    for host in ("hub.example.org", "10.0.0.7", "::1"):
        assert handshake(hub, site, tmp_path, host).client is None
    assert isinstance(handshake(hub, site, tmp_path, "other.example.org").client, ssl.SSLCertVerificationError)


def test_a_site_cannot_stand_in_for_the_coordinator(authority: Authority, tmp_path: Path) -> None:
    site = credentials(authority, "site", "padua")
    seen = handshake(site, credentials(authority, "site", "turin"), tmp_path)
    assert isinstance(seen.client, ssl.SSLCertVerificationError) and seen.peer is None


def test_certificates_of_another_authority_are_refused_at_both_ends(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "als-federation", now=NOW)  # even under the same name
    hub = credentials(authority, "coordinator", "hub", hosts=("localhost",))
    stranger = credentials(other, "site", "padua")
    assert isinstance(handshake(hub, stranger, tmp_path).client, ssl.SSLCertVerificationError)
    trusting = Credentials(stranger.key_pem, stranger.chain_pem, authority.ca_pem)
    seen = handshake(hub, trusting, tmp_path)
    assert isinstance(seen.server, ssl.SSLCertVerificationError) and seen.peer is None and seen.client is not None


def test_an_expired_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    hub = credentials(authority, "coordinator", "hub", hosts=("localhost",))
    late = credentials(authority, "site", "padua", now=NOW - timedelta(days=10), days=5)
    assert isinstance(handshake(hub, late, tmp_path).server, ssl.SSLCertVerificationError)
    with pytest.raises(NetworkError) as refused:
        pki.check(pki.peer_of(late.chain_pem), NOW)
    assert refused.value.rule == "certificate-expired"


def test_a_certificate_with_another_key_is_refused_before_it_is_used(authority: Authority, tmp_path: Path) -> None:
    good, other = (credentials(authority, "site", name) for name in ("padua", "turin"))
    swapped = Credentials(other.key_pem, good.chain_pem, authority.ca_pem)
    with pytest.raises(ssl.SSLError):
        context(ssl.PROTOCOL_TLS_CLIENT, swapped, tmp_path)
    with pytest.raises(NetworkError) as refused:
        Credentials.load(tmp_path)
    assert refused.value.rule == "key-mismatch"


# ---------------------------------------------------------------- files and keys


def test_private_keys_are_files_of_mode_0600_and_are_never_printed(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", "hub", now=NOW)
    site = credentials(authority, "site", "padua")
    site.save(tmp_path / "padua")
    for path in (tmp_path / "ca" / "ca.key", tmp_path / "padua" / "tls.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(site)
    assert Credentials.load(tmp_path / "padua") == site


def test_an_authority_is_never_overwritten_and_opens_as_it_was_made(tmp_path: Path) -> None:
    made = Authority.create(tmp_path, "hub", now=NOW)
    with pytest.raises(NetworkError) as refused:
        Authority.create(tmp_path, "hub", now=NOW)
    assert refused.value.rule == "one-authority"
    again = Authority.open(tmp_path)
    assert again.fingerprint == made.fingerprint and again.can_issue


def test_without_its_key_an_authority_verifies_but_does_not_issue(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "apart", "hub", now=NOW)
    (tmp_path / "ca.pem").write_bytes(made.ca_pem)
    running = Authority.open(tmp_path)
    running.verify(pki.certificate_of(credentials(made, "site", "padua").chain_pem))
    with pytest.raises(NetworkError) as refused:
        credentials(running, "site", "padua")
    assert refused.value.rule == "authority-apart"
    with pytest.raises(StorageError):
        Authority.open(tmp_path / "nowhere")


def test_an_authority_whose_key_is_anothers_is_refused(tmp_path: Path) -> None:
    Authority.create(tmp_path / "one", "hub", now=NOW)
    Authority.create(tmp_path / "two", "hub", now=NOW)
    (tmp_path / "one" / "ca.key").write_bytes((tmp_path / "two" / "ca.key").read_bytes())
    with pytest.raises(NetworkError) as refused:
        Authority.open(tmp_path / "one")
    assert refused.value.rule == "key-mismatch"


# ---------------------------------------------------------------- what a certificate says


def test_certificates_are_version_3_with_the_extensions_that_strict_verifiers_want(authority: Authority) -> None:
    leaf = pki.certificate_of(credentials(authority, "site", "padua").chain_pem)
    assert leaf.version is x509.Version.v3
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca and constraints.path_length == 0
    issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    subject = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert issuer == subject
    assert leaf.not_valid_before_utc == NOW - pki.SKEW


def test_serial_numbers_are_random_and_of_128_bits(authority: Authority) -> None:
    key = pki.make_key().public_key()
    serials = {authority.issue(key, "site", "padua", now=NOW).serial_number for _ in range(20)}
    assert len(serials) == 20 and all(0 < serial < 2**128 for serial in serials) and max(serials) > 2**120


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    short = Authority.create(tmp_path, "hub", now=NOW, days=10)
    leaf = pki.certificate_of(credentials(short, "site", "padua", days=365).chain_pem)
    assert leaf.not_valid_after_utc == short.certificate.not_valid_after_utc
    with pytest.raises(NetworkError) as refused:
        credentials(short, "site", "padua", now=NOW + timedelta(days=11))
    assert refused.value.rule == "authority-expired"


@pytest.mark.parametrize("name", ["", "Padua", "padua/turin", "padua\n", "../padua", "p" * 64, "pådua"])
def test_a_name_that_is_no_name_gets_no_certificate(authority: Authority, name: str) -> None:
    with pytest.raises(NetworkError) as refused:
        authority.issue(pki.make_key().public_key(), "site", name, now=NOW)
    assert refused.value.rule == "names"


@pytest.mark.parametrize("host", ["", "*.example.org", "hub example", "hub:443", "-hub", "hüb.org", "a" * 300])
def test_a_host_that_is_no_host_gets_no_certificate(authority: Authority, host: str) -> None:
    with pytest.raises(NetworkError) as refused:
        credentials(authority, "coordinator", "hub", hosts=(host,))
    assert refused.value.rule == "host-names"


def test_only_a_coordinator_has_hosts(authority: Authority) -> None:
    for role, hosts in (("coordinator", ()), ("site", ("localhost",)), ("invited", ())):
        with pytest.raises(NetworkError) as refused:
            authority.issue(pki.make_key().public_key(), role, "hub", now=NOW, hosts=hosts)  # type: ignore[arg-type]
        assert refused.value.rule == "certificate-request"


def test_a_request_for_another_role_or_name_than_the_invitation_is_refused(authority: Authority) -> None:
    request = pki.csr(pki.make_key(), "operator", "padua")
    for role, name in (("site", "padua"), ("operator", "turin")):
        with pytest.raises(NetworkError) as refused:
            authority.issue(request, role, name, now=NOW)  # type: ignore[arg-type]
        assert refused.value.rule == "certificate-request"


def test_a_request_that_its_own_key_did_not_sign_is_refused(authority: Authority) -> None:
    mine, theirs = (pki.csr(pki.make_key(), "site", "padua") for _ in range(2))
    swapped = mine.public_bytes(Encoding.DER).replace(pki.spki(mine.public_key()), pki.spki(theirs.public_key()))
    with pytest.raises(NetworkError) as refused:
        authority.issue(x509.load_der_x509_csr(swapped), "site", "padua", now=NOW)
    assert refused.value.rule == "certificate-request"


@pytest.mark.parametrize("kind", ["rsa", "p384"])
def test_only_keys_on_p256_are_certified(authority: Authority, kind: str) -> None:
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(NetworkError) as refused:
        authority.issue(key.public_key(), "site", "padua", now=NOW)  # type: ignore[arg-type]
    assert refused.value.rule == "key-kind"


def foreign_certificate(*uris: str) -> bytes:
    key = pki.make_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return pki.pem(builder.sign(key, hashes.SHA256()))


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://example.org",),
        ("unisono:king/padua",),
        ("unisono:site/PADUA",),
        ("unisono:site/padua", "unisono:operator/padua"),
        ("unisono:invited/padua",),
        ("unisono:site/padua\n",),
    ],
)
def test_a_certificate_that_names_nobody_or_two_is_nobodys(uris: tuple[str, ...]) -> None:
    with pytest.raises(NetworkError) as refused:
        pki.peer_of(foreign_certificate(*uris))
    assert refused.value.rule == "certificate-form"


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_key_or_request_are_named_errors(noise: bytes) -> None:
    wrapped = b"-----BEGIN CERTIFICATE-----\n" + noise + b"\n-----END CERTIFICATE-----\n"
    for read in (pki.peer_of, pki.certificate_of, pki.private_key_of, pki.csr_of):
        for content in (noise, wrapped):
            with pytest.raises(NetworkError):
                read(content)


def test_check_says_which_rule_a_peer_breaks(authority: Authority) -> None:
    peer = pki.peer_of(credentials(authority, "site", "padua").chain_pem)
    cases = {
        "certificate-revoked": lambda: pki.check(peer, NOW, {peer.fingerprint}),
        "certificate-not-yet-valid": lambda: pki.check(peer, NOW - timedelta(days=1)),
        "certificate-expired": lambda: pki.check(peer, peer.not_after),
        "certificate-role": lambda: pki.check(peer, NOW, roles=("operator", "researcher")),
    }
    for rule, tried in cases.items():
        with pytest.raises(NetworkError) as refused:
            tried()
        assert refused.value.rule == rule and "'padua'" in refused.value.what and refused.value.remedy
    pki.check(peer, NOW, {"0" * 64}, ("site",))
    pki.check(peer, NOW - pki.SKEW)


def test_a_fingerprint_is_sha256_of_the_certificate_and_can_be_read_aloud(authority: Authority) -> None:
    spoken = pki.grouped(authority.fingerprint)
    assert len(authority.fingerprint) == 64 and len(spoken.split()) == 16
    assert pki.ungrouped(spoken.upper().replace(" ", ":")) == authority.fingerprint


# ---------------------------------------------------------------- renewal


def test_renewal_is_due_in_the_last_third_of_a_certificates_life(authority: Authority) -> None:
    certificate = pki.certificate_of(credentials(authority, "site", "padua", days=30).chain_pem)
    assert not pki.expires_soon(certificate, NOW + timedelta(days=19))
    assert pki.expires_soon(certificate, NOW + timedelta(days=21))


def test_a_renewed_certificate_is_for_the_same_key_name_and_hosts_and_lasts_longer(authority: Authority) -> None:
    hub = credentials(authority, "coordinator", "hub", hosts=("localhost", "10.0.0.7"))
    old, later = pki.certificate_of(hub.chain_pem), NOW + timedelta(days=25)
    new = authority.renewed(old, now=later, days=30)
    before, after = pki.peer_of(pki.pem(old)), pki.peer_of(pki.pem(new))
    assert (after.role, after.name) == (before.role, before.name) and after.fingerprint != before.fingerprint
    assert after.not_after == later + timedelta(days=30)
    assert Credentials(hub.key_pem, pki.pem(new), hub.ca_pem).checked()
    hosts = new.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in hosts.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]


def test_what_is_expired_revoked_invited_or_anothers_is_not_renewed(authority: Authority, tmp_path: Path) -> None:
    site = pki.certificate_of(credentials(authority, "site", "padua").chain_pem)
    invited = authority.issue(pki.make_key().public_key(), "invited", "padua", now=NOW, invites="site")
    foreign = credentials(Authority.create(tmp_path, "x", now=NOW), "site", "padua")
    cases = {
        "certificate-expired": lambda: authority.renewed(site, now=NOW + timedelta(days=31)),
        "certificate-revoked": lambda: authority.renewed(site, now=NOW, revoked={pki.fingerprint(site)}),
        "certificate-role": lambda: authority.renewed(invited, now=NOW),
        "certificate-authority": lambda: authority.renewed(pki.certificate_of(foreign.chain_pem), now=NOW),
    }
    for rule, tried in cases.items():
        with pytest.raises(NetworkError) as refused:
            tried()
        assert refused.value.rule == rule


# ---------------------------------------------------------------- the word-code


def test_words_are_the_proquints_of_the_paper() -> None:
    assert wordcode.encode(bytes([127, 0, 0, 1])) == "lusab-babad"
    assert wordcode.encode(bytes([63, 84, 220, 193])) == "gutih-tugad"
    assert wordcode.word_code("7f0000013f54dcc1" + "0" * 48, 64) == "lusab-babad-gutih-tugad"
    assert wordcode.word_code("7f0000013f54dcc1" * 4) == "-".join(["lusab-babad-gutih-tugad"] * 2)


@given(st.binary(min_size=2, max_size=32).filter(lambda data: len(data) % 2 == 0))
def test_words_and_bytes_go_to_each_other(data: bytes) -> None:
    words = wordcode.encode(data)
    assert wordcode.decode(words) == data
    assert wordcode.same_words(words, words.upper().replace("-", "  "))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_word_codes_are_equal_only_where_the_first_bits_are(one: bytes, other: bytes) -> None:
    for bits in (wordcode.BITS, 128):
        same = wordcode.same_words(wordcode.word_code(one.hex(), bits), wordcode.word_code(other.hex(), bits))
        assert same == (one[: bits // 8] == other[: bits // 8])


def test_a_changed_key_changes_the_rosters_words() -> None:
    keys = {name: Identity(bytes([k]) * 32).public for k, name in enumerate(("leiden", "padua", "turin"), 1)}
    swapped = {**keys, "padua": Identity(b"\x09" * 32).public}
    assert wordcode.word_code(Roster(keys).digest) != wordcode.word_code(Roster(swapped).digest)


@pytest.mark.parametrize("text", ["", "lusab-babax", "lusa", "lusab-12345", "lusab-babadd"])
def test_what_is_no_word_is_named(text: str) -> None:
    with pytest.raises(EnrolmentError) as refused:
        wordcode.decode(text)
    assert refused.value.rule == "word-code" and not wordcode.same_words(text, text)


@pytest.mark.parametrize(
    ("digest", "bits"), [("ab", 64), ("g" * 64, 64), ("a" * 64, 60), ("a" * 64, 272), ("a" * 64, 0)]
)
def test_a_word_code_is_made_of_whole_words_of_a_digest(digest: str, bits: int) -> None:
    with pytest.raises(EnrolmentError):
        wordcode.word_code(digest, bits)
