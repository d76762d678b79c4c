"""Owns the settings: one frozen value from a TOML file and the environment; nothing else reads os.environ.

Order of precedence: what the command line gives, then `SHIKAKU_<NAME>` in the environment, then the TOML file,
then the defaults below. An unknown or out-of-range setting is a ConfigError that names it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from engine.errors import ConfigError

CheckDigitPolicy = Literal["warn", "error"]
LOOPBACK: Final = ("127.0.0.1", "::1")
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings. Paths may be relative to the working directory; ports of 0 let the system choose."""

    data_dir: Path = Path("var/data")
    """The LMDB store, feed spool, and index snapshot."""
    key_file: Path = Path("var/master.key")
    """The master key; keep it outside data_dir."""
    index_dir: Path | None = None
    """Where the live index is mapped; None: a folder on /dev/shm named after the store and its data folder's path."""
    host: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z.:-]{1,253}$")] = "127.0.0.1"
    """Where checks are listened for: the loopback, or with known callers and TLS another address. The registry stays on
    the loopback."""
    port: Port = 8443
    """Checks; the registry listens on registry_port, or port + 1."""
    registry_port: Port | None = None
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    """Check workers; None: one for each core."""
    map_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 44)] = 1 << 38
    """Upper bound of the store's size (address space, not disk)."""
    index_keys: Annotated[int, msgspec.Meta(ge=64, le=2**32)] = 1 << 20
    """Keys that a new index has room for before it first grows."""
    inquiry_check_digits: CheckDigitPolicy = "warn"
    """A wrong check digit on an inquiry: a warning in the answer, or an error."""
    registration_check_digits: CheckDigitPolicy = "error"
    """A wrong check digit on a registration: a row error, or accepted and counted."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0
    """How long a stopping process waits for requests under way."""
    upload_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=86_400)] = 60.0
    """How long a file's upload may keep the registry waiting in all, besides a second for every 256 KiB of it."""
    express_lane: bool = True
    """Whether canonical checks are answered ahead of the general HTTP server (docs/LANE.md)."""
    tls_certificate: Path | None = None
    """The check port's certificate chain (PEM); None: plain HTTP. The registry's port stays plain."""
    tls_key: Path | None = None
    """Its private key (PEM)."""
    tls_client_ca: Path | None = None
    """Who signs the clients' certificates (PEM); None: clients need none."""
    tls_client: Literal["required", "optional"] = "required"
    """With tls_client_ca: whether clients without a certificate are let in too, to show a token."""
    tls_client_crl: Path | None = None
    """The authority's list of revoked certificates (PEM or DER); read again when it changes."""
    callers: Literal["open", "known"] = "open"
    """`known`: only callers of the register are answered (docs/SECURITY.md). `open`: everybody on the loopback is."""
    public_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[0-9A-Za-z.\[\]:-]{1,253}$")] | None = None
    """How callers reach the check port; None: by its address on the loopback."""
    sandbox: bool = False
    """Whether API keys are taken for tokens: for trying things out, never with people's data."""
    rate_per_second: Annotated[float, msgspec.Meta(ge=0.01, le=1_000_000)] = 100.0
    """Inquiries that one caller may make in the long run, on this machine."""
    rate_burst: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 5_000
    """Inquiries that it may make at once."""
    misses_per_hour: Annotated[float, msgspec.Meta(ge=1, le=1_000_000)] = 600.0
    """Inquiries about nobody that one caller may make in the long run."""
    misses_burst: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 300
    """And at once."""
    cold_reads: Literal["auto", "always", "never"] = "auto"
    """Whether checks look first if a record is in memory, and let others go on while it is read from the disk. `auto`:
    if the store is larger than half of the memory."""
    audit: Literal["strict", "relaxed", "off"] = "strict"
    """`strict`: no answer leaves before what is recorded of it is on the disk. `relaxed`: it is written within 50 ms.
    `off`: nothing is recorded; for measurements only."""
    audit_origin: Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[!-*,-~]+$")] = "shikaku.invalid"
    """What the names of the audit logs begin with (docs/AUDIT.md): a name of the operator's: `example.jp/shikaku`."""
    clock_fixed_ms: int | None = None
    """Freezes the clock (tests and replays): milliseconds since 1970-01-01T00:00Z."""

    @property
    def store_dir(self) -> Path:
        """The LMDB environment."""
        return self.data_dir / "store"

    @property
    def spool_dir(self) -> Path:
        """Uploaded and staged feeds; emptied at every start of the writer."""
        return self.data_dir / "spool"

    @property
    def snapshot_file(self) -> Path:
        """The index as last saved to disk."""
        return self.data_dir / "index.snapshot"

    @property
    def callers_dir(self) -> Path:
        """The register of callers."""
        return self.data_dir / "callers"

    @property
    def is_on_the_loopback(self) -> bool:
        """Whether nobody else than this machine reaches the check port."""
        return self.host in LOOPBACK

    @property
    def reached_at(self) -> str:
        """The address at which this machine itself reaches the check port."""
        return {"0.0.0.0": LOOPBACK[0], "::": LOOPBACK[1]}.get(self.host, self.host)

    @property
    def registry_host(self) -> str:
        """The registry is the operator's: it never leaves the loopback."""
        return self.host if self.is_on_the_loopback else LOOPBACK[0]

    @property
    def audit_dir(self) -> Path:
        """The audit logs, a folder for each check worker."""
        return self.data_dir / "audit"

    @property
    def audit_key_file(self) -> Path:
        """What the audit logs' checkpoints are signed with, beside the master key."""
        return self.key_file.with_name("audit.key")

    @property
    def registry_port_or_next(self) -> int:
        """The registry's port."""
        if self.registry_port is not None:
            return self.registry_port
        return self.port + 1 if self.port else 0

    @property
    def worker_count(self) -> int:
        """Check workers to run."""
        return self.workers or len(os.sched_getaffinity(0))


