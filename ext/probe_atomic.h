/* Owns the memory order of the shared table: the loads, stores and fences that readers and the one writer use.

   ATOMIC16 needs aligned 16-byte loads and stores that cannot be torn, neither by the processor (guaranteed by Intel
   and AMD for processors with AVX, hence the run-time check) nor by the compiler (hence inline assembly). VERSIONED
   needs nothing but C11 atomics of 8 bytes. */
#ifndef SHIKAKU_PROBE_ATOMIC
#define SHIKAKU_PROBE_ATOMIC

#include <sched.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>

static int probe_atomic16_supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx") != 0;
}

static inline void probe_slot_load16(const shikaku_slot *slot, shikaku_slot *out) {
    __m128i value;
    __asm__ __volatile__("movdqa %1, %0" : "=x"(value) : "m"(*(const __m128i *)slot));
    out->w0 = (uint64_t)_mm_cvtsi128_si64(value);
    out->w1 = (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(value, value));
}

/* The "memory" clobber keeps earlier stores (the overflow bits) before this one; x86 stores stay in program order. */
static inline void probe_slot_store16(shikaku_slot *slot, uint64_t w0, uint64_t w1) {
    __m128i value = _mm_set_epi64x((long long)w1, (long long)w0);
    __asm__ __volatile__("movdqa %1, %0" : "=m"(*(__m128i *)slot) : "x"(value) : "memory");
}

static inline void probe_pause(void) { _mm_pause(); }
#else
static int probe_atomic16_supported(void) { return 0; }

/* Never reached: a table of form ATOMIC16 is refused where it is not supported. */
static inline void probe_slot_load16(const shikaku_slot *slot, shikaku_slot *out) { *out = *slot; }
static inline void probe_slot_store16(shikaku_slot *slot, uint64_t w0, uint64_t w1) { slot->w0 = w0; slot->w1 = w1; }
static inline void probe_pause(void) { __asm__ __volatile__("" ::: "memory"); }
#endif

static inline uint64_t probe_load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline uint64_t probe_load_acquire(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void probe_store(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
static inline void probe_store_release(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline void probe_or_release(uint64_t *word, uint64_t bits) {
    (void)__atomic_fetch_or(word, bits, __ATOMIC_RELEASE);
}
static inline void probe_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void probe_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

/* The high 64 bits of the product: a number below `lines`, spread evenly by the hash. */
static inline uint64_t probe_scale(uint64_t hash, uint64_t lines) {
    return (uint64_t)(((unsigned __int128)hash * lines) >> 64);
}

static inline void probe_prefetch(const void *address) { __builtin_prefetch(address, 0, 3); }
static inline void probe_prefetch_write(const void *address) { __builtin_prefetch(address, 1, 3); }
static inline int probe_first_bit(unsigned mask) { return __builtin_ctz(mask); }

/* A slot's words as a match: the days and the person change places, which is one rotation on little-endian machines. */
static inline void probe_match(shikaku_match *match, uint64_t w0, uint64_t w1) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t person_days = w1 << 32 | w1 >> 32;
    uint32_t aux = (uint32_t)(w0 & SHIKAKU_AUX_MASK);
    memcpy(match, &person_days, 8);
    memcpy((char *)match + 8, &aux, 4);
#else
    match->person = (uint32_t)(w1 >> 32);
    match->gained = (uint16_t)w1;
    match->lost = (uint16_t)(w1 >> 16);
    match->aux = (uint16_t)(w0 & SHIKAKU_AUX_MASK);
    match->reserved = 0;
#endif
}

/* Which of a line's four slots hold this tag, as a mask; `tag` has its 48 bits in place and the low 16 zero. */
static inline unsigned probe_tag_mask(const shikaku_line *line, uint64_t tag) {
    unsigned mask = 0;
    mask |= (unsigned)((probe_load(&line->slots[0].w0) ^ tag) < 0x10000u);
    mask |= (unsigned)((probe_load(&line->slots[1].w0) ^ tag) < 0x10000u) << 1;
    mask |= (unsigned)((probe_load(&line->slots[2].w0) ^ tag) < 0x10000u) << 2;
    mask |= (unsigned)((probe_load(&line->slots[3].w0) ^ tag) < 0x10000u) << 3;
    return mask;
}

#endif
