"""Certificates for an hour on loopback: an authority of the benchmark's own, one server, one client. Needs cryptography."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = datetime.timedelta(hours=1)
_SLACK = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Certificates:
    """PEM files. The server is ``localhost`` and ``127.0.0.1``."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def certificates(folder: Path) -> Certificates:
    """Make them anew in `folder`, which is made as well."""
    folder.mkdir(mode=0o700)
    paths = Certificates(
        *(folder / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"))
    )
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark authority")])
    authority = _certificate(issuer, key.public_key(), issuer, key, None)
    paths.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    for use, name, at, key_at in (
        (server, "localhost", paths.server, paths.server_key),
        (client, "site", paths.client, paths.client_key),
    ):
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        at.write_bytes(
            _certificate(subject, own.public_key(), issuer, key, use).public_bytes(serialization.Encoding.PEM)
        )
        key_at.touch(mode=0o600)
        key_at.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return paths


def _certificate(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    use: x509.ObjectIdentifier | None,
) -> x509.Certificate:
    """use: what an end's certificate is for; None is the authority itself."""
    now = datetime.datetime.now(datetime.UTC)
    signs = use is None
    builder = (
        x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), now - _SLACK, now + _VALID)
        .add_extension(x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True)
        .add_extension(_key_usage(signs), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if use is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    if use == ExtendedKeyUsageOID.SERVER_AUTH:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def _key_usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