def load(file: Path | None = None, *, environ: Mapping[str, str] | None = None, **overrides: object) -> Config:
    """Read the settings. Overrides with value None count as not given. Raises ConfigError."""
    given: dict[str, Any] = {}
    if file is not None:
        try:
            given.update(tomllib.loads(file.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the settings file cannot be read: {type(error).__name__}", field=str(file)) from None
    for name in Config.__struct_fields__:
        value = (os.environ if environ is None else environ).get(f"SHIKAKU_{name.upper()}")
        if value is not None:
            given[name] = value
    given.update({name: value for name, value in overrides.items() if value is not None})
    try:
        found = msgspec.convert(given, Config, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(f"a setting is unknown or out of range: {error}") from None
    _require_consistent(found)
    return found


def _require_consistent(config: Config) -> None:
    """What no setting can be judged for alone."""
    if not config.is_on_the_loopback:
        if config.callers != "known":
            raise ConfigError("another host than the loopback needs callers = known", field="host")
        if config.tls_certificate is None:
            raise ConfigError("another host than the loopback needs tls_certificate and tls_key", field="host")
        if config.public_url is None:
            raise ConfigError("another host than the loopback needs public_url", field="host")
    if config.tls_client_crl is not None and config.tls_client_ca is None:
        raise ConfigError("this needs tls_client_ca, whose list it is", field="tls_client_crl")
    if config.tls_client == "optional" and config.callers != "known":
        raise ConfigError("clients without a certificate need callers = known", field="tls_client")
    if config.sandbox and not config.is_on_the_loopback:
        raise ConfigError("a sandbox is for the loopback", field="sandbox")


def _decode(wanted: type, value: object) -> object:
    if wanted is Path and isinstance(value, str | Path):
        return Path(value)
    raise TypeError(f"expected {wanted.__name__}")
