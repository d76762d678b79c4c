"""Owns the hashes of a Merkle tree, many at a time."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport uint8_t

cdef extern from "sha256.h" nogil:
    enum:
        HASH "SHA256_BYTES"

    void sha256_prepare() noexcept
    void sha256_of(int before, const uint8_t *at, size_t size, uint8_t *out) noexcept

sha256_prepare()
HASH_BYTES = HASH


def leaf_hashes(entries):
    cdef Py_ssize_t count, place
    cdef uint8_t *out
    if not isinstance(entries, list):
        raise TypeError(f"entries must be a list, not {type(entries).__name__}")
    count = PyList_GET_SIZE(entries)
    for place in range(count):
        if not isinstance(<object>PyList_GET_ITEM(entries, place), bytes):
            raise TypeError(f"entries must hold bytes, not {type(entries[place]).__name__}")
    result = PyBytes_FromStringAndSize(NULL, count * HASH)
    out = <uint8_t *>PyBytes_AS_STRING(result)
    for place in range(count):
        entry = <object>PyList_GET_ITEM(entries, place)
        sha256_of(0, <const uint8_t *>PyBytes_AS_STRING(entry), PyBytes_GET_SIZE(entry), out + place * HASH)
    return result


def node_hashes(children):
    cdef Py_ssize_t count, place
    cdef const uint8_t *source
    cdef uint8_t *out
    if not isinstance(children, bytes):
        raise TypeError(f"children must be bytes, not {type(children).__name__}")
    source = <const uint8_t *>PyBytes_AS_STRING(children)
    count = PyBytes_GET_SIZE(children) // (2 * HASH)
    result = PyBytes_FromStringAndSize(NULL, count * HASH)
    out = <uint8_t *>PyBytes_AS_STRING(result)
    with nogil:
        for place in range(count):
            sha256_of(1, source + 2 * place * HASH, 2 * HASH, out + place * HASH)
    return result
