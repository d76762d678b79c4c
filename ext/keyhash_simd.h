/* Owns SipHash-2-4 with 128-bit output in C: one message in scalar code, eight at once in
 * AVX-512 or AVX2 where there is one.
 *
 * Reference: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", and the authors' vectors
 * (tests/golden/siphash128_vectors). Loads are little-endian on every machine and never pass a message's end.
 */
#ifndef SHIKAKU_KEYHASH_SIMD_H
#define SHIKAKU_KEYHASH_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KEYHASH_LANES 8

/* Ways to hash eight messages; what a processor has, it has with all that come before. */
#define KEYHASH_FORM_SCALAR 0
#define KEYHASH_FORM_AVX2 1
#define KEYHASH_FORM_AVX512 2

static inline uint64_t keyhash_little(uint64_t value)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(value);
#else
    return value;
#endif
}

static inline uint64_t keyhash_load_little(const uint8_t *source)
{
    uint64_t value;
    memcpy(&value, source, 8);
    return keyhash_little(value);
}

static inline void keyhash_store_little(uint8_t *target, uint64_t value)
{
    value = keyhash_little(value);
    memcpy(target, &value, 8);
}

/* The last block: what is left of the message, and its length in the top byte. */
static inline uint64_t keyhash_last_block(const uint8_t *message, size_t length)
{
    size_t left = length & 7;
    uint64_t block = (uint64_t)length << 56;
    if (length >= 8)
        /* One load that ends with the message; shifted in two steps, because 64 at once is undefined. */
        return block | (keyhash_load_little(message + length - 8) >> 8 >> (56 - 8 * left));
    for (size_t i = 0; i < left; i++)
        block |= (uint64_t)message[i] << (8 * i);
    return block;
}

#define KEYHASH_ROTATE(x, n) (((x) << (n)) | ((x) >> (64 - (n))))

#define KEYHASH_ROUND(v0, v1, v2, v3)                                                                                  \
    do {                                                                                                               \
        v0 += v1; v1 = KEYHASH_ROTATE(v1, 13); v1 ^= v0; v0 = KEYHASH_ROTATE(v0, 32);                                  \
        v2 += v3; v3 = KEYHASH_ROTATE(v3, 16); v3 ^= v2;                                                               \
        v0 += v3; v3 = KEYHASH_ROTATE(v3, 21); v3 ^= v0;                                                               \
        v2 += v1; v1 = KEYHASH_ROTATE(v1, 17); v1 ^= v2; v2 = KEYHASH_ROTATE(v2, 32);                                  \
    } while (0)

#define KEYHASH_V0 0x736f6d6570736575ULL
#define KEYHASH_V1 (0x646f72616e646f6dULL ^ 0xee)
#define KEYHASH_V2 0x6c7967656e657261ULL
#define KEYHASH_V3 0x7465646279746573ULL

/* out = [lo, hi]: the 16 bytes of the digest read little-endian. */
static inline void keyhash_siphash128(
    uint64_t k0, uint64_t k1, const uint8_t *message, size_t length, uint64_t *out)
{
    uint64_t v0 = k0 ^ KEYHASH_V0, v1 = k1 ^ KEYHASH_V1, v2 = k0 ^ KEYHASH_V2, v3 = k1 ^ KEYHASH_V3;
    uint64_t block;
    for (size_t i = 0; i < length / 8; i++) {
        block = keyhash_load_little(message + 8 * i);
        v3 ^= block;
        KEYHASH_ROUND(v0, v1, v2, v3);
        KEYHASH_ROUND(v0, v1, v2, v3);
        v0 ^= block;
    }
    block = keyhash_last_block(message, length);
    v3 ^= block;
    KEYHASH_ROUND(v0, v1, v2, v3);
    KEYHASH_ROUND(v0, v1, v2, v3);
    v0 ^= block;
    v2 ^= 0xee;
    for (int i = 0; i < 4; i++)
        KEYHASH_ROUND(v0, v1, v2, v3);
    out[0] = v0 ^ v1 ^ v2 ^ v3;
    v1 ^= 0xdd;
    for (int i = 0; i < 4; i++)
        KEYHASH_ROUND(v0, v1, v2, v3);
    out[1] = v0 ^ v1 ^ v2 ^ v3;
}

