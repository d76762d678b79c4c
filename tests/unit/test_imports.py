"""Asks whether packages import only what they may, and whether each dangerous thing has its one owner.

Walks syntax trees, so an import or a call that no other test reaches is seen too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("api", "engine", "ext", "loadtest", "benchmarks", "tests")

MAY_IMPORT = {
    "ext": {"ext", "numpy"},
    "engine": {"engine", "ext", "numpy", "lmdb", "msgspec", "cryptography"},
    "api": {"api", "engine", "aiohttp", "msgspec", "uvloop", "typer", "rich", "ext", "loadtest", "cryptography"},
}
"""Packages beside the standard library. msgspec, typer and rich carry the API's types and its command line."""
NEVER = {"engine": {"asyncio", "aiohttp", "uvloop"}, "api": {"lmdb", "mmap"}, "loadtest": {"engine", "api", "ext"}}

ENGINE_ORDER = [
    ["errors", "limits", "clock", "memory"],
    ["days", "config", "durable", "shm", "children"],
    ["records"],
    ["identifiers", "keys"],
    ["callers"],
    ["register", "assertions", "tokens"],
    ["replays", "revocations"],
    ["audit.entry", "audit.merkle"],
    ["audit.frames", "audit.notes"],
    ["audit.segments"],
    ["audit.log", "audit.receipt_verifier"],
    ["audit.receipt", "audit.verify"],
    ["audit.bundle"],
    ["audit.appender", "audit.witness"],
    ["entries"],
    ["rules"],
    ["store", "index", "construction", "scan"],
    ["ingest.rows"],
    ["ingest.*", "recovery"],
    ["verification"],
    ["fsck"],
]
"""Reading order of engine: a module imports from its own row and the rows above only.

Three rows differ from the plan's order with reason: `durable` and `shm` are leaves, and a key file is made durable too;
`entries` (how a person becomes index entries) is under both rules and store; ingest and recovery share one row, because
the registry opens by recovering, and recovering publishes what a feed left to publish.
"""

OWNERS = {
    "lmdb": {"engine/store.py", "engine/register.py", "engine/replays.py"},
    "mmap": {"engine/shm.py"},
    "uvloop": {"api/serving.py"},
}
"""Modules that only their owners import. lmdb: an owner for each kind of environment (records; callers; assertions that
came, in memory), which have no file in common. uvloop: serving runs the loop of the worker and of the registry."""

LEDGER_TWIN = "ext/ledger_py.py"
"""Says in Python what ext/ledger.h does, which is the one that runs: an append of its own, with its own clock."""
CALL_OWNERS = {
    "os.fsync": {"engine/durable.py", LEDGER_TWIN},
    "os.fdatasync": {"engine/durable.py", LEDGER_TWIN},
    "os.rename": {"engine/durable.py", LEDGER_TWIN},
    "os.replace": {"engine/durable.py"},
    "os.renames": {"engine/durable.py"},
    "os.link": {"engine/durable.py"},
    "shutil.move": {"engine/durable.py"},
    "os.environ": {"engine/config.py", "ext/__init__.py"},
    "os.environb": set(),
    "os.getenv": {"engine/config.py"},
    "os.putenv": {"api/cli/serve.py"},
    "time.time": {"engine/clock.py"},
    "time.time_ns": {"engine/clock.py", LEDGER_TWIN},
    "time.monotonic": {"engine/clock.py"},
    "time.monotonic_ns": {"engine/clock.py", LEDGER_TWIN},
    "time.perf_counter": {"engine/clock.py"},
    "time.perf_counter_ns": {"engine/clock.py"},
    "time.localtime": set(),
    "time.gmtime": set(),
    "datetime.now": set(),
    "datetime.utcnow": set(),
    "datetime.today": set(),
    "date.today": set(),
}
"""Things done in one place. ext chooses its form before there are settings; `serve` tells numpy's BLAS, before numpy is
loaded, to start no threads that a fork would lose; loadtest has its own clock, because it imports nothing of ours."""

LANE_AND_WIRE = ("api/lane", "api/gate.py", "api/wire/", "api/handlers/", "api/recorder.py", "api/cli/version.py")
"""Where api may call ext itself: handlers cut a batch into its items with ext.frame; what the quick way has answered is
recorded by ext.ledger; what callers may do is remembered by ext.grants; `version` prints the form."""


def files(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, wherever in it the import stands."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def mentioned(path: Path) -> list[tuple[str, int]]:
    """What a file imports or reaches by attributes, as `module.name`, with the line; aliases are seen through."""
    aliases, found = {}, []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                aliases[alias.asname or alias.name] = prefix + alias.name
                found.append((last_two(prefix + alias.name), node.lineno))
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            found.append((last_two(f"{aliases.get(first, first)}.{rest}"), node.lineno))
    return found


def last_two(dotted: str) -> str:
    return ".".join(dotted.split(".")[-2:])


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.time()",
        "import time as t\nt.time()",
        "from time import time\ntime()",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime as d\nd.now()",
        "import os\nnow = os.environ['X']",
    ],
)
def test_the_walker_sees_through_aliases(tmp_path: Path, code: str) -> None:
    path = tmp_path / "sample.py"
    path.write_text(code)
    assert {name for name, _ in mentioned(path)} & {"time.time", "datetime.now", "os.environ"}


