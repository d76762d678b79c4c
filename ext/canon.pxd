# Canonical form of plain ASCII for other compiled modules; ext/canon.pyi says what Python may call.
from libc.stdint cimport uint8_t

# Writes the canonical form of `length` bytes to `target`, which has room for `length` bytes; with `number`, without
# leading zeros. Returns how many bytes were written, or -1 if a byte is not printable ASCII.
cdef Py_ssize_t fold_ascii(const uint8_t *source, Py_ssize_t length, bint number, uint8_t *target) noexcept nogil