static inline void keyhash_lanes_scalar(
    uint64_t k0, uint64_t k1, const uint8_t **messages, const size_t *lengths, uint64_t *outs)
{
    for (int lane = 0; lane < KEYHASH_LANES; lane++)
        keyhash_siphash128(k0, k1, messages[lane], lengths[lane], outs + 2 * lane);
}

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define KEYHASH_AVX2 __attribute__((target("avx2")))

/* Rotations by 32 and 16 move whole bytes: one shuffle instead of two shifts and an or. */
#define KEYHASH_VROTATE(x, n) _mm256_or_si256(_mm256_slli_epi64(x, n), _mm256_srli_epi64(x, 64 - (n)))
#define KEYHASH_VROTATE32(x) _mm256_shuffle_epi32(x, 0xb1)
#define KEYHASH_VROTATE16(x) _mm256_shuffle_epi8(x, by16)
#define KEYHASH_VADD(x, y) x = _mm256_add_epi64(x, y)
#define KEYHASH_VXOR(x, y) x = _mm256_xor_si256(x, y)

/* One round of both groups of four lanes, interleaved so that neither waits for its own last result. */
#define KEYHASH_VROUND                                                                                                 \
    do {                                                                                                               \
        KEYHASH_VADD(a0, a1); KEYHASH_VADD(b0, b1);                                                                    \
        a1 = KEYHASH_VROTATE(a1, 13); b1 = KEYHASH_VROTATE(b1, 13);                                                    \
        KEYHASH_VADD(a2, a3); KEYHASH_VADD(b2, b3);                                                                    \
        a3 = KEYHASH_VROTATE16(a3); b3 = KEYHASH_VROTATE16(b3);                                                        \
        KEYHASH_VXOR(a1, a0); KEYHASH_VXOR(b1, b0);                                                                    \
        KEYHASH_VXOR(a3, a2); KEYHASH_VXOR(b3, b2);                                                                    \
        a0 = KEYHASH_VROTATE32(a0); b0 = KEYHASH_VROTATE32(b0);                                                        \
        KEYHASH_VADD(a2, a1); KEYHASH_VADD(b2, b1);                                                                    \
        KEYHASH_VADD(a0, a3); KEYHASH_VADD(b0, b3);                                                                    \
        a1 = KEYHASH_VROTATE(a1, 17); b1 = KEYHASH_VROTATE(b1, 17);                                                    \
        a3 = KEYHASH_VROTATE(a3, 21); b3 = KEYHASH_VROTATE(b3, 21);                                                    \
        KEYHASH_VXOR(a1, a2); KEYHASH_VXOR(b1, b2);                                                                    \
        KEYHASH_VXOR(a3, a0); KEYHASH_VXOR(b3, b0);                                                                    \
        a2 = KEYHASH_VROTATE32(a2); b2 = KEYHASH_VROTATE32(b2);                                                        \
    } while (0)

#define KEYHASH_VBLOCK(a, b)                                                                                           \
    do {                                                                                                               \
        KEYHASH_VXOR(a3, a); KEYHASH_VXOR(b3, b);                                                                      \
        KEYHASH_VROUND;                                                                                                \
        KEYHASH_VROUND;                                                                                                \
        KEYHASH_VXOR(a0, a); KEYHASH_VXOR(b0, b);                                                                      \
    } while (0)

#define KEYHASH_VGATHER(load, first)                                                                                   \
    _mm256_set_epi64x((long long)load(first + 3), (long long)load(first + 2),                                          \
                      (long long)load(first + 1), (long long)load(first))
