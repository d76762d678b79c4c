/* Owns the load of new connections: each has its TLS 1.3 handshake, sends one request, compares the answer, and ends.

   handshakes PORT COUNT AT_ONCE FILE full|resumed [CERTIFICATE KEY]

   FILE is that of samples.h. AT_ONCE connections are under way at the same time, until COUNT are done; with as many at
   once as there are in all, they arrive in one storm. `resumed`: each comes with the newest ticket that the server has
   given; one that is not counted fetches the first. `full`: none has one. One line is printed: how many, the nanoseconds it took,
   how many were resumed, and the microseconds from the call of connect to the whole answer at 50, 99 and 100 per cent. The first wrong answer ends the program with a message and code 1. */

#include "tls.h"
#include <openssl/err.h>
#include <sys/epoll.h>
#include <time.h>

enum { ROOM = 1 << 15, EVENTS = 256, PATIENCE_MS = 30000 };

struct connection {
    int fd, shaken;
    SSL *tls;
    unsigned asked;
    int64_t since;
    size_t filled;
    char buffer[ROOM];
};

static SSL_SESSION *ticket;
static int64_t *latencies;
static long begun, done, resumed;
static int poll, port, with_tickets;

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* The server has given a ticket: the newest is kept. */
static int keep(SSL *session, SSL_SESSION *given) {
    (void)session;
    if (ticket) SSL_SESSION_free(ticket);
    ticket = given;
    return 1;
}

static void begin(struct connection *one) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    one->since = now_ns();
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (one->fd < 0) fail("too many descriptors are open");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(one->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) fail("cannot connect");
    one->tls = SSL_new(context);
    SSL_set_fd(one->tls, one->fd);
    SSL_set_connect_state(one->tls);
    if (with_tickets && ticket) SSL_set_session(one->tls, ticket);
    one->asked = begun++ % sample_count;
    one->filled = 0, one->shaken = 0;
    /* Both edges: a handshake wants the one or the other, and is asked each time. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = one};
    epoll_ctl(poll, EPOLL_CTL_ADD, one->fd, &event);
}

/* Whether it only has to be waited for; everything else ends the program. */
static int waits(const struct connection *one, int result) {
    int error = SSL_get_error(one->tls, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return 1;
    fail(one->shaken ? "the server closed a connection" : "the TLS handshake failed");
    return 0;
}

static void end(struct connection *one) {
    latencies[done++] = now_ns() - one->since;
    resumed += SSL_session_reused(one->tls);
    /* A polite end: a session that is cut off cannot be resumed. */
    SSL_shutdown(one->tls);
    SSL_free(one->tls);
    close(one->fd);
}

/* As far as it goes now. Returns whether it is over. */
static int go_on(struct connection *one) {
    const struct sample *wanted = &samples[one->asked];
    ERR_clear_error();
    if (!one->shaken) {
        int result = SSL_do_handshake(one->tls);
        if (result != 1) return !waits(one, result);
        if (SSL_version(one->tls) != TLS1_3_VERSION) fail("TLS 1.3 was not agreed");
        one->shaken = 1;
        if (SSL_write(one->tls, wanted->request, (int)wanted->request_bytes) != (int)wanted->request_bytes)
            fail("a request was not taken as a whole");
    }
    for (;;) {
        int got = SSL_read(one->tls, one->buffer + one->filled, (int)(ROOM - one->filled));
        if (got <= 0) return !waits(one, got);
        one->filled += (size_t)got;
        size_t used = check(one->buffer, one->filled, wanted);
        if (used && used != one->filled) fail("more came than was asked for");
        if (used) return 1;
    }
}

static int by_size(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void run(struct connection *all, long count, long at_once) {
    begun = done = resumed = 0;
    for (long n = 0; n < at_once; n++) begin(&all[n]);
    while (done < count) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poll, events, EVENTS, PATIENCE_MS);
        if (ready == 0) fail("no answer for 30 seconds");
        for (int n = 0; n < ready; n++) {
            struct connection *one = events[n].data.ptr;
            if (!go_on(one)) continue;
            end(one);
            if (begun < count) begin(one);
        }
    }
}

int main(int count, char **given) {
    if (count != 6 && count != 8) fail("wants PORT COUNT AT_ONCE FILE full|resumed [CERTIFICATE KEY]");
    port = atoi(given[1]);
    long total = atol(given[2]), at_once = atol(given[3]);
    if (at_once < 1 || total < at_once) fail("AT_ONCE must be 1 or more, and COUNT no less");
    read_samples(given[4]);
    prepare_tls(count > 6 ? given[6] : NULL, count > 6 ? given[7] : NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep);
    poll = epoll_create1(0);
    latencies = calloc((size_t)total, sizeof *latencies);
    struct connection *all = calloc((size_t)at_once, sizeof *all);
    with_tickets = !strcmp(given[5], "resumed");
    if (with_tickets) {
        run(all, 1, 1);
        if (!ticket) fail("the server gave no ticket");
    }
    int64_t start = now_ns();
    run(all, total, at_once);
    int64_t taken = now_ns() - start;
    qsort(latencies, (size_t)total, sizeof *latencies, by_size);
    printf("%ld %lld %ld %.1f %.1f %.1f\n", total, (long long)taken, resumed, latencies[total / 2] / 1e3,
           latencies[total - 1 - total / 100] / 1e3, latencies[total - 1] / 1e3);
    return 0;
}
