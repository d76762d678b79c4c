"""Owns the fuzzing of ext/frame: the outline of JSON texts, in any bytes."""

from __future__ import annotations

from pathlib import Path

from ext import frame_py
from tests.fuzz.target import Target
from tests.support import streams
from tests.support.outcomes import compiled, outcome

frame = compiled("frame")
BYTES_MAX = 300


def run(data: bytes) -> None:
    try:
        found = frame.members(data)
    except ValueError:
        pass
    else:
        assert len({name for name, _, _ in found}) == len(found)
        assert all(0 < start < end < len(data) for _, start, end in found)
    frame.distinct(data)
    try:
        at = frame.open_array(data)
        for _ in range(len(data)):
            start, end, at = frame.next_item(data, at, BYTES_MAX)
            assert 0 < start <= end <= at <= len(data) and end - start <= BYTES_MAX
            if start == end:
                frame.finish(data, at)
                break
    except ValueError:
        pass


def compare(data: bytes) -> None:
    run(data)
    for name in ("members", "distinct", "open_object", "open_array", "next_item", "next_member", "skip", "finish"):
        offset = () if name in ("members", "distinct") else (0,)
        assert outcome(getattr(frame, name), data, *offset) == outcome(getattr(frame_py, name), data, *offset), name
    for name, first in (("next_item", frame.open_array), ("next_member", frame.open_object)):
        opened = outcome(first, data)
        offset_now = opened[2] if opened[0] == "value" else 0
        for _ in range(8):
            found = outcome(getattr(frame, name), data, offset_now, BYTES_MAX)
            assert found == outcome(getattr(frame_py, name), data, offset_now, BYTES_MAX), name
            if found[0] == "error" or found[2][-1] <= offset_now:
                break
            offset_now = found[2][-1]
            if name == "next_member":
                skipped = outcome(frame.skip, data, offset_now)
                assert skipped == outcome(frame_py.skip, data, offset_now)
                if skipped[0] == "error":
                    break
                offset_now = skipped[2]


def target(folder: Path) -> Target:
    seeds = [*streams.BODIES, *(b"[" + b",".join([body] * 3) + b"]" for body in streams.BODIES)]
    seeds += [b"[" * 64 + b"]" * 64, b'{"a":' * 63 + b"1" + b"}" * 63, b'{"a":"\\', b'["\\u00e9\\ud800",-2.5e3,true]']
    seeds += [b"{" + b",".join(b'"%d":0' % number for number in range(count)) + b"}" for count in (256, 257)]
    words = [b'\\"', b"\\u0062", b'"a":', b"true", b"null", b"-2.5e3", b"[[[[", b"]]]]", b"\xc3\xa9", b"\xed\xa0\x80"]
    return Target(seeds, words, run, compare)
