"""Owns the keyed hash of identifiers: SipHash-2-4 with 128-bit output, for one message and for many."""
# distutils: depends = ext/keyhash_simd.h
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from ext.arrays cimport checked_array, writeable_array

import numpy as np

cnp.import_array()

KEY_BYTES = 16
FORMS = ("scalar", "avx2", "avx512")[: best_form() + 1]
FORM = FORMS[best_form()]
cdef int _best = best_form()


def siphash128(key, message):
    cdef uint64_t digest[2]
    cdef const uint8_t *k = _key(key)
    if not isinstance(message, bytes):
        raise TypeError(f"message must be bytes, not {type(message).__name__}")
    hash_one(
        load_little(k), load_little(k + 8),
        <const uint8_t *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), digest,
    )
    result = PyBytes_FromStringAndSize(NULL, 16)
    cdef uint8_t *target = <uint8_t *>PyBytes_AS_STRING(result)
    store_little(target, digest[0])
    store_little(target + 8, digest[1])
    return result


def siphash128_many(key, messages):
    cdef const uint8_t *k = _key(key)
    cdef uint64_t k0 = load_little(k), k1 = load_little(k + 8)
    cdef const uint8_t *starts[LANES]
    cdef size_t lengths[LANES]
    cdef Py_ssize_t count, done = 0, lane
    if not isinstance(messages, list):
        raise TypeError(f"messages must be a list, not {type(messages).__name__}")
    count = PyList_GET_SIZE(messages)
    for lane in range(count):
        if not isinstance(<object>PyList_GET_ITEM(messages, lane), bytes):
            raise TypeError("every message must be bytes")
    result = np.empty((count, 2), np.uint64)
    cdef uint64_t *out = <uint64_t *>cnp.PyArray_DATA(result)
    # No Python code runs from here on, so the list and its messages stay as they were checked.
    while done < count:
        if count - done < LANES:
            message = <object>PyList_GET_ITEM(messages, done)
            hash_one(
                k0, k1, <const uint8_t *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), out + 2 * done
            )
            done += 1
            continue
        for lane in range(LANES):
            message = <object>PyList_GET_ITEM(messages, done + lane)
            starts[lane] = <const uint8_t *>PyBytes_AS_STRING(message)
            lengths[lane] = PyBytes_GET_SIZE(message)
        hash_lanes(_best, k0, k1, starts, lengths, out + 2 * done)
        done += LANES
    return result


def siphash128_rows(key, rows, lengths, out, *, form=FORM):
    cdef const uint8_t *k = _key(key)
    cdef uint64_t k0 = load_little(k), k1 = load_little(k + 8)
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}")
    cdef int chosen = FORMS.index(form)
    checked_array(rows, "rows", cnp.NPY_UINT8, "uint8", 2)
    checked_array(lengths, "lengths", cnp.NPY_UINT16, "uint16", 1)
    writeable_array(out, "out", cnp.NPY_UINT64, "uint64", 2)
    cdef Py_ssize_t count = cnp.PyArray_DIM(rows, 0), width = cnp.PyArray_DIM(rows, 1)
    if cnp.PyArray_DIM(lengths, 0) != count:
        raise ValueError("lengths must have one element a row")
    if cnp.PyArray_DIM(out, 0) != count or cnp.PyArray_DIM(out, 1) != 2:
        raise ValueError("out must have the shape (rows, 2)")
    cdef const uint8_t *start = <const uint8_t *>cnp.PyArray_DATA(rows)
    cdef const uint16_t *row_lengths = <const uint16_t *>cnp.PyArray_DATA(lengths)
    cdef uint64_t *target = <uint64_t *>cnp.PyArray_DATA(out)
    cdef bint fits
    with nogil:
        fits = _hash_rows(k0, k1, start, width, row_lengths, count, target, chosen)
    if not fits:
        raise ValueError("a length is more than the width of rows")


cdef bint _hash_rows(
    uint64_t k0, uint64_t k1, const uint8_t *rows, Py_ssize_t width, const uint16_t *lengths, Py_ssize_t count,
    uint64_t *out, int form,
) noexcept nogil:
    # Nothing is written if a length is wrong; and as another thread could change one meanwhile, each is read once
    # more where it is used, and checked there.
    cdef const uint8_t *starts[LANES]
    cdef size_t taken[LANES]
    cdef Py_ssize_t done = 0, lane
    cdef size_t length, longest = 0
    for lane in range(count):
        longest = max(longest, <size_t>lengths[lane])
    if longest > <size_t>width:
        return False
    while count - done >= LANES:
        longest = 0
        for lane in range(LANES):
            length = lengths[done + lane]
            taken[lane] = length
            longest = max(longest, length)
            starts[lane] = rows + (done + lane) * width
        if longest > <size_t>width:
            return False
        hash_lanes(form, k0, k1, starts, taken, out + 2 * done)
        done += LANES
    while done < count:
        length = lengths[done]
        if length > <size_t>width:
            return False
        hash_one(k0, k1, rows + done * width, length, out + 2 * done)
        done += 1
    return True


cdef inline const uint8_t *_key(key) except NULL:
    if not isinstance(key, bytes):
        raise TypeError(f"key must be bytes, not {type(key).__name__}")
    if PyBytes_GET_SIZE(key) != 16:
        raise ValueError("key must have 16 bytes")
    return <const uint8_t *>PyBytes_AS_STRING(key)
