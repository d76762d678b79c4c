/* Owns the appending of one audit log: frames collect in memory, and a thread writes, syncs and hashes them.

   One thread calls everything here but ledger_run (the caller); ledger_run is the writer. What both touch is behind the
   lock; the tree and the segment's place are the writer's alone. Layouts: docs/AUDIT.md. */
#ifndef SHIKAKU_LEDGER
#define SHIKAKU_LEDGER
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "crc32.h"
#include "sha256.h"

#define LEDGER_LEVELS 8
#define LEDGER_DEPTH 64
#define LEDGER_FRAME_HEAD 8
#define LEDGER_HEADER 4096
#define LEDGER_SUMMED 60
/* What may wait for the disk; beyond it nothing is appended. */
#define LEDGER_WAITING_MAX (64u << 20)
#define LEDGER_FILL (1u << 20)
#define LEDGER_NEXT "segment-next"

enum { LEDGER_FULL = -1, LEDGER_FAILED = -2, LEDGER_NO_MEMORY = -3 };

typedef struct {
    uint8_t *bytes;
    size_t room, used;
    uint64_t count;
} ledger_pile;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_t thread;
    int running, stopping, wanted, filling, failure;
    ledger_pile piles[2];
    int wake_fd;
    uint64_t entries, durable, flushes, flush_ns;
    /* the writer's */
    int folder_fd, fd, next_fd, level_fds[LEDGER_LEVELS];
    uint64_t at, filled, segment_bytes;
    uint8_t header[LEDGER_HEADER];
    uint8_t *leaves_out;
    size_t leaves_room;
    uint64_t leaves;
    int depth;
    uint8_t nodes[LEDGER_DEPTH][SHA256_BYTES];
    /* the tree as it was after the last batch */
    uint64_t head_leaves;
    int head_depth;
    uint8_t head_nodes[LEDGER_DEPTH][SHA256_BYTES];
} ledger;

static inline void ledger_put_little(uint8_t *target, uint64_t value, int bytes) {
    for (int byte = 0; byte < bytes; byte++)
        target[byte] = (uint8_t)(value >> 8 * byte);
}

static inline void ledger_put_big(uint8_t *target, uint64_t value, int bytes) {
    for (int byte = 0; byte < bytes; byte++)
        target[byte] = (uint8_t)(value >> 8 * (bytes - 1 - byte));
}

static uint64_t ledger_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Complete the head of a frame whose entry and private part stand behind it. */
static void ledger_seal_frame(uint8_t *frame, size_t entry_bytes, size_t private_bytes) {
    ledger_put_little(frame + 4, entry_bytes, 2);
    frame[6] = (uint8_t)private_bytes;
    frame[7] = 0;
    ledger_put_little(frame, crc32_of(0, frame + 4, LEDGER_FRAME_HEAD - 4 + entry_bytes + private_bytes), 4);
}

/* Whether a frame of so many bytes is what was written. */
static int ledger_frame_fits(const uint8_t *frame, size_t size) {
    uint32_t sum = frame[0] | (uint32_t)frame[1] << 8 | (uint32_t)frame[2] << 16 | (uint32_t)frame[3] << 24;
    return sum == crc32_of(0, frame + 4, size - 4);
}

/* --- the tree ------------------------------------------------------------------------------------------------- */

static void ledger_node(const uint8_t *left, const uint8_t *right, uint8_t *out) {
    uint8_t both[2 * SHA256_BYTES];
    memcpy(both, left, SHA256_BYTES);
    memcpy(both + SHA256_BYTES, right, SHA256_BYTES);
    sha256_of(1, both, sizeof both, out);
}

/* errno, or 0. */
static int ledger_write(int fd, const uint8_t *bytes, size_t size, uint64_t at) {
    while (size) {
        ssize_t written = pwrite(fd, bytes, size, (off_t)at);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (written == 0)
            return ENOSPC;
        bytes += written;
        size -= (size_t)written;
        at += (uint64_t)written;
    }
    return 0;
}

/* Add a leaf to the tree; a subtree of 256 that is complete goes to the file of its level. */
static int ledger_grow(ledger *l, const uint8_t *leaf) {
    int failure = 0;
    memcpy(l->nodes[l->depth++], leaf, SHA256_BYTES);
    l->leaves++;
    for (int height = 1; !(l->leaves >> (height - 1) & 1); height++) {
        l->depth--;
        ledger_node(l->nodes[l->depth - 1], l->nodes[l->depth], l->nodes[l->depth - 1]);
        if (height % 8 == 0 && height / 8 < LEDGER_LEVELS && !failure)
            failure = ledger_write(
                l->level_fds[height / 8], l->nodes[l->depth - 1], SHA256_BYTES, SHA256_BYTES * ((l->leaves >> height) - 1)
            );
    }
    return failure;
}

