# Owns what is asked of the numbers by which a caller names a place or a part of its bytes.


cdef inline Py_ssize_t place(value, str name, Py_ssize_t size) except -1:
    """A place in `size` bytes, or just behind them. Raises TypeError, ValueError."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 0 <= value <= size:
        raise ValueError(f"{name} is not within data")
    return value


cdef inline int part(start, stop, Py_ssize_t size, Py_ssize_t *first, Py_ssize_t *last) except -1:
    """Two such places, the second not before the first."""
    first[0], last[0] = place(start, "start", size), place(stop, "stop", size)
    if first[0] > last[0]:
        raise ValueError("start is behind stop")
    return 0
