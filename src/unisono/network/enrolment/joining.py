"""At the institution: the request to join, what is signed in it, and the coordinator's answer."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.enrolment.message import Hex16, Hex32, Message, Pem
from unisono.network.enrolment.refusals import NEW_TOKEN, refused
from unisono.network.enrolment.token import JOINING, Token
from unisono.network.pki import Credentials, Peer, Role
from unisono.protection.secagg.roster import Identity


class JoinRequest(Message):
    """What an institution sends to join: public keys, and signatures by all three private ones. Nothing in it is secret."""

    token: Hex16
    csr: Pem
    identity: Hex32
    """The Ed25519 public key, hexadecimal: what the roster will list and permits pin."""
    identity_signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    bootstrap: Pem
    """The token's certificate, so that the request can be judged where the coordinator's memory is not."""
    bootstrap_signature: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,72}$")]

    @classmethod
    def make(cls, token: Token, tls_key: pki.PrivateKey, identity: Identity) -> JoinRequest:
        """The request of whoever holds the token. Made again with the same keys, it is the same request to the coordinator."""
        peer = token.peer
        request = pki.csr(tls_key, cast(Role, peer.invites), peer.name)
        said = _statement(token.ca_fingerprint, peer.serial, request, identity.public)
        return cls(
            token=peer.serial,
            csr=request.public_bytes(Encoding.PEM).decode("ascii"),
            identity=identity.public.hex(),
            identity_signature=identity.sign(said).hex(),
            bootstrap=token.certificate_pem.decode("ascii"),
            bootstrap_signature=token.bootstrap_key().sign(said, ec.ECDSA(hashes.SHA256())).hex(),
        )

    def verify(self, authority: Authority) -> Peer:
        """Who the authority invited, if the token's, the TLS and the identity key all signed this request. `EnrolmentError` or
        `NetworkError` otherwise. Not checked: the time, and whether the token was used."""
        bootstrap = pki.certificate_of(self.bootstrap.encode())
        authority.verify(bootstrap)
        peer = pki.peer_of(self.bootstrap.encode())
        if peer.role != "invited" or peer.invites not in JOINING or peer.serial != self.token:
            raise refused("The request was not made with the token that it names.", "token-mismatch", NEW_TOKEN)
        request = self.certificate_request()
        key = pki.verify_request(request, peer.invites, peer.name)
        bootstrap_key = cast(pki.PublicKey, bootstrap.public_key())
        if pki.spki(key) == pki.spki(bootstrap_key):
            raise refused(
                "The request is for the token's own key, which was not made at the institution.",
                "own-key",
                "Let Unisono make a key there: unisono site join.",
            )
        said = _statement(authority.fingerprint, self.token, request, bytes.fromhex(self.identity))
        try:
            bootstrap_key.verify(bytes.fromhex(self.bootstrap_signature), said, ec.ECDSA(hashes.SHA256()))
            identity = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.identity))
            identity.verify(bytes.fromhex(self.identity_signature), said)
        except (InvalidSignature, ValueError) as error:
            raise refused(
                f"The request to join as {peer.name!r} is not signed by the token's key and by its own identity.",
                "join-signature",
                "Someone changed it on its way, or a key was exchanged: join again, and compare the fingerprints.",
            ) from error
        return peer

    def certificate_request(self) -> x509.CertificateSigningRequest:
        """The CSR. `NetworkError` if it is none."""
        return pki.csr_of(self.csr.encode())

    @property
    def holder(self) -> str:
        """A digest of the keys that ask: the same for a request that is made and sent again."""
        key = pki.spki(self.certificate_request().public_key())
        return hashlib.sha256(key + bytes.fromhex(self.identity)).hexdigest()


class Joined(Message):
    """The coordinator's answer: the certificate for the institution's own key, and the authority's."""

    role: Literal["site", "researcher", "operator"]
    name: str
    identity: Hex32
    certificate: Pem
    ca: Pem

    def credentials(self, token: Token, tls_key: pki.PrivateKey) -> Credentials:
        """At the institution: what to keep and to dial with from now on. `EnrolmentError` unless it is what was asked for:
        the token's authority, role and name, and the institution's own key."""
        credentials = Credentials(pki.private_pem(tls_key), self.certificate.encode(), self.ca.encode()).checked()
        ours = pki.certificate_of(credentials.ca_pem).public_bytes(Encoding.DER) == token.ca
        peer, invited = pki.peer_of(credentials.chain_pem), token.peer
        if not ours or (peer.role, peer.name) != (invited.invites, invited.name):
            raise refused(
                "The coordinator answered with another authority, role or name than the token's.",
                "join-answer",
                "Do not go on: compare the authority's fingerprint with the operator by telephone.",
            )
        return credentials


def _statement(ca_fingerprint: str, token: str, request: x509.CertificateSigningRequest, identity: bytes) -> bytes:
    """What the token's key and the identity sign: bound to one federation, one token, one TLS key and one identity."""
    csr = hashlib.sha256(request.public_bytes(Encoding.DER)).hexdigest()
    return json.dumps(["unisono join 1", ca_fingerprint, token, csr, identity.hex()]).encode()
