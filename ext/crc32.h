/* Owns the CRC-32 of IEEE 802.3, as zlib computes it: 16 bytes at a time by carry-less products where there are some. */
#ifndef SHIKAKU_CRC32
#define SHIKAKU_CRC32
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define CRC32_FOLDS 1
#include <immintrin.h>
#endif

static uint32_t crc32_table[8][256];
static int crc32_folds;

/* To be called once, before anything else here. */
static void crc32_prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; bit++)
            rest = rest & 1 ? rest >> 1 ^ 0xedb88320u : rest >> 1;
        crc32_table[0][byte] = rest;
    }
    for (int row = 1; row < 8; row++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t rest = crc32_table[row - 1][byte];
            crc32_table[row][byte] = rest >> 8 ^ crc32_table[0][rest & 0xff];
        }
#ifdef CRC32_FOLDS
    __builtin_cpu_init();
    crc32_folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#endif
}

/* Eight bytes at a time by tables. `rest` is the state between calls: the checksum with all bits turned over. */
static uint32_t crc32_by_tables(uint32_t rest, const uint8_t *at, size_t size) {
    for (; size >= 8; size -= 8, at += 8) {
        uint32_t first = rest ^ (at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24);
        rest = crc32_table[7][first & 0xff] ^ crc32_table[6][first >> 8 & 0xff] ^ crc32_table[5][first >> 16 & 0xff]
            ^ crc32_table[4][first >> 24] ^ crc32_table[3][at[4]] ^ crc32_table[2][at[5]] ^ crc32_table[1][at[6]]
            ^ crc32_table[0][at[7]];
    }
    for (; size; size--)
        rest = rest >> 8 ^ crc32_table[0][(rest ^ *at++) & 0xff];
    return rest;
}

#ifdef CRC32_FOLDS
#define CRC32_FOLD(into, next, by) \
    _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(into, by, 0x00), _mm_clmulepi64_si128(into, by, 0x11)), next)
#define CRC32_LOAD(at) _mm_loadu_si128((const __m128i *)(at))

/* At least 64 bytes, a multiple of 16. After Gopal and others, "Fast CRC computation for generic polynomials using
   PCLMULQDQ instruction" (Intel, 2009); the constants are powers of x modulo the polynomial, bits reversed. */
__attribute__((target("pclmul,sse4.1")))
static uint32_t crc32_by_folds(uint32_t rest, const uint8_t *at, size_t size) {
    const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4), by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i by_4 = _mm_set_epi64x(0, 0x0163cd6124), poly = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i low_words = _mm_setr_epi32(-1, 0, -1, 0);
    __m128i a = _mm_xor_si128(CRC32_LOAD(at), _mm_cvtsi32_si128((int)rest));
    __m128i b = CRC32_LOAD(at + 16), c = CRC32_LOAD(at + 32), d = CRC32_LOAD(at + 48), part;
    for (at += 64, size -= 64; size >= 64; at += 64, size -= 64) {
        a = CRC32_FOLD(a, CRC32_LOAD(at), by_64);
        b = CRC32_FOLD(b, CRC32_LOAD(at + 16), by_64);
        c = CRC32_FOLD(c, CRC32_LOAD(at + 32), by_64);
        d = CRC32_FOLD(d, CRC32_LOAD(at + 48), by_64);
    }
    a = CRC32_FOLD(a, b, by_16);
    a = CRC32_FOLD(a, c, by_16);
    a = CRC32_FOLD(a, d, by_16);
    for (; size >= 16; at += 16, size -= 16)
        a = CRC32_FOLD(a, CRC32_LOAD(at), by_16);
    /* 128 bits to 64, 64 to 32 and their remainder (Barrett). */
    a = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, by_16, 0x10));
    part = _mm_srli_si128(a, 4);
    a = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(a, low_words), by_4, 0x00), part);
    part = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(a, low_words), poly, 0x10), low_words);
    a = _mm_xor_si128(a, _mm_clmulepi64_si128(part, poly, 0x00));
    return (uint32_t)_mm_extract_epi32(a, 1);
}
#endif

/* The checksum of `size` bytes behind others whose checksum is `before` (0: none). Cannot fail. */
static uint32_t crc32_of(uint32_t before, const uint8_t *at, size_t size) {
    uint32_t rest = ~before;
#ifdef CRC32_FOLDS
    if (crc32_folds && size >= 64) {
        size_t most = size & ~(size_t)15;
        rest = crc32_by_folds(rest, at, most);
        at += most;
        size -= most;
    }
#endif
    return ~crc32_by_tables(rest, at, size);
}
#endif
