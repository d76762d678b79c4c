# The quick way for other compiled modules; ext/quick.pyi says what Python may call.
cimport cython
from libc.stdint cimport uint8_t, uint64_t

from ext.pages cimport Pages
from ext.probe cimport Table


@cython.final
cdef class Quick:
    cdef Table table
    cdef Pages pages
    cdef object renewed_table
    cdef object today
    cdef object insurer
    cdef bytes advice
    cdef list pieces
    cdef uint64_t k0
    cdef uint64_t k1

    # Writes the answer to a check, at most ordinary.MOST_ANSWER_BYTES; 0 if that is for the careful way. Raises what
    # the callables raise.
    cdef Py_ssize_t write_answer(self, const uint8_t *start, Py_ssize_t size, uint8_t *target) except -1
