/* Owns the walk of many keys at once through a table of form ATOMIC16, in one form for each kind of processor.
 *
 * Mispredicted branches cost more than the work itself, so nothing branches on what a line holds: first the home lines
 * of all keys, then the next line of those keys whose chain goes on, and so forth. What is not simple (a second entry, a
 * hidden one, a slot that changed under the eyes) gets the count PROBE_STEP_BY_STEP and is searched again on its own.
 */
#ifndef PROBE_WALK_H
#define PROBE_WALK_H

#include "probe_atomic.h"
#include <stddef.h>

#define PROBE_BLOCK 512
#define PROBE_AHEAD 24
#define PROBE_STEP_BY_STEP 255

/* Ways to walk; what a processor has, it has with all that come before. */
#define PROBE_WALK_PLAIN 0
#define PROBE_WALK_AVX2 1
#define PROBE_WALK_AVX512 2

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

static inline int probe_best_walk(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("bmi2"))
        return PROBE_WALK_AVX512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") ? PROBE_WALK_AVX2 : PROBE_WALK_PLAIN;
}

/* The masks have bit 2 n set if slot n holds the tag: a bit for each 8-byte word of the line, the odd ones cleared. They
   only say where to look: whoever uses one loads the slot as a whole and compares again. */
__attribute__((target("avx2,bmi,bmi2"))) static inline unsigned probe_line_mask_avx2(const shikaku_line *line, uint64_t tag)
{
    const __m256i wanted = _mm256_set1_epi64x((long long)(tag >> 16)), *halves = (const __m256i *)line;
    const __m256i low = _mm256_cmpeq_epi64(_mm256_srli_epi64(_mm256_load_si256(halves), 16), wanted);
    const __m256i high = _mm256_cmpeq_epi64(_mm256_srli_epi64(_mm256_load_si256(halves + 1), 16), wanted);
    return ((unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(low)) |
            (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(high)) << 4) & 0x55;
}

__attribute__((target("avx512f,bmi,bmi2"))) static inline unsigned probe_line_mask_avx512(const shikaku_line *line, uint64_t tag)
{
    const __m512i different = _mm512_xor_si512(_mm512_load_si512(line), _mm512_set1_epi64((long long)tag));
    return _mm512_cmplt_epu64_mask(different, _mm512_set1_epi64(0x10000)) & 0x55;
}

#define PROBE_WALK_NAME probe_walk_avx2
#define PROBE_WALK_SEEN probe_seen_avx2
#define PROBE_WALK_LOOK probe_look_avx2
#define PROBE_WALK_TARGET __attribute__((target("avx2,bmi,bmi2")))
#define PROBE_WALK_MASK probe_line_mask_avx2
#include "probe_walk_body.h"

#define PROBE_WALK_NAME probe_walk_avx512
#define PROBE_WALK_SEEN probe_seen_avx512
#define PROBE_WALK_LOOK probe_look_avx512
#define PROBE_WALK_TARGET __attribute__((target("avx512f,bmi,bmi2")))
#define PROBE_WALK_MASK probe_line_mask_avx512
#include "probe_walk_body.h"

static inline void probe_walk(
    int walk, const shikaku_line *lines, uint64_t line_count, uint64_t hidden, const uint64_t *hashes, ptrdiff_t n,
    ptrdiff_t known, uint8_t *counts, shikaku_match *found)
{
    if (walk == PROBE_WALK_AVX512)
        probe_walk_avx512(lines, line_count, hidden, hashes, n, known, counts, found);
    else
        probe_walk_avx2(lines, line_count, hidden, hashes, n, known, counts, found);
}
#else
static inline int probe_best_walk(void) { return PROBE_WALK_PLAIN; }

/* Never reached: no other walk is chosen here. */
static inline void probe_walk(
    int walk, const shikaku_line *lines, uint64_t line_count, uint64_t hidden, const uint64_t *hashes, ptrdiff_t n,
    ptrdiff_t known, uint8_t *counts, shikaku_match *found)
{
}
#endif

/* Bring the matches of a block that was walked, one place for each key, to lie one behind the other. Returns how many,
   or -1 if a key has to be searched on its own. */
static inline ptrdiff_t probe_close_up(const uint8_t *counts, ptrdiff_t n, shikaku_match *found)
{
    unsigned any = 0, all = 1;
    for (ptrdiff_t position = 0; position < n; position++) {
        any |= counts[position];
        all &= counts[position];
    }
    if (any == PROBE_STEP_BY_STEP)
        return -1;
    if (all)
        return n;
    ptrdiff_t used = 0;
    for (ptrdiff_t position = 0; position < n; position++) {
        found[used] = found[position];
        used += counts[position];
    }
    return used;
}

#endif
