"""Asks whether settings come from where they should, in the right order, and whether wrong ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import config
from engine.config import Config
from engine.errors import ConfigError


def test_defaults_need_nothing() -> None:
    assert config.load(environ={}) == Config()


def test_precedence_is_override_environment_file(tmp_path: Path) -> None:
    file = tmp_path / "shikaku.toml"
    file.write_text('port = 1001\nworkers = 1\nhost = "::1"\n')
    loaded = config.load(file, environ={"SHIKAKU_PORT": "1002", "SHIKAKU_WORKERS": "2"}, port=1003)
    assert (loaded.port, loaded.workers, loaded.host) == (1003, 2, "::1")


def test_override_none_is_not_given(tmp_path: Path) -> None:
    assert config.load(environ={"SHIKAKU_PORT": "1002"}, port=None).port == 1002


def test_paths_numbers_and_nulls_are_read_from_text() -> None:
    loaded = config.load(
        environ={"SHIKAKU_DATA_DIR": "/tmp/x", "SHIKAKU_DRAIN_SECONDS": "1.5", "SHIKAKU_MAP_BYTES": "1048576"}
    )
    assert (loaded.data_dir, loaded.drain_seconds, loaded.map_bytes) == (Path("/tmp/x"), 1.5, 1 << 20)


def test_paths_are_derived_from_the_data_folder() -> None:
    loaded = Config(data_dir=Path("/d"))
    assert (loaded.store_dir, loaded.spool_dir, loaded.snapshot_file) == (
        Path("/d/store"),
        Path("/d/spool"),
        Path("/d/index.snapshot"),
    )
    assert loaded.audit_dir == Path("/d/audit")
    assert Config(key_file=Path("/k/master.key")).audit_key_file == Path("/k/audit.key")


@pytest.mark.parametrize(("port", "registry", "expected"), [(8443, None, 8444), (8443, 9000, 9000), (0, None, 0)])
def test_registry_port_follows_the_check_port(port: int, registry: int | None, expected: int) -> None:
    assert Config(port=port, registry_port=registry).registry_port_or_next == expected


def test_worker_count_defaults_to_the_cores() -> None:
    assert Config(workers=3).worker_count == 3
    assert Config().worker_count >= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audit_origin", "a b"),
        ("audit_origin", "a+b"),
        ("audit_origin", ""),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "many"),
        ("host", "0.0.0.0"),
        ("workers", "0"),
        ("workers", "257"),
        ("map_bytes", "1"),
        ("index_keys", "1"),
        ("inquiry_check_digits", "maybe"),
        ("drain_seconds", "-0.1"),
    ],
)
def test_out_of_range_is_refused_and_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={f"SHIKAKU_{name.upper()}": value})
    assert name in str(caught.value)


def test_unknown_setting_in_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "shikaku.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(ConfigError, match="prot"):
        config.load(file, environ={})


def test_unknown_override_is_refused() -> None:
    with pytest.raises(ConfigError, match="prot"):
        config.load(environ={}, prot=1)


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", None])
def test_unreadable_file_is_refused_and_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "shikaku.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(file, environ={})
    assert caught.value.field == str(file)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        Config().port = 1  # type: ignore[misc]
