# Owns a buffer that grows: bytes on their way into one object.
from cpython.mem cimport PyMem_Free, PyMem_Realloc

cdef enum:
    FIRST_BYTES = 65536


cdef struct Growing:
    char *start
    Py_ssize_t room
    Py_ssize_t used


cdef inline char *reserve(Growing *buffer, Py_ssize_t size) except NULL:
    """Where so many bytes more may be written; whoever does adds them to `used`."""
    cdef char *grown
    cdef Py_ssize_t wanted = max(buffer.room, <Py_ssize_t>FIRST_BYTES)
    while wanted - buffer.used < size:
        wanted *= 2
    if wanted > buffer.room:
        grown = <char *>PyMem_Realloc(buffer.start, wanted)
        if grown == NULL:
            raise MemoryError
        buffer.start, buffer.room = grown, wanted
    return buffer.start + buffer.used


cdef inline void discard(Growing *buffer) noexcept:
    PyMem_Free(buffer.start)
    buffer.start, buffer.room, buffer.used = NULL, 0, 0
