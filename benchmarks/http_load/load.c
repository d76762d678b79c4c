/* Owns the load: keep-alive connections on one core that send prepared requests and compare every answer, byte by byte.

   load PORT CONNECTIONS DEPTH FILE [tls]

   FILE is that of samples.h. Each connection sends DEPTH requests with one write, reads their answers, and sends the
   next. A line with a number on standard input asks for so many requests; a line is printed when all are answered: how
   many, and the nanoseconds it took. The first wrong answer ends the program with a message and code 1.
   It is C so that it is never what is waited for: the server's CPU time is what is measured, with the server busy. */

#include "tls.h"
#include <sys/epoll.h>
#include <time.h>

enum { ROOM = 1 << 20, DEPTH_MAX = 64, EVENTS = 256 };

struct connection {
    int fd;
    unsigned asked[DEPTH_MAX], open, first; /* which samples were asked, how many are unanswered, which is next */
    size_t filled;
    char *buffer;
    void *tls;
};

static unsigned depth, turn;
static long left_to_send, left_to_read;

static void connect_to(struct connection *one, int port, int tls) {
    one->fd = connected(port);
    one->buffer = malloc(ROOM);
    if (tls) one->tls = secured(one->fd);
}

static void send_all(struct connection *one, const char *data, size_t size) {
    while (size) {
        ssize_t sent = put(one->fd, one->tls, data, size);
        if (sent <= 0) fail("the server closed a connection");
        data += sent, size -= (size_t)sent;
    }
}

static void ask(struct connection *one) {
    static char together[ROOM];
    size_t size = 0;
    one->first = one->open = 0;
    while (one->open < depth && left_to_send > 0) {
        struct sample *next = &samples[turn];
        if (size + next->request_bytes > ROOM) fail("requests are too long");
        memcpy(together + size, next->request, next->request_bytes);
        size += next->request_bytes;
        one->asked[one->open++] = turn;
        turn = turn + 1 == sample_count ? 0 : turn + 1;
        left_to_send--;
    }
    if (size) send_all(one, together, size);
}

static void receive(struct connection *one) {
    one->filled += get(one->fd, one->tls, one->buffer + one->filled, ROOM - one->filled);
    size_t at = 0;
    while (one->open) {
        size_t used = check(one->buffer + at, one->filled - at, &samples[one->asked[one->first]]);
        if (!used) break;
        at += used, one->first++, one->open--, left_to_read--;
    }
    if (!one->open && at < one->filled) fail("more came than was asked for");
    memmove(one->buffer, one->buffer + at, one->filled - at);
    one->filled -= at;
    if (!one->open) ask(one);
}

static void run(struct connection *all, unsigned count, int poll) {
    struct epoll_event events[EVENTS];
    struct timespec start, stop;
    long wanted = left_to_read = left_to_send;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned n = 0; n < count; n++) ask(&all[n]);
    while (left_to_read > 0) {
        int ready = epoll_wait(poll, events, EVENTS, 30000);
        if (ready == 0) fail("no answer for 30 seconds");
        if (ready < 0 && errno != EINTR) fail("epoll failed");
        for (int n = 0; n < ready; n++) {
            struct connection *one = events[n].data.ptr;
            do receive(one);
            while (one->open && has_more(one->tls));
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &stop);
    printf("%ld %lld\n", wanted, (stop.tv_sec - start.tv_sec) * 1000000000LL + stop.tv_nsec - start.tv_nsec);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc < 5) fail("usage: load PORT CONNECTIONS DEPTH FILE [tls]");
    unsigned count = (unsigned)atoi(argv[2]);
    depth = (unsigned)atoi(argv[3]);
    if (count < 1 || depth < 1 || depth > DEPTH_MAX) fail("connections and depth must be 1 or more, depth 64 at most");
    read_samples(argv[4]);
    int poll = epoll_create1(0);
    struct connection *all = calloc(count, sizeof *all);
    if (argc > 5) prepare_tls(NULL, NULL);
    for (unsigned n = 0; n < count; n++) {
        connect_to(&all[n], atoi(argv[1]), argc > 5);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[n]};
        epoll_ctl(poll, EPOLL_CTL_ADD, all[n].fd, &event);
    }
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        left_to_send = atol(line);
        run(all, count, poll);
    }
    return 0;
}
