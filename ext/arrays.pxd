# Owns what is asked of every array that a caller lends, before its memory is touched.
cimport numpy as cnp


cdef inline int checked_array(value, str name, int kind, str kind_name, int dimensions) except -1:
    """TypeError or ValueError unless `value` is an aligned C-contiguous array of this dtype in native byte order."""
    if not cnp.PyArray_Check(value):
        raise TypeError(f"{name} must be a numpy array, not {type(value).__name__}")
    if cnp.PyArray_TYPE(value) != kind or not cnp.PyArray_ISNOTSWAPPED(value):
        raise ValueError(f"{name} must have the dtype {kind_name}")
    if cnp.PyArray_NDIM(value) != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension(s)")
    if not cnp.PyArray_IS_C_CONTIGUOUS(value) or not cnp.PyArray_ISALIGNED(value):
        raise ValueError(f"{name} must be C-contiguous and aligned")
    return 0


cdef inline int writeable_array(value, str name, int kind, str kind_name, int dimensions) except -1:
    """As checked_array, and it may be written to."""
    checked_array(value, name, kind, kind_name, dimensions)
    if not cnp.PyArray_ISWRITEABLE(value):
        raise ValueError(f"{name} must be writeable")
    return 0
