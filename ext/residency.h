/* Owns what is asked of the system about mapped pages: whether they are in memory, and that they be brought there. */
#ifndef SHIKAKU_RESIDENCY
#define SHIKAKU_RESIDENCY
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1
#endif
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define RESIDENCY_PAGES 64

/* Where the system's page of an address begins, and how far it is from there to the end of `bytes`. */
static inline uint8_t *residency_begin(const uint8_t *at, size_t *bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (uintptr_t)at & (page - 1);
    *bytes += before;
    return (uint8_t *)((uintptr_t)at - before);
}

/* 1 if all of it is in memory, as far as the system says; 0 if reading it would wait for a disk. Cannot fail. */
static int residency_is_there(const uint8_t *at, size_t bytes) {
    unsigned char pages[RESIDENCY_PAGES];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), count;
    uint8_t *start = residency_begin(at, &bytes);
    while (bytes) {
        size_t part = bytes < RESIDENCY_PAGES * page ? bytes : RESIDENCY_PAGES * page;
        count = (part + page - 1) / page;
        if (mincore(start, part, pages) != 0)
            return 1;
        for (size_t number = 0; number < count; number++)
            if (!(pages[number] & 1))
                return 0;
        start += part;
        bytes -= part;
    }
    return 1;
}

/* Have it read from the disk, without waiting. Cannot fail: it is a wish. */
static void residency_wish(const uint8_t *at, size_t bytes) {
    uint8_t *start = residency_begin(at, &bytes);
    (void)madvise(start, bytes, MADV_WILLNEED);
}

/* Read a byte of each page, and wait for it. */
static void residency_touch(const uint8_t *at, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const volatile uint8_t *start = residency_begin(at, &bytes);
    for (size_t offset = 0; offset < bytes; offset += page)
        (void)start[offset];
}
#endif
