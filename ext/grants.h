/* Owns the memory order of the buckets that workers share: one word each, changed by compare and swap. */
#ifndef SHIKAKU_GRANTS
#define SHIKAKU_GRANTS

#include <stdint.h>

static inline int64_t grants_load(const int64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

/* Whether the word was what was expected, and is now what is wanted. No other memory hangs on it. */
static inline int grants_swap(int64_t *word, int64_t expected, int64_t wanted) {
    return __atomic_compare_exchange_n(word, &expected, wanted, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

#endif
