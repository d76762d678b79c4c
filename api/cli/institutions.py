"""Owns `shikaku institutions`: the register of callers, changed while servers run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.options import ConfigFile, DataDir, Json, KeyFile, settings
from api.exits import CommandError, Exit
from engine.config import Config
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.callers import Caller
    from engine.register import Register, RegisterWriter

app = typer.Typer(no_args_is_help=True, help="Say who may ask: institutions, insurers, portals and other callers.")
keys_app = typer.Typer(no_args_is_help=True, help="The public keys that a caller signs with.")
certificates_app = typer.Typer(no_args_is_help=True, help="The client certificates of a caller.")
app.add_typer(keys_app, name="key")
app.add_typer(certificates_app, name="cert")

Id = Annotated[str, typer.Argument(metavar="ID", help="Institution code (10 digits), or another caller's id.")]
RoleName = Annotated[
    str, typer.Option("--role", help="institution, insurer, portal, oversight, operator or third-party.")
]
Scopes = Annotated[list[str] | None, typer.Option("--scope", help="May be repeated (default: all that the role has).")]
Thumbprint = Annotated[str | None, typer.Option(help="SHA-256 of the certificate, 64 hexadecimal digits.")]
Subject = Annotated[str | None, typer.Option(help="Its subject as RFC 4514 writes it: any certificate with it counts.")]


@app.command("add")
def add(
    id_: Id,
    name: Annotated[str, typer.Argument(help="Its name.")],
    role: RoleName = "institution",
    scope: Scopes = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Register a caller. It can ask once it has a key or a certificate.

    Example: shikaku institutions add 1311111114 "見本医院"
    """
    given = _entry(id_, name, role, scope or [])
    with _writer(settings(config_file, data_dir, key_file)) as (register, now_ms):
        register.add_many([given], now_ms=now_ms)
    typer.echo("1 caller registered")