PRODUCT = [path for package in ("ext", "engine", "api") for path in files(package)]
EVERYTHING = PRODUCT + files("loadtest")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_they_may(package: str) -> None:
    wrong = [
        f"{name_of(path)}: {name}"
        for path in files(package)
        for name in imported(path)
        if name.split(".")[0] not in MAY_IMPORT[package] | sys.stdlib_module_names
    ]
    assert wrong == []


@pytest.mark.parametrize("package", NEVER)
def test_packages_never_import_what_they_must_not(package: str) -> None:
    wrong = [
        f"{name_of(path)}: {name}"
        for path in files(package)
        for name in imported(path)
        if name.split(".")[0] in NEVER[package]
    ]
    assert wrong == []


def test_only_the_command_line_uses_the_load_tests_population() -> None:
    """`shikaku people generate` and `personas` are commands over loadtest's independent generator."""
    for path in files("api"):
        for name in imported(path):
            if name.split(".")[0] == "loadtest":
                assert name_of(path).startswith("api/cli/"), f"{name_of(path)}: {name}"
                assert name.startswith("loadtest.population"), f"{name_of(path)}: {name}"


def test_api_calls_ext_in_lane_wire_and_handlers_only() -> None:
    wrong = [
        f"{name_of(path)}: {name}"
        for path in files("api")
        for name in imported(path)
        if name.split(".")[0] == "ext" and not name_of(path).startswith(LANE_AND_WIRE)
    ]
    assert wrong == []


def test_typer_and_rich_stay_in_the_command_line() -> None:
    for path in files("api"):
        if not name_of(path).startswith("api/cli/"):
            assert not {name.split(".")[0] for name in imported(path)} & {"typer", "rich"}, name_of(path)


def test_nothing_imports_tests_or_benchmarks() -> None:
    for path in EVERYTHING:
        assert not {name.split(".")[0] for name in imported(path)} & {"tests", "benchmarks", "pytest", "hypothesis"}


@pytest.mark.parametrize("module", OWNERS)
def test_a_dangerous_module_has_one_owner(module: str) -> None:
    importers = {name_of(path) for path in PRODUCT if module in {name.split(".")[0] for name in imported(path)}}
    assert importers == OWNERS[module]


@pytest.mark.parametrize("call", CALL_OWNERS)
def test_a_dangerous_call_has_one_owner(call: str) -> None:
    places = [
        f"{name_of(path)}:{line}"
        for path in PRODUCT
        if name_of(path) not in CALL_OWNERS[call]
        for name, line in mentioned(path)
        if name == call
    ]
    assert places == []


def test_paths_are_not_renamed_behind_durables_back() -> None:
    """`Path.rename` and `Path.replace` take one argument; `str.replace` takes two or more."""
    for path in PRODUCT:
        if name_of(path) in ("engine/durable.py", LEDGER_TWIN):
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                renames = node.func.attr == "rename" or (
                    node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
                )
                assert not renames, f"{name_of(path)}:{node.lineno}"


def test_no_writable_map_of_the_store() -> None:
    """A full disk kills a process that writes through a map (SIGBUS)."""
    for node in ast.walk(ast.parse((ROOT / "engine/store.py").read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "writemap":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


# --- the order inside engine ------------------------------------------------------------------------------------


def row_of(module: str) -> int:
    for row, modules in enumerate(ENGINE_ORDER):
        if module in modules:
            return row
    for row, modules in enumerate(ENGINE_ORDER):
        if f"{module.split('.')[0]}.*" in modules:
            return row
    raise AssertionError(f"engine.{module} has no place in ENGINE_ORDER: give it one")


def engine_module(path: Path) -> str:
    return path.relative_to(ROOT / "engine").with_suffix("").as_posix().replace("/", ".")


def engine_imports(path: Path) -> Iterator[str]:
    """Modules of engine that a file imports."""
    modules = {engine_module(other) for other in files("engine")}
    for name in imported(path):
        if name.startswith("engine."):
            inside = name.removeprefix("engine.")
            yield inside if inside in modules else inside.rpartition(".")[0]


@pytest.mark.parametrize("path", [path for path in files("engine") if path.name != "__init__.py"], ids=engine_module)
def test_engine_is_imported_in_reading_order(path: Path) -> None:
    own = row_of(engine_module(path))
    later = [name for name in engine_imports(path) if row_of(name) > own]
    assert later == []


def test_init_files_compute_nothing() -> None:
    """`ext/__init__.py` is the boundary and chooses the form; all others are empty or re-export."""
    for path in EVERYTHING:
        if path.name == "__init__.py" and name_of(path) != "ext/__init__.py":
            for node in tree_of(path).body:
                assert isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign), name_of(path)
                if isinstance(node, ast.Assign):
                    assert [target.id for target in node.targets if isinstance(target, ast.Name)] == ["__all__"]


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_a_file_says_what_it_owns(path: Path) -> None:
    if path.name == "__init__.py" and not tree_of(path).body:
        return
    docstring = ast.get_docstring(tree_of(path))
    assert docstring, "the first line says what the file owns"
    if path.name != "__init__.py":
        assert docstring.split()[0] in ("Owns", "Twin", "Runs", "Specification") or docstring.startswith("`shikaku")
