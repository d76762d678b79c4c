"""House rules that a machine can see: what a file says of itself, how long things are, what stays out of code and docs.

Who may import whom is in test_imports; what documents promise about the code is in test_docs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("api", "engine", "ext")
CODE = (*PRODUCT, "loadtest", "benchmarks", "tests")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".h"}

FILE_LINES_MAX = 600
LONG_FILES = {
    "engine/index.py": 902,
    "engine/ingest/registry.py": 720,
    "engine/store.py": 865,
    "ext/probe.pyx": 1100,
    "ext/probe_py.py": 620,
    "ext/sheet.pyx": 1020,
}
"""Files that are over the bound, and how long they may be. Entries get smaller and go; new ones need a reason: each of
these is one idea (a table, an environment) whose halves would have to know each other's insides."""

FUNCTION_LINES_MAX = 60
LONG_FUNCTIONS: dict[str, int] = {}
"""`file:function` -> lines, for functions over the bound."""

# The words that no source may hold: here, and in the test of this pattern, they are what is looked for.
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK|WIP|NotImplemented(?:Error)?)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users|mnt|opt|tmp)/\w|[A-Z]:\\\\?\w|(?:^|[\s(\"'`])~/\w")
CYTHON_FUNCTION = re.compile(r"( *)(?:def|cdef|cpdef)\b[^=#]*?\b(\w+)\(.*")


def sources(*packages: str) -> list[Path]:
    """Files that people write; generated C and HTML are not among them."""
    return sorted(
        path
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.suffix in SUFFIXES and "__pycache__" not in path.parts
    )


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8")


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


# --- what a file says of itself -------------------------------------------------------------------------------------


def first_sentence(path: Path) -> str:
    """The sentence a file begins with, in a docstring or a comment; empty if it begins with anything else."""
    text = text_of(path)
    if path.suffix in {".py", ".pyi"}:
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    opened = {".pyx": '"""', ".pxd": "# ", ".h": "/* "}[path.suffix]
    return text.removeprefix(opened).partition("\n")[0].strip() if text.startswith(opened) else ""


@pytest.mark.parametrize("path", [*sources(*CODE), ROOT / "setup.py"], ids=name_of)
def test_a_file_begins_with_a_sentence(path: Path) -> None:
    if path.name == "__init__.py" and not text_of(path).strip():
        return
    sentence = first_sentence(path)
    assert len(sentence.split()) >= 4, "the first line says what the file owns or asks"


@pytest.mark.parametrize("text", ["import os\n", "# a comment is no docstring here\nimport os\n", '"""Short."""\n'])
def test_a_file_without_a_sentence_is_seen(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sample.py"
    path.write_text(text)
    assert len(first_sentence(path).split()) < 4


@pytest.mark.parametrize("path", [path for path in sources(*PRODUCT) if path.suffix == ".pyx"], ids=name_of)
def test_a_compiled_module_has_its_stub_and_its_twin(path: Path) -> None:
    assert path.with_suffix(".pyi").exists()
    assert path.with_name(f"{path.stem}_py.py").exists()


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    lengths = {name_of(path): text_of(path).count("\n") for path in sources(*PRODUCT)}
    assert {name: lines for name, lines in lengths.items() if lines > LONG_FILES.get(name, FILE_LINES_MAX)} == {}


def test_long_files_are_still_there() -> None:
    """An entry whose file is gone or much shorter is taken out, so that it cannot grow back unseen."""
    for name, allowed in LONG_FILES.items():
        lines = text_of(ROOT / name).count("\n")
        assert lines > FILE_LINES_MAX * 0.95, f"{name} has {lines} lines: drop its entry"
        assert lines > allowed - 150, f"{name} has {lines} lines: lower its entry"


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function of a file."""
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
    elif path.suffix == ".pyx":
        yield from cython_functions(text_of(path))


def cython_functions(text: str) -> Iterator[tuple[str, int]]:
    """The same by indentation: a function ends before the next line that stands as far out as its first."""
    lines = text.splitlines()
    for start, line in enumerate(lines):
        found = CYTHON_FUNCTION.fullmatch(line)
        if found is None:
            continue
        last = start
        for position in range(start + 1, len(lines)):
            inner = lines[position]
            if (
                inner.strip()
                and len(inner) - len(inner.lstrip()) <= len(found[1])
                and not inner.lstrip().startswith(")")
            ):
                break
            if inner.strip():
                last = position
        yield found[2], last - start + 1


def test_functions_are_short() -> None:
    long = {
        f"{name_of(path)}:{name}": lines
        for path in sources(*PRODUCT, "loadtest", "benchmarks")
        for name, lines in functions(path)
        if lines > FUNCTION_LINES_MAX
    }
    assert {name: lines for name, lines in long.items() if lines > LONG_FUNCTIONS.get(name, 0)} == {}
    assert LONG_FUNCTIONS.keys() <= long.keys(), "an entry that is short now is taken out"


def test_lengths_of_compiled_functions_are_measured() -> None:
    text = "cdef int one(\n    int x,\n) nogil:\n    return x\n\n\ndef two(x):\n    if x:\n\n        return\n\nY = 2\n"
    assert list(cython_functions(text)) == [("one", 4), ("two", 4)]


# --- what stays out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sources(*PRODUCT, "loadtest"), ids=name_of)
def test_nothing_is_left_unfinished(path: Path) -> None:
    assert UNFINISHED.findall(text_of(path)) == []


# Samples for the pattern above; nothing is unfinished here.
@pytest.mark.parametrize(
    "text", ["# TODO: later", "raise NotImplementedError", "x = 1  # FIXME", "return NotImplemented"]
)
def test_unfinished_code_is_seen(text: str) -> None:
    assert UNFINISHED.search(text)


@pytest.mark.parametrize(
    "path", [path for path in sources("engine", "ext", "api") if path.suffix == ".py"], ids=name_of
)
def test_nothing_prints(path: Path) -> None:
    """The engine says what it has to say in values and errors; commands print in api/cli, through typer and rich."""
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "breakpoint", "input"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", [path for path in sources("tests", "benchmarks") if path.suffix == ".py"], ids=name_of)
def test_no_test_is_switched_off(path: Path) -> None:
    """A test that may not run proves nothing; what needs minutes is marked `long` and runs in `make test-all`."""
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Attribute):
            # The names of what is forbidden; no test is switched off here.
            assert ast.unparse(node) not in {"pytest.mark.skip", "pytest.mark.xfail", "pytest.xfail"}, node.lineno


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_pages_name_no_place_on_a_machine(page: Path) -> None:
    """A reader's folders have other names."""
    found = [line for line in text_of(page).splitlines() if MACHINE_PATH.search(line)]
    assert found == []


@pytest.mark.parametrize("folder", ["home", "root", "work", "Users", "mnt", "opt", "tmp"])
def test_a_place_on_a_machine_is_seen(folder: str) -> None:
    for line in (f"cd /{folder}/x", f"(/{folder}/x)", f"/{folder}/x y", "in ~/projects", r"C:\projects"):
        assert MACHINE_PATH.search(line)


@pytest.mark.parametrize(
    "line", ["/dev/shm/shikaku-0011", "https://example.jp/home/", "docs/work/x", "/v1/feeds/{feed}"]
)
def test_other_paths_are_no_place_on_a_machine(line: str) -> None:
    assert not MACHINE_PATH.search(line)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_anchors_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", text_of(page)):
        other = page.parent / target if target else page
        if other.suffix == ".md":
            assert anchor in {anchor_of(heading) for heading in headings(text_of(other.resolve()))}, (
                f"{target}#{anchor}"
            )


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)


def anchor_of(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- benchmarks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("bench_*.py")), ids=name_of)
def test_a_benchmark_has_a_reference_and_a_checksum(path: Path) -> None:
    """A time without something to compare it with says nothing, and a fast wrong answer is worth nothing."""
    text = text_of(path)
    assert re.search(r"def bench_\w*(?:reference|beside)\w*\(", text), "nothing in the same run to compare with"
    assert 'extra_info["checksum"]' in text, "no checksum of the answers is reported"
