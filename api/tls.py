"""Owns TLS on the check port: contexts of server and command line, made from the settings.

The server's context is made once, before any worker is forked: the keys of session tickets belong to it, and a client
that comes back may meet another worker.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from engine.config import Config
from engine.errors import ConfigError


def server_context(config: Config) -> ssl.SSLContext | None:
    """TLS 1.2 and 1.3 with the certificate that the settings name; None if they name none. Raises ConfigError."""
    if config.tls_certificate is None or config.tls_key is None:
        for field in ("tls_certificate", "tls_key", "tls_client_ca"):
            if getattr(config, field) is not None:
                raise ConfigError("this needs tls_certificate and tls_key, which belong together", field=field)
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _show(context, config.tls_certificate, config.tls_key)
    if config.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED if config.tls_client == "required" else ssl.CERT_OPTIONAL
        _trust(context, "tls_client_ca", config.tls_client_ca)
    return context


def client_context(config: Config) -> ssl.SSLContext | None:
    """What the command line speaks to the check port with: it trusts the settings' own certificate, and no other."""
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate itself is compared; the name in it is the clinics' name for this server, not ours.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _trust(context, "tls_certificate", config.tls_certificate)
    return context


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Load what the server shows. OpenSSL says little of what is wrong, so each file is looked at before."""
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "tls_certificate", certificate)
    _require_readable("tls_key", key)

    def encrypted() -> str:
        # Without this, OpenSSL would ask at the terminal, of a server that may have none.
        raise _unusable("tls_key", key, "it is encrypted; only one without a passphrase is read")

    try:
        context.load_cert_chain(certificate, key, password=encrypted)
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise _unusable("tls_key", key, f"it is not the key of {certificate}") from None
        raise _unusable("tls_key", key, "there is no private key (PEM) in it") from None


def _trust(context: ssl.SSLContext, field: str, file: Path) -> None:
    _require_readable(field, file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        raise _unusable(field, file, "there is no certificate (PEM) in it") from None


def _require_readable(field: str, file: Path) -> None:
    try:
        with file.open("rb"):
            return
    except OSError as error:
        raise _unusable(field, file, error.strerror or type(error).__name__) from None


def _unusable(field: str, file: Path, why: str) -> ConfigError:
    return ConfigError(f"{file} cannot be used: {why}", field=field)
