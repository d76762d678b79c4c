"""engine/shm: mapped files, room that is there before it is used, and huge pages where they can be had."""

from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from engine import shm
from engine.errors import IndexSpaceError

MEMORY = Path("/dev/shm")


def test_a_segment_is_shared_through_its_file(tmp_path: Path) -> None:
    writer = shm.create(tmp_path / "segment", 10_000)
    reader = shm.open_(tmp_path / "segment")
    assert writer.size_bytes == reader.size_bytes == 10_000 and bytes(reader.buffer) == bytes(10_000)
    writer.buffer[9_999] = 7
    assert reader.buffer[9_999] == 7
    other = shm.open_(tmp_path / "segment", writable=True)
    other.buffer[0] = 8
    assert reader.buffer[0] == 8
    for segment in (writer, reader, other):
        segment.close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    shm.create(tmp_path / "segment", 10_000).close()
    reader = shm.open_(tmp_path / "segment")
    with pytest.raises(TypeError):
        reader.buffer[0] = 1
    assert memoryview(reader.buffer).readonly
    reader.close()


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        shm.create(tmp_path / "segment", 10_000)
    assert (tmp_path / "segment").read_bytes() == b"precious"


def test_files_that_are_absent_or_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        shm.open_(tmp_path / "segment")
    (tmp_path / "segment").touch()
    with pytest.raises(ValueError):
        shm.open_(tmp_path / "segment")


def test_every_page_has_its_place_before_the_first_write(tmp_path: Path) -> None:
    shm.create(tmp_path / "segment", 1 << 20).close()
    assert os.stat(tmp_path / "segment").st_blocks * 512 >= 1 << 20


def test_no_room_is_an_error_and_leaves_nothing_behind() -> None:
    """A full tmpfs would kill the process by SIGBUS at some later write."""
    path = MEMORY / f"shikaku-test-{os.getpid()}"
    with pytest.raises(IndexSpaceError, match="no room"):
        shm.create(path, 1 << 50)
    assert not path.exists()


def test_a_file_size_limit_is_no_room_too(tmp_path: Path) -> None:
    script = (
        "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path; from engine import shm; from engine.errors import IndexSpaceError\n"
        "try: shm.create(Path(sys.argv[1]), 10_000_000)\n"
        "except IndexSpaceError: sys.exit(3)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "segment")], preexec_fn=limit, timeout=60)
    assert result.returncode == 3 and not (tmp_path / "segment").exists()


def test_a_segment_in_use_is_not_unmapped(tmp_path: Path) -> None:
    segment = shm.create(tmp_path / "segment", 10_000)
    view = memoryview(segment.buffer)
    with pytest.raises(BufferError):
        segment.close()
    view.release()
    segment.close()


def test_what_is_mapped_outlives_its_name(tmp_path: Path) -> None:
    writer = shm.create(tmp_path / "segment", 10_000)
    writer.buffer[5] = 5
    reader = shm.open_(tmp_path / "segment")
    (tmp_path / "segment").unlink()
    writer.buffer[6] = 6
    assert (reader.buffer[5], reader.buffer[6]) == (5, 6)


def test_collapse_keeps_the_bytes_and_says_what_it_got() -> None:
    path = MEMORY / f"shikaku-test-{os.getpid()}"
    segment = shm.create(path, 5 * shm.HUGE_PAGE_BYTES + 4096)
    try:
        segment.buffer[:] = b"\xa5" * segment.size_bytes
        got = segment.collapse()
        assert got == segment.huge_pages and segment.buffer[:] == b"\xa5" * segment.size_bytes
        reader = shm.open_(path)
        assert reader.buffer[-1] == 0xA5
        if got:
            assert shm.is_aligned(segment)
        reader.close()
    finally:
        path.unlink()


def test_a_small_segment_has_no_huge_pages() -> None:
    path = MEMORY / f"shikaku-test-{os.getpid()}"
    segment = shm.create(path, 10_000)
    path.unlink()
    assert not segment.collapse() and not segment.huge_pages


def test_mapping_many_segments_leaves_no_fillers_behind() -> None:
    """Addresses for huge pages are got with filler mappings; those must not pile up."""
    path = MEMORY / f"shikaku-test-{os.getpid()}"
    shm.create(path, 3 * shm.HUGE_PAGE_BYTES + 4096).close()
    try:
        before = len(Path("/proc/self/maps").read_text().splitlines())
        segments = [shm.open_(path) for _ in range(50)]
        during = len(Path("/proc/self/maps").read_text().splitlines())
        assert all(map(shm.is_aligned, segments))
        assert during - before <= 60
        for segment in segments:
            segment.close()
    finally:
        path.unlink()


def test_a_place_for_huge_pages_is_found_between_gaps_of_any_size() -> None:
    """Fillers once fell into small gaps for ever while the mapping went to the same wrong place each time."""
    path = MEMORY / f"shikaku-test-{os.getpid()}"
    random = Random(1)
    held: list[object] = []
    try:
        for _ in range(600):
            if random.random() < 0.5 and held:
                held.pop(random.randrange(len(held)))
            elif random.random() < 0.5:
                held.append(mmap.mmap(-1, random.choice([1, 256, 768, 12_800]) * 4096 + 4096 * random.randrange(100)))
            else:
                with path.open("wb") as file:
                    file.truncate(random.choice([2 << 20, (5 << 20) + 4096, (230 << 20) + 12288]))
                held.append(shm.open_(path))
                assert shm.is_aligned(held[-1])  # type: ignore[arg-type]
    finally:
        path.unlink(missing_ok=True)
