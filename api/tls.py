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
        if config.tls_certificate or config.tls_key or config.tls_client_ca:
            raise ConfigError("tls_certificate and tls_key belong together", field="tls_certificate")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise _unreadable("tls_certificate", config.tls_certificate, error) from None
    if config.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise _unreadable("tls_client_ca", config.tls_client_ca, error) from None
    return context


def client_context(config: Config) -> ssl.SSLContext | None:
    """What the command line speaks to the check port with: it trusts the settings' own certificate, and no other."""
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate itself is compared; the name in it is the clinics' name for this server, not ours.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(config.tls_certificate)
    except (OSError, ssl.SSLError) as error:
        raise _unreadable("tls_certificate", config.tls_certificate, error) from None
    return context


def _unreadable(field: str, file: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{file} cannot be used: {type(error).__name__}", field=field)
