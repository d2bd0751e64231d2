"""Credentials that a platform on this machine makes for itself, in files of its home that only the owner can read."""

import ipaddress
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firsttoken.settings import Settings
from serving.origins import is_loopback
from storage_tiers.plain_files import whole

PREFECT_AUTH_FILE = "prefect.auth"
TLS_FOLDER = "tls"
AUTHORITY_LIVES, CERTIFICATE_LIVES = timedelta(days=3650), timedelta(days=397)
RENEWED_BEFORE = timedelta(days=180)
"""A platform reads its certificate when it starts, and may then run for long."""


def with_prefect_auth(settings: Settings) -> Settings:
    """`settings` with a user and password for Prefect where others reach it and none are set; they stay the same."""
    if settings.prefect.auth or is_loopback(settings.prefect.host):
        return settings
    path = settings.home / PREFECT_AUTH_FILE
    try:
        auth = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        auth = f"firsttoken:{secrets.token_urlsafe(24)}"
        with whole(path, mode=0o600) as file:
            file.write(auth.encode() + b"\n")
    return settings.model_copy(update={"prefect": settings.prefect.model_copy(update={"auth": auth})})


def with_certificates(settings: Settings, now: datetime) -> Settings:
    """`settings` with certificates of the home where none are set: made if there are none, renewed in good time."""
    if settings.cluster.tls_ca:
        return settings
    folder = settings.home / TLS_FOLDER
    names = ("localhost", "127.0.0.1", settings.cluster.host, settings.cluster.scheduler_host)
    ca, cert, key = _ensure_certificates(folder, tuple(dict.fromkeys(names)), now)
    files = {"tls_ca": str(ca), "tls_cert": str(cert), "tls_key": str(key)}
    return settings.model_copy(update={"cluster": settings.cluster.model_copy(update=files)})


@dataclass(frozen=True)
class _Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def lasts(self, now: datetime, issuer: "_Pair | None" = None) -> bool:
        """Whether it is good for long enough, and the issuer's (its own, if it is an authority)."""
        try:
            self.certificate.verify_directly_issued_by((issuer or self).certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        own = self.certificate.public_key() == self.key.public_key()
        return (
            own and self.certificate.not_valid_before_utc <= now < self.certificate.not_valid_after_utc - RENEWED_BEFORE
        )

    def write(self, certificate: Path, key: Path) -> None:
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for path, content in ((key, pem), (certificate, self.certificate.public_bytes(Encoding.PEM))):
            with whole(path, mode=0o600) as file:
                file.write(content)


def _ensure_certificates(folder: Path, names: Sequence[str], now: datetime) -> tuple[Path, Path, Path]:
    """The authority's certificate, ours and its key."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, ca_key, cert, key = (folder / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem"))
    authority = _read(ca, ca_key)
    if authority is None or not authority.lasts(now):
        authority = _make_authority(now)
        authority.write(ca, ca_key)
    certificate = _read(cert, key)
    if certificate is None or not certificate.lasts(now, authority):
        _make_certificate(authority, names, now).write(cert, key)
    return ca, cert, key


def _read(certificate: Path, key: Path) -> _Pair | None:
    """None if there is none that can be used."""
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return _Pair(found, private) if isinstance(private, ec.EllipticCurvePrivateKey) else None


def _make_authority(now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"firsttoken on {socket.gethostname()}"[:64])])
    builder = _builder(name, name, key, now, AUTHORITY_LIVES)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return _Pair(builder.sign(key, hashes.SHA256()), key)


def _make_certificate(authority: _Pair, names: Sequence[str], now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "firsttoken")])
    issuer = authority.certificate.subject
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(subject, issuer, key, now, CERTIFICATE_LIVES)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(identifier, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    return _Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lives: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + lives)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(**wanted: bool) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**(dict.fromkeys(every, False) | wanted))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
