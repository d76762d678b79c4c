"""Asks whether the types hold: mypy --strict over the product, and stubs against compiled modules and twins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STUBS = sorted((ROOT / "ext").glob("*.pyi"))
SECONDS_MAX = 300
"""A few seconds with a warm cache; the first run on a busy machine takes a minute."""


def run(module: str, *arguments: str, **environ: str) -> str:
    """What a checker says, if it objects to anything; else nothing."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"} | environ,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    return done.stdout + done.stderr if done.returncode else ""


def test_the_product_is_strictly_typed() -> None:
    """Packages and strictness are those of pyproject.toml."""
    assert run("mypy") == ""


def test_stubs_say_what_compiled_modules_are() -> None:
    assert run("mypy.stubtest", "ext", "--allowlist", str(HERE / "stubtest.allow")) == ""


def test_stubs_say_what_the_twins_are(tmp_path: Path) -> None:
    """A twin has the stub of its compiled module: same names, arguments and defaults."""
    package = tmp_path / "ext"
    package.mkdir()
    (package / "__init__.pyi").touch()
    twins = [f"{stub.stem}_py" for stub in STUBS]
    for stub, twin in zip(STUBS, twins, strict=True):
        shutil.copyfile(stub, package / stub.name)
        shutil.copyfile(stub, package / f"{twin}.pyi")
    allowed = str(HERE / "stubtest_twins.allow")
    modules = [f"ext.{twin}" for twin in twins]
    assert run("mypy.stubtest", *modules, "--allowlist", allowed, MYPYPATH=str(tmp_path)) == ""


def test_a_stub_that_lies_is_seen(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text("def find(key, limit): ...\n")
    (tmp_path / "sample.pyi").write_text("def find(key: bytes) -> None: ...\n")
    said = run("mypy.stubtest", "sample", MYPYPATH=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert 'sample.find is inconsistent, stub does not have parameter "limit"' in said