#define KEYHASH_LOAD_WHOLE(lane) keyhash_load_little(messages[lane] + 8 * i)
#define KEYHASH_LOAD_ANY(lane) keyhash_load_little(i < wholes[lane] ? messages[lane] + 8 * i : (uint8_t *)&lasts[lane])
#define KEYHASH_VKEEP(now, old, done) now = _mm256_blendv_epi8(now, old, done)
#define KEYHASH_VFOLD(v0, v1, v2, v3) _mm256_xor_si256(_mm256_xor_si256(v0, v1), _mm256_xor_si256(v2, v3))

/* Eight messages of any lengths: together while all have whole blocks; then a lane that is done keeps its state. */
static inline KEYHASH_AVX2 void keyhash_lanes_avx2(
    uint64_t k0, uint64_t k1, const uint8_t **messages, const size_t *lengths, uint64_t *outs)
{
    const __m256i by16 = _mm256_setr_epi8(6, 7, 0, 1, 2, 3, 4, 5, 14, 15, 8, 9, 10, 11, 12, 13,
                                          6, 7, 0, 1, 2, 3, 4, 5, 14, 15, 8, 9, 10, 11, 12, 13);
    uint64_t wholes[KEYHASH_LANES], lasts[KEYHASH_LANES];
    size_t shortest = SIZE_MAX, longest = 0, i = 0;
    for (int lane = 0; lane < KEYHASH_LANES; lane++) {
        lasts[lane] = keyhash_last_block(messages[lane], lengths[lane]);
        wholes[lane] = lengths[lane] / 8;
        shortest = wholes[lane] < shortest ? wholes[lane] : shortest;
        longest = wholes[lane] > longest ? wholes[lane] : longest;
    }
    __m256i a0 = _mm256_set1_epi64x((long long)(k0 ^ KEYHASH_V0)), b0 = a0;
    __m256i a1 = _mm256_set1_epi64x((long long)(k1 ^ KEYHASH_V1)), b1 = a1;
    __m256i a2 = _mm256_set1_epi64x((long long)(k0 ^ KEYHASH_V2)), b2 = a2;
    __m256i a3 = _mm256_set1_epi64x((long long)(k1 ^ KEYHASH_V3)), b3 = a3;
    __m256i a, b;
    for (; i < shortest; i++) {
        a = KEYHASH_VGATHER(KEYHASH_LOAD_WHOLE, 0);
        b = KEYHASH_VGATHER(KEYHASH_LOAD_WHOLE, 4);
        KEYHASH_VBLOCK(a, b);
    }
    const __m256i a_wholes = _mm256_loadu_si256((const __m256i *)wholes);
    const __m256i b_wholes = _mm256_loadu_si256((const __m256i *)(wholes + 4));
    for (; i <= longest; i++) {
        __m256i now = _mm256_set1_epi64x((long long)i);
        __m256i a_done = _mm256_cmpgt_epi64(now, a_wholes), b_done = _mm256_cmpgt_epi64(now, b_wholes);
        __m256i a0_old = a0, a1_old = a1, a2_old = a2, a3_old = a3;
        __m256i b0_old = b0, b1_old = b1, b2_old = b2, b3_old = b3;
        a = KEYHASH_VGATHER(KEYHASH_LOAD_ANY, 0);
        b = KEYHASH_VGATHER(KEYHASH_LOAD_ANY, 4);
        KEYHASH_VBLOCK(a, b);
        KEYHASH_VKEEP(a0, a0_old, a_done); KEYHASH_VKEEP(b0, b0_old, b_done);
        KEYHASH_VKEEP(a1, a1_old, a_done); KEYHASH_VKEEP(b1, b1_old, b_done);
        KEYHASH_VKEEP(a2, a2_old, a_done); KEYHASH_VKEEP(b2, b2_old, b_done);
        KEYHASH_VKEEP(a3, a3_old, a_done); KEYHASH_VKEEP(b3, b3_old, b_done);
    }
    a = _mm256_set1_epi64x(0xee);
    KEYHASH_VXOR(a2, a); KEYHASH_VXOR(b2, a);
    for (int i = 0; i < 4; i++)
        KEYHASH_VROUND;
    __m256i a_low = KEYHASH_VFOLD(a0, a1, a2, a3), b_low = KEYHASH_VFOLD(b0, b1, b2, b3);
    a = _mm256_set1_epi64x(0xdd);
    KEYHASH_VXOR(a1, a); KEYHASH_VXOR(b1, a);
    for (int i = 0; i < 4; i++)
        KEYHASH_VROUND;
    __m256i a_high = KEYHASH_VFOLD(a0, a1, a2, a3), b_high = KEYHASH_VFOLD(b0, b1, b2, b3);
    /* unpack gives lanes 0 and 2, then 1 and 3; the permutes put each lane's [lo, hi] in order. */
    __m256i even = _mm256_unpacklo_epi64(a_low, a_high), odd = _mm256_unpackhi_epi64(a_low, a_high);
    _mm256_storeu_si256((__m256i *)outs, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((__m256i *)(outs + 4), _mm256_permute2x128_si256(even, odd, 0x31));
    even = _mm256_unpacklo_epi64(b_low, b_high);
    odd = _mm256_unpackhi_epi64(b_low, b_high);
    _mm256_storeu_si256((__m256i *)(outs + 8), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((__m256i *)(outs + 12), _mm256_permute2x128_si256(even, odd, 0x31));
}

/* AVX-512: the eight lanes fill one register, and a rotation is one instruction. */
#define KEYHASH_AVX512 __attribute__((target("avx512f")))
#define KEYHASH_WADD(x, y) x = _mm512_add_epi64(x, y)
#define KEYHASH_WXOR(x, y) x = _mm512_xor_si512(x, y)
#define KEYHASH_WROUND                                                                                                 \
    do {                                                                                                               \
        KEYHASH_WADD(v0, v1); v1 = _mm512_rol_epi64(v1, 13); KEYHASH_WXOR(v1, v0); v0 = _mm512_rol_epi64(v0, 32);      \
        KEYHASH_WADD(v2, v3); v3 = _mm512_rol_epi64(v3, 16); KEYHASH_WXOR(v3, v2);                                     \
        KEYHASH_WADD(v0, v3); v3 = _mm512_rol_epi64(v3, 21); KEYHASH_WXOR(v3, v0);                                     \
        KEYHASH_WADD(v2, v1); v1 = _mm512_rol_epi64(v1, 17); KEYHASH_WXOR(v1, v2); v2 = _mm512_rol_epi64(v2, 32);      \
    } while (0)
#define KEYHASH_WBLOCK(block)                                                                                          \
    do {                                                                                                               \
        KEYHASH_WXOR(v3, block);                                                                                       \
        KEYHASH_WROUND;                                                                                                \
        KEYHASH_WROUND;                                                                                                \
        KEYHASH_WXOR(v0, block);                                                                                       \
    } while (0)
/* Eight loads and seven shuffles: the gather instruction is slower wherever its leak of old data is mended. */
#define KEYHASH_WGATHER(load)                                                                                          \
    _mm512_set_epi64((long long)load(7), (long long)load(6), (long long)load(5), (long long)load(4),                   \
                     (long long)load(3), (long long)load(2), (long long)load(1), (long long)load(0))
#define KEYHASH_LOAD_REST(lane)                                                                                      \
    keyhash_load_little(i < lengths[lane] / 8 ? messages[lane] + 8 * i : (uint8_t *)&lasts[lane])
#define KEYHASH_LOAD_END(lane) keyhash_load_little(messages[lane] + lengths[lane] - 8)
#define KEYHASH_WFOLD _mm512_xor_si512(_mm512_xor_si512(v0, v1), _mm512_xor_si512(v2, v3))

static inline KEYHASH_AVX512 void keyhash_lanes_avx512(
    uint64_t k0, uint64_t k1, const uint8_t **messages, const size_t *lengths, uint64_t *outs)
{
    const __m512i sizes = _mm512_loadu_si512(lengths), wholes = _mm512_srli_epi64(sizes, 3);
    const uint64_t shortest = _mm512_reduce_min_epu64(wholes), longest = _mm512_reduce_max_epu64(wholes);
    __m512i v0 = _mm512_set1_epi64((long long)(k0 ^ KEYHASH_V0)), v1 = _mm512_set1_epi64((long long)(k1 ^ KEYHASH_V1));
    __m512i v2 = _mm512_set1_epi64((long long)(k0 ^ KEYHASH_V2)), v3 = _mm512_set1_epi64((long long)(k1 ^ KEYHASH_V3));
    uint64_t i = 0;
    for (; i < shortest; i++) {
        const __m512i block = KEYHASH_WGATHER(KEYHASH_LOAD_WHOLE);
        KEYHASH_WBLOCK(block);
    }
    if (shortest == longest && shortest > 0) {
        /* As keyhash_last_block, of all lanes: a shift by 64 leaves nothing, as it should. */
        const __m512i left = _mm512_slli_epi64(_mm512_and_si512(sizes, _mm512_set1_epi64(7)), 3);
        const __m512i ends = _mm512_srlv_epi64(
            KEYHASH_WGATHER(KEYHASH_LOAD_END), _mm512_sub_epi64(_mm512_set1_epi64(64), left));
        const __m512i block = _mm512_or_si512(ends, _mm512_slli_epi64(sizes, 56));
        KEYHASH_WBLOCK(block);
    } else {
        uint64_t lasts[KEYHASH_LANES];
        for (int lane = 0; lane < KEYHASH_LANES; lane++)
            lasts[lane] = keyhash_last_block(messages[lane], lengths[lane]);
        for (; i <= longest; i++) {
            const __mmask8 held = _mm512_cmple_epu64_mask(_mm512_set1_epi64((long long)i), wholes);
            const __m512i block = KEYHASH_WGATHER(KEYHASH_LOAD_REST);
            const __m512i old0 = v0, old1 = v1, old2 = v2, old3 = v3;
            KEYHASH_WBLOCK(block);
            v0 = _mm512_mask_mov_epi64(old0, held, v0);
            v1 = _mm512_mask_mov_epi64(old1, held, v1);
            v2 = _mm512_mask_mov_epi64(old2, held, v2);
            v3 = _mm512_mask_mov_epi64(old3, held, v3);
        }
    }
    KEYHASH_WXOR(v2, _mm512_set1_epi64(0xee));
    for (int round = 0; round < 4; round++)
        KEYHASH_WROUND;
    const __m512i low = KEYHASH_WFOLD;
    KEYHASH_WXOR(v1, _mm512_set1_epi64(0xdd));
    for (int round = 0; round < 4; round++)
        KEYHASH_WROUND;
    const __m512i high = KEYHASH_WFOLD;
    const __m512i first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i second = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    _mm512_storeu_si512(outs, _mm512_permutex2var_epi64(low, first, high));
    _mm512_storeu_si512(outs + 8, _mm512_permutex2var_epi64(low, second, high));
}

static inline int keyhash_best_form(void)
{
    /* The operating system must keep these registers, too; the compiler's run-time asks for both. */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return KEYHASH_FORM_AVX512;
    return __builtin_cpu_supports("avx2") ? KEYHASH_FORM_AVX2 : KEYHASH_FORM_SCALAR;
}
#else
static inline int keyhash_best_form(void)
{
    return KEYHASH_FORM_SCALAR;
}

#define keyhash_lanes_avx2 keyhash_lanes_scalar
#define keyhash_lanes_avx512 keyhash_lanes_scalar
#endif

/* Eight messages of any lengths by one of the forms that this processor has; outs = 8 x [lo, hi]. */
static inline void keyhash_siphash128_lanes(
    int form, uint64_t k0, uint64_t k1, const uint8_t **messages, const size_t *lengths, uint64_t *outs)
{
    if (form == KEYHASH_FORM_AVX512)
        keyhash_lanes_avx512(k0, k1, messages, lengths, outs);
    else if (form == KEYHASH_FORM_AVX2)
        keyhash_lanes_avx2(k0, k1, messages, lengths, outs);
    else
        keyhash_lanes_scalar(k0, k1, messages, lengths, outs);
}

#endif
