/* Owns one walk of probe_walk.h, for the processor that PROBE_WALK_TARGET and _MASK say; included once for each, with
   _NAME, _SEEN and _LOOK to call it.

   Up to PROBE_BLOCK keys; of `hashes`, `known` can be fetched ahead of their turn. counts: 0, 1 or PROBE_STEP_BY_STEP.
   found: the match of key i at place i; 4 bytes behind place n - 1 are written, too. */

/* Both words of a slot at once, in the encoding that does not mix with wide registers. */
#define PROBE_LOAD16(slot, address) __asm__ __volatile__("vmovdqa %1, %0" : "=x"(slot) : "m"(*(address)))

/* Person, gained, lost, aux and two zero bytes out of w0 and w1 (probe_match). */
#define PROBE_AS_MATCH(slot)                                                                                           \
    _mm_and_si128(_mm_shuffle_epi8(slot, _mm_setr_epi8(12, 13, 14, 15, 8, 9, 10, 11, 0, 1, -1, -1, -1, -1, -1, -1)),   \
                  _mm_setr_epi32(-1, -1, SHIKAKU_AUX_MASK, 0))

/* What a line holds of a key. The low word of the slot with the tag is read with the rest of it, and compared again. */
typedef struct {
    __m128i slot;
    unsigned hit, odd, more; /* each 0 or 1: a slot with the tag; not simple; the chain goes on */
} PROBE_WALK_SEEN;

PROBE_WALK_TARGET __attribute__((always_inline)) static inline PROBE_WALK_SEEN PROBE_WALK_LOOK(
    const shikaku_line *line, uint64_t lo, uint64_t hi, uint64_t differs, unsigned before)
{
    PROBE_WALK_SEEN seen;
    uint64_t tag = hi & SHIKAKU_TAG_MASK;
    tag = tag ? tag : 0x10000;
    const unsigned mask = PROBE_WALK_MASK(line, tag);
    const __m128i *address = (const __m128i *)((const char *)line + 8 * probe_first_bit(mask | 0x40));
    PROBE_LOAD16(seen.slot, address);
    const uint64_t other = ((uint64_t)_mm_cvtsi128_si64(seen.slot) ^ tag) & differs;
    seen.hit = mask != 0;
    seen.odd = ((mask & (mask - 1)) | (seen.hit & ((other != 0) | before))) != 0;
    seen.more = ((probe_load(&line->slots[lo & 3].w0) & SHIKAKU_OVERFLOW) != 0) & (seen.odd ^ 1);
    return seen;
}

static PROBE_WALK_TARGET void PROBE_WALK_NAME(
    const shikaku_line *lines, uint64_t line_count, uint64_t hidden, const uint64_t *hashes, ptrdiff_t n,
    ptrdiff_t known, uint8_t *counts, shikaku_match *found)
{
    uint64_t open_lines[PROBE_BLOCK + 1];
    uint16_t open_keys[PROBE_BLOCK + 1];
    shikaku_match ignored[2];
    const uint64_t differs = SHIKAKU_TAG_MASK | hidden;
    ptrdiff_t opened = 0;
    for (ptrdiff_t position = 0; position < n; position++) {
        const ptrdiff_t later = position + PROBE_AHEAD < known ? position + PROBE_AHEAD : position;
        probe_prefetch(&lines[probe_scale(hashes[2 * later], line_count)]);
        const uint64_t lo = hashes[2 * position], line = probe_scale(lo, line_count);
        const PROBE_WALK_SEEN seen = PROBE_WALK_LOOK(&lines[line], lo, hashes[2 * position + 1], differs, 0);
        _mm_storeu_si128((__m128i *)&found[position], PROBE_AS_MATCH(seen.slot));
        counts[position] = (uint8_t)(seen.hit | (0 - seen.odd));
        open_lines[opened] = line;
        open_keys[opened] = (uint16_t)position;
        opened += seen.more;
        /* The line itself, or the one that comes next. */
        probe_prefetch(&lines[line + ((uint64_t)seen.more << (lo & 3))]);
    }
    for (uint64_t round = 0; opened > 0 && round < line_count; round++) {
        ptrdiff_t left = 0;
        for (ptrdiff_t at = 0; at < opened; at++) {
            const ptrdiff_t position = open_keys[at];
            const uint64_t lo = hashes[2 * position];
            uint64_t line = open_lines[at] + (1u << (lo & 3));
            line = line < line_count ? line : line % line_count;
            const PROBE_WALK_SEEN seen =
                PROBE_WALK_LOOK(&lines[line], lo, hashes[2 * position + 1], differs, counts[position]);
            /* Not 16 bytes here: the next key's match is there already. */
            shikaku_match *target = seen.hit ? &found[position] : ignored;
            const __m128i match = PROBE_AS_MATCH(seen.slot);
            _mm_storel_epi64((__m128i *)target, match);
            memcpy((char *)target + 8, &(int32_t){_mm_extract_epi32(match, 2)}, 4);
            counts[position] = (uint8_t)((counts[position] + seen.hit) | (0 - seen.odd));
            open_lines[left] = line;
            open_keys[left] = (uint16_t)position;
            left += seen.more;
            probe_prefetch(&lines[line + ((uint64_t)seen.more << (lo & 3))]);
        }
        opened = left;
    }
}

#undef PROBE_LOAD16
#undef PROBE_AS_MATCH
#undef PROBE_WALK_NAME
#undef PROBE_WALK_SEEN
#undef PROBE_WALK_LOOK
#undef PROBE_WALK_TARGET
#undef PROBE_WALK_MASK