static int ledger_hash(ledger *l, const ledger_pile *pile) {
    size_t wanted = pile->count * SHA256_BYTES;
    uint64_t first = l->leaves;
    uint8_t *out, *frame = pile->bytes;
    int failure = 0;
    if (wanted > l->leaves_room) {
        out = realloc(l->leaves_out, wanted);
        if (out == NULL)
            return ENOMEM;
        l->leaves_out = out;
        l->leaves_room = wanted;
    }
    out = l->leaves_out;
    for (; frame < pile->bytes + pile->used; out += SHA256_BYTES) {
        size_t entry_bytes = frame[4] | (size_t)frame[5] << 8;
        sha256_of(0, frame + LEDGER_FRAME_HEAD, entry_bytes, out);
        if (!failure)
            failure = ledger_grow(l, out);
        frame += LEDGER_FRAME_HEAD + entry_bytes + frame[6];
    }
    return failure ? failure : ledger_write(l->level_fds[0], l->leaves_out, wanted, SHA256_BYTES * first);
}

/* --- the writer ----------------------------------------------------------------------------------------------- */

/* Begin the next segment, which lies ready. errno, or 0. */
static int ledger_turn(ledger *l, int next_fd) {
    char name[64];
    int failure;
    ledger_put_little(l->header + 8, l->durable, 8);
    ledger_put_little(l->header + LEDGER_SUMMED, crc32_of(0, l->header, LEDGER_SUMMED), 4);
    failure = ledger_write(next_fd, l->header, LEDGER_HEADER, 0);
    if (!failure && fdatasync(next_fd) != 0)
        failure = errno;
    snprintf(name, sizeof name, "segment-%016llx", (unsigned long long)l->durable);
    if (!failure && renameat(l->folder_fd, LEDGER_NEXT, l->folder_fd, name) != 0)
        failure = errno;
    if (!failure && fsync(l->folder_fd) != 0)
        failure = errno;
    if (failure) {
        close(next_fd);
        return failure;
    }
    close(l->fd);
    l->fd = next_fd;
    l->at = LEDGER_HEADER;
    l->filled = l->segment_bytes;
    return 0;
}

/* Fill the segment with zeros beyond what is going to be written: a sync of bytes within a file is a third of one that
   makes it longer. errno, or 0. */
static int ledger_fill(ledger *l, size_t wanted) {
    static const uint8_t zeros[LEDGER_FILL / 16];
    uint64_t end = l->at + wanted + LEDGER_FILL;
    int failure = 0;
    while (l->filled < end && !failure) {
        failure = ledger_write(l->fd, zeros, sizeof zeros, l->filled);
        if (!failure)
            l->filled += sizeof zeros;
    }
    return failure;
}

static int ledger_store(ledger *l, const ledger_pile *pile, int next_fd) {
    int failure;
    if (next_fd >= 0) {
        failure = ledger_turn(l, next_fd);
        if (failure)
            return failure;
    }
    failure = l->at + pile->used > l->filled ? ledger_fill(l, pile->used) : 0;
    if (!failure)
        failure = ledger_write(l->fd, pile->bytes, pile->used, l->at);
    if (!failure && fdatasync(l->fd) != 0)
        failure = errno;
    if (!failure)
        l->at += pile->used;
    return failure;
}

