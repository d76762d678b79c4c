/* Owns the chain of memory reads that a single search is measured beside: each read says where the next one goes.

   cc -O2 -shared -fPIC chase.c */

#include <stdint.h>

enum { LINE_WORDS = 8 };

/* Read one word of so many lines, one after the other. What is read goes into the address of the next, so that no two
   reads can be under way at the same time; the number of the step goes in too, so that lines that are empty do not lead
   back to each other. Beside the read a step takes two multiplications. */
uint64_t chase(const uint64_t *words, uint64_t lines, uint64_t steps, uint64_t at) {
    for (uint64_t step = 0; step < steps; step++) {
        uint64_t line = (uint64_t)(((unsigned __int128)at * lines) >> 64);
        at = (words[line * LINE_WORDS] ^ (at + step)) * 0x9E3779B97F4A7C15u;
    }
    return at;
}
