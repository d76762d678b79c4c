/* Owns SHA-256 (FIPS 180-4): by the processor's own instructions where it has them, else in plain C. */
#ifndef SHIKAKU_SHA256
#define SHIKAKU_SHA256
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define SHA256_NI 1
#include <immintrin.h>
#endif

#define SHA256_BYTES 32
#define SHA256_BLOCK 64

static const uint32_t sha256_first[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};
static const uint32_t sha256_rounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static int sha256_by_processor;

/* To be called once, before anything else here. */
static void sha256_prepare(void) {
#ifdef SHA256_NI
    unsigned int a = 0, b = 0, c = 0, d = 0;
    __builtin_cpu_init();
    __asm__ __volatile__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    sha256_by_processor = __builtin_cpu_supports("sse4.1") && (b >> 29 & 1);
#endif
}

static inline uint32_t sha256_turned(uint32_t word, int by) { return word >> by | word << (32 - by); }

static void sha256_blocks_plain(uint32_t *state, const uint8_t *at, size_t blocks) {
    uint32_t w[64], s[8];
    for (; blocks; blocks--, at += SHA256_BLOCK) {
        for (int t = 0; t < 16; t++)
            w[t] = (uint32_t)at[4 * t] << 24 | (uint32_t)at[4 * t + 1] << 16 | (uint32_t)at[4 * t + 2] << 8 | at[4 * t + 3];
        for (int t = 16; t < 64; t++) {
            uint32_t a = w[t - 15], b = w[t - 2];
            w[t] = w[t - 16] + (sha256_turned(a, 7) ^ sha256_turned(a, 18) ^ a >> 3) + w[t - 7]
                + (sha256_turned(b, 17) ^ sha256_turned(b, 19) ^ b >> 10);
        }
        memcpy(s, state, sizeof s);
        for (int t = 0; t < 64; t++) {
            uint32_t e = sha256_turned(s[4], 6) ^ sha256_turned(s[4], 11) ^ sha256_turned(s[4], 25);
            uint32_t a = sha256_turned(s[0], 2) ^ sha256_turned(s[0], 13) ^ sha256_turned(s[0], 22);
            uint32_t first = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha256_rounds[t] + w[t];
            uint32_t second = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += first;
            s[0] = first + second;
        }
        for (int t = 0; t < 8; t++)
            state[t] += s[t];
    }
}

#ifdef SHA256_NI
/* Four rounds at a time; the state is held as ABEF and CDGH, as the instructions want it. */
__attribute__((target("sha,sse4.1,ssse3")))
static void sha256_blocks_ni(uint32_t *state, const uint8_t *at, size_t blocks) {
    const __m128i big = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i other = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    __m128i cdgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(other, cdgh, 8), w[4];
    cdgh = _mm_blend_epi16(cdgh, other, 0xf0);
    for (; blocks; blocks--, at += SHA256_BLOCK) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        for (int part = 0; part < 4; part++)
            w[part] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(at + 16 * part)), big);
#pragma GCC unroll 16
        for (int four = 0; four < 16; four++) {
            __m128i sum = _mm_add_epi32(w[four & 3], _mm_loadu_si128((const __m128i *)(sha256_rounds + 4 * four)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
            if (four < 12) {
                __m128i next = _mm_sha256msg1_epu32(w[four & 3], w[(four + 1) & 3]);
                next = _mm_add_epi32(next, _mm_alignr_epi8(w[(four + 3) & 3], w[(four + 2) & 3], 4));
                w[four & 3] = _mm_sha256msg2_epu32(next, w[(four + 3) & 3]);
            }
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    other = _mm_shuffle_epi32(abef, 0x1b);
    cdgh = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(other, cdgh, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(cdgh, other, 8));
}
#endif

static void sha256_blocks(uint32_t *state, const uint8_t *at, size_t blocks) {
#ifdef SHA256_NI
    if (sha256_by_processor) {
        sha256_blocks_ni(state, at, blocks);
        return;
    }
#endif
    sha256_blocks_plain(state, at, blocks);
}

/* The hash of a first byte (none, if it is negative) followed by `size` bytes. Cannot fail. */
static void sha256_of(int before, const uint8_t *at, size_t size, uint8_t *out) {
    uint32_t state[8];
    uint8_t tail[2 * SHA256_BLOCK] = {0};
    size_t held = 0, all = size + (before >= 0), last;
    memcpy(state, sha256_first, sizeof state);
    if (before >= 0) {
        size_t part = size < SHA256_BLOCK - 1 ? size : SHA256_BLOCK - 1;
        tail[0] = (uint8_t)before;
        memcpy(tail + 1, at, part);
        held = part + 1;
        at += part;
        size -= part;
        if (held == SHA256_BLOCK) {
            sha256_blocks(state, tail, 1);
            memset(tail, 0, SHA256_BLOCK);
            held = 0;
        }
    }
    if (held == 0 && size >= SHA256_BLOCK) {
        sha256_blocks(state, at, size / SHA256_BLOCK);
        at += size / SHA256_BLOCK * SHA256_BLOCK;
        size %= SHA256_BLOCK;
    }
    memcpy(tail + held, at, size);
    held += size;
    tail[held] = 0x80;
    last = held < SHA256_BLOCK - 8 ? SHA256_BLOCK : 2 * SHA256_BLOCK;
    for (int byte = 0; byte < 8; byte++)
        tail[last - 1 - byte] = (uint8_t)((uint64_t)all * 8 >> 8 * byte);
    sha256_blocks(state, tail, last / SHA256_BLOCK);
    for (int word = 0; word < 8; word++)
        for (int byte = 0; byte < 4; byte++)
            out[4 * word + byte] = (uint8_t)(state[word] >> (24 - 8 * byte));
}
#endif
