"""Encryption between the parts of a cluster: everybody shows a certificate of one authority, the cluster's own."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from cluster.errors import BadCertificate

if TYPE_CHECKING:
    from distributed import Security


@dataclass(frozen=True)
class Tls:
    """Files in PEM: the authority's certificate, and a certificate of its with the key, to show to others.

    Names in certificates are not compared with addresses: whoever the authority vouches for belongs to the cluster.
    """

    ca_file: str
    cert_file: str
    key_file: str

    def server(self) -> ssl.SSLContext:
        """How a server greets those who connect. BadCertificate if the files will not do."""
        return self._context(ssl.Purpose.CLIENT_AUTH)

    def client(self) -> ssl.SSLContext:
        """How to connect to a server. BadCertificate if the files will not do."""
        return self._context(ssl.Purpose.SERVER_AUTH)

    def check(self) -> None:
        """BadCertificate if a file is missing or damaged, they do not belong together, or one is out of date."""
        self.client()
        for path in (self.ca_file, self.cert_file):
            try:
                certificate = x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
            except (OSError, ValueError) as error:
                raise BadCertificate(f"the certificate {path} cannot be used: {error}") from error
            if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
                days = f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
                raise BadCertificate(f"the certificate {path} is good from {days}, and not today")

    def _context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        path = self.ca_file
        try:
            context = ssl.create_default_context(purpose, cafile=path)
            path = f"{self.cert_file} with {self.key_file}"
            context.load_cert_chain(self.cert_file, self.key_file, password=_no_password)
        except (OSError, ValueError) as error:  # of ssl too
            raise BadCertificate(f"the certificate {path} cannot be used: {error}") from error
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def security(tls: Tls | None) -> "Security":
    """What Dask's schedulers, workers and clients are given; without `tls` they speak in the clear."""
    from distributed import Security

    if tls is None:
        return Security()
    tls.check()
    files: dict[str, Any] = {"tls_ca_file": tls.ca_file}
    for role in ("scheduler", "worker", "client"):
        files |= {f"tls_{role}_cert": tls.cert_file, f"tls_{role}_key": tls.key_file}
    return Security(require_encryption=True, **files)


def _no_password() -> str:
    raise ValueError("the key is encrypted: give one that needs no password, in a file that only its owner can read")