static void ledger_tell(const ledger *l) {
    uint64_t one = 1;
    while (write(l->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void *ledger_run(void *given) {
    ledger *l = given;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        ledger_pile *pile = &l->piles[l->filling];
        uint64_t began;
        int failure, next_fd = -1;
        if (l->failure || !pile->count || !(l->wanted || l->stopping)) {
            if (l->stopping)
                break;
            pthread_cond_wait(&l->work, &l->lock);
            continue;
        }
        l->filling ^= 1;
        l->wanted = 0;
        if (l->next_fd >= 0 && l->at + pile->used > l->segment_bytes) {
            next_fd = l->next_fd;
            l->next_fd = -1;
        }
        pthread_mutex_unlock(&l->lock);
        began = ledger_ns(CLOCK_MONOTONIC);
        failure = ledger_store(l, pile, next_fd);
        began = ledger_ns(CLOCK_MONOTONIC) - began;
        pthread_mutex_lock(&l->lock);
        l->flushes++;
        l->flush_ns += began;
        l->failure = failure;
        if (!failure)
            l->durable += pile->count;
        pthread_mutex_unlock(&l->lock);
        ledger_tell(l);
        if (!failure)
            failure = ledger_hash(l, pile);
        pthread_mutex_lock(&l->lock);
        pile->used = pile->count = 0;
        if (failure && !l->failure) {
            l->failure = failure;
            ledger_tell(l);
        }
        l->head_leaves = l->leaves;
        l->head_depth = l->depth;
        memcpy(l->head_nodes, l->nodes, (size_t)l->depth * SHA256_BYTES);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* --- the caller ----------------------------------------------------------------------------------------------- */

/* Start the writer; the fields of the file and of the tree have been set. errno, or 0. No signal is ever delivered to it. */
static int ledger_start(ledger *l) {
    sigset_t all, before;
    int failure;
    l->head_leaves = l->leaves;
    l->head_depth = l->depth;
    memcpy(l->head_nodes, l->nodes, sizeof l->nodes);
    failure = pthread_mutex_init(&l->lock, NULL);
    if (failure)
        return failure;
    failure = pthread_cond_init(&l->work, NULL);
    if (failure) {
        pthread_mutex_destroy(&l->lock);
        return failure;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failure = pthread_create(&l->thread, NULL, ledger_run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure) {
        pthread_cond_destroy(&l->work);
        pthread_mutex_destroy(&l->lock);
        return failure;
    }
    l->running = 1;
    return 0;
}

/* Append a frame; the entry's index, or one of the reasons above. */
static int64_t ledger_append(ledger *l, const uint8_t *frame, size_t size) {
    int64_t index;
    pthread_mutex_lock(&l->lock);
    ledger_pile *pile = &l->piles[l->filling];
    if (l->failure) {
        index = LEDGER_FAILED;
    } else if (pile->used + size > LEDGER_WAITING_MAX) {
        index = LEDGER_FULL;
    } else {
        index = LEDGER_NO_MEMORY;
        if (pile->used + size > pile->room) {
            size_t room = pile->room ? 2 * pile->room : 65536;
            uint8_t *grown = realloc(pile->bytes, room);
            if (grown != NULL) {
                pile->bytes = grown;
                pile->room = room;
            }
        }
        if (pile->used + size <= pile->room) {
            memcpy(pile->bytes + pile->used, frame, size);
            pile->used += size;
            pile->count++;
            index = (int64_t)l->entries++;
        }
    }
    pthread_mutex_unlock(&l->lock);
    return index;
}

/* Have everything that was appended written; it goes with the next batch. */
static void ledger_want(ledger *l) {
    pthread_mutex_lock(&l->lock);
    l->wanted = 1;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
}

/* What the writer has done so far. Cheap: piles and buffers are not copied. */
static void ledger_look(ledger *l, ledger *seen) {
    if (l->running)
        pthread_mutex_lock(&l->lock);
    seen->durable = l->durable;
    seen->failure = l->failure;
    seen->flushes = l->flushes;
    seen->flush_ns = l->flush_ns;
    seen->next_fd = l->next_fd;
    seen->at = l->at;
    seen->segment_bytes = l->segment_bytes;
    seen->head_leaves = l->head_leaves;
    seen->head_depth = l->head_depth;
    memcpy(seen->head_nodes, l->head_nodes, (size_t)l->head_depth * SHA256_BYTES);
    if (l->running)
        pthread_mutex_unlock(&l->lock);
}

/* Have a segment ready for when this one is full; 0 if there is one. The ledger closes it. */
static int ledger_give(ledger *l, int next_fd) {
    int taken;
    pthread_mutex_lock(&l->lock);
    taken = l->next_fd < 0;
    if (taken)
        l->next_fd = next_fd;
    pthread_mutex_unlock(&l->lock);
    return taken;
}

static int ledger_make_wake(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

static void ledger_clear_wake(int wake_fd) {
    uint64_t count;
    while (read(wake_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

/* Write what is left, and end the writer. */
static void ledger_stop(ledger *l) {
    if (!l->running)
        return;
    pthread_mutex_lock(&l->lock);
    l->stopping = 1;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->running = 0;
    pthread_cond_destroy(&l->work);
    pthread_mutex_destroy(&l->lock);
}

/* Forget what a stopped ledger did not write, and its segments, so that it can be started anew. */
static void ledger_forget(ledger *l) {
    for (int place = 0; place < 2; place++) {
        int fd = place ? l->next_fd : l->fd;
        if (fd >= 0)
            close(fd);
        l->piles[place].used = l->piles[place].count = 0;
    }
    l->fd = l->next_fd = -1;
    l->failure = l->wanted = l->stopping = l->depth = 0;
}

/* Give back what a stopped ledger holds, segments too. */
static void ledger_discard(ledger *l) {
    ledger_forget(l);
    free(l->piles[0].bytes);
    free(l->piles[1].bytes);
    free(l->leaves_out);
    if (l->wake_fd >= 0)
        close(l->wake_fd);
}
#endif
