/* Owns the open loop: requests sent at instants fixed in advance, and how long after that instant each was answered.

   open PORT CONNECTIONS RATE SECONDS FILE [tls [CERTIFICATE KEY]]

   FILE is that of samples.h. Request k is due k / RATE seconds after the start, whatever became of those before it; it goes
   out on a connection that waits for nothing, and if there is none, as soon as there is. Its latency counts from the
   instant when it was due, so that a server that stands still is charged for all that were due meanwhile. Every answer
   is compared. `connected` is printed before the start, and a line at the end: requests, how many were sent more than 1 ms late, and the latencies in
   microseconds at 50, 99, 99.9 and 100 per cent. The first wrong answer ends the program with a message and code 1. */

#include "tls.h"
#include <sys/epoll.h>
#include <time.h>

enum { ROOM = 1 << 16, EVENTS = 256, LATE_NS = 1000000 };

struct connection { int fd; void *tls; unsigned asked; int64_t due; size_t filled; char buffer[ROOM]; };

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* Whether the answer is there as a whole; a wrong one ends the program. */
static int answered(const struct connection *one) {
    size_t used = check(one->buffer, one->filled, &samples[one->asked]);
    if (used && used != one->filled) fail("more came than was asked for");
    return used != 0;
}

static int by_size(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

int main(int count, char **given) {
    if (count != 6 && count != 7 && count != 9) fail("wants PORT CONNECTIONS RATE SECONDS FILE [tls [CERTIFICATE KEY]]");
    if (count > 6) prepare_tls(count > 8 ? given[7] : NULL, count > 8 ? given[8] : NULL);
    int connections = atoi(given[2]), poll = epoll_create1(0);
    double rate = atof(given[3]);
    long total = (long)(rate * atof(given[4])), sent = 0, done = 0, late = 0;
    struct connection **idle = calloc(connections, sizeof *idle);
    int64_t *latencies = calloc(total, sizeof *latencies), start;
    int idle_count = 0;
    read_samples(given[5]);
    for (int n = 0; n < connections; n++) {
        struct connection *one = calloc(1, sizeof *one);
        one->fd = connected(atoi(given[1]));
        if (count > 6) one->tls = secured(one->fd), stop_waiting(one->fd);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
        epoll_ctl(poll, EPOLL_CTL_ADD, one->fd, &event);
        idle[idle_count++] = one;
    }
    puts("connected");
    fflush(stdout);
    start = now_ns();
    while (done < total) {
        struct epoll_event events[EVENTS];
        int64_t now = now_ns();
        while (idle_count && sent < total && start + (int64_t)(sent * 1e9 / rate) <= now) {
            struct connection *one = idle[--idle_count];
            one->due = start + (int64_t)(sent * 1e9 / rate);
            one->asked = sent++ % sample_count;
            one->filled = 0;
            late += now - one->due > LATE_NS;
            if (put(one->fd, one->tls, samples[one->asked].request, samples[one->asked].request_bytes)
                != (ssize_t)samples[one->asked].request_bytes) fail("a request was not taken as a whole");
        }
        /* Never asleep while a request is to come: the core is the load's own. */
        int ready = epoll_wait(poll, events, EVENTS, 0);
        for (int n = 0; n < ready; n++) {
            struct connection *one = events[n].data.ptr;
            size_t size = get(one->fd, one->tls, one->buffer + one->filled, ROOM - one->filled);
            one->filled += size;
            if (size && answered(one)) {
                latencies[done++] = now_ns() - one->due;
                idle[idle_count++] = one;
            }
        }
    }
    qsort(latencies, total, sizeof *latencies, by_size);
    printf("%ld %ld %.1f %.1f %.1f %.1f\n", total, late, latencies[total / 2] / 1e3, latencies[total - 1 - total / 100] / 1e3,
           latencies[total - 1 - total / 1000] / 1e3, latencies[total - 1] / 1e3);
    return 0;
}
