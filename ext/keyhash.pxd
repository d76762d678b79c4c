# The keyed hash for other compiled modules; ext/keyhash.pyi says what Python may call.
from libc.stdint cimport uint8_t, uint64_t


cdef extern from "keyhash_simd.h" nogil:
    enum:
        LANES "KEYHASH_LANES"

    # SipHash-2-4 with 128-bit output; out = [lo, hi], the 16 bytes read little-endian. Cannot fail.
    void hash_one "keyhash_siphash128"(
        uint64_t k0, uint64_t k1, const uint8_t *message, size_t length, uint64_t *out
    ) noexcept
    # LANES messages at once by a form up to `best_form()`; outs = LANES x [lo, hi]. Cannot fail.
    void hash_lanes "keyhash_siphash128_lanes"(
        int form, uint64_t k0, uint64_t k1, const uint8_t **messages, const size_t *lengths, uint64_t *outs
    ) noexcept
    int best_form "keyhash_best_form"() noexcept
    uint64_t load_little "keyhash_load_little"(const uint8_t *source) noexcept
    void store_little "keyhash_store_little"(uint8_t *target, uint64_t value) noexcept