@app.command("import")
def import_callers(
    file: Annotated[Path, typer.Argument(help="One JSON object a line: id, name, and perhaps role and scopes.")],
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Register callers from a file, all of them or none.

    Example: shikaku institutions import institutions.ndjson
    """
    given = read_file(file)
    with _writer(settings(config_file, data_dir, key_file)) as (register, now_ms):
        register.add_many(given, now_ms=now_ms)
    typer.echo(f"{len(given)} callers registered")


@app.command("list")
def list_callers(
    role: Annotated[str | None, typer.Option(help="Only those with this role.")] = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """List callers.

    Example: shikaku institutions list --role insurer --json
    """
    from api.cli.output import print_json, print_table

    with _reader(settings(config_file, data_dir, key_file)) as register:
        found = [view(one) for one in register.callers() if role is None or one.role == role]
    if as_json:
        print_json(found)
    else:
        print_table(
            ("id", "name", "role", "status", "keys", "certificates"),
            (
                (
                    one["id"],
                    one["name"],
                    one["role"],
                    one["status"],
                    len(one["keys"]),
                    len(one["thumbprints"]) + len(one["subjects"]),
                )
                for one in found
            ),
        )


@app.command("show")
def show(
    id_: Id,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show one caller with its keys and certificates.

    Example: shikaku institutions show 1311111114
    """
    from api.cli.output import print_json, print_pairs
    from engine.errors import CallerMissingError

    with _reader(settings(config_file, data_dir, key_file)) as register:
        found = register.get(id_)
    if found is None:
        raise CallerMissingError("no caller with this id is registered", field="id")
    shown = view(found)
    if as_json:
        print_json(shown)
    else:
        print_pairs({name: "\n".join(value) if isinstance(value, list) else value for name, value in shown.items()})


@app.command("suspend")
def suspend(id_: Id, config_file: ConfigFile = None, data_dir: DataDir = None, key_file: KeyFile = None) -> None:
    """Let a caller in no more, at once; also the tokens that it has end.

    Example: shikaku institutions suspend 1311111114
    """
    with _writer(settings(config_file, data_dir, key_file)) as (register, now_ms):
        register.suspend(id_, now_ms=now_ms)
    typer.echo("suspended: its tokens and certificates stop within a second")


@app.command("resume")
def resume(id_: Id, config_file: ConfigFile = None, data_dir: DataDir = None, key_file: KeyFile = None) -> None:
    """Let a suspended caller in again.

    Example: shikaku institutions resume 1311111114
    """
    with _writer(settings(config_file, data_dir, key_file)) as (register, now_ms):
        register.resume(id_, now_ms=now_ms)
    typer.echo("resumed: it needs new tokens")


@keys_app.command("add")
def add_key(
    id_: Id,
    file: Annotated[Path, typer.Argument(help="A JSON Web Key, or a set of them: public keys only.")],
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Give a caller a public key (RSA for RS384, P-384 for ES384); the keys that it has stay good.

    Example: shikaku institutions key add 1311111114 jwks.json
    """
    from engine.callers import read_jwks

    found = read_jwks(_bytes_of(file))
    with _writer(settings(config_file, data_dir, key_file)) as (register, now_ms):
        register.add_keys(id_, found, now_ms=now_ms)
    typer.echo(f"{len(found)} key{'s' if len(found) > 1 else ''} added")


@keys_app.command("remove")
def remove_key(
    id_: Id,
    kid: Annotated[str, typer.Argument(help="The key's `kid`.")],
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Take a key from a caller; the tokens that it has end at once.

    Example: shikaku institutions key remove 1311111114 2026-a
    """
    with _writer(settings(config_file, data_dir, key_file)) as (register, now_ms):
        register.remove_key(id_, kid, now_ms=now_ms)
    typer.echo("key removed: tokens of the caller end within a second")


@certificates_app.command("add")
def add_certificate(
    id_: Id,
    file: Annotated[Path | None, typer.Argument(help="The certificate (PEM).")] = None,
    thumbprint: Thumbprint = None,
    subject: Subject = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Tell which client certificate is a caller's: by a file, its thumbprint, or its subject.

    Example: shikaku institutions cert add 1311111114 clinic.pem
    """
    field, value = _certificate(file, thumbprint, subject)
    with _writer(settings(config_file, data_dir, key_file)) as (register, now_ms):
        register.add_to(id_, field, value, now_ms=now_ms)
    typer.echo("certificate added")


@certificates_app.command("remove")
def remove_certificate(
    id_: Id,
    file: Annotated[Path | None, typer.Argument(help="The certificate (PEM).")] = None,
    thumbprint: Thumbprint = None,
    subject: Subject = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Take a client certificate from a caller; it is not let in with it within a second.

    Example: shikaku institutions cert remove 1311111114 --subject "CN=clinic,C=JP"
    """
    field, value = _certificate(file, thumbprint, subject)
    with _writer(settings(config_file, data_dir, key_file)) as (register, now_ms):
        register.remove_from(id_, field, value, now_ms=now_ms)
    typer.echo("certificate removed")


@app.command("api-key")
def api_key(
    id_: Id,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Make an API key for a caller, for a sandbox only. It is shown once, and stored as a hash.

    Example: shikaku institutions api-key 1311111114
    """
    from engine import keys, tokens

    config = settings(config_file, data_dir, key_file)
    if not config.sandbox:
        raise CommandError(Exit.USAGE, "config.invalid", "API keys are for a sandbox: set sandbox = true")
    made = tokens.new_api_key()
    hashed = tokens.api_key_hash(keys.load(config.key_file).api_key_key, made)
    with _writer(config) as (register, now_ms):
        register.add_to(id_, "api_keys", hashed, now_ms=now_ms)
    typer.echo(made)


# --- what they share ------------------------------------------------------------------------------------------------


def view(caller: Caller) -> dict[str, Any]:
    """A caller as it is shown: nothing of it is secret, and API keys are only counted."""
    from engine import clock

    return {
        "id": caller.id,
        "name": caller.name,
        "role": str(caller.role),
        "status": str(caller.status),
        "scopes": [str(scope) for scope in caller.scopes],
        "keys": [f"{key.kid} {key.algorithm}" for key in caller.keys],
        "thumbprints": [one.hex() for one in caller.thumbprints],
        "subjects": list(caller.subjects),
        "api_keys": len(caller.api_keys),
        "changed_at": clock.format_instant(caller.changed_ms),
    }


def read_file(file: Path) -> list[Any]:
    """The callers of a file. Raises CommandError that names the line."""
    import msgspec

    decode = msgspec.json.Decoder(dict[str, str | list[str]]).decode
    found, at = [], 0
    for line in _bytes_of(file).splitlines():
        at += 1
        if not line.strip():
            continue
        try:
            given = decode(line)
            if not {"id", "name"} <= given.keys() <= {"id", "name", "role", "scopes"}:
                raise CommandError(Exit.USAGE, "input.schema", f"{file}, line {at}: id, name, role, scopes are known")
            scopes = given.get("scopes", [])
            found.append(
                _entry(
                    str(given["id"]),
                    str(given["name"]),
                    str(given.get("role", "institution")),
                    [scopes] if isinstance(scopes, str) else scopes,
                )
            )
        except msgspec.MsgspecError:
            raise CommandError(Exit.USAGE, "input.malformed", f"{file}, line {at}: no object of texts") from None
        except InputError as error:
            where = f"{file}, line {at}: {error.field}: " if error.field else f"{file}, line {at}: "
            raise CommandError(Exit.USAGE, error.code, where + error.detail) from None
    return found


def _entry(id_: str, name: str, role: str, scopes: list[str]) -> Any:
    from engine.callers import Role, read_id, read_name, read_scopes
    from engine.errors import CallerInputError

    try:
        known = Role(role)
    except ValueError:
        raise CallerInputError(f"must be one of: {', '.join(Role)}", field="role") from None
    return read_id(id_, known), read_name(name), known, read_scopes(scopes, known)


def _certificate(file: Path | None, thumbprint: str | None, subject: str | None) -> tuple[str, bytes | str]:
    from engine.callers import read_subject, read_thumbprint, thumbprint_of

    if sum(one is not None for one in (file, thumbprint, subject)) != 1:
        raise CommandError(Exit.USAGE, "input.schema", "give a file, --thumbprint or --subject, and one of them only")
    if file is not None:
        return "thumbprints", thumbprint_of(_bytes_of(file))
    if thumbprint is not None:
        return "thumbprints", read_thumbprint(thumbprint)
    return "subjects", read_subject(subject or "")


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(Exit.USAGE, "file.unreadable", f"{file} cannot be read ({error.strerror})") from None


@contextmanager
def _writer(config: Config) -> Iterator[tuple[RegisterWriter, int]]:
    """The register for changing it, and the time."""
    from engine import keys
    from engine.clock import Clock
    from engine.register import RegisterWriter

    register = RegisterWriter(config.callers_dir, key_id=keys.load(config.key_file).key_id)
    try:
        yield register, Clock(config.clock_fixed_ms).now_ms()
    finally:
        register.close()


@contextmanager
def _reader(config: Config) -> Iterator[Register]:
    from engine import keys
    from engine.register import Register

    register = Register(config.callers_dir, key_id=keys.load(config.key_file).key_id)
    try:
        yield register
    finally:
        register.close()
