"""Owns the lists of revoked client certificates: read from the file that the settings name, again whenever it changes.

Judged by us for each certificate and not by OpenSSL in the handshake: a session that is resumed, or a connection that
is open, is judged by the newest list too. A list that has not its authority's signature is refused; where there is no
list of a certificate's issuer, or it has run out, the certificate is not accepted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from engine.errors import ConfigError

_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


class Revocations:
    """The lists in a file. Raises ConfigError if it cannot be used.

    Args: file: PEM (one or several lists) or DER; authority: PEM, who must have signed them.
    """

    def __init__(self, file: Path, authority: Path) -> None:
        self._file = file
        try:
            self._authorities = x509.load_pem_x509_certificates(authority.read_bytes())
        except (OSError, ValueError):
            raise ConfigError(
                f"{authority} cannot be used: no certificate (PEM) in it", field="tls_client_ca"
            ) from None
        self._seen: tuple[int, int, int] | None = None
        self._lists: dict[bytes, tuple[datetime | None, frozenset[int]]] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the file if it has changed. Returns whether it was. Raises ConfigError: the old lists stay."""
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen:
                return False
            # Not tried again until it changes once more.
            self._seen = seen
            self._lists = self._read(self._file.read_bytes())
        except OSError as error:
            raise _unusable(self._file, error.strerror or "it cannot be read") from None
        return True

    def _read(self, data: bytes) -> dict[bytes, tuple[datetime | None, frozenset[int]]]:
        parts: Sequence[bytes] = _PEM.findall(data)
        try:
            lists = [x509.load_pem_x509_crl(part) for part in parts] or [x509.load_der_x509_crl(data)]
            return {
                one.issuer.public_bytes(): (one.next_update_utc, frozenset(each.serial_number for each in one))
                for one in lists
                if self._require_signed(one)
            }
        except (ValueError, UnsupportedAlgorithm):
            raise _unusable(self._file, "there is no list of revoked certificates (PEM or DER) in it") from None

    def _require_signed(self, found: x509.CertificateRevocationList) -> bool:
        for authority in self._authorities:
            key: Any = authority.public_key()
            try:
                if authority.subject == found.issuer and found.is_signature_valid(key):
                    return True
            except (InvalidSignature, TypeError):
                continue
        raise _unusable(self._file, "it is not signed by tls_client_ca")

    def accepts(self, certificate: x509.Certificate, now: datetime) -> bool:
        """Whether a certificate has not been taken back, as far as a list that is in force says."""
        until, serials = self._lists.get(certificate.issuer.public_bytes(), (None, frozenset()))
        return until is not None and now < until and certificate.serial_number not in serials


def _unusable(file: Path, why: str) -> ConfigError:
    return ConfigError(f"{file} cannot be used: {why}", field="tls_client_crl")
